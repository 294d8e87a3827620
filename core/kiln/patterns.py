"""Pattern families of captioned surfaces: how much of a second colour each vertex takes, and the words for it.

All are bold enough for a 128 px view, where a pixel is about 0.018 world units wide.
"""

import math
from dataclasses import dataclass

import numpy as np

from .shapes import Part

SOFT = 0.02  # world length over which a pattern's edge fades: a vertex
PHRASES = {  # -> as an adjective, said of the object, as things on it
    "striped": ("striped", "striped with {}", "{} stripes"),
    "dotted": ("dotted", "dotted with {}", "{} dots"),
    "checkered": ("checkered", "checkered with {}", "{} checks"),
    "zigzagged": ("zigzagged", "zigzagged with {}", "{} zigzags"),
    "starry": ("starry", "strewn with {} stars", "{} stars"),
    "netted": ("netted", "netted with {}", "{} net"),
    "swirled": ("swirled", "swirled with {}", "{} swirls"),
    "patched": ("patched", "patched with {}", "{} patches"),
    "dipped": ("dipped", "dipped in {}", "{} half"),
}
PATTERNS = ("plain", *PHRASES)
NOUNS = {"stripes": "striped", "dots": "dotted", "checks": "checkered", "zigzags": "zigzagged", "stars": "starry", "net": "netted",
         "swirls": "swirled", "patches": "patched", "half": "dipped"}  # what a prompt may say in place of the adjective
GROUNDED = ("plain", "dotted", "starry", "netted")  # where the first colour is plainly the ground, the second a motif on it


@dataclass
class Style:
    """What all parts of one object share: the length of a cell in world units, the direction of stripes, and random waves."""

    size: float
    upright: bool
    waves: np.ndarray  # (n, 4): three frequencies and a phase
    axis: int  # along which an object is `dipped`: 0 or 2
    level: float  # the height where `dipped` ends, or the noise where patches do


def noise(points: np.ndarray, rng: np.random.Generator, frequency: float) -> np.ndarray:
    """Smooth noise in about [-1, 1]: a few random plane waves."""
    return superpose(points, random_waves(rng, frequency))


def random_waves(rng: np.random.Generator, frequency: float) -> np.ndarray:
    return np.concatenate([rng.normal(size=(12, 3)) * frequency, rng.uniform(0, 2 * np.pi, (12, 1))], 1)


def superpose(points: np.ndarray, waves: np.ndarray) -> np.ndarray:
    return np.sin((points @ waves[:, :3].T + waves[:, 3]).astype(np.float32)).mean(1) * 2


def fraction(x: np.ndarray) -> np.ndarray:
    return x - np.floor(x)


def girths(part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Heights v and the part's world length around at each: of its vertex grid, or `size[0]` where the vertices are no grid."""
    u, along = part.uv.T
    nv = int((u == u[0]).sum())
    if nv < 2 or len(u) % nv or len(part.faces) != 2 * (len(u) // nv - 1) * (nv - 1):
        return np.array([along.min(), along.max()]), np.full(2, part.size[0])
    first_around = u[0] == u[1]  # of the grid's two axes
    grid = part.vertices.reshape(-1, nv, 3) if first_around else part.vertices.reshape(nv, -1, 3).swapaxes(0, 1)
    grid = grid[:: max(1, len(grid) // 50)]
    return along[:nv] if first_around else along[:: len(u) // nv], np.linalg.norm(grid - np.roll(grid, 1, 0), axis=2)[1:].sum(0)


def cells(part: Part, size: float, multiple: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pattern coordinates with whole numbers of cells around (of a `multiple`) and along: (a, b) and their fractions in [-.5, .5]."""
    a = part.uv[:, 0] * multiple * max(2 // multiple, round(part.size[0] / size / multiple), 1)
    b = part.uv[:, 1] * max(1, round(part.size[1] / size))
    return a, b, fraction(a) - 0.5, fraction(b) - 0.5


def scatter(part: Part, size: float) -> tuple[np.ndarray, np.ndarray]:
    """World position (x, y) about the centre of the own cell, cells standing in staggered rows with as many as fit around at their height."""
    u, v = part.uv.T
    rows = max(1, round(part.size[1] / size))
    row = np.minimum(np.floor(v * rows), math.ceil(v.max() * rows - 1e-9) - 1)
    around = np.interp((row + 0.5) / rows, *girths(part))
    count = np.maximum(1, np.round(around / size))
    x = (fraction(u * count + 0.5 * (row % 2)) - 0.5) * around / count
    return np.where(around > 0.6 * size, x, size), (v * rows - row - 0.5) * part.size[1] / rows


def halves(x: np.ndarray) -> np.ndarray:
    """Signed distance from the edges of stripes that fill every second half unit of x."""
    return np.abs(fraction(x) - 0.5) - 0.25


def striped(part: Part, style: Style) -> np.ndarray:
    a, b, *_ = cells(part, style.size)
    return halves(a if style.upright else b) * style.size


def dotted(part: Part, style: Style) -> np.ndarray:
    return 0.3 * style.size - np.hypot(*scatter(part, style.size))


def checkered(part: Part, style: Style) -> np.ndarray:
    a, b, *_ = cells(part, style.size, multiple=2)
    a, b = halves(a / 2), halves(b / 2)
    return np.sign(a * b) * np.minimum(np.abs(a), np.abs(b)) * 2 * style.size


def zigzagged(part: Part, style: Style) -> np.ndarray:
    a, b, *_ = cells(part, 1.1 * style.size)
    return halves(b + 0.9 * np.abs(fraction(a) - 0.5)) * 0.7 * style.size


def starry(part: Part, style: Style) -> np.ndarray:
    x, y = scatter(part, 1.25 * style.size)
    tip = np.abs(fraction((np.arctan2(x, y) / (2 * np.pi)) * 5 + 0.5) - 0.5) * 2 * np.pi / 5  # angle from the nearest of five tips
    outer, inner = 0.56 * style.size, 0.24 * style.size
    edge = np.array([outer - inner * np.cos(np.pi / 5), inner * np.sin(np.pi / 5)])  # from the hollow between two tips to a tip
    radius = np.hypot(x, y)
    return ((outer - radius * np.cos(tip)) * edge[1] - radius * np.sin(tip) * edge[0]) / np.hypot(*edge)


def netted(part: Part, style: Style) -> np.ndarray:
    a, b, *_ = cells(part, 1.1 * style.size)
    knot = np.minimum(np.abs(fraction(a + b) - 0.5), np.abs(fraction(a - b) - 0.5))
    return 0.034 - knot * 0.75 * style.size


def swirled(part: Part, style: Style) -> np.ndarray:
    """Bands that climb as they go around; on a flat face, which has no around, a spiral."""
    if np.allclose(part.vertices[part.uv[:, 0] == 0][:2], part.vertices[part.uv[:, 0] == 1][:2], atol=1e-6):
        return halves(part.uv[:, 0] * 3 + part.uv[:, 1] * part.size[1] / (2.2 * style.size)) * 1.5 * style.size
    x, y = (part.uv - 0.5).T * np.array(part.size)[:, None]
    return halves(np.arctan2(y, x) / (2 * np.pi) + np.hypot(x, y) / (1.2 * style.size)) * 1.2 * style.size


def patched(part: Part, style: Style) -> np.ndarray:
    return (superpose(part.vertices, style.waves) - style.level) / 7


def dipped(part: Part, style: Style) -> np.ndarray:
    """What was held in paint upright, with a dry inside, or, if it is wide and low, sideways: its base would not be seen."""
    depth = style.level - part.vertices[:, style.axis]
    return depth if style.axis == 0 else np.where(part.uv[:, 1] <= 1, depth, -1.0)


FAMILIES = {f.__name__: f for f in (striped, dotted, checkered, zigzagged, starry, netted, swirled, patched, dipped)}


def coverage(pattern: str, parts: list[Part], rng: np.random.Generator) -> list[np.ndarray]:
    """How much of the second colour the vertices of each part take, in [0, 1]: (N,) a part. Limbs stay plain, unless all is dipped."""
    style = Style(float(rng.uniform(0.28, 0.42)), bool(rng.random() < 0.4), random_waves(rng, 4.6), 2, float(rng.random()))
    if pattern == "dipped" and parts:
        vertices = np.concatenate([p.vertices for p in parts])
        extent = np.ptp(vertices, axis=0)
        style.axis = 2 if extent[2] > 0.5 * extent[:2].max() else 0
        style.level = float(vertices[:, style.axis].min() + (0.35 + 0.2 * style.level) * extent[style.axis])
    bodies = [p.vertices for p in parts if p.role == "body"]
    if pattern == "patched" and bodies:
        style.level = float(np.quantile(superpose(np.concatenate(bodies)[::7], style.waves), 0.5 + 0.2 * style.level))
    painted = [pattern != "plain" and (p.role == "body" or pattern == "dipped") for p in parts]
    return [np.clip(0.5 + FAMILIES[pattern](p, style) / SOFT, 0, 1) if on else np.zeros(len(p.vertices)) for p, on in zip(parts, painted)]
