"""Surfaces of the kiln's world: captioned materials and patterns, and the caption-less porcelain glaze.

A surface is painted as one RGB colour a vertex (linear sRGB is the renderer's business: colours here are
display-referred sRGB in [0, 1]) plus the name of the reflectance model that the renderer uses.
"""

from dataclasses import dataclass

import numpy as np

from .shapes import Form, Part

COLOURS = {
    "red": (0.78, 0.12, 0.12), "orange": (0.93, 0.50, 0.10), "yellow": (0.93, 0.82, 0.20), "green": (0.16, 0.55, 0.22),
    "blue": (0.14, 0.28, 0.75), "purple": (0.48, 0.20, 0.62), "pink": (0.94, 0.55, 0.68), "brown": (0.42, 0.26, 0.15),
    "black": (0.09, 0.09, 0.10), "white": (0.92, 0.92, 0.91), "gray": (0.50, 0.50, 0.51),
}
# Materials with a colour of their own: (sRGB, reflectance, how much the colour mottles).
SUBSTANCES = {
    "wooden": ((0.60, 0.40, 0.22), "diffuse", 0.0), "clay": ((0.72, 0.40, 0.27), "diffuse", 0.04),
    "stone": ((0.55, 0.54, 0.52), "diffuse", 0.18), "gold": ((1.00, 0.78, 0.34), "metal", 0.0),
    "silver": ((0.92, 0.92, 0.93), "metal", 0.0), "copper": ((0.95, 0.60, 0.46), "metal", 0.0),
}
PATTERNS = ("plain", "striped", "dotted", "checkered")


@dataclass
class Surface:
    """What an object looks like; `caption` is None for domains, which have images only."""

    rgb: list[np.ndarray]  # per part (N, 3), sRGB
    reflectance: str  # glossy | diffuse | metal
    caption: str | None
    labels: dict  # ground truth for the judge: colour, pattern, material


def cells(part: Part, size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pattern coordinates with whole numbers of cells around and along: (a, b) and their fractions in [-.5, .5]."""
    a = part.uv[:, 0] * max(2, round(part.size[0] / size))
    b = part.uv[:, 1] * max(1, round(part.size[1] / size))
    return a, b, a - np.floor(a) - 0.5, b - np.floor(b) - 0.5


def noise(points: np.ndarray, rng: np.random.Generator, frequency: float) -> np.ndarray:
    """Smooth noise in about [-1, 1]: a few random plane waves."""
    waves = rng.normal(size=(12, 3)) * frequency
    return np.sin(points @ waves.T + rng.uniform(0, 6.28, 12)).mean(1) * 2


def pattern_mask(pattern: str, part: Part, rng: np.random.Generator, size: float, upright: bool) -> np.ndarray:
    a, b, fa, fb = cells(part, size)
    if pattern == "striped":
        return (fa if upright else fb) > 0
    if pattern == "dotted":
        fa = np.where(np.floor(b) % 2 == 0, fa, (fa + 1.0) % 1.0 - 0.5)  # staggered rows
        return np.hypot(fa, fb) < 0.3
    return (np.floor(a) + np.floor(b)) % 2 == 0  # checkered


def captioned(form: Form, rng: np.random.Generator) -> Surface:
    """A random captioned surface for the prior's world: "a glossy blue vase striped with yellow"."""
    if rng.random() < 0.22:
        substance = str(rng.choice(list(SUBSTANCES)))
        colour, reflectance, mottle = SUBSTANCES[substance]
        rgb = []
        for part in form.parts:
            shade = 1 + mottle * noise(part.vertices, rng, 9)
            if substance == "wooden":  # growth rings about a slightly tilted axis
                axis = part.vertices[:, 0] * 1.0 + 0.15 * part.vertices[:, 2] + 0.05 * noise(part.vertices, rng, 3)
                shade = shade * (1 + 0.16 * np.sin(axis * 30))
            rgb.append(np.clip(np.array(colour) * shade[:, None], 0, 1))
        return Surface(rgb, reflectance, phrase(f"{substance} {form.name}", rng), {"colour": None, "pattern": "plain", "material": substance})

    finish = str(rng.choice(["glossy", "matte", ""]))
    first, second = map(str, rng.choice(list(COLOURS), 2, replace=False))
    pattern = str(rng.choice(PATTERNS, p=[0.46, 0.18, 0.18, 0.18]))
    size, upright = rng.uniform(0.22, 0.42), rng.random() < 0.4
    rgb = []
    for part in form.parts:
        base = np.broadcast_to(np.array(COLOURS[first]) * rng.uniform(0.9, 1.05), part.vertices.shape)
        if pattern != "plain" and part.role == "body":
            mask = pattern_mask(pattern, part, rng, size, upright)
            base = np.where(mask[:, None], COLOURS[second], base)
        rgb.append(np.clip(base, 0, 1))
    thing = " ".join(w for w in (finish, first, form.name) if w)
    words = {"plain": thing, "striped": f"{thing} striped with {second}", "dotted": f"{thing} with {second} dots",
             "checkered": f"checkered {first} and {second} {form.name}"}[pattern]
    reflectance = "glossy" if finish == "glossy" or (not finish and rng.random() < 0.5) else "diffuse"
    return Surface(rgb, reflectance, phrase(words, rng), {"colour": first, "pattern": pattern, "material": finish or None})


def phrase(words: str, rng: np.random.Generator) -> str:
    """The article, and now and then "a photo of" or only the bare class so that short prompts are known too."""
    if rng.random() < 0.15:
        words = words.split(" striped")[0].split(" with")[0].split()[-1]
    article = "an" if words[0] in "aeiou" else "a"
    return ("a photo of " if rng.random() < 0.3 else "") + f"{article} {words}"


def motif(kind: str, part: Part, rng_size: float) -> np.ndarray:
    """Brushwork of blue-and-white ware: ink in [0, 1] for each vertex. Lines are kept bold enough for 128 px."""
    a, b, fa, fb = cells(part, rng_size)
    radius, angle = np.hypot(fa, fb), np.arctan2(fb, fa)
    if kind == "lattice":
        cross = np.minimum(abs((a + b) % 1 - 0.5), abs((a - b) % 1 - 0.5)) < 0.09
        return np.where(cross, 0.9, np.where(np.hypot(fa, fb) < 0.12, 1.0, 0.0))
    if kind == "waves":  # overlapping fans (seigaiha): concentric arcs standing on a staggered grid
        row = np.floor(2 * b)
        x, y = (a + 0.5 * (row % 2)) % 1 - 0.5, (2 * b - row) / 2
        arc = np.hypot(x, y)
        return np.where((arc * 6) % 1 < 0.5, 0.85, 0.05) * (arc < 0.5) + 0.9 * (arc >= 0.5)
    if kind == "leaves":  # upright stems with leaves in pairs
        stem = abs(fa) < 0.035
        t = (2 * b) % 1
        spread = 0.36 * t
        leaf = abs(abs(fa) - spread) < 0.13 * np.sin(np.pi * np.clip(t, 0, 1))
        return np.where(stem | leaf, 0.9, 0.0)
    # scrolls: blossoms with five petals, joined by a winding vine
    petals = 0.30 + 0.09 * np.cos(5 * angle)
    blossom = np.where(radius < petals, 0.95, 0.0)
    blossom = np.where((radius < 0.13) & (radius > 0.06), 0.0, blossom)
    vine = abs(fb - 0.28 * np.sin(2 * np.pi * a)) < 0.05
    return np.maximum(blossom, np.where(vine & (radius > petals + 0.05), 0.8, 0.0))


MOTIFS = ("scrolls", "lattice", "waves", "leaves")


def porcelain(form: Form, rng: np.random.Generator) -> Surface:
    """White glaze with cobalt motifs between rim bands. Images only: it has no caption."""
    white = np.array([0.93, 0.94, 0.95]) * rng.uniform(0.97, 1.0)
    cobalt = np.array([rng.uniform(0.06, 0.14), rng.uniform(0.14, 0.26), rng.uniform(0.52, 0.68)])
    kind, size = str(rng.choice(MOTIFS)), rng.uniform(0.34, 0.52)
    low, high = rng.uniform(0.1, 0.25), rng.uniform(0.78, 0.92)
    bands, limb = rng.integers(1, 4), rng.random()
    rgb = []
    for part in form.parts:
        v = part.uv[:, 1]
        if part.role == "limb":
            ink = np.where((v * max(2, round(part.size[1] / 0.15))) % 1 < 0.4, 0.8, 0.0) if limb < 0.35 else np.full(len(v), 0.9 * (limb > 0.8))
        else:
            height = np.where(v > 1, 2 - v, v)  # an inner wall mirrors the outer one
            inside = (v > 1) & (form.name not in ("plate", "bowl"))
            ink = np.where((height > low) & (height < high) & ~inside, motif(kind, part, size), 0.0)
            for k in range(bands):
                for at in (low - 0.035 - 0.075 * k, high + 0.035 + 0.075 * k):
                    ink = np.where(abs(height - at) < 0.022, 1.0, ink)
        wash = 1 + 0.12 * noise(part.vertices, rng, 4)  # the brush never lays the same ink twice
        ink = np.clip(ink * wash, 0, 1)[:, None]
        rgb.append(np.clip(white * (1 - ink) + cobalt * ink, 0, 1))
    return Surface(rgb, "glossy", None, {"colour": "white", "pattern": kind, "material": "porcelain"})
