"""The object in a picture: its mask, and its place in the frame."""

import numpy as np
from PIL import Image
from scipy import ndimage

from core.errors import UserError

SPECK = 1 / 1000  # of a picture: the largest highlight that is as bright as the background


def foreground(image: Image.Image, tolerance: float = 0.04) -> np.ndarray:
    """Straight RGBA (H, W, 4) in [0, 1] of the one object in a picture.

    Alpha is the picture's own if it has one that says anything. Otherwise the background is the border's median colour, and the object
    the largest region that differs from it by more than `tolerance` (or by the border's own noise), with its specks filled: what is
    larger is an opening, such as a handle's. Raises UserError when nothing is there.
    """
    rgba = np.asarray(image.convert("RGBA"), np.float32) / 255
    rgb, alpha = rgba[..., :3], rgba[..., 3]
    if alpha.max() < 0.5:
        raise UserError("the image is fully transparent: give one with an object in it")
    if alpha.min() > 0.5:
        border = np.concatenate([rgb[:2].reshape(-1, 3), rgb[-2:].reshape(-1, 3), rgb[:, :2].reshape(-1, 3), rgb[:, -2:].reshape(-1, 3)])
        background = np.median(border, axis=0)
        distance = np.abs(rgb - background).max(-1)
        noise = np.percentile(np.abs(border - background).max(-1), 90)
        solid = distance > max(tolerance, 2 * noise)
        reach = max(1, round(min(solid.shape) / 64))  # gaps and specks of up to about a hundredth of the picture's width
        solid = np.pad(solid, 2 * reach)
        closed = ndimage.binary_closing(solid, iterations=reach)
        openings = larger_regions(holes(solid) | holes(closed), SPECK * image.width * image.height)  # a rim may have a gap
        solid = ndimage.binary_opening(ndimage.binary_fill_holes(closed) & ~openings, iterations=reach)
        alpha = largest_region(solid[2 * reach : -2 * reach, 2 * reach : -2 * reach]).astype(np.float32)
    else:
        alpha = alpha * largest_region(alpha > 0.5)
    if alpha.mean() < 0.002:
        raise UserError("no object stands out from the image's background: give one on a plain background or with transparency")
    return np.concatenate([rgb, alpha[..., None]], -1)


def holes(mask: np.ndarray) -> np.ndarray:
    """What a mask encloses."""
    return ndimage.binary_fill_holes(mask) & ~mask


def larger_regions(mask: np.ndarray, area: float) -> np.ndarray:
    """Those regions of a mask that have more pixels than that."""
    labels, _ = ndimage.label(mask)
    large = np.bincount(labels.ravel()) > area
    large[0] = False  # what is in no region
    return large[labels]


def largest_region(mask: np.ndarray) -> np.ndarray:
    labels, n = ndimage.label(mask)
    return labels == 1 + np.argmax(np.bincount(labels.ravel(), minlength=n + 1)[1:]) if n else mask


def frame(rgba: np.ndarray, size: int, fill: float) -> np.ndarray:
    """Centre the object and scale its longer side to `fill` of a size x size picture: (size, size, 4)."""
    rows, columns = (np.flatnonzero((rgba[..., 3] > 0.5).any(axis)) for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    half = max(bottom - top, right - left) / fill / 2
    cy, cx = (top + bottom) / 2, (left + right) / 2
    premultiplied = rgba * np.concatenate([np.repeat(rgba[..., 3:], 3, -1), np.ones_like(rgba[..., 3:])], -1)
    margin = int(np.ceil(half)) + 1  # so that the crop stays inside, whatever its place
    padded = np.pad(premultiplied, ((margin, margin), (margin, margin), (0, 0)))
    box = (cx - half + margin, cy - half + margin, cx + half + margin, cy + half + margin)
    channels = [Image.fromarray(c).resize((size, size), Image.Resampling.LANCZOS, box=box) for c in np.moveaxis(padded, -1, 0)]
    out = np.clip(np.stack(channels, -1), 0, 1)
    out[..., :3] /= np.maximum(out[..., 3:], 1e-3)
    return np.clip(out, 0, 1)
