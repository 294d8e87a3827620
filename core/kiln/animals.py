"""Animals of the kiln's world."""

import numpy as np

from .clay import BALL, GROUND, SPIKE, Lump, Pose, Solid, turned_by
from .shapes import Form, Part, pick

SEEN_FROM = (-180.0, 180.0)  # azimuths: from all sides


def on_four(u, length, girth, leg, thick, chest=1.0, foot="paw", limbs="body") -> list[Solid]:
    """A torso along x on four legs of role `limbs`; it stands on z = 0. `length` is half the torso's, `girth` its radius."""
    g, h = GROUND, leg + girth * 0.75
    solids = [g.limb((-length + girth, 0, h), (length - girth, 0, h + 0.02), girth, girth * chest, blend=0.1)]
    stride = u(-0.08, 0.08)
    for side in (-1, 1):
        for end, swing in ((-1, stride * side), (1, -stride * side)):
            x, y = end * (length - 0.75 * girth), side * (girth - 0.8 * thick)
            solids += [g.limb((x, y, h - 0.2 * girth), (x + swing, y, 1.1 * thick), 1.25 * thick, thick, limbs, 0.07),
                       g.egg((x + swing + 0.25 * thick, y, 0.7 * thick), (1.25 * thick, 1.05 * thick, 0.7 * thick), foot, 0.03)]
    return solids


def sitting_up(u, girth) -> list[Solid]:
    """Upright on its haunches, front paws on the ground."""
    g, lean = GROUND, u(0.02, 0.12)
    solids = [g.egg((-0.06, 0, 0.36), (0.34 * girth, 0.32 * girth, 0.36), blend=0.1), g.egg((lean, 0, 0.66), (0.24 * girth, 0.23 * girth, 0.30), blend=0.15)]
    for s in (-1, 1):
        solids += [g.egg((-0.02, s * 0.27 * girth, 0.22), (0.28, 0.14, 0.23), blend=0.05),
                   g.egg((0.26, s * 0.29 * girth, 0.08), (0.18, 0.10, 0.08), "paw", 0.04),
                   g.limb((lean + 0.14, s * 0.15, 0.62), (lean + 0.26, s * 0.14, 0.1), 0.10, 0.08, blend=0.05),
                   g.egg((lean + 0.31, s * 0.14, 0.07), (0.13, 0.09, 0.07), "paw", 0.03)]
    return solids


def sitting_down(u, girth) -> list[Solid]:
    """On its bottom, legs to the front, as a toy bear sits."""
    g, spread, arm = GROUND, u(0.14, 0.3), u(-0.1, 0.15)
    solids = [g.egg((0, 0, 0.42), (0.34 * girth, 0.37 * girth, 0.42)), g.egg((0.10, 0, 0.40), (0.27 * girth, 0.28 * girth, 0.32), blend=0.04)]
    for s in (-1, 1):
        solids += [g.limb((0.1, s * 0.24, 0.15), (0.48, s * (0.24 + spread), 0.15), 0.16, 0.15, "leg", 0.05),
                   g.egg((0.60, s * (0.27 + spread), 0.19), (0.09, 0.16, 0.19), "paw", 0.03),
                   g.limb((0, s * 0.30 * girth, 0.66), (0.28, s * (0.40 + 0.1 * girth), 0.42 + arm), 0.14, 0.115, "leg", 0.05),
                   g.egg((0.32, s * (0.41 + 0.1 * girth), 0.38 + arm), 0.13, "paw", 0.03)]
    return solids


def eyes_on(p: Pose, radii, azimuth: float, elevation: float, size: float, iris: bool = False) -> list[Part]:
    """Two glossy eyes on the skull, an ellipsoid about the head's origin: dark ones, or with an iris."""
    parts = []
    for s in (-1, 1):
        a, e = np.deg2rad([s * azimuth, elevation])
        out = np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
        at, turn = out * np.array(radii) * 0.98, (s * azimuth * 0.8, elevation * 0.5, 0)
        if iris:
            parts += [p.ball(at, (size * 0.5, size, size), "eye", turn), p.ball(at + 0.32 * size * out, (size * 0.35, size * 0.5, size * 0.8), "pupil", turn)]
        else:
            parts.append(p.ball(at, (size * 0.7, size, size * 1.1), "pupil", turn))
        parts.append(p.ball(at + size * (0.75 * out + np.array([0, 0.25, 0.45])), size * 0.27, "glint", segments=10))
    return parts


def ears_of(p: Pose, profile, at, radii, turn, inner: float = 0.6) -> list[Part]:
    """Both ears, the given one at +y, with a paler or darker inside that shows from the front."""
    parts = []
    for s in (-1, 1):
        center, t = np.array(at) * [1, s, 1], (s * turn[0], turn[1], s * turn[2])
        parts.append(p.spun(profile, center, radii, "ear", t))
        if inner:
            ahead = turned_by(*t) @ [radii[0] * 0.62, 0, radii[2] * (0.1 if profile is SPIKE else 0)]
            parts.append(p.spun(profile, center + ahead, np.array(radii) * [0.6, inner, inner + 0.15], "inner ear", t))
    return parts


def looking(u, origin, scale=1.0, yaw=35.0) -> Pose:
    return GROUND.within(origin, yaw=u(-yaw, yaw), pitch=u(-8, 12), scale=scale * u(0.92, 1.1))


def animal(name: str, solids: list[Solid], parts: list[Part], *words: str) -> Form:
    return Form(name, Lump(solids, floor=0.0).parts() + parts, tuple(filter(None, words)), "", {}, SEEN_FROM)


def stout(girth: float, fat: float) -> str:
    return "fat" if girth > fat else ""


def rabbit(u) -> Form:
    girth, sits, ear = u(0.85, 1.25), u(0, 1) < 0.6, u(0.28, 0.42)
    solids = sitting_up(u, girth) if sits else on_four(u, 0.48, 0.27 * girth, 0.14, 0.09)
    p = looking(u, (0.10, 0, 1.02) if sits else (0.48, 0, 0.66), 1.05, 25)
    solids += [p.egg((0, 0, 0), (0.25, 0.24, 0.26), "head", 0.08), *(p.egg((0.10, s * 0.12, -0.09), 0.13, "head", 0.06) for s in (-1, 1)),
               *(p.egg((0.22, s * 0.05, -0.09), (0.07, 0.065, 0.06), "muzzle", 0.02) for s in (-1, 1)),
               GROUND.egg((-0.42 if sits else -0.50, 0, 0.22 if sits else 0.40), 0.13, "tail", 0.03)]
    parts = [*eyes_on(p, (0.26, 0.25, 0.26), 42, 14, 0.055), p.ball((0.29, 0, -0.045), (0.03, 0.04, 0.028), "nose"),
             p.ball((0.27, 0, -0.165), (0.02, 0.035, 0.045), "teeth")]
    turn = (u(0, 25), u(-8, 28), -u(4, 26))
    root = np.array([-0.04, 0.09, 0.17])
    parts += ears_of(p, BALL, root + 0.88 * ear * turned_by(*turn)[:, 2], (0.06, 0.095, ear), turn)
    return animal("rabbit", solids, parts, stout(girth, 1.13), "sitting" if sits else "")


def cat(u) -> Form:
    girth, sits = u(0.85, 1.25), u(0, 1) < 0.55
    solids = sitting_up(u, girth) if sits else on_four(u, 0.52, 0.21 * girth, 0.36, 0.075)
    p = looking(u, (0.12, 0, 1.04) if sits else (0.52, 0, 0.80))
    if not sits:
        solids.append(GROUND.limb((0.3, 0, 0.55), p.origin, 0.17, 0.15, blend=0.08))
    solids += [p.egg((0, 0, 0), (0.25, 0.30, 0.25), "head", 0.06), *(p.egg((0.10, s * 0.13, -0.08), 0.14, "head", 0.06) for s in (-1, 1)),
               *(p.egg((0.23, s * 0.055, -0.09), (0.075, 0.075, 0.06), "muzzle", 0.02) for s in (-1, 1))]
    side, lift = pick(u, -1, 1), u(0.2, 0.5)
    tail = ([(-0.3, 0, 0.1), (-0.5, side * 0.2, 0.09), (-0.35, side * 0.5, 0.09), (0.0, side * 0.56, 0.09), (0.2, side * 0.5, 0.12)] if sits and u(0, 1) < 0.5
            else [(-0.28 if sits else -0.42, 0, 0.25 if sits else 0.55), (-0.6, 0, 0.35 if sits else 0.6), (-0.74, side * 0.05, 0.4 + lift),
                  (-0.66, side * 0.12, 0.65 + lift), (-0.8, side * 0.15, 0.8 + lift)])
    parts = [*eyes_on(p, (0.26, 0.29, 0.26), 35, 10, 0.075, iris=True), p.ball((0.31, 0, -0.05), (0.03, 0.045, 0.03), "nose"),
             *ears_of(p, SPIKE, (-0.02, 0.17, 0.13), (0.055, 0.12, u(0.26, 0.34)), (12, 0, -16)), GROUND.tube(tail, [0.07, 0.07, 0.065, 0.06, 0.055], "tail")]
    return animal("cat", solids, parts, stout(girth, 1.13), "sitting" if sits else "")


def dog(u) -> Form:
    girth, sits, snout = u(0.85, 1.25), u(0, 1) < 0.45, u(0.32, 0.46)
    leg = u(0.3, 0.5)
    solids = sitting_up(u, girth) if sits else on_four(u, 0.6, 0.23 * girth, leg, 0.09, chest=1.1)
    high = leg + 0.55
    p = looking(u, (0.14, 0, 1.04) if sits else (0.66, 0, high))
    if not sits:
        solids.append(GROUND.limb((0.4, 0, leg + 0.2), p.origin, 0.19, 0.17, blend=0.1))
    solids += [p.egg((0, 0, 0), (0.27, 0.25, 0.25), "head", 0.06), p.limb((0.12, 0, -0.07), (snout, 0, -0.09), 0.15, 0.105, "muzzle", 0.05)]
    tip = np.array([snout + 0.09, 0, -0.03])
    parts = [*eyes_on(p, (0.27, 0.25, 0.25), 33, 20, 0.05), p.ball(tip, (0.055, 0.07, 0.05), "nose")]
    if u(0, 1) < 0.4:
        parts.append(p.ball((snout + 0.02, 0.02, -0.21), (0.05, 0.055, 0.09), "lip", (0, 20, 0)))
    parts += ears_of(p, BALL, (-0.03, 0.255, -0.06), (0.11, 0.055, u(0.2, 0.3)), (10, u(-10, 15), 14), inner=0)
    x, z = (-0.32, 0.2) if sits else (-0.52, leg + 0.25)
    tail = [(x, 0, z), (x - 0.16, 0, z + 0.12), (x - 0.22, 0, z + u(0.25, 0.4)), (x - u(0.1, 0.25), 0, z + 0.48)]
    parts.append(GROUND.tube(tail, [0.075, 0.065, 0.055, 0.04], "tail"))
    return animal("dog", solids, parts, stout(girth, 1.13), "sitting" if sits else "")


def bear(u) -> Form:
    girth, sits = u(0.88, 1.25), u(0, 1) < 0.65
    solids = sitting_down(u, girth) if sits else on_four(u, 0.66, 0.34 * girth, 0.24, 0.145, chest=0.95, limbs="leg")
    p = looking(u, (0.04, 0, 1.02) if sits else (0.74, 0, 0.66), 1.0, 25 if sits else 35)
    solids += [p.egg((0, 0, 0), (0.30, 0.33, 0.30), "head", 0.06), p.egg((0.25, 0, -0.09), (0.15, 0.15, 0.12), "muzzle", 0.03)]
    if not sits:
        solids += [GROUND.egg((-0.64, 0, 0.5), 0.09, "tail", 0.03)]
    parts = [*eyes_on(p, (0.30, 0.33, 0.30), 30, 15, 0.05), p.ball((0.39, 0, -0.045), (0.045, 0.065, 0.045), "nose"),
             p.tube([(0.345, -0.05, -0.175), (0.375, 0, -0.145), (0.345, 0.05, -0.175)], 0.015, "nose"),
             *ears_of(p, BALL, (-0.02, 0.25, 0.24), (0.065, 0.125, 0.125), (15, 0, 0))]
    return animal("bear", solids, parts, stout(girth, 1.13), "sitting" if sits else "")


def pig(u) -> Form:
    girth = u(0.88, 1.2)
    solids = on_four(u, 0.62, 0.38 * girth, 0.20, 0.10, foot="hoof")
    p = looking(u, (0.62, 0, 0.62), 1.0, 30)
    solids += [p.egg((0, 0, 0), (0.29, 0.29, 0.28), "head", 0.08), *(p.egg((0.10, s * 0.14, -0.12), 0.14, "head", 0.06) for s in (-1, 1)),
               p.limb((0.2, 0, -0.06), (0.34, 0, -0.07), 0.14, 0.125, "muzzle", 0.04)]
    parts = [*eyes_on(p, (0.29, 0.29, 0.28), 33, 22, 0.045), p.ball((0.45, 0, -0.07), (0.045, 0.15, 0.13), "muzzle"),
             *(p.ball((0.49, s * 0.055, -0.065), (0.02, 0.032, 0.045), "nose") for s in (-1, 1)),
             *ears_of(p, SPIKE, (0.0, 0.19, 0.17), (0.045, 0.13, u(0.2, 0.28)), (25, u(-75, -15), -22))]
    t = np.linspace(0, 1, 12)
    parts.append(GROUND.tube(np.stack([-0.60 - 0.22 * t, 0.09 * np.sin(4 * np.pi * t), 0.58 + 0.09 * np.cos(4 * np.pi * t)], 1), 0.035, "tail"))
    return animal("pig", solids, parts, stout(girth, 1.1))


def elephant(u) -> Form:
    girth, ear, flare = u(0.9, 1.2), u(0.95, 1.2), u(28, 55)
    solids = on_four(u, 0.66, 0.40 * girth, u(0.34, 0.46), 0.155, foot="body")
    top = max(s.high[2] for s in solids)
    p = looking(u, (0.68, 0, top + 0.02), 1.0, 25)
    raised = u(0, 1) < 0.4
    trunk = ([(0.22, 0, -0.10), (0.46, 0, -0.26), (0.68, 0, -0.18), (0.78, 0, 0.08), (0.72, 0, 0.28)] if raised
             else [(0.22, 0, -0.10), (0.42, 0, -0.30), (0.46, 0, -0.56), (0.50, 0, -0.76), (0.64, 0, -0.84)])
    solids += [p.egg((0, 0, 0), (0.33, 0.31, 0.35), "head", 0.1), p.egg((0.02, 0, -0.22), (0.26, 0.22, 0.2), "head", 0.08),
               *(p.limb(a, b, 0.15 - 0.02 * k, 0.13 - 0.02 * k, "head", 0.06) for k, (a, b) in enumerate(zip(trunk, trunk[1:]))),
               *(p.egg((-0.24, s * 0.42, -0.02), (0.055, 0.32 * ear, 0.38 * ear), "ear", 0.05, (s * flare, 0, 0)) for s in (-1, 1))]
    parts = eyes_on(p, (0.33, 0.31, 0.35), 40, 8, 0.045)
    parts += [p.tube([(0.24, s * 0.15, -0.22), (0.40, s * 0.19, -0.36), (0.56, s * 0.19, -0.32)], [0.05, 0.045, 0.02], "tusk") for s in (-1, 1)]
    parts += [GROUND.tube([(-0.62, 0, top - 0.22), (-0.74, 0, top - 0.4), (-0.74, 0, top - 0.62)], 0.03, "tail"),
              GROUND.ball((-0.74, 0, top - 0.66), (0.04, 0.04, 0.08), "tuft")]
    return animal("elephant", solids, parts, stout(girth, 1.11))


def duck(u) -> Form:
    g, girth, swims, neck = GROUND, u(0.88, 1.2), u(0, 1) < 0.45, u(0.28, 0.48)
    z = 0.27 * girth if swims else 0.50
    solids = [g.egg((0, 0, z), (0.50, 0.34 * girth, 0.28 * girth), turn=(0, 6, 0)),
              g.limb((-0.38, 0, z + 0.08), (-0.62, 0, z + u(0.18, 0.32)), 0.14, 0.05, "tail", 0.1)]
    p = looking(u, (0.36, 0, z + 0.26 + neck), 1.0, 40)
    solids += [g.limb((0.32, 0, z + 0.08), p.origin, 0.17, 0.13, "neck", 0.1), p.egg((0, 0, 0), (0.23, 0.21, 0.22), "head", 0.05),
               *(g.egg((-0.08, s * 0.30 * girth, z + 0.06), (0.38, 0.09, 0.19), blend=0.02, turn=(s * 6, -6, 0)) for s in (-1, 1))]
    parts = [*eyes_on(p, (0.23, 0.21, 0.22), 45, 18, 0.045), p.ball((0.29, 0, -0.03), (0.21, 0.125, 0.045), "beak", (0, -4, 0)),
             p.ball((0.26, 0, -0.085), (0.16, 0.105, 0.035), "beak", (0, -12, 0)), p.ball((0.2, 0, 0.0), (0.11, 0.09, 0.07), "beak")]
    if not swims:
        for s in (-1, 1):
            parts += [g.tube([(0, s * 0.14, z - 0.15), (0.02, s * 0.15, 0.12), (0.02, s * 0.16, 0.04)], 0.045, "foot"),
                      g.ball((0.13, s * 0.17, 0.03), (0.18, 0.13, 0.035), "foot", (s * 8, 0, 0))]
    return animal("duck", solids, parts, stout(girth, 1.1))


def giraffe(u) -> Form:
    g, leg, neck, lean = GROUND, u(0.62, 0.85), u(0.75, 1.1), u(0.12, 0.38)
    solids = on_four(u, 0.46, 0.23, leg, 0.075, chest=1.05, foot="hoof")
    base = np.array([0.30, 0, leg + 0.22])
    p = looking(u, base + (lean, 0, neck), 1.15, 40)
    solids += [g.limb(base, p.origin, 0.17, 0.10, "body", 0.12), p.egg((0, 0, 0), (0.18, 0.14, 0.15), "head", 0.05),
               p.limb((0.08, 0, -0.03), (0.32, 0, -0.12), 0.115, 0.085, "muzzle", 0.05)]
    back = np.array([-0.13, 0, 0.05])
    parts = [g.tube([base + back + (-0.03, 0, 0.08), base + back + (lean * 0.5, 0, neck * 0.5), p.origin + (-0.10, 0, 0.06)], [0.05, 0.06, 0.05], "mane"),
             *eyes_on(p, (0.18, 0.15, 0.15), 52, 18, 0.042), *ears_of(p, BALL, (-0.06, 0.21, 0.08), (0.035, 0.14, 0.06), (15, 0, 20), inner=0.6)]
    for s in (-1, 1):
        parts += [p.tube([(-0.02, s * 0.06, 0.1), (-0.05, s * 0.07, 0.19), (-0.06, s * 0.075, 0.26)], 0.028, "head"),
                  p.ball((-0.06, s * 0.075, 0.28), 0.045, "tuft"), p.ball((0.385, s * 0.04, -0.085), 0.02, "nose")]
    parts += [g.tube([(-0.44, 0, leg + 0.25), (-0.54, 0, leg + 0.05), (-0.53, 0, leg - 0.12)], 0.026, "tail"),
              g.ball((-0.53, 0, leg - 0.2), (0.045, 0.045, 0.1), "tuft")]
    return animal("giraffe", solids, parts, "tall" if leg + neck > 1.65 else "")


ANIMALS = {f.__name__: f for f in (rabbit, cat, dog, bear, pig, elephant, duck, giraffe)}
