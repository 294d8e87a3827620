"""Heads of the kiln's world: hair, hats, glasses, beards and expressions."""

from dataclasses import replace
from functools import partial

import numpy as np

from .clay import ARC, GROUND, TONES, Lump, Solid, turned_by
from .shapes import Form, Part, grid_faces, pick, sweep

SEEN_FROM = (-60.0, 60.0)  # azimuths: further round, an expression is out of sight
HAIR = ("bald", "short", "fringe", "bob", "long", "afro", "pigtails", "spiky", "mohawk")


def skull(u) -> tuple[list[Solid], dict]:
    """Neck to crown, without what sits on it, and the measures that the rest needs."""
    w, jaw, full = u(0.92, 1.06), u(0.92, 1.12), u(0.85, 1.15)
    g = GROUND
    nose, length = u(0.06, 0.095), u(0.5, 0.56)
    solids = [g.egg((-0.05, 0, 0.12), (0.46, 0.41 * w, 0.46)),
              g.egg((0.07, 0, -0.15), (0.36, 0.34 * w, 0.40 * jaw), blend=0.15),
              g.egg((0.25, 0, -0.42 * jaw), (0.13, 0.15 * w, 0.11), blend=0.12),
              *(g.egg((0.22, s * 0.17 * w, -0.12), 0.15 * full, blend=0.1) for s in (-1, 1)),
              g.limb((0.36, 0, 0.10), (length - 0.04, 0, -0.06), 0.035, nose, blend=0.05),
              g.limb((-0.10, 0, -0.4), (-0.10, 0, -0.80), 0.20, 0.22, blend=0.1)]
    return solids, {"w": w, "jaw": jaw}


def combed(u, solid: Solid, depth: float) -> Solid:
    """The solid with locks that run down from the crown, so that hair is no cap."""
    count, swirl, wave, plain = round(u(13, 20)), u(-3, 3), u(0, 6.28), solid.distance

    def distance(x, y, z):
        around = np.arctan2(y, x + 0.06)
        return plain(x, y, z) - np.float32(depth) * np.sin(count * around + swirl * z + 1.5 * np.sin(3 * around + wave))

    return replace(solid, distance=distance, low=solid.low - depth, high=solid.high + depth)


def hair(u, cut: str, w: float, under_hat: bool) -> list[Part]:
    """A shell of locks about the skull, cut free of the face."""
    g, t, line = GROUND, 0.03 if under_hat else {"afro": u(0.14, 0.22)}.get(cut, u(0.06, 0.09)), u(-0.04, 0.04)
    cap = combed(u, g.egg((-0.06, 0, 0.13), (0.46 + t, 0.41 * w + t, 0.46 + t)), 0.0 if under_hat else 0.03)
    face = g.egg((0.58, 0, -0.10 + line), (0.56, 0.40 * w, 0.50), blend=0.04)
    if cut == "mohawk":
        return Lump([g.egg((-0.08, 0, 0.22), (0.50, 0.08, 0.58 + u(0, 0.1)))], [face], floor=0.0).parts("hair")
    if cut in ("bob", "long"):
        end = u(-0.42, -0.3) if cut == "bob" else u(-0.85, -0.7)
        solids = [cap, combed(u, g.egg((-0.16, 0, -0.05), (0.40, 0.45 * w + t, 0.5)), 0.02),
                  *(g.limb((-0.06, s * 0.40 * w, 0.1), (-0.08, s * (0.42 * w + 0.02), end + 0.1), 0.10 + t / 2, 0.12 + t / 2) for s in (-1, 1)),
                  combed(u, g.limb((-0.25, 0, 0.0), (-0.27, 0, end + 0.12), 0.26, 0.24, blend=0.15), 0.02)]
        if u(0, 1) < 0.5:
            face = g.egg((0.62, 0, -0.24 + line), (0.60, 0.36 * w, 0.52), blend=0.04)  # a fringe hangs lower
        return Lump(solids, [face], floor=end).parts("hair")
    # Short ones end along a plane from the forehead down to the nape, a huge ball's side.
    nape = g.egg((1.90, 0, -2.14 + line) if cut == "fringe" else (1.98, 0, -2.02 + line), 2.74, blend=0.05)
    solids, stuck = [cap], []
    if cut == "afro":
        golden, z = np.arange(60) * 2.39996, np.linspace(-0.5, 1, 60)
        ring = np.sqrt(1 - z**2)
        curls = np.stack([ring * np.cos(golden) * (0.44 + t), ring * np.sin(golden) * (0.38 * w + t), z * (0.44 + t)], 1) + [-0.08, 0, 0.15]
        solids += [g.egg(c, u(0.10, 0.13), blend=0.03) for c in curls]
    if cut == "spiky" and not under_hat:
        golden, z = np.arange(34) * 2.39996, np.linspace(0.05, 0.99, 34)
        out = np.stack([np.sqrt(1 - z**2) * np.cos(golden), np.sqrt(1 - z**2) * np.sin(golden), z], 1)
        length = u(0.16, 0.26)
        solids += [g.limb(c := o * (0.46, 0.41 * w, 0.46) + (-0.06, 0, 0.13), c + length * o + (-0.03, 0, 0.05), 0.09, 0.02, blend=0.03) for o in out]
    if cut == "pigtails":
        drop = u(0.1, 0.45)
        for s in (-1, 1):
            tie = np.array([-0.12, s * (0.41 * w + t), 0.10])
            path = [tie, tie + (-0.02, s * 0.13, 0.0), tie + (-0.02, s * 0.19, -0.15), tie + (0, s * 0.16, -0.25 - drop)]
            stuck += [g.ball(tie, (0.07, 0.06, 0.07), "band"), g.tube(path, [0.05, 0.12, 0.12, 0.04], "hair")]
    return Lump(solids, [nape]).parts("hair") + stuck


def beard(u, face: Lump, w: float, jaw: float, mouth: float) -> list[Part]:
    """Full, long, or a goatee, with a moustache, and open about the mouth."""
    g, kind = GROUND, pick(u, "full", "long", "goatee")
    t = u(0.04, 0.07)
    solids = [g.egg((0.26, 0, -0.44 * jaw), (0.15 + t, 0.16 * w + t, 0.13 + t))]
    if kind != "goatee":
        solids += [g.egg((0.07, 0, -0.17), (0.36 + t, 0.345 * w + t, 0.40 * jaw + t)), *(g.egg((0.22, s * 0.17 * w, -0.17), 0.15 + t) for s in (-1, 1))]
    if kind == "long":
        solids.append(g.limb((0.24, 0, -0.45), (0.28, 0, -u(0.75, 0.95)), 0.24, u(0.05, 0.15), blend=0.1))
    lip = face.front([0.02, 0.17], [mouth + 0.10, mouth + 0.03])
    solids += [g.limb(lip[0] * [1, s, 1], lip[1] * [1, s, 1], 0.055, 0.04, blend=0.03) for s in (-1, 1)]
    top = -0.20 if kind == "goatee" else 0.04
    cuts = [g.egg((0.52, 0, 0.12), (0.48, 0.31 * w, 0.40 + (0.16 + mouth)), blend=0.04)] if kind != "goatee" else []
    hole = g.egg((0.5, 0, mouth - 0.015), (0.4, 0.16, 0.075), blend=0.02)
    trim = g.egg((-0.42, 0, -0.3), (0.45, 0.9, 0.9), blend=0.04)
    below = Lump(solids[: -2], [*cuts, hole, trim], ceiling=top).parts("beard")
    return below + Lump(solids[-2:], spacing=0.02).parts("beard")


def hat(u, w: float) -> list[Part]:
    """What sits on the head: brimmed, cap, top hat, cone or beanie, each of its own proportions."""
    kind = pick(u, "brimmed", "cap", "top", "cone", "beanie")
    r, lean = 0.50, u(4, 10)
    pose = GROUND.within((-0.06, 0, u(0.25, 0.29)), pitch=lean)
    spin = partial(pose.spun, center=(0, 0, 0), radii=(1, 0.92 * w, 1), segments=72)
    dome = np.stack([r * np.cos(ARC[7:]), np.sin(ARC[7:])], 1)
    fine = lambda points: np.concatenate([np.linspace(a, b, 9)[:-1] for a, b in zip(points, points[1:])] + [points[-1:]])
    band = [spin(fine([(r * 1.0, 0.03), (r + 0.025, 0.04), (r + 0.02, 0.15), (r - 0.02, 0.16)]), role="band")]
    if kind == "brimmed":
        brim, height, droop = u(0.72, 0.9), u(0.32, 0.42), u(-0.05, 0.06)
        return band + [spin(fine([(r - 0.08, 0), (brim, droop - 0.02), (brim + 0.015, droop), (brim, droop + 0.03), (r, 0.05), (r * 0.97, 0.15),
                                  (r * 0.8, height), (r * 0.6, height + 0.03), (0, height - 0.02)]), role="hat")]
    if kind == "cap":
        visor = pose.ball((0.50, 0, 0.0), (0.34, 0.37, 0.035), "band", (0, -8, 0), 32)
        return [spin(np.concatenate([[(r, -0.02)], dome * [1, u(0.36, 0.44)] + [0, 0.02]]), role="hat"), visor, pose.ball((0, 0, 0.45), 0.04, "band")]
    if kind == "top":
        height, flare = u(0.5, 0.68), u(0.88, 1.06)
        return band + [spin(fine([(r - 0.08, 0), (0.69, 0.0), (0.70, 0.02), (0.69, 0.05), (r, 0.05), (r * (1 + flare) / 2, height / 2), (r * flare, height),
                                  (r * flare - 0.02, height + 0.02), (0, height + 0.02)]), role="hat")]
    if kind == "cone":
        height, brim = u(0.75, 0.95), pick(u, 0.0, 0.68)
        foot = [(r - 0.08, 0), (brim, 0), (brim + 0.01, 0.02), (brim, 0.05), (r, 0.06)] if brim else [(r - 0.08, -0.02), (r, -0.01)]
        return band + [spin(fine([*foot, (r * 0.5, height * 0.5), (0.02, height), (0, height + 0.01)]), role="hat"),
                       *([] if brim else [pose.ball((0, 0, height), 0.09, "band")])]
    rim = [(r - 0.02, -0.04), (r + 0.04, -0.03), (r + 0.07, 0.03), (r + 0.05, 0.12), (r - 0.01, 0.13)]
    return [spin(fine(rim), role="band"), spin(dome * [1, u(0.38, 0.5)] + [0, 0.05], role="hat"), pose.ball((0, 0, 0.52), u(0.09, 0.13), "band")]


def glasses(u, eyes: np.ndarray) -> list[Part]:
    """Two frames before the eyes (2, 3), round or square, clear or dark, a bridge and the temples."""
    g, square, dark, tube = GROUND, u(0, 1) < 0.5, u(0, 1) < 0.3, u(0.026, 0.032)
    a, b = u(0.125, 0.145), u(0.11, 0.13)
    x, parts = eyes[:, 0].mean() + 0.09, []
    theta = np.linspace(0, 2 * np.pi, 25)
    c, s = np.cos(theta), np.sin(theta)
    if square:
        c, s = (np.sign(v) * abs(v) ** 0.6 for v in (c, s))
    for eye in eyes:
        side = np.sign(eye[1])
        rim = np.stack([x - 0.25 * abs(c * a) * (np.sign(c) == side), eye[1] + a * c, eye[2] + b * s], 1)  # wraps about the face a little
        parts.append(replace(sweep(rim, tube, "glasses", samples=56, segments=10), tone=TONES["glasses"]))
        if dark:
            center = np.array([x - 0.01, eye[1], eye[2]])
            lens = center + np.linspace(0, 1, 6)[None, :, None] * (rim - center)[:, None]
            uv = np.stack(np.meshgrid(theta / 6.2832, np.linspace(0, 1, 6), indexing="ij"), -1).reshape(-1, 2)
            parts.append(Part(lens.reshape(-1, 3), np.tile([1.0, 0, 0], (150, 1)), uv, grid_faces(25, 6)[:, ::-1], (a, b), "lens", TONES["lens"]))
        parts.append(g.tube([(x - 0.02, eye[1] + side * a, eye[2] + 0.02), (x - 0.22, side * 0.42, eye[2] + 0.02), (-0.04, side * 0.47, eye[2] + 0.03)],
                            tube * 0.9, "glasses"))
    inner = max(abs(eyes[0, 1]) - a, 0.0) + 0.02
    return [*parts, g.tube([(x, -inner, eyes[0, 2] + 0.02), (x, 0, eyes[0, 2] + 0.02 + 0.5 * inner), (x, inner, eyes[0, 2] + 0.02)], tube * 0.9, "glasses")]


def mouth_of(face: Lump, expression: str, z: float, u) -> list[Part]:
    g, half = GROUND, u(0.14, 0.18)
    if expression == "surprised":
        theta = np.linspace(0, 2 * np.pi, 21)
        ry, rz = u(0.065, 0.085), u(0.09, 0.115)
        y = np.linspace(-ry, ry, 16)
        rise = rz * np.sqrt(np.maximum(1 - (y / ry) ** 2, 0))
        ring = face.front(ry * np.cos(theta), z - 0.03 + rz * np.sin(theta))
        return [face.patch(y, z - 0.03 - rise, z - 0.03 + rise, "mouth", 0.012), replace(sweep(ring, 0.027, "lip", 48, 10), tone=TONES["lip"])]
    y = np.linspace(-half, half, 20)
    t = y / half
    if expression == "neutral":
        return [g.tube(face.front(y[::4], z + 0 * y[::4], 0.004), [0.016, 0.026, 0.03, 0.026, 0.016], "lip")]
    y, lift = y * 1.25, u(0.085, 0.11)
    corners = z - 0.02 + lift * t**2
    if u(0, 1) < 0.35:  # closed
        return [g.tube(face.front(y, corners - 0.02, 0.004), 0.027, "lip")]
    depth = u(0.10, 0.14) * (1 - t**2)
    return [face.patch(y, corners - depth, corners, "teeth", 0.016), g.tube(face.front(y, corners - depth, 0.002), 0.026, "lip"),
            g.tube(face.front(y, corners, 0.002), 0.022, "lip")]


def head(u) -> Form:
    """A human head on a short bust. Its attributes: hat, glasses, beard, expression."""
    has = {key: u(0, 1) < p for key, p in (("hat", 0.45), ("glasses", 0.45), ("beard", 0.35))}
    expression, cut = pick(u, "smiling", "neutral", "surprised"), pick(u, *HAIR)
    if has["hat"] and cut in ("afro", "mohawk"):
        cut = "short"
    solids, m = skull(u)
    w, mouth, g = m["w"], -0.27 * m["jaw"], GROUND
    if expression == "smiling":
        solids += [g.egg((0.27, s * 0.19 * w, -0.10), 0.125, blend=0.08) for s in (-1, 1)]
    face = Lump(solids, floor=-0.74)
    wide, apart, up = 1.25 if expression == "surprised" else u(0.9, 1.0), u(0.15, 0.175), 0.06
    eyes = face.front([-apart, apart], up)
    size, parts = u(0.95, 1.15), face.parts()
    raised = {"surprised": 0.10, "smiling": 0.02, "neutral": 0.0}[expression]
    for eye in eyes:
        side = np.sign(eye[1])
        yaw = side * 14
        ahead = lambda d: eye + d * turned_by(yaw)[:, 0]
        parts += [g.ball(eye, (0.045, 0.085 * size, 0.06 * size * wide), "eye", (yaw, 0, 0)),
                  g.ball(ahead(0.026), (0.028, 0.046 * size, 0.046 * size), "iris", (yaw, 0, 0)),
                  g.ball(ahead(0.042), (0.020, 0.026 * size, 0.026 * size), "pupil", (yaw, 0, 0)),
                  g.ball((0.0, side * 0.43 * w, 0.0), (0.07, 0.05, 0.12), "ear", (side * 20, 0, 0))]
        y = side * (apart + np.linspace(-0.10, 0.11, 6))
        arch = np.array([0, 0.025, 0.04, 0.04, 0.02, -0.015]) * (1.3 if expression == "surprised" else 0.8)
        parts.append(g.tube(face.front(y, up + 0.125 + raised + arch, 0.006), [0.024, 0.03, 0.032, 0.03, 0.026, 0.018], "brow"))
    parts += mouth_of(face, expression, mouth, u)
    shoulders = Lump([g.egg((-0.10, 0, -0.86), (0.34, 0.52, 0.22)), g.limb((-0.10, 0, -0.72), (-0.10, 0, -0.65), 0.25, 0.235)], floor=-0.86)
    parts += shoulders.parts("shirt")
    if cut != "bald":
        parts += hair(u, cut, w, has["hat"])
    if has["beard"]:
        parts += beard(u, face, w, m["jaw"], mouth)
    if has["glasses"]:
        parts += glasses(u, eyes)
    if has["hat"]:
        parts += hat(u, w)
    return Form("head", parts, () if expression == "neutral" else (expression,), describe(has),
                {**{key: key if on else f"no {key}" for key, on in has.items()}, "expression": expression}, SEEN_FROM)


def describe(has: dict[str, bool]) -> str:
    """What a head has, as one says it: "wearing a hat and glasses", "with a beard, wearing glasses"."""
    worn = " and ".join(article + key for key, article in (("hat", "a "), ("glasses", "")) if has[key])
    return ", ".join(filter(None, ["with a beard" if has["beard"] else "", f"wearing {worn}" if worn else ""]))
