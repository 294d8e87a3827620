"""A brush for pots: draws on the unrolled walls of a vessel in world units, closed around, and lays the picture on its vertices.

Lines are bolder than on real ware: at 128 px a pixel is about 0.018 units wide.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import map_coordinates

SCALE = 150  # picture elements a world unit while drawing; half as many are laid on
LINE = 0.03  # world width of a brush line


@dataclass(frozen=True)
class Palette:
    """sRGB of a ware's glaze and enamels. A wash runs from pale to deep; flowers and leaves have their own in famille rose."""

    glaze: np.ndarray
    line: np.ndarray
    deep: np.ndarray
    wash: np.ndarray
    pale: np.ndarray
    flower: np.ndarray
    blush: np.ndarray  # the flower's inner, lighter petals
    leaf: np.ndarray
    heart: np.ndarray  # a flower's centre


def rgb8(colour: np.ndarray) -> tuple[int, int, int]:
    return tuple(round(255 * min(max(float(c), 0.0), 1.0)) for c in colour)


class Brush:
    """Draws on a band of a wall in world units: x around from 0 to `width`, where it closes, y up from 0 to `height`."""

    def __init__(self, image: Image.Image, colours: Palette, width: float, height: float, bottom: float = 0.0, closed: bool = True):
        self.draw, self.colours, self.width, self.height, self.closed = ImageDraw.Draw(image), colours, width, height, closed
        self.scale, self.origin, self.around, self.tints = (image.width / width, -SCALE), image.height - bottom * SCALE, image.width, {}

    def tint(self, tone) -> tuple[int, int, int]:
        """8-bit sRGB of the palette's tone (its name) or of a colour."""
        if not isinstance(tone, str):
            return rgb8(tone)
        if tone not in self.tints:
            self.tints[tone] = rgb8(getattr(self.colours, tone))
        return self.tints[tone]

    def turns(self, left: float, right: float) -> list[float]:
        """By how many picture elements to shift what reaches from left to right, to draw it again where the band closes."""
        return [shift for shift in (-self.around, 0.0, self.around) if right + shift > 0 and left + shift < self.around] if self.closed else [0.0]

    def fill(self, points, tone) -> None:
        """A polygon (n, 2)."""
        points = np.asarray(points, float)
        x, y = (points[:, 0] * self.scale[0]).tolist(), (self.origin + points[:, 1] * self.scale[1]).tolist()
        for shift in self.turns(min(x), max(x)):
            self.draw.polygon(list(zip([each + shift for each in x] if shift else x, y)), fill=self.tint(tone))

    def bar(self, x0: float, y0: float, x1: float, y1: float, tone) -> None:
        """An upright rectangle, of x0 < x1 and y0 < y1."""
        left, right, top, bottom = x0 * self.scale[0], x1 * self.scale[0], self.origin + y1 * self.scale[1], self.origin + y0 * self.scale[1]
        for shift in self.turns(left, right):
            self.draw.rectangle((left + shift, top, max(left, right - 1) + shift, max(top, bottom - 1)), fill=self.tint(tone))

    def disc(self, x: float, y: float, radius: float, tone) -> None:
        if radius <= 0:
            return
        x, y, half, tall = x * self.scale[0], self.origin + y * self.scale[1], radius * self.scale[0], -radius * self.scale[1]
        for shift in self.turns(x - half, x + half):
            self.draw.ellipse((x + shift - half, y - tall, x + shift + half, y + tall), fill=self.tint(tone))

    def stroke(self, points, width=LINE, tone="line") -> None:
        """A line along points (n, 2), its width one number or one a point."""
        points = np.asarray(points, float)
        way = np.concatenate([points[1:2] - points[:1], points[2:] - points[:-2], points[-1:] - points[-2:-1]])
        side = way[:, ::-1] * [-0.5, 0.5] * (np.asarray(width, float) / (np.hypot(*way.T) + 1e-9)).reshape(-1, 1)
        self.fill(np.concatenate([points + side, (points - side)[::-1]]), tone)

    def shape(self, points, tone, width: float = LINE, outline="line") -> None:
        """A filled polygon with an outline."""
        points = np.asarray(points)
        self.fill(points, tone)
        self.stroke(np.concatenate([points, points[:2]]), width, outline)

    def clear(self, tone="glaze") -> None:
        self.bar(0, 0, self.width, self.height, tone)

    def level(self, y: float, width: float = LINE, tone="line") -> None:
        """A line around the pot."""
        self.bar(0, y - width / 2, self.width, y + width / 2, tone)

    def columns(self, width: float) -> tuple[int, float]:
        """How many units of about this width go around, and the width that closes."""
        count = max(1, round(self.width / width))
        return count, self.width / count


def turned(points, angle: float, size: float, at) -> np.ndarray:
    """Points (n, 2) scaled, turned and moved."""
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(points, float) * size @ np.array([[c, s], [-s, c]]) + at


def arc(x: float, y: float, radius: float, start: float, end: float, n: int = 14) -> np.ndarray:
    t = np.linspace(start, end, n)
    return np.stack([x + radius * np.cos(t), y + radius * np.sin(t)], 1)


def picture(width: float, height: float, colours: Palette) -> Image.Image:
    """A blank wall of this world size: even numbers of picture elements, so that halving keeps it closed."""
    return Image.new("RGB", (2 * round(np.clip(width * SCALE, 16, 1200) / 2), 2 * max(2, round(height * SCALE / 2))), rgb8(colours.glaze))


def lay(image: Image.Image, x: np.ndarray, y: np.ndarray, closed: bool = True) -> np.ndarray:
    """Colours (N, 3) of a picture at x from left to right and y from bottom to top, both in [0, 1]."""
    pixels = np.asarray(image.reduce(2), np.float32) / 255
    h, w, _ = pixels.shape
    if closed:
        pixels, x = np.concatenate([pixels[:, -1:], pixels, pixels[:, :1]], 1), x * w + 0.5
    else:
        x = x * w - 0.5
    at = np.stack([np.clip((1 - y) * h - 0.5, 0, h - 1), x])
    return np.stack([map_coordinates(pixels[..., c], at, order=1, mode="nearest") for c in range(3)], -1)
