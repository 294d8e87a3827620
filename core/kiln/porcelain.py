"""The porcelain domain: white glaze with cobalt brushwork, now and then celadon or famille rose. Images only, no captions."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .brush import LINE, Brush, Palette, arc, lay, picture
from .glazes import Surface
from .motifs import MOTIFS, carp, cloud, coil, crane, fret, leaf, leaves, peony, petals, rings, ripples, ruyi, scrolls, solid, view, vine
from .patterns import girths
from .shapes import Form, Part

VARIANTS = {"cobalt": 0.75, "celadon": 0.12, "famille rose": 0.13}
SHARES = {"peonies": 0.17, "scrolls": 0.11, "lattice": 0.07, "waves": 0.06, "leaves": 0.07, "landscape": 0.14, "dragon": 0.13, "cranes": 0.09,
          "fish": 0.06, "medallions": 0.10}


def palette(ware: str, rng: np.random.Generator) -> Palette:
    mix = lambda a, b, t: np.asarray(a) * (1 - t) + np.asarray(b) * t
    if ware == "celadon":
        glaze = mix((0.62, 0.76, 0.68), (0.70, 0.79, 0.66), rng.random()) * rng.uniform(0.96, 1.03)
        line, deep, wash, pale = glaze * (0.38, 0.56, 0.46), glaze * (0.5, 0.68, 0.58), glaze * (0.72, 0.84, 0.77), mix(glaze, (0.93, 0.98, 0.92), 0.5)
        return Palette(glaze, line, deep, wash, pale, wash, pale, wash, deep)
    glaze = np.array([0.93, 0.94, 0.95]) * rng.uniform(0.97, 1.0)
    if ware == "cobalt":
        cobalt = np.array([rng.uniform(0.06, 0.14), rng.uniform(0.16, 0.28), rng.uniform(0.56, 0.70)])
        line, wash, pale = cobalt * 0.72, mix(cobalt, glaze, 0.30), mix(cobalt, glaze, 0.66)
        return Palette(glaze, line, cobalt, wash, pale, wash, pale, cobalt, line)
    pink = mix((0.86, 0.22, 0.40), (0.93, 0.42, 0.46), rng.random())
    green = mix((0.16, 0.52, 0.36), (0.36, 0.60, 0.24), rng.random())
    return Palette(glaze, np.array([0.42, 0.14, 0.16]), pink * 0.9, mix(green, glaze, 0.1), mix(green, glaze, 0.6), pink,
                   mix(pink, glaze, 0.6), green, np.array([0.95, 0.78, 0.22]))


@dataclass
class Design:
    """What an object's parts have in common."""

    motif: str
    rim: Callable  # borders at the lip, on the shoulder and at the foot
    shoulder: Callable
    foot: Callable
    neck: Callable | None
    limb: int
    reverse: bool  # white on cobalt
    border: float  # height of a border in world units


def design(rng: np.random.Generator) -> Design:
    pick = lambda *options: options[int(rng.integers(len(options)))]
    return Design(str(rng.choice(list(SHARES), p=list(SHARES.values()))), pick(fret, ripples, vine, solid, rings, fret), pick(ruyi, ruyi, petals, vine, fret),
                  pick(petals, petals, ripples, rings, fret, solid), pick(leaves, leaves, scrolls, None), int(rng.integers(4)), bool(rng.random() < 0.1),
                  float(rng.uniform(0.14, 0.19)))


def band(image: Image.Image, colours: Palette, width: float, low: float, high: float, paint, rng, lines: bool = False) -> None:
    """Paint a wall between two heights along it, in world units, at its girth there; `lines` border it."""
    b = Brush(image, colours, max(width, 0.1), high - low, low)
    b.clear()
    if paint:
        paint(b, rng)
    for edge in (0.0, b.height) if lines else ():
        b.level(edge)


def reversed_out(colours: Palette) -> Palette:
    """White brushwork on a ground of the deep colour."""
    return Palette(colours.deep, colours.glaze, colours.glaze, colours.pale, colours.wash, colours.glaze, colours.pale, colours.pale, colours.deep)


def field(heights: np.ndarray, around: np.ndarray) -> tuple[float, float]:
    """Where a wall is wide: the heights between which its girth stays near its largest, a third of the wall or more."""
    widest = int(around.argmax())
    for share in (0.7, 0.5, 0.0):
        narrow = np.flatnonzero(around <= share * around.max())
        low = max(float(heights[narrow[narrow < widest].max(initial=0)]), LINE)
        high = min(float(heights[narrow[narrow > widest].min(initial=len(heights) - 1)]), float(heights[-1]) - LINE)
        if high - low > 0.34 * heights[-1]:
            break
    return low, high


def outside(part: Part, colours: Palette, plan: Design, main: bool, rng) -> np.ndarray:
    """A wall from foot to lip: borders, the main motif where the pot is wide, leaves on a neck."""
    length = part.size[1]
    heights, around = girths(part)
    heights = (heights - heights[0]) * length
    image = picture(around.max(), length, colours)
    paint = lambda low, high, what, lines=False, c=colours: band(image, c, float(np.interp((low + high) / 2, heights, around)), low, high, what, rng, lines)
    edge = plan.border
    if length < 0.14:
        paint(0, length, (solid, rings)[plan.limb % 2] if length > 0.05 else solid)
    elif not main or length < 0.45:
        paint(0, length, None)
        low = min(edge, 0.4 * length)
        paint(low, min(length, low + 0.32), (petals, scrolls, ruyi, leaves)[plan.limb] if length < 0.75 or not main else MOTIFS[plan.motif])
        paint(0, low, plan.rim, True)
    else:
        low, high = field(heights, around)
        neck = length - high
        if neck < 0.2:
            high, neck = length - LINE, 0.0
        foot = min(edge, 0.2 * (high - low))
        top = min(edge, 0.2 * (high - low))
        paint(low + foot, high - top, MOTIFS[plan.motif], False, reversed_out(colours) if plan.reverse else colours)
        paint(0, low, plan.neck if low > 0.2 else None)
        if low > 0.2:
            paint(0, 0.07, solid)
        paint(low, low + foot, plan.foot, True)
        if neck:
            paint(high - top, high, plan.shoulder, True)
            rim = min(edge, 0.35 * neck)
            paint(high, length - rim, plan.neck)
            paint(length - rim, length, plan.rim, True)
        else:
            paint(high - top, length, plan.rim, True)
    return lay(image, part.uv[:, 0], part.uv[:, 1] - part.uv[:, 1].min())


def inside(part: Part, colours: Palette, plan: Design, rng) -> np.ndarray:
    """The inside of a plate or bowl, seen from above: a border at the rim, a ring of lines, a picture in the middle."""
    u, v = part.uv.T
    length = part.size[1]
    reach = (2 - v) * length  # from the middle, along the wall
    edge, centre = max(1.15 * plan.border, 0.15 * length), 0.74 * length
    heights, around = girths(part)
    strip = picture(around.max(), length, colours)  # its y grows from the middle to the rim
    band(strip, colours, float(np.interp(1 + edge / 2 / length, heights, around)), length - edge - LINE, length - LINE, plan.rim, rng, True)
    walls = lay(strip, u, 2 - v)
    disc = picture(2 * centre, 2 * centre, colours)
    b = Brush(disc, colours, 2 * centre, 2 * centre, closed=False)
    b.disc(centre, centre, 0.97 * centre, "line")
    b.disc(centre, centre, 0.97 * centre - 1.2 * LINE, "glaze")
    centrepiece(b, centre, plan, rng)
    angle, middle = 2 * np.pi * u, reach < 0.97 * centre
    xy = 0.5 + reach[middle] / (2 * centre) * np.stack([np.cos(angle[middle]), np.sin(angle[middle])])
    walls[middle] = lay(disc, *xy, closed=False)
    return walls


def centrepiece(b: Brush, r: float, plan: Design, rng) -> None:
    """A plate's picture in the square of half width r: what the motif is about, or it itself wound around a blossom."""
    if plan.motif == "landscape":
        view(b, r, r, 0.85 * r, rng)
    elif plan.motif in ("cranes", "fish"):
        emblem = crane if plan.motif == "cranes" else carp
        for sign in (-1, 1):
            emblem(b, r + 0.12 * sign * r, r + 0.4 * sign * r, 0.62 * r if emblem is carp else 0.5 * r, rng)
            cloud(b, r + 0.62 * sign * r, r - 0.45 * sign * r, 0.17 * r, rng)
    elif plan.motif == "dragon":
        coil(b, r, rng)
    elif plan.motif in ("lattice", "waves"):
        MOTIFS[plan.motif](b, rng)
        b.stroke(arc(r, r, 0.95 * r, 0, 2 * np.pi, 60), 1.3 * LINE)
    else:
        for k in range(8):
            a = 2 * np.pi * k / 8
            leaf(b, r + 0.5 * r * np.cos(a), r + 0.5 * r * np.sin(a), 0.36 * r, a)
        peony(b, r, r, 0.55 * r, rng)


def limb(part: Part, colours: Palette, plan: Design, rng) -> np.ndarray:
    """Handles and spouts: rings, a painted back or leaves between rings; knobs: a solid tip; bases: bare."""
    if np.ptp(part.vertices[:, 2]) < 1e-3:
        return np.broadcast_to(colours.glaze, part.vertices.shape)
    around, length = part.size
    image = picture(max(around, 0.1), length, colours)
    b = Brush(image, colours, max(around, 0.1), length)
    if length < 0.3:
        b.bar(0, 0.4 * length, b.width, length, "deep")
    elif plan.limb == 0:
        for y in np.arange(0.06, length, 0.13):
            b.level(y, 0.05, "deep")
    elif plan.limb == 1:
        b.clear("deep")
    else:
        for k, y in enumerate(np.arange(0.12, length - 0.15, 0.15)):
            for x in (0.25, 0.75):
                leaf(b, x * b.width, y, 0.17, np.pi / 2 + 0.5 * (-1) ** k)
        for y in (0.03, length - 0.03):
            b.level(y, 0.05, "line")
    return lay(image, part.uv[:, 0], part.uv[:, 1])


def shows_inside(part: Part) -> bool:
    """Whether an inner wall is seen from the side: wide and low, as a plate's or bowl's."""
    return np.ptp(part.vertices[:, 2]) < 0.5 * max(np.ptp(part.vertices[:, 0]), np.ptp(part.vertices[:, 1]))


def porcelain(form: Form, rng: np.random.Generator) -> Surface:
    """White glaze with cobalt motifs between borders, or celadon or famille rose. Images only: it has no caption."""
    ware = str(rng.choice(list(VARIANTS), p=list(VARIANTS.values())))
    colours, plan = palette(ware, rng), design(rng)
    walls = [p for p in form.parts if p.role == "body" and p.uv[:, 1].max() <= 1 + 1e-9]
    largest = max((p.size[0] * p.size[1] for p in walls), default=0)
    rgb = []
    for part in form.parts:
        if part.role != "body":
            paint = limb(part, colours, plan, rng)
        elif part.normals[:, 2].mean() < -0.8:  # the underside of a plate
            paint = np.broadcast_to(colours.glaze, part.vertices.shape)
        elif part.uv[:, 1].max() <= 1 + 1e-9:
            paint = outside(part, colours, plan, part.size[0] * part.size[1] > 0.5 * largest, rng)
        elif shows_inside(part):
            paint = inside(part, colours, plan, rng)
        else:
            paint = np.broadcast_to(colours.glaze, part.vertices.shape)
        rgb.append(np.clip(paint, 0, 1))
    return Surface(rgb, "glossy", None, {"colour": "green" if ware == "celadon" else "white", "pattern": plan.motif, "material": "porcelain"})
