"""Classes of pottery: what the captions call a vase or a jug, and what the domains glaze.

Each is a function of u(low, high), which draws uniformly, and gives the parts; z is up, the foot stands at 0, a spout points to -x and
an only handle to +x. A class is several families of profiles, and handles, spouts, lids and feet that vary.
"""

import numpy as np

from .shapes import Draw, Part, about, blob, deformed, moved, pick, smooth, sweep, turned, vessel


def radius(outer, z: float) -> float:
    """Of the profile through the control points, at a height."""
    curve = smooth(outer)
    return float(np.interp(z, np.maximum.accumulate(curve[:, 1]), curve[:, 0]))


def handle(outer, low: float, high: float, reach: float, thickness: float, bend: str = "round", flat: float = 1.0) -> list[Part]:
    """On the +x side of a profile, from one height to a higher one, out by `reach`. bend: round, square,
    ear (fuller at the top) or swan (that rises above its upper end)."""
    a, b, d = radius(outer, low) - 0.025, radius(outer, high) - 0.025, high - low
    far = max(a, b) + reach
    between = {"round": [(a + 0.7 * (far - a), low + 0.08 * d), (far, low + 0.5 * d), (b + 0.7 * (far - b), high - 0.06 * d)],
               "ear": [(a + 0.45 * (far - a), low + 0.2 * d), (far, high - 0.22 * d), (b + 0.75 * (far - b), high + 0.06 * d)],
               "swan": [(a + 0.5 * (far - a), low + 0.25 * d), (far, high - 0.1 * d), (b + 0.7 * (far - b), high + 0.2 * d),
                        (b + 0.3 * (far - b), high + 0.17 * d)],
               "square": [(far - 0.06, low), (far, low + 0.08), (far, high - 0.08), (far - 0.06, high)]}[bend]
    return [sweep([(x, 0, z) for x, z in [(a, low), *between, (b, high)]], thickness, flat=flat)]


def both_sides(parts: list[Part]) -> list[Part]:
    return [*parts, *moved(parts, about(2, np.pi))]


def lid(u: Draw, rim: float, z: float) -> tuple[list[Part], float]:
    """A flat, domed or peaked lid with a knob of some kind, on a rim of that radius and height, and the height of its top."""
    kind, edge = pick(u, "flat", "domed", "domed", "peaked"), 0.05
    high = {"flat": 0.05, "domed": u(0.12, 0.22) * rim / 0.35, "peaked": u(0.22, 0.36) * rim / 0.35}[kind]
    bow = {"flat": [], "domed": [(0.86 * rim, 0.45 * high), (0.5 * rim, 0.87 * high)], "peaked": [(0.6 * rim, 0.25 * high), (0.22 * rim, 0.7 * high)]}[kind]
    top = z + edge + high
    cover = turned([(0, z), (rim, z), (rim, z + edge), *((r, z + edge + h) for r, h in bow), (0, top)], hard=(1, 2), segments=120)
    r = u(0.07, 0.1)
    knob = pick(u, "ball", "button", "point", "loop")
    if knob == "ball":
        return [*cover, blob((0, 0, top + 0.7 * r), r, "limb", 40)], top + 1.7 * r
    if knob == "button":
        return [*cover, *turned([(0, top - 0.06), (0.6 * r, top - 0.06), (0.6 * r, top + 0.06), (1.6 * r, top + 0.09), (1.6 * r, top + 0.14), (0, top + 0.16)],
                                "limb", (1, 4), 40)], top + 0.16
    if knob == "point":
        return [*cover, *turned([(0, top - 0.05), (0.5 * r, top - 0.05), (0.6 * r, top + 0.03), (1.1 * r, top + 0.1), (0.5 * r, top + 0.2), (0, top + 0.28)],
                                "limb", (1,), 40)], top + 0.28
    arch = [(-1.3 * r, 0, top - 0.07), (-1.4 * r, 0, top + 0.06), (0, 0, top + 0.16), (1.4 * r, 0, top + 0.06), (1.3 * r, 0, top - 0.07)]
    return [*cover, sweep(arch, 0.04)], top + 0.2


def lobed(u: Draw, parts: list[Part], depth: float, low: float = 0.0) -> list[Part]:
    """Fluted like a melon or a flower, more so above the height `low`."""
    lobes = pick(u, 6, 8, 10, 12)

    def f(p):
        wave = 1 - depth * (0.5 - 0.5 * np.cos(lobes * np.arctan2(p[:, 1], p[:, 0]))) ** 2 * np.clip((p[:, 2] - low) / 0.3, 0, 1)
        return p * np.stack([wave, wave, np.ones(len(p))], 1)

    return deformed(parts, f)


def beaked(parts: list[Part], top: float, width: float, amount: float) -> list[Part]:
    """The lip at -x drawn out into a beak."""

    def f(p):
        rise = np.clip((p[:, 2] - top + 0.45) / 0.45, 0, 1.2)
        pull = amount * rise**2 * np.exp(-((p[:, 1] / width) ** 2)) * np.clip(-p[:, 0] / 0.15, 0, 1)
        return p + np.stack([-pull, 0 * pull, 0.5 * pull], 1)

    return deformed(parts, f)


def tripod(u: Draw, outer, height: float) -> list[Part]:
    """Three small feet under a pot that stood at 0."""
    r = radius(outer, 0.12) - 0.06
    foot = [sweep([(r - 0.06, 0, 0.12), (r + 0.02, 0, 0), (r + 0.04, 0, -height)], [0.11, 0.09, 0.06], samples=16)]
    return [part for k in range(3) for part in moved(foot, about(2, 2 * np.pi * k / 3))]


def vase(u):
    family, h = pick(u, "ovoid", "trumpet", "baluster", "gourd", "globular", "rouleau"), u(1.35, 1.75)
    foot, belly, neck, lip = u(0.24, 0.36), u(0.44, 0.64), u(0.2, 0.28), u(0.3, 0.46)
    outer = {
        "ovoid": [(foot, 0), (belly * 0.8, 0.25 * h), (belly, 0.55 * h), (belly * 0.85, 0.78 * h), (neck * 1.2, 0.93 * h), (lip, h)],
        "trumpet": [(foot * 1.15, 0), (foot * 0.95, 0.1 * h), (neck * 0.95, 0.4 * h), (neck * 1.2, 0.65 * h), (belly * 0.8, 0.9 * h), (belly * 1.05, h)],
        "baluster": [(foot, 0), (foot, 0.06), (belly * 0.75, 0.22 * h), (belly, 0.42 * h), (belly * 0.8, 0.58 * h), (neck, 0.74 * h), (neck, 0.84 * h),
                     (lip, h)],
        "gourd": [(foot, 0), (belly * 0.95, 0.16 * h), (belly, 0.3 * h), (neck * 1.1, 0.55 * h), (belly * 0.68, 0.74 * h), (neck, 0.93 * h), (neck * 1.2, h)],
        "globular": [(foot, 0), (foot, 0.05), (belly * 0.85, 0.45 * belly), (belly, belly), (belly * 0.8, 1.6 * belly), (neck, 2 * belly),
                     (neck, h), (lip, h + 0.18)],
        "rouleau": [(belly * 0.8, 0), (belly * 0.86, 0.06), (belly * 0.84, 0.62 * h), (neck, 0.76 * h), (neck, 0.88 * h), (lip * 0.95, h)],
    }[family]  # fmt: skip
    pot = vessel(outer)
    if family in ("baluster", "rouleau") and u(0, 1) < 0.4:
        at = 0.6 if family == "baluster" else 0.68
        return [*pot, *both_sides(handle(outer, at * h, 0.92 * h, u(0.1, 0.18), 0.045))]
    return lobed(u, pot, u(0.08, 0.14)) if u(0, 1) < 0.3 else pot


def bottle(u):
    family, h, neck = pick(u, "cylinder", "pear", "globe", "square-shouldered"), u(1.6, 2.1), u(0.1, 0.13)
    body = u(0.34, 0.5)
    lip = [(neck, 0.92 * h), (neck * 1.5, 0.94 * h), (neck * 1.45, h)] if u(0, 1) < 0.6 else [(neck, 0.92 * h), (neck * 1.05, h)]
    outer = {
        "cylinder": [(body * 0.9, 0), (body, 0.08), (body, 0.48 * h), (body * 0.75, 0.58 * h), (neck, 0.7 * h), *lip],
        "pear": [(body * 0.75, 0), (body * 1.1, 0.15 * h), (body * 1.15, 0.25 * h), (body * 0.65, 0.48 * h), (neck * 1.05, 0.68 * h), *lip],
        "globe": [(body * 0.7, 0), (body * 1.2, body * 0.6), (body * 1.35, body * 1.3), (body * 1.1, body * 2.0), (neck, body * 2.7), *lip],
        "square-shouldered": [(body * 0.8, 0), (body * 1.1, 0.45 * h), (body * 1.1, 0.54 * h), (body * 0.7, 0.62 * h), (neck, 0.66 * h), *lip],
    }[family]
    pot = vessel(outer, wall=0.035)
    if u(0, 1) < 0.4:  # a stopper: a cork, or a ball
        cork = turned([(0, h - 0.1), (neck * 0.9, h - 0.1), (neck * 1.1, h + u(0.06, 0.14)), (0, h + 0.14)], "limb", (1, 2), 40)
        pot += cork if u(0, 1) < 0.5 else [blob((0, 0, h + 0.1), u(0.13, 0.17), "limb", 40)]
    return pot


def bowl(u):
    family, foot, h = pick(u, "round", "conical", "flared", "lobed"), u(0.3, 0.42), u(0.48, 0.85)
    outer = {
        "round": [(foot, 0), (foot, 0.08), (u(0.74, 0.84), h * 0.42), (0.97, h * 0.8), (0.98, h)],
        "conical": [(foot * 0.9, 0), (foot * 0.9, 0.08), (0.66, h * 0.5), (1.0, h)],
        "flared": [(foot, 0), (foot, 0.08), (u(0.64, 0.72), h * 0.42), (0.84, h * 0.84), (1.02, h)],
        "lobed": [(foot, 0), (foot, 0.08), (0.76, h * 0.45), (0.98, h)],
    }[family]
    pot = vessel(outer, wall=0.06)
    if family == "lobed":
        return lobed(u, pot, u(0.1, 0.18), 0.1)
    return [*pot, *tripod(u, outer, u(0.1, 0.2))] if u(0, 1) < 0.25 else pot


def plate(u):
    family, depth = pick(u, "coupe", "rimmed", "deep", "foliate"), u(0.12, 0.2)
    well = u(0.6, 0.72)
    outer = {
        "coupe": [(0.5, 0), (0.52, 0.03), (0.75, depth * 0.45), (0.95, depth * 0.85), (1.05, depth)],
        "rimmed": [(well - 0.08, 0), (well, 0.04), (well + 0.07, depth * 0.8), (1.05, depth)],
        "deep": [(0.5, 0), (0.52, 0.04), (0.85, depth * 0.9), (1.0, depth * 1.9)],
        "foliate": [(0.5, 0), (0.52, 0.03), (0.75, depth * 0.55), (1.05, depth)],
    }[family]
    pot = vessel(outer, wall=0.055)
    return deformed(pot, scalloped(pick(u, 8, 10, 12), u(0.07, 0.12))) if family == "foliate" else pot


def scalloped(lobes: int, depth: float):
    """A map that cuts petals into the rim of a plate and leaves its middle as it is."""

    def f(p):
        r = np.hypot(p[:, 0], p[:, 1])
        wave = 1 - depth * (0.5 - 0.5 * np.cos(lobes * np.arctan2(p[:, 1], p[:, 0]))) ** 2 * np.clip((r - 0.6) / 0.4, 0, 1)
        return p * np.stack([wave, wave, np.ones(len(p))], 1)

    return f


def jar(u):
    family, h = pick(u, "ginger", "storage", "drum", "globe"), u(0.9, 1.25)
    foot, belly, neck = u(0.34, 0.46), u(0.55, 0.72), u(0.32, 0.42)
    outer = {
        "ginger": [(foot, 0), (belly * 0.85, h * 0.3), (belly, h * 0.62), (belly * 0.8, h * 0.9), (neck, h), (neck, h + 0.1)],
        "storage": [(belly * 0.7, 0), (belly * 0.92, h * 0.3), (belly, h * 0.6), (belly * 0.85, h * 0.86), (neck * 1.2, h), (neck * 1.2, h + 0.1)],
        "drum": [(belly * 0.86, 0), (belly * 0.92, 0.07), (belly * 0.92, h * 0.84), (belly * 0.85, h * 0.94), (neck * 1.3, h), (neck * 1.3, h + 0.06)],
        "globe": [(foot, 0), (belly, h * 0.2), (belly * 1.15, h * 0.48), (belly, h * 0.78), (neck * 1.1, h), (neck * 1.1, h + 0.1)],
    }[family]
    pot, (rim, top) = vessel(outer), outer[-1]
    if family != "drum" and u(0, 1) < 0.3:
        pot += both_sides(handle(outer, 0.58 * h, 0.82 * h, u(0.1, 0.16), 0.05))
    if u(0, 1) < 0.08:
        return pot
    return pot + lid(u, rim * u(1.1, 1.2), top)[0]


def cup(u):
    family, foot, lip, h = pick(u, "straight", "tulip", "round", "footed"), u(0.38, 0.48), u(0.5, 0.6), u(0.72, 1.1)
    outer = {
        "straight": [(lip * 0.94, 0), (lip * 0.97, 0.05), (lip * 0.97, h * 0.5), (lip, h)],
        "tulip": [(foot, 0), (foot * 1.05, 0.05), (lip * 0.98, h * 0.35), (lip * 0.92, h * 0.65), (lip * 1.12, h)],
        "round": [(foot * 0.8, 0), (foot * 0.8, 0.04), (lip * 1.02, h * 0.35), (lip * 1.08, h * 0.6), (lip, h)],
        "footed": [(foot * 0.9, 0), (foot * 0.9, 0.03), (foot * 0.6, 0.12), (lip * 0.85, 0.3 * h), (lip, 0.6 * h), (lip * 1.06, h)],
    }[family]
    low = 0.34 if family == "footed" else 0.2
    pot = [*vessel(outer), *handle(outer, low * h, u(0.75, 0.88) * h, u(0.26, 0.4), u(0.055, 0.075), pick(u, "round", "ear", "square"), pick(u, 1, 1, 1.6))]
    if u(0, 1) < 0.25:  # on a saucer
        r = u(0.95, 1.1)
        pot = [*moved(pot, shift=(0, 0, 0.06)), *vessel([(0.5, 0), (0.52, 0.03), (r * 0.8, 0.07), (r, 0.18)], wall=0.055, segments=100)]
    return pot


def jug(u):
    family, h, foot = pick(u, "pear", "tall", "globe", "baluster"), u(1.25, 1.65), u(0.3, 0.4)
    belly, neck, lip = u(0.48, 0.6), u(0.27, 0.34), u(0.34, 0.42)
    outer = {
        "pear": [(foot, 0), (belly * 0.95, 0.2 * h), (belly, 0.34 * h), (neck * 1.1, 0.7 * h), (neck, 0.8 * h), (lip, h)],
        "tall": [(foot * 1.2, 0), (foot * 1.25, 0.05), (foot * 1.15, 0.4 * h), (neck * 1.1, 0.8 * h), (lip, h)],
        "globe": [(foot, 0), (belly, 0.18 * h), (belly * 1.08, 0.36 * h), (belly * 0.8, 0.58 * h), (neck, 0.68 * h), (neck, 0.82 * h), (lip, h)],
        "baluster": [(foot, 0), (foot * 0.8, 0.09 * h), (belly * 0.85, 0.3 * h), (belly * 0.95, 0.48 * h), (neck, 0.76 * h), (lip, h)],
    }[family]
    grip = handle(outer, u(0.22, 0.34) * h, u(0.86, 0.93) * h, u(0.22, 0.38), u(0.06, 0.075), pick(u, "round", "ear", "swan"), pick(u, 1, 1.7))
    return [*beaked(vessel(outer, wall=0.045), h, u(0.13, 0.18), u(0.26, 0.38)), *grip]


def teapot(u):
    family, belly, h, neck = pick(u, "round", "squat", "pear", "drum"), u(0.54, 0.66), u(0.75, 0.95), u(0.26, 0.36)
    outer = {
        "round": [(belly * 0.6, 0), (belly * 0.95, h * 0.25), (belly, h * 0.48), (belly * 0.85, h * 0.8), (neck, h), (neck, h + 0.03)],
        "squat": [(belly * 0.8, 0), (belly * 1.12, h * 0.2), (belly * 1.15, h * 0.35), (belly * 0.85, h * 0.62), (neck, h * 0.76), (neck, h * 0.78)],
        "pear": [(belly * 0.7, 0), (belly, h * 0.22), (belly * 0.98, h * 0.4), (neck * 1.25, h * 0.9), (neck * 1.1, h * 1.08), (neck * 1.1, h * 1.1)],
        "drum": [(belly * 0.82, 0), (belly * 0.88, 0.05), (belly * 0.88, h * 0.78), (belly * 0.75, h * 0.92), (neck, h * 0.95), (neck, h * 0.97)],
    }[family]
    (rim, top) = outer[-1]
    cover, peak = lid(u, rim * 1.1, top)
    at = u(0.28, 0.4) * top
    start = radius(outer, at) - 0.04
    if pick(u, "curved", "straight") == "curved":
        path = [(-start, 0, at), (-start - 0.2, 0, at + 0.08), (-start - 0.33, 0, 0.78 * top), (-start - u(0.42, 0.52), 0, top * u(1.0, 1.1))]
    else:
        path = [(-start, 0, at), (-start - u(0.4, 0.5), 0, top * u(0.95, 1.1))]
    spout = sweep(path, np.linspace(u(0.14, 0.17), u(0.065, 0.08), len(path)), hollow=0.025)
    if u(0, 1) < 0.3:  # a bail over the lid
        foot, z, crown = radius(outer, 0.8 * top) - 0.03, 0.8 * top, max(peak + u(0.12, 0.2), top + 0.5)
        arch = [(-foot, 0, z), (-foot - 0.07, 0, z + 0.3 * (crown - z)), (-0.5 * foot, 0, z + 0.92 * (crown - z)), (0, 0, crown)]
        grip = [sweep(arch + [(-x, 0, z) for x, _, z in arch[-2::-1]], u(0.045, 0.06), flat=pick(u, 1, 1.5))]
    else:
        grip = handle(outer, u(0.18, 0.26) * top, u(0.78, 0.88) * top, u(0.28, 0.4), u(0.055, 0.075), pick(u, "round", "ear", "square"))
    return [*vessel(outer), spout, *grip, *cover]


def goblet(u):
    family, foot, stem, lip = pick(u, "tulip", "round", "conical", "bucket"), u(0.3, 0.42), u(0.06, 0.085), u(0.36, 0.5)
    s, h = u(0.45, 0.75), u(0.55, 0.8)
    top = s + h
    cup_ = {
        "tulip": [(lip * 0.75, s + 0.12), (lip * 1.05, s + 0.4 * h), (lip * 0.85, top)],
        "round": [(lip * 0.8, s + 0.1), (lip * 1.1, s + 0.5 * h), (lip * 1.15, top)],
        "conical": [(lip * 0.4, s + 0.15), (lip * 1.2, top)],
        "bucket": [(lip * 0.7, s + 0.05), (lip * 0.95, s + 0.14), (lip * 1.02, top)],
    }[family]
    knop = [(stem, 0.5 * s), (u(0.11, 0.16), 0.62 * s), (stem, 0.74 * s)] if u(0, 1) < 0.5 else [(stem, 0.6 * s)]
    return vessel([(foot, 0), (foot, 0.04), (foot * 0.45, 0.1), (stem, 0.22), *knop, (stem * 1.1, s - 0.04), *cup_], wall=0.04, floor=s + 0.06)


def urn(u):
    family, foot, stem = pick(u, "amphora", "krater", "egg"), u(0.3, 0.38), u(0.12, 0.18)
    belly, neck, lip, h = u(0.52, 0.64), u(0.26, 0.36), u(0.4, 0.5), u(1.35, 1.65)
    base = [(foot, 0), (foot, 0.07), (stem, 0.17), (stem, 0.22)]
    outer = base + {
        "amphora": [(belly * 0.7, 0.36 * h), (belly, 0.58 * h), (belly * 0.75, 0.74 * h), (neck, 0.82 * h), (neck, 0.9 * h), (lip * 0.9, h)],
        "krater": [(belly * 0.75, 0.3 * h), (belly * 0.95, 0.42 * h), (belly * 0.82, 0.62 * h), (belly * 0.85, 0.8 * h), (belly * 1.15, h * 0.95)],
        "egg": [(belly * 0.75, 0.32 * h), (belly, 0.58 * h), (belly * 0.88, 0.78 * h), (neck * 1.2, 0.9 * h), (neck * 1.25, 0.95 * h)],
    }[family]
    low, high, reach = {"amphora": (0.62, 0.93, u(0.16, 0.26)), "krater": (0.42, 0.72, u(0.2, 0.3)), "egg": (0.58, 0.82, u(0.16, 0.26))}[family]
    bend = pick(u, "ear", "round") if family == "amphora" else "ear"
    pot = [*vessel(outer, floor=0.3), *both_sides(handle(outer, low * h, high * h, reach, u(0.05, 0.065), bend))]
    return pot + lid(u, outer[-1][0] * 1.1, outer[-1][1])[0] if family == "egg" or (family == "amphora" and u(0, 1) < 0.3) else pot


def flask(u):
    """A moon flask: a disc that stands on its edge, with two ears at its neck."""
    belly, neck, rise = u(0.58, 0.68), u(0.13, 0.18), u(0.28, 0.5)
    foot, egg = u(0.28, 0.36), u(0.9, 1.12)
    top = 2 * belly * egg
    outer = [(foot, 0), (foot * 0.95, 0.06), (belly * 0.82, 0.26 * top), (belly, 0.52 * top), (belly * 0.82, 0.78 * top), (neck * 1.6, 0.97 * top),
             (neck, top + 0.05), (neck, top + 0.6 * rise), (neck * u(1.2, 1.6), top + rise)]
    flat = u(0.46, 0.58)
    ears = both_sides(handle(outer, 0.92 * top, top + 0.72 * rise, u(0.06, 0.12), 0.05, pick(u, "round", "ear"), 1.2 / flat))
    return moved([*vessel(outer, wall=0.045), *ears], np.diag([1, flat, 1]))


def candlestick(u):
    """With a candle that burns: a tall one on a foot, or a chamber stick, a dish with a loop to carry it by."""
    candle, wick = u(0.075, 0.1), u(0.3, 0.6)
    if u(0, 1) < 0.3:
        dish, z = u(0.5, 0.62), u(0.3, 0.45)
        socket = turned([(0, 0.03), (0.3, 0.03), (0.17, 0.1), (0.14, z), (0.22, z + 0.03), (0.22, z + 0.07), (0, z + 0.07)], hard=(1, 5), segments=80)
        loop = [(dish - 0.05, 0, 0.1), (dish + 0.12, 0, 0.02), (dish + 0.3, 0, 0.16), (dish + 0.14, 0, 0.34), (dish - 0.03, 0, 0.18)]
        body = [*vessel([(dish * 0.7, 0), (dish * 0.75, 0.03), (dish * 0.95, 0.08), (dish, 0.2)]), *socket, sweep(loop, 0.05)]
    else:
        foot, h, stem, pan = u(0.36, 0.48), u(0.8, 1.2), u(0.075, 0.1), u(0.22, 0.32)
        knops = pick(u, [], [(stem, 0.46 * h), (stem * 2, 0.54 * h), (stem, 0.62 * h)],
                     [(stem * 1.9, 0.36 * h), (stem, 0.46 * h), (stem, 0.6 * h), (stem * 2, 0.7 * h), (stem, 0.78 * h)])
        outer = [(0, 0), (foot, 0), (foot, 0.07), (foot * 0.55, 0.15), (stem, 0.25), *knops, (stem, h - 0.1), (pan, h), (pan, h + 0.05), (0, h + 0.05)]
        socket = turned([(0, h), (0.13, h), (0.15, h + 0.18), (0, h + 0.18)], segments=60)
        body, z = [*turned(outer, hard=(1, 2, len(outer) - 3, len(outer) - 2)), *socket], h + 0.1
    stick = turned([(0, z), (candle, z), (candle, z + wick), (0, z + wick)], "limb", segments=40)
    flame = turned([(0, z + wick), (0.06, z + wick + 0.06), (0.035, z + wick + 0.15), (0, z + wick + 0.24)], "limb", (), 40)
    return [*body, *stick, *flame]


POTTERY = {f.__name__: f for f in (vase, bottle, bowl, plate, jar, cup, teapot, jug, goblet, urn, flask, candlestick)}
