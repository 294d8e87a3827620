"""Classes of everyday things, so that the prior's world is wider than any domain.

Each is a function of u(low, high), which draws uniformly, and gives the parts; z is up.
"""

import numpy as np

from .shapes import Draw, Part, about, blob, block, box, deformed, moved, patch, pick, revolve, sheet, smooth, sweep, turned, vessel

DARK = 0.5  # tone of doors, hoops and the like


def hoop(radius: float, z: float, height: float, thickness: float, role: str = "limb", tone: float = 1.0, segments: int = 80) -> Part:
    """A ring of oval section about the z axis."""
    t = np.linspace(0, 2 * np.pi, 25)
    return revolve(np.stack([radius + thickness * np.cos(t), z + height * np.sin(t)], 1), role, segments=segments, tone=tone)


def post(bottom, top, thick: float, thin: float | None = None, tone: float = 1.0) -> Part:
    """A round leg from a point to another, as thick as it is at its bottom or thinner at its top."""
    return sweep([bottom, top], [thin or thick, thick], samples=8, segments=16, tone=tone)


def slab(outline, thickness: float, role: str = "limb", tone: float = 1.0) -> list[Part]:
    """A flat piece across y with the corners (x, z), clockwise seen from -y."""
    x, z = np.asarray(outline, float).T
    front, back = (np.stack([x, np.full(len(x), y), z], 1) for y in (-thickness / 2, thickness / 2))
    return block(back, front, role, tone)


def rectangle(width: float, depth: float, z: float, x: float = 0.0, y: float = 0.0):
    """Corners at a height, counterclockwise from above."""
    return [(x + i * width / 2, y + j * depth / 2, z) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]


def round_about(parts: list[Part], count: int, start: float = 0.0) -> list[Part]:
    return [part for k in range(count) for part in moved(parts, about(2, start + 2 * np.pi * k / count))]


def ball(u):
    """Smooth, or with the grooves of a playing ball, lying as it rolled."""
    t, kind = np.linspace(-np.pi / 2, np.pi / 2, 120), pick(u, "smooth", "ribs", "seams")
    parts = [revolve(np.stack([np.cos(t), np.sin(t)], 1))]
    if kind != "smooth":
        count, width, deep = pick(u, 3, 4, 6), u(0.035, 0.05), u(0.04, 0.06)

        def f(p):
            away = abs(np.sin(count * np.arctan2(p[:, 1], p[:, 0]))) * np.hypot(p[:, 0], p[:, 1]) / count if kind == "ribs" else abs(p[:, 2])
            away = np.minimum(away, abs(abs(p[:, 2]) - 0.6)) if kind == "seams" else away
            return p * (1 - deep * np.exp(-((away / width) ** 2)))[:, None]

        parts = deformed(parts, f)
    return moved(parts, about(0, u(0, np.pi)) @ about(1, u(0, np.pi)))


def cube(u):
    """With sharp or rounded edges, or framed."""
    kind = pick(u, "sharp", "rounded", "framed")
    if kind != "framed":
        return box((0, 0, 0), (1, 1, 1), cells=60, bevel=u(0.1, 0.3) if kind == "rounded" else u(0.02, 0.04))
    t = u(0.12, 0.18)
    bars = [p for axis in range(3) for i in (-0.5, 0.5) for j in (-0.5, 0.5)
            for p in box(np.insert([i, j], axis, 0.0), np.insert([t, t], axis, 1 + t), "limb", 16)]
    return [*box((0, 0, 0), (1, 1, 1)), *bars]


def cone(u):
    """Pointed, blunt, or a traffic cone on its square foot."""
    kind, h, r = pick(u, "pointed", "blunt", "traffic"), u(1.2, 2.2), u(0.7, 0.8)
    if kind == "pointed":
        return turned([(0, 0), (r, 0), (0, h)])
    if kind == "blunt":
        tip = u(0.12, 0.2)
        return turned([(0, 0), (r, 0), (tip * 1.1, h - tip * 1.5), (tip * 0.6, h - tip * 0.3), (0, h)], hard=(1, 2))
    return [*turned([(0, 0.06), (r * 0.8, 0.06), (0.12, h), (0, h)]), *box((0, 0, 0.06), (2 * r, 2 * r, 0.12), "limb", 30, 0.04)]


def ring(u):
    """Standing up, leaning a little: round, a broad band, or with a stone."""
    kind, thick = pick(u, "round", "round", "band", "stone"), u(0.15, 0.3)
    t = np.linspace(0, 2 * np.pi, 80)
    tall = {"round": thick, "band": u(0.3, 0.45), "stone": 0.17}[kind]
    wide = {"round": thick, "band": 0.09, "stone": 0.13}[kind]
    parts = [revolve(np.stack([1 - wide * np.cos(t), -tall * np.sin(t)], 1)[::-1])]
    if kind == "stone":
        r = u(0.22, 0.32)
        gem = turned([(0, 0), (r * 0.5, 0), (r, r * 0.7), (r * 0.6, r * 1.1), (0, r * 1.1)], "limb", segments=8)
        parts += moved(gem, about(1, -np.pi / 2), (-1.06, 0, 0))
    return moved(parts, about(1, u(1.15, 1.57)))


def legs(u: Draw, width: float, depth: float, height: float, t: float) -> list[Part]:
    """Four, square or round, upright or splayed."""
    out, square = pick(u, 0.0, 0.1, 0.14), u(0, 1) < 0.5
    found = []
    for x in (-1, 1):
        for y in (-1, 1):
            at = (x * (width / 2 - 0.75 * t), y * (depth / 2 - 0.75 * t))
            down = (at[0] + x * out, at[1] + y * out)
            if square:
                found += block(rectangle(t * 0.9, t * 0.9, 0, *down), rectangle(t * 1.1, t * 1.1, height, *at), "limb")
            else:
                found.append(post((*down, 0), (*at, height), t * 0.6, t * 0.4))
    return found


def chair(u):
    w, h, t, back, thick = u(0.8, 1.0), u(0.65, 0.95), u(0.1, 0.14), u(0.75, 1.1), u(0.1, 0.16)
    seat = box((0, 0, h), (w, w, thick), cells=40, bevel=0.04)
    x, lean, kind = -w / 2 + 0.06, u(0.0, 0.2), pick(u, "solid", "ladder", "spindles", "round")
    if kind in ("solid", "round"):
        rest = box((0, 0, back / 2), (0.1, w, back), cells=40, bevel=0.04)
        if kind == "round":
            rest = [*moved(turned([(0, -0.05), (w / 2, -0.05), (w / 2, 0.05), (0, 0.05)]), about(1, np.pi / 2), (0, 0, back * 0.62)),
                    *box((0, 0, back * 0.25), (0.08, 0.3, back * 0.5), "limb", 12)]  # fmt: skip
    else:
        rest = [p for y in (-1, 1) for p in box((0, y * (w / 2 - 0.05), back / 2), (0.1, 0.1, back), "limb", 16)]
        if kind == "ladder":
            count = pick(u, 2, 3)
            rest += [p for k in range(count) for p in box((0, 0, back * (0.93 - 0.28 * k)), (0.07, w - 0.1, 0.16), cells=24)]
        else:
            rest += box((0, 0, back - 0.08), (0.1, w, 0.18), cells=30)
            rest += [post((0, y, 0), (0, y, back - 0.1), 0.04) for y in np.linspace(-0.28, 0.28, 4) * w]
    parts = [*seat, *legs(u, w, w, h, t), *moved(rest, about(1, -lean), (x, 0, h))]
    if u(0, 1) < 0.3:  # armrests
        for y in (-1, 1):
            at = y * (w / 2 - 0.04)
            parts += [*box((0.02, at, h + 0.36), (w - 0.05, 0.11, 0.08), "limb", 16), post((w / 2 - 0.1, at, h), (w / 2 - 0.1, at, h + 0.36), 0.045)]
    return parts


def table(u):
    kind, h, thick = pick(u, "four legs", "four legs", "pedestal", "trestle"), u(0.7, 1.05), u(0.1, 0.15)
    if kind == "pedestal":
        r = u(0.8, 1.0)
        foot = turned([(0, 0), (0.48, 0), (0.48, 0.06), (0.2, 0.14), (0.1, 0.3), (0.13, 0.5 * h), (0.1, 0.8 * h), (0.2, h), (0, h)], "limb", (1, 2, 7), 80)
        return [*turned([(0, h), (r, h), (r, h + thick), (0, h + thick)]), *foot]
    w, d = u(1.5, 2.0), u(1.0, 1.35)
    if kind == "trestle":
        ends = [p for x in (-1, 1) for p in box((x * w * 0.36, 0, h / 2), (0.12, d * 0.7, h), "limb", 24)]
        return [*box((0, 0, h), (w, d, thick)), *ends, *box((0, 0, 0.35 * h), (w * 0.75, 0.09, 0.12), "limb", 16)]
    round_ = u(0, 1) < 0.3
    top = turned([(0, h), (0.8, h), (0.8, h + thick), (0, h + thick)]) if round_ else box((0, 0, h), (w, d, thick), bevel=pick(u, 0, 0.04))
    size = (1.15, 1.15) if round_ else (w, d)
    return [*top, *legs(u, *size, h + 0.02, u(0.1, 0.16))]


def mushroom(u):
    """Alone, or with a small one beside it; the cap a dome, a cone or a flat disc."""

    def one(size):
        stem, cap, h, top = u(0.15, 0.25), u(0.5, 0.8), u(0.7, 1.1), u(0.4, 0.65)
        kind = pick(u, "dome", "dome", "pointed", "flat")
        high = {"dome": top, "pointed": top * 1.4, "flat": u(0.28, 0.36)}[kind]
        bow = {"dome": [(0.93 * cap, 0.4 * high), (0.7 * cap, 0.75 * high), (0.35 * cap, 0.95 * high)],
               "pointed": [(0.72 * cap, 0.2 * high), (0.35 * cap, 0.62 * high), (0.14 * cap, 0.92 * high)],
               "flat": [(1.02 * cap, 0.3 * high), (0.8 * cap, 0.8 * high), (0.35 * cap, high)]}[kind]
        above = [*((r, h - 0.1 + z) for r, z in bow), (0, h - 0.1 + high)]
        head = turned([(0, h), (stem, h), (cap * 0.7, h - 0.03), (cap, h - 0.1), *above], hard=(3,), segments=140)
        foot = turned([(0, 0), (stem * 1.4, 0), (stem * 1.35, 0.1), (stem * 0.95, 0.5 * h), (stem, h + 0.02), (0, h + 0.02)], "limb", (1, 4), 80)
        frill = [(stem * 0.9, h * 0.72), (stem * 0.9, h * 0.66), (stem * 1.9, h * 0.6), (stem * 0.9, h * 0.72)]
        skirt = turned(frill, "limb", segments=80) if u(0, 1) < 0.4 else []
        return moved([*head, *foot, *skirt], np.eye(3) * size)

    first = one(1.0)
    return [*first, *moved(one(u(0.4, 0.55)), about(0, 0.15), (u(0.5, 0.65), 0.25, 0))] if u(0, 1) < 0.25 else first


def lamp(u):
    """A table lamp: a foot, a stem and a shade."""
    kind, h, r, wide, tall = pick(u, "stick", "gourd", "globe", "column"), u(0.75, 1.0), u(0.3, 0.4), u(0.52, 0.72), u(0.5, 0.75)
    foot = {
        "stick": [(0, 0), (r, 0), (r, 0.07), (0.07, 0.13), (0.06, h), (0.06, h + 0.3), (0, h + 0.3)],
        "gourd": [(0, 0), (r * 0.7, 0), (r, 0.2), (r * 0.95, 0.35), (0.12, 0.6 * h), (0.06, h), (0.06, h + 0.3), (0, h + 0.3)],
        "globe": [(0, 0), (r * 0.6, 0), (r * 1.1, 0.22), (r * 1.1, 0.42), (r * 0.5, 0.66), (0.06, 0.75), (0.06, h + 0.3), (0, h + 0.3)],
        "column": [(0, 0), (r * 0.8, 0), (r * 0.75, 0.08), (r * 0.5, 0.12), (r * 0.42, 0.8 * h), (0.06, 0.9 * h), (0.06, h + 0.3), (0, h + 0.3)],
    }[kind]
    top = wide * (u(0.82, 1.0) if u(0, 1) < 0.3 else u(0.35, 0.6))
    shade = moved(vessel([(top, 0), (0.5 * (top + wide), tall / 2), (wide, tall)], wall=0.04), about(0, np.pi), (0, 0, h + tall))
    finial = blob((0, 0, h + tall + 0.05), 0.07, "limb", 32)
    return [*turned(foot, "limb", (1, len(foot) - 2), 100), *shade, finial]


def bell(u):
    """Hanging or standing free: a flared cup over a clapper, with a handle, a loop or a yoke on top."""
    h, lip, crown, waist = u(0.85, 1.25), u(0.6, 0.75), u(0.28, 0.4), u(0.42, 0.5)
    cup = vessel([(crown * 0.6, 0), (crown, 0.08), (waist * 0.95, 0.3 * h), (waist * 1.08, 0.62 * h), (0.8 * lip, 0.85 * h), (lip, h)], wall=0.06)
    cup = moved(cup, about(0, np.pi), (0, 0, h))
    clapper = [sweep([(0, 0, h - 0.1), (0, 0, 0)], 0.04, samples=8), blob((0, 0, -0.02), u(0.13, 0.17), "limb", 40, DARK)]
    kind = pick(u, "handle", "loop", "yoke")
    if kind == "handle":
        k = u(0.5, 0.75)
        grip = turned([(0, h - 0.03), (0.09, h - 0.03), (0.08, h + 0.1), (0.13, h + 0.5 * k), (0.1, h + 0.85 * k), (0.12, h + k), (0, h + k + 0.06)],
                      "limb", (1,), 60)
    elif kind == "loop":
        r = u(0.15, 0.22)
        grip = [sweep([(-r, 0, h - 0.06), (-r * 1.15, 0, h + r), (0, 0, h + 2 * r), (r * 1.15, 0, h + r), (r, 0, h - 0.06)], u(0.06, 0.08))]
    else:
        grip = [*box((0, 0, h + 0.2), (2 * lip, 0.2, 0.2), "limb", 24, 0.03), post((0, 0, h - 0.05), (0, 0, h + 0.15), 0.1)]
    return [*cup, *clapper, *grip]


def barrel(u):
    """Standing or lying on its side, with hoops."""
    h, r = u(1.3, 1.8), u(0.42, 0.5)
    bulge = r * u(1.2, 1.4)
    side = [(r, 0), (0.5 * (r + bulge) * 1.04, 0.2 * h), (bulge, h / 2), (0.5 * (r + bulge) * 1.04, 0.8 * h), (r, h)]
    ends = [(r - 0.07, h), (r - 0.07, h - 0.06), (0, h - 0.06)]
    body = turned([(0, 0.06), (r - 0.07, 0.06), (r - 0.07, 0), *side, *ends], hard=(1, 2, 3, 7, 8, 9))
    curve, pairs = smooth(side), pick(u, (0.08, 0.3), (0.1,), (0.06, 0.2, 0.36))
    hoops = [hoop(float(np.interp(z * h, curve[:, 1], curve[:, 0])) + 0.005, z * h, 0.05, 0.03, tone=DARK) for a in pairs for z in (a, 1 - a)]
    if u(0, 1) < 0.3:
        chocks = [p for x in (0.28 * h, 0.72 * h) for p in box((x - h / 2, 0, 0.06), (0.14, 1.1 * bulge, 0.14), "limb", 16)]
        bung = post((0, 0, 2 * bulge), (0, 0, 2 * bulge + 0.1), 0.08)
        return [*moved([*body, *hoops], about(1, np.pi / 2), (-h / 2, 0, bulge + 0.02)), *chocks, bung]
    return [*body, *hoops]


def house(u):
    """Walls under a gabled or hipped roof, with a door, windows and now and then a chimney."""
    w, d, h, roof, over = u(1.0, 1.3), u(0.8, 1.1), u(0.55, 0.95), u(0.4, 0.7), 0.1
    walls = block(rectangle(w, d, 0), rectangle(w, d, h))
    eaves = rectangle(w + 2 * over, d + 2 * over, h)
    ridge = (w / 2 + over) * (1 if u(0, 1) < 0.65 else u(0.0, 0.5)) + 0.001
    gable = [(-ridge, 0, h + roof), (ridge, 0, h + roof)]
    a, b, c, e = (np.array(p) for p in eaves)
    slopes = [(a, b, gable[1], gable[0]), (c, e, gable[0], gable[1]), (b, c, gable[1], gable[1]), (e, a, gable[0], gable[0]), (a, e, c, b)]
    parts = [*walls, *(patch(*corners, "body" if k < 2 else "limb") for k, corners in enumerate(slopes))]
    door = [*box((u(-0.2, 0.2), -d / 2, 0.21), (0.24, 0.08, 0.42), "limb", 12, tone=DARK)]
    panes = [p for x in (-0.33, 0.33) for y in (-1, 1) for p in box((x * w, y * d / 2, h * 0.6), (0.2, 0.08, 0.22), "limb", 12, tone=DARK)]
    side = [p for x in (-1, 1) for p in box((x * w / 2, 0, h * 0.6), (0.08, 0.24, 0.22), "limb", 12, tone=DARK)]
    chimney = box((u(0.1, 0.3) * w, 0.2 * d, h + 0.75 * roof), (0.18, 0.18, 0.75 * roof), "limb", 16) if u(0, 1) < 0.6 else []
    return [*parts, *door, *panes, *side, *chimney]


def tree(u):
    """A fir of tiers, or a trunk under a crown of leaves in clumps."""
    trunk = u(0.09, 0.15)
    if u(0, 1) < 0.45:
        tiers, r, z, step = pick(u, 3, 4), u(0.5, 0.68), u(0.25, 0.4), u(0.38, 0.46)
        crown = []
        for k in range(tiers):
            wide = r * (1 - 0.72 * k / tiers)
            crown += turned([(0, z + 0.06), (wide, z), (0, z + step * 1.75)], segments=100)
            z += step
        return [*turned([(0, 0), (trunk, 0), (trunk, 0.8), (0, 0.8)], "limb", segments=40, tone=DARK), *crown]
    h, wide, tall = u(0.5, 0.8), u(0.38, 0.5), u(0.36, 0.6)
    clumps = [blob((0, 0, h + tall), (wide, wide, tall))]
    for k in range(count := pick(u, 5, 6, 7)):
        angle, rise = 2 * np.pi * (k + u(-0.2, 0.2)) / count, u(0.5, 1.3)
        clumps.append(blob((wide * 0.75 * np.cos(angle), wide * 0.75 * np.sin(angle), h + tall * rise), u(0.24, 0.34) * np.array([1, 1, 0.9])))
    clumps.append(blob((u(-0.1, 0.1), u(-0.1, 0.1), h + 1.75 * tall), u(0.26, 0.34)))
    return [*turned([(0, 0), (trunk * 1.5, 0), (trunk, 0.2), (trunk * 0.9, h + tall), (0, h + tall)], "limb", (1, 3), 40, DARK), *clumps]


def rocket(u):
    """A pointed body on three or four fins, with portholes."""
    r, h, fins = u(0.26, 0.36), u(1.6, 2.1), pick(u, 3, 4)
    body = turned([(0, 0.2), (r * 0.75, 0.2), (r, 0.35 * h), (r * 0.92, 0.6 * h), (r * 0.45, 0.88 * h), (0, h + 0.1)], hard=(1,))
    nozzle = turned([(0, 0.05), (r * 0.6, 0.05), (r * 0.4, 0.25), (0, 0.25)], "limb", segments=60, tone=DARK)
    out, low = u(0.55, 0.75), u(-0.08, 0.1)
    fin = slab([(r * 0.5, 0.24), (r * 0.7, 0.36 * h), (out, 0.2 * h), (out + 0.05, low)], 0.07)
    ports = [blob((-r * 0.93, 0, z * h), (0.06, 0.12, 0.12), "limb", 32, DARK) for z in pick(u, (0.55,), (0.42, 0.6))]
    ports += moved(ports, about(2, np.pi))
    return [*body, *nozzle, *round_about(fin, fins, u(0, 1)), *ports]


def apple(u):
    """With its hollows, a stalk and now and then a leaf."""
    tall, foot, deep = u(0.85, 1.1), u(0.5, 0.75), u(0.16, 0.24)
    top = 1.3 * tall
    below, above = [(0, 0.1), (foot * 0.35, 0.01), (foot * 0.8, 0.08), (0.72, 0.42 * top)], [(0.6, 0.93 * top), (0.32, top), (0.1, top - 0.7 * deep)]
    flesh = turned([*below, (0.78, 0.66 * top), *above, (0, top - deep)], hard=())
    bumps = u(0.02, 0.05)
    flesh = deformed(flesh, lambda p: p * (1 + bumps * np.cos(5 * np.arctan2(p[:, 1], p[:, 0])) * np.hypot(p[:, 0], p[:, 1]))[:, None])
    lean = u(0.02, 0.2)
    stalk = sweep([(0, 0, top - deep - 0.05), (0.02, 0, top + 0.05), (lean, 0, top + u(0.16, 0.3))], [0.04, 0.04, 0.055], tone=DARK)
    if u(0, 1) < 0.6:
        leaf = blob((0, 0, 0), (0.26, 0.13, 0.035), "limb", 40)
        return [*flesh, stalk, *moved([leaf], about(1, -u(0.2, 0.6)), (0.26, 0, top + 0.14))]
    return [*flesh, stalk]


def pyramid(u):
    """Four smooth sides, or steps."""
    w, h = u(1.5, 1.8), u(0.9, 1.5)
    if u(0, 1) < 0.6:
        tip = 0.001
        return block(rectangle(w, w, 0), rectangle(tip, tip, h))
    steps = pick(u, 3, 4, 5)
    return [p for k in range(steps) for p in box((0, 0, (k + 0.5) * h / steps), (w * (1 - k / steps), w * (1 - k / steps), h / steps), cells=30)]


def hourglass(u):
    """Two bulbs between two plates that posts hold apart."""
    r, h, plate, posts = u(0.36, 0.5), u(1.3, 1.7), u(0.08, 0.13), pick(u, 3, 4)
    full = r * u(0.8, 1.0)
    lower = [(0, 0), (full * 0.7, 0), (full, 0.16 * h), (full * 0.75, 0.34 * h)]
    bulbs = turned([*lower, (0.07, 0.5 * h), *((x, h - z) for x, z in lower[::-1])], hard=(1, 7))
    out = r * 1.3
    plates = [p for z in (-plate, h) for p in turned([(0, z), (out, z), (out, z + plate), (0, z + plate)], "limb", segments=100)]
    return [*bulbs, *plates, *round_about([post((out - 0.09, 0, -0.02), (out - 0.09, 0, h + 0.02), u(0.045, 0.06))], posts)]


def hull(length: float, width: float, depth: float, rise: float) -> list[Part]:
    """A boat's body, open above: outside, inside and the gunwale between them."""
    s, t = np.linspace(-1, 1, 90)[:, None], np.linspace(0, np.pi, 40)[None]

    def shell(inset):
        half = (width / 2 - inset) * (1 - abs(s) ** 2.6) + 0.02
        deep = (depth - inset) * (1 - 0.75 * abs(s) ** 3)
        y, z = -half * np.sign(np.cos(t)) * abs(np.cos(t)) ** 0.7, -deep * np.sin(t) ** 0.8 + depth + rise * s**2
        return np.stack(np.broadcast_arrays((length / 2 - inset) * s, y, z), -1)

    outer, inner = shell(0.0), shell(0.08)
    rims = [sheet(np.stack(pair, 1), "limb") for pair in ((inner[:, 0], outer[:, 0]), (outer[:, -1], inner[:, -1]))]
    ends = [sheet(np.stack(pair, 1), "limb") for pair in ((outer[0], inner[0]), (inner[-1], outer[-1]))]
    return [sheet(outer), sheet(inner[:, ::-1]), *rims, *ends]


def boat(u):
    """A rowing boat with thwarts, a sailing boat, or a steamer with a funnel."""
    length, width, depth = u(1.6, 2.0), u(0.6, 0.8), u(0.34, 0.5)
    kind = pick(u, "rowing", "sailing", "sailing", "steamer")
    body = hull(length, width, depth, u(0.08, 0.22))
    if kind == "rowing":
        seats = [p for x in (-0.5, 0.0, 0.5) for p in box((x * length / 2, 0, depth - 0.08), (0.16, width * (0.92 - 0.35 * abs(x)), 0.06), "limb", 16)]
        return [*body, *seats]
    if kind == "sailing":
        h, x = u(1.2, 1.6), u(-0.1, 0.15)
        mast = post((x, 0, 0.06), (x, 0, depth + h), 0.05)
        sails = slab([(x - 0.08, depth + 0.2), (x - 0.08, depth + 0.97 * h), (x - length * 0.4, depth + 0.22)], 0.05, "body")
        jib = slab([(x + 0.08, depth + 0.85 * h), (x + 0.08, depth + 0.2), (length * 0.42, depth + 0.26)], 0.05, "body") if u(0, 1) < 0.6 else []
        return [*body, mast, *sails, *jib]
    deck = box((-0.05, 0, depth - 0.05), (length * 0.6, width * 0.8, 0.1), "limb", 20)
    cabin = box((-0.05, 0, depth + 0.15), (length * 0.36, width * 0.55, 0.34), cells=30)
    x, top = u(-0.15, 0.1), depth + u(0.6, 0.8)
    funnel = turned([(0, depth), (0.12, depth), (0.12, top), (0.08, top), (0.08, top - 0.1), (0, top - 0.1)], "limb", segments=60)
    return [*body, *deck, *cabin, *moved(funnel, shift=(x, 0, 0))]


THINGS = {f.__name__: f for f in (ball, cube, cone, ring, chair, table, mushroom, lamp, bell, barrel, house, tree, rocket, apple, pyramid, hourglass, boat)}
