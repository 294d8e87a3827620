"""True looks of figurines, the domains `face` and `animal`: skin, hair and eyes; fur, stripes, patches. Images only: they have no caption."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from .glazes import Surface
from .patterns import noise
from .shapes import Form, Part

# Display-referred sRGB.
SKINS = ((0.96, 0.80, 0.70), (0.92, 0.72, 0.58), (0.83, 0.61, 0.45), (0.68, 0.46, 0.32), (0.50, 0.33, 0.23), (0.36, 0.23, 0.17))
HAIRS = {"black": (0.08, 0.07, 0.07), "brown": (0.30, 0.18, 0.10), "blond": (0.82, 0.64, 0.34), "red": (0.62, 0.25, 0.10), "gray": (0.62, 0.61, 0.60)}
IRISES = ((0.25, 0.15, 0.08), (0.36, 0.24, 0.12), (0.25, 0.42, 0.62), (0.28, 0.44, 0.28), (0.42, 0.46, 0.48))
CLOTHS = ((0.14, 0.17, 0.30), (0.55, 0.12, 0.13), (0.16, 0.33, 0.22), (0.44, 0.30, 0.18), (0.80, 0.73, 0.58), (0.12, 0.12, 0.13), (0.50, 0.50, 0.52),
          (0.78, 0.55, 0.16), (0.24, 0.40, 0.62), (0.90, 0.89, 0.86), (0.45, 0.22, 0.45))
FRAMES = ((0.07, 0.07, 0.08), (0.25, 0.13, 0.07), (0.60, 0.10, 0.10), (0.72, 0.56, 0.22), (0.15, 0.22, 0.45))


def one_of(rng: np.random.Generator, colours) -> np.ndarray:
    return np.array(colours[rng.integers(len(colours))])


def mix(a: np.ndarray, b, weight: np.ndarray) -> np.ndarray:
    return a + (np.asarray(b) - a) * np.asarray(weight)[..., None]


def bearings(form: Form) -> tuple[np.ndarray, np.ndarray]:
    """Where it faces and what is to its left, unit vectors."""
    a = np.deg2rad(np.mean(form.seen_from))
    return np.array([np.cos(a), np.sin(a), 0]), np.array([-np.sin(a), np.cos(a), 0])


def face(form: Form, rng: np.random.Generator) -> Surface:
    """A head in its true colours. Labels: what the form says of it."""
    k = rng.uniform(0, len(SKINS) - 1)
    skin = mix(np.array(SKINS[int(k)]), SKINS[int(k) + 1], k % 1) * rng.uniform(0.96, 1.03)
    kinds = list(HAIRS) if skin[0] > 0.6 else ["black", "brown", "black", "gray"]
    hair = np.array(HAIRS[str(rng.choice(kinds))]) * rng.uniform(0.85, 1.15) * rng.uniform(0.95, 1.05, 3)
    blush, cloth, hat = skin * (1.0, 0.72, 0.70), one_of(rng, CLOTHS), one_of(rng, CLOTHS)
    lip = mix(skin, (0.70, 0.16, 0.20), rng.uniform(0.3, 0.8)) * 0.9
    band = hat * 0.45 if hat.mean() > 0.3 else one_of(rng, CLOTHS[3:5] + CLOTHS[7:10])
    frame = one_of(rng, FRAMES)
    colours = {"body": skin, "ear": mix(skin, blush, 0.5), "hair": hair, "beard": hair * rng.uniform(0.8, 1.0), "brow": hair * 0.65, "eye": (0.95, 0.95, 0.94),
               "iris": one_of(rng, IRISES), "pupil": (0.02, 0.02, 0.02), "lip": lip, "mouth": (0.28, 0.06, 0.07), "teeth": (0.97, 0.96, 0.93),
               "hat": hat, "band": band, "glasses": frame, "lens": (0.05, 0.05, 0.07), "shirt": cloth}
    eyes = np.stack([p.vertices.mean(0) for p in form.parts if p.role == "eye"])
    apart = np.linalg.norm(eyes[1] - eyes[0])
    cheeks = eyes + 0.25 * (eyes - eyes.mean(0)) - [0, 0, 0.75 * apart]
    freckled = skin[0] > 0.75 and rng.random() < 0.2
    rgb = []
    for part in form.parts:
        at = part.vertices
        colour = np.broadcast_to(colours[part.role], at.shape)
        if part.role == "body":
            near = np.exp(-(((at[:, None] - cheeks) ** 2).sum(-1) / (0.42 * apart) ** 2)).max(1)
            colour = mix(colour, blush, 0.75 * near) * (1 + 0.03 * noise(at, rng, 8))[:, None]
            if freckled:
                colour = mix(colour, skin * 0.62, (noise(at, rng, 45) > 0.75) * near)
        elif part.role in ("hair", "beard"):  # strands run down
            colour = colour * (1 + 0.22 * noise(at * [1, 1, 0.15], rng, 22) + 0.08 * noise(at, rng, 9))[:, None]
        elif part.role in ("hat", "shirt"):
            colour = colour * (1 + 0.04 * noise(at, rng, 30))[:, None]
        rgb.append(np.clip(colour, 0, 1))
    return Surface(rgb, "diffuse", None, {"colour": None, "pattern": "plain", "material": "face", **form.attributes})


class Coat(NamedTuple):
    """A species' dress: its main colour's name (None: no one word), sRGB of coat, underside and marks, and what roles have of their own."""

    colour: str | None
    coat: tuple
    under: tuple
    pattern: str = "plain"
    marks: tuple = ()
    own: dict = {}


DARK, PINK, WHITE, CREAM = (0.10, 0.08, 0.08), (0.88, 0.58, 0.58), (0.93, 0.92, 0.90), (0.90, 0.82, 0.68)
BROWN, GINGER, GRAY, BLACK = (0.46, 0.30, 0.18), (0.85, 0.50, 0.20), (0.52, 0.51, 0.50), (0.15, 0.14, 0.15)
TAN, ORANGE, HIDE, CHOCOLATE = (0.70, 0.46, 0.22), (0.95, 0.55, 0.10), (0.53, 0.52, 0.53), (0.36, 0.21, 0.13)
COATS = {
    "rabbit": [
        Coat("brown", BROWN, CREAM, own={"tail": WHITE}),
        Coat("gray", GRAY, WHITE, own={"tail": WHITE}),
        Coat("orange", TAN, CREAM, own={"tail": WHITE}),
        Coat("white", WHITE, WHITE),
        Coat("black", BLACK, (0.25, 0.23, 0.23)),
        Coat("white", WHITE, WHITE, "patched", BROWN, {"ear": BROWN})],
    "cat": [
        Coat("gray", (0.58, 0.55, 0.51), (0.86, 0.83, 0.79), "striped", (0.20, 0.18, 0.17)),
        Coat("orange", GINGER, CREAM, "striped", (0.62, 0.28, 0.07)),
        Coat("brown", (0.58, 0.42, 0.28), CREAM, "striped", (0.20, 0.13, 0.09)),
        Coat("black", BLACK, BLACK),
        Coat("white", WHITE, WHITE),
        Coat("white", WHITE, WHITE, "calico", GINGER),
        Coat("black", BLACK, WHITE, own={"paw": WHITE, "muzzle": WHITE}),
        Coat(None, (0.90, 0.83, 0.72), CREAM, "points", own=dict.fromkeys(("ear", "tail", "paw", "muzzle"), (0.28, 0.20, 0.17)))],
    "dog": [
        Coat("yellow", (0.84, 0.62, 0.32), CREAM),
        Coat("brown", CHOCOLATE, BROWN),
        Coat("gray", GRAY, WHITE, own={"muzzle": WHITE}),
        Coat("black", BLACK, TAN, own={"paw": TAN, "muzzle": TAN}),
        Coat("white", WHITE, WHITE, "spotted", BLACK, {"ear": BLACK}),
        Coat("white", WHITE, WHITE, "patched", BLACK, {"ear": BLACK, "muzzle": WHITE}),
        Coat("white", WHITE, WHITE, "patched", (0.55, 0.31, 0.15), {"ear": (0.45, 0.25, 0.12), "muzzle": WHITE})],
    "bear": [
        Coat("brown", BROWN, (0.62, 0.43, 0.26), own={"muzzle": TAN}),
        Coat("orange", TAN, CREAM, own={"muzzle": CREAM, "paw": CREAM}),
        Coat("black", BLACK, BLACK, own={"muzzle": (0.55, 0.40, 0.27)}),
        Coat("white", WHITE, WHITE, own={"inner ear": GRAY}),
        Coat("white", WHITE, WHITE, "panda", own=dict.fromkeys(("leg", "paw", "ear", "inner ear"), BLACK))],
    "pig": [
        Coat("pink", (0.94, 0.68, 0.66), (0.97, 0.78, 0.75)),
        Coat("pink", (0.93, 0.70, 0.67), (0.95, 0.76, 0.73), "patched", (0.20, 0.17, 0.17)),
        Coat("brown", (0.62, 0.38, 0.24), (0.66, 0.44, 0.32), "patched", (0.18, 0.12, 0.10))],
    "elephant": [
        Coat("gray", HIDE, HIDE, "folds", (0.30, 0.29, 0.30)),
        Coat("gray", (0.42, 0.42, 0.45), HIDE, "folds", (0.25, 0.25, 0.28)),
        Coat("brown", (0.50, 0.43, 0.37), (0.55, 0.48, 0.43), "folds", (0.30, 0.25, 0.21))],
    "duck": [
        Coat("yellow", (0.96, 0.80, 0.20), (0.98, 0.88, 0.40)),
        Coat("white", WHITE, WHITE),
        Coat("brown", (0.60, 0.45, 0.30), CREAM, "patched", (0.30, 0.20, 0.12), {"beak": (0.70, 0.45, 0.15)}),
        Coat("gray", (0.62, 0.58, 0.53), (0.80, 0.77, 0.72), "mallard", (0.33, 0.20, 0.13),
             {"head": (0.05, 0.33, 0.18), "tail": (0.14, 0.13, 0.13), "beak": (0.85, 0.72, 0.18)})],
    "giraffe": [
        Coat("orange", (0.72, 0.40, 0.14), (0.95, 0.88, 0.74), "net", (0.95, 0.85, 0.65)),
        Coat("brown", (0.45, 0.24, 0.10), (0.94, 0.86, 0.70), "net", (0.92, 0.80, 0.58))],
}
FIXED = {"pupil": (0.03, 0.025, 0.02), "glint": (1.0, 1.0, 1.0), "teeth": WHITE, "tusk": (0.95, 0.91, 0.80), "tuft": (0.18, 0.12, 0.09),
         "hoof": (0.25, 0.19, 0.16), "beak": ORANGE, "foot": ORANGE, "lip": (0.86, 0.35, 0.40), "nose": DARK, "inner ear": (0.86, 0.60, 0.57)}
COATED = ("body", "head", "leg", "neck", "tail", "ear", "paw", "muzzle", "mane")
CATS_EYES = ((0.80, 0.75, 0.25), (0.45, 0.62, 0.28), (0.40, 0.60, 0.78), (0.80, 0.52, 0.15))


def species_own(name: str, coat: np.ndarray) -> dict:
    """Colours of roles that go with the species rather than with its coat."""
    if name in ("rabbit", "cat") and coat.max() > 0.2:
        return {"nose": (0.80, 0.45, 0.47)}
    if name == "pig":
        return {"muzzle": mix(coat, PINK, 0.5), "nose": coat * 0.35, "inner ear": PINK, "tail": PINK}
    if name == "giraffe":
        return {"mane": coat * 0.7} | dict.fromkeys(("head", "muzzle", "ear", "inner ear", "tail"), (0.88, 0.72, 0.48))
    if name == "elephant":
        return {"ear": mix(coat, PINK, 0.15) * 1.12}
    return {"inner ear": mix(coat, PINK, 0.3)} if name == "bear" else {}


def animal(form: Form, rng: np.random.Generator) -> Surface:
    """An animal in one of its species' coats. Labels: the coat's main colour and its pattern."""
    dress = COATS[form.name][rng.integers(len(COATS[form.name]))]
    shade = rng.uniform(0.92, 1.06) * rng.uniform(0.97, 1.03, 3)
    own = FIXED | {"eye": one_of(rng, CATS_EYES)} | species_own(form.name, np.array(dress.coat)) | dress.own
    mark = markings(form, dress, rng)
    ahead, left = bearings(form)
    rgb = []
    for part in form.parts:
        at, up = part.vertices, part.normals[:, 2]
        base = np.broadcast_to(np.array(own.get(part.role, dress.coat)), at.shape)
        if part.role in COATED:
            if part.role not in own:
                base = mark(part, base)
                if part.role == "body" and dress.pattern != "net":  # paler below, and on the breast of who sits up
                    breast = np.clip((part.normals @ ahead - 0.5) * 6, 0, 1) * np.clip((0.22 - abs(at @ left)) * 20, 0, 1) * ("sitting" in form.words)
                    base = mix(base, dress.under, np.clip(np.maximum((-up - 0.35) * 3, 0.9 * breast), 0, 1))
                elif part.role == "muzzle":
                    base = mix(base, dress.under, 0.8 + 0 * up)
            base = base * shade * (1 + 0.09 * noise(at, rng, 28) + 0.04 * noise(at, rng, 7))[:, None]
        rgb.append(np.clip(base, 0, 1))
    return Surface(rgb, "diffuse", None, {"colour": dress.colour, "pattern": dress.pattern, "material": "animal", **form.attributes})


def markings(form: Form, dress: Coat, rng: np.random.Generator) -> Callable[[Part, np.ndarray], np.ndarray]:
    """The coat's pattern as a function of place: (part, colours (N, 3)) -> the colours with the marks."""
    ahead, left = bearings(form)
    warp, phase, pace = rng.normal(size=(3, 3)) * 2.5, rng.uniform(0, 6.28, 3), rng.uniform(0.9, 1.15)
    waves, offsets, bare = rng.normal(size=(10, 3)) * 3.2, rng.uniform(0, 6.28, (2, 10)), rng.uniform(0.0, 0.2)
    seeds = cKDTree(rng.uniform(-1, 1, (900 if dress.pattern == "spotted" else 420, 3)))

    def bend(at):
        return np.sin(at @ warp.T + phase).sum(1)

    def striped(part, at):
        along = {"head": at @ left * 40, "tail": part.uv[:, 1] * 45}.get(part.role, (at @ ahead * 26 + at[:, 2] * 16) * pace + 0.6 * bend(at))
        return np.clip((np.sin(along) - 0.1) * 4, 0, 1) * np.clip(part.normals[:, 2] * 2 + 1.4, 0, 1)

    def patched(part, at, k=0):
        return np.clip((np.sin(at @ waves.T + offsets[k]).mean(1) * 2 - bare) * 12, 0, 1)

    def spotted(part, at):
        return np.clip((0.075 - seeds.query(at)[0]) * 40, 0, 1)

    def net(part, at):  # the seams between cells about random seeds
        near, next_ = seeds.query(at, 2)[0].T
        return np.clip((0.055 - (next_ - near)) * 40, 0, 1)

    def folds(part, at):
        return np.clip(np.sin(at[:, 2] * 60 + 3.5 * bend(at)) - 0.6, 0, 1) * (0.6 + 0.5 * np.sin(at @ waves[0] + offsets[0, 0]))

    def breast(part, at):
        return ((part.role == "neck") | (at @ ahead > 0.22)) * (part.role != "tail") * 1.0

    where = {"striped": striped, "patched": patched, "calico": patched, "spotted": spotted, "net": net, "folds": folds, "mallard": breast}.get(dress.pattern)

    def mark(part: Part, base: np.ndarray) -> np.ndarray:
        if where is None or (part.role in ("ear", "muzzle", "paw") and dress.pattern != "folds"):
            return base
        base = mix(base, dress.marks, where(part, part.vertices))
        if dress.pattern == "calico":
            base = mix(base, BLACK, patched(part, part.vertices, 1))
        if dress.pattern == "mallard" and part.role == "neck":  # a white ring below the green head
            base = np.where((part.uv[:, 1] > np.quantile(part.uv[:, 1], 0.7))[:, None], WHITE, base)
        return base

    return mark
