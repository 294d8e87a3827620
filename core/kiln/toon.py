"""Toon shading, the style of the kiln's customised prior: flat colours in three tones of light, with dark outlines."""

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter

TONES = ((0.0, 0.40), (0.53, 0.78), (0.73, 1.15))  # (light from which on, what it becomes); the renderer's sky alone gives 0.6, its lamp up to 0.9
SOFT = 0.03  # of light, over which a tone goes over into the next: about a pixel
INK = np.array([0.012, 0.010, 0.016])
PAINT_EDGE, LIGHT_EDGE = 0.13, 0.10  # how much brightness, or light, changes from pixel to pixel where a line is drawn
FLOOR = 0.02  # keeps black paint from blowing up the division


def toon(rgb: np.ndarray, albedo: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """A rendered view drawn anew, all linear: rgb and albedo (H, W, 3), straight, alpha (H, W, 1) -> (H, W, 3)."""
    solid, paint = alpha[..., 0], albedo.mean(-1)
    light = np.where(solid > 0, (rgb.mean(-1) + FLOOR) / (paint + FLOOR), 0)
    light = gaussian_filter(light * solid, 1) / np.maximum(gaussian_filter(solid, 1), 1e-3)  # within the silhouette: what noise is left shows in a tone's edge
    tone = np.full(light.shape, TONES[0][1])
    for (start, level), (_, before) in zip(TONES[1:], TONES):
        tone += (level - before) * np.clip((light - start) / SOFT + 0.5, 0, 1)
    seen = np.sqrt(np.clip(albedo, 0, 1))  # about as the eye sees it
    creases = spread(np.minimum(light, TONES[-1][0])) / LIGHT_EDGE  # what is brighter is the lamp's reflection, which has no outline
    lines = np.clip(2 * (np.maximum(spread(seen).max(-1) / PAINT_EDGE, creases) - 1), 0, 0.85)
    ink = np.maximum(1 - minimum_filter(solid, 3), lines)[..., None]
    return albedo * tone[..., None] * (1 - ink) + INK * ink


def spread(x: np.ndarray) -> np.ndarray:
    """How much x (H, W) or (H, W, C) differs between a pixel and its next in a row, a column or both."""
    size = (2, 2, 1)[: x.ndim]
    return maximum_filter(x, size) - minimum_filter(x, size)
