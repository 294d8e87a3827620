"""What porcelain is painted with: emblems about a point, motifs that fill a wall, borders that fill a narrow band."""

import numpy as np

from .brush import LINE, Brush, arc, turned

# What is painted about a point: (brush, x, y, size, generator).

def peony(b: Brush, x, y, r, rng, turn=None) -> None:
    """Two rings of round petals, each dark at its rim and pale inside, about a heart."""
    turn = rng.uniform(0, 2 * np.pi) if turn is None else turn
    b.disc(x, y, 0.8 * r, "line")
    for ring, (count, distance, petal) in enumerate(((7, 0.68, 0.36), (5, 0.34, 0.27))):
        for k in range(count):
            angle = turn + 2 * np.pi * k / count + ring * 0.4
            px, py = x + distance * r * np.cos(angle), y + distance * r * np.sin(angle)
            b.disc(px, py, petal * r, "line")
            b.disc(px, py, petal * r - 0.55 * LINE, "blush" if ring else "flower")
            if not ring:
                b.disc(px + 0.1 * r * np.cos(angle), py + 0.1 * r * np.sin(angle), 0.5 * petal * r, "blush")
    b.disc(x, y, 0.19 * r, "heart")


def leaf(b: Brush, x, y, length, angle, tone="leaf", vein="glaze") -> None:
    t = np.linspace(0, 1, 9)
    half = 0.24 * np.sin(np.pi * t**0.8)
    outline = np.concatenate([np.stack([t, half], 1), np.stack([t, -half], 1)[::-1]])
    b.fill(turned(outline, angle, length, (x, y)), tone)
    if vein and length > 0.16:
        b.stroke(turned([(0.15, 0), (0.5, 0), (0.85, 0)], angle, length, (x, y)), 0.5 * LINE, vein)


def cloud(b: Brush, x, y, size, rng, tone="pale") -> None:
    """A ruyi-headed cloud with a trailing tail."""
    flip = rng.choice([-1, 1])
    t = np.linspace(0, 1, 12)
    b.stroke(np.stack([x + flip * size * (0.2 + 1.1 * t), y - size * 0.12 * np.sin(2 * np.pi * t)], 1), size * 0.3 * (1.02 - t), tone)
    for dx, dy, r in ((0, 0.2, 0.3), (-0.32, 0.0, 0.26), (0.32, 0.0, 0.26)):
        b.disc(x + flip * dx * size, y + dy * size, r * size, "deep")
        b.disc(x + flip * dx * size, y + dy * size, r * size - 0.7 * LINE, tone)


def crane(b: Brush, x, y, size, rng) -> None:
    """A flying crane: spread wings with dark tips, a long neck, trailing legs."""
    flip, tilt = rng.choice([-1, 1]), rng.uniform(-0.3, 0.3)
    put = lambda points: turned(np.asarray(points) * [flip, 1], tilt * flip, size, (x, y))
    b.stroke(put([(-0.15, -0.02), (-0.5, -0.1), (-0.95, -0.12)]), 1.2 * LINE, "line")  # legs
    for up, fold in ((1.0, 0.0), (-0.85, 0.12)):
        wing = np.array([(0.26, 0.0), (0.22, 0.5), (0.02, 0.85), (-0.34, 1.08), (-0.44, 0.86), (-0.5, 0.7), (-0.42, 0.48), (-0.36, 0.26), (-0.24, 0.0)])
        wing = (wing + [fold, 0]) * [1, up]
        b.shape(put(wing), "blush", 1.1 * LINE)
        for tip in wing[3:8]:  # dark flight feathers
            b.stroke(put(np.array([wing[0] * 0.3 + tip * 0.62, tip * 0.85 + wing[0] * 0.1, tip])), [0.4 * LINE, 2.2 * LINE, LINE], "deep")
    t = np.linspace(0, 1, 8)
    b.stroke(put(np.stack([-0.35 + 0.65 * t, 0.02 * np.sin(np.pi * t)], 1)), size * (0.08 + 0.24 * np.sin(np.pi * t)), "line")
    b.stroke(put(np.stack([-0.3 + 0.55 * t, 0.02 * np.sin(np.pi * t)], 1)), size * 0.17 * np.sin(np.pi * t), "blush")
    b.stroke(put([(0.22, 0.0), (0.42, 0.08), (0.6, 0.05), (0.78, 0.1)]), size * np.array([0.17, 0.12, 0.11, 0.13]), "line")
    b.stroke(put([(0.76, 0.1), (0.9, 0.09), (1.06, 0.06)]), size * np.array([0.13, 0.08, 0.02]), "line")
    b.disc(*put([(0.78, 0.13)])[0], 0.07 * size, "flower")


def carp(b: Brush, x, y, size, rng) -> None:
    """A fish with a bent body, scales, fins and a forked tail."""
    flip, bend = rng.choice([-1, 1]), rng.uniform(-0.25, 0.25)

    def put(points):
        along, across = np.asarray(points, float).T
        return np.stack([x + size * flip * along, y + size * (across + bend * along**2)], 1)

    b.shape(put([(-0.55, 0), (-0.98, 0.36), (-0.86, 0.0), (-0.98, -0.36)]), "wash")
    b.shape(put([(0.2, 0.22), (-0.05, 0.5), (-0.35, 0.36), (-0.3, 0.15)]), "wash")
    b.shape(put([(0.15, -0.2), (0.0, -0.46), (-0.22, -0.34), (-0.1, -0.18)]), "wash")
    t = np.linspace(0, np.pi, 12)
    top = np.stack([0.75 * np.cos(t) + 0.05, 0.30 * np.sin(t) ** 0.8 * (1 - 0.25 * (np.cos(t) < 0) * -np.cos(t))], 1)
    b.shape(put(np.concatenate([top, (top * [1, -0.9])[::-1]])), "flower")
    for cx in (0.28, 0.05, -0.18, -0.4):
        b.stroke(put(arc(cx - 0.12, 0, 0.2 if cx > -0.3 else 0.13, -1.1, 1.1, 7)), 0.75 * LINE, "blush")
    b.stroke(put(arc(0.28, 0, 0.26, -0.9, 0.9, 7)), 0.8 * LINE, "line")
    b.disc(*put([(0.6, 0.07)])[0], 0.075 * size, "glaze")
    b.disc(*put([(0.6, 0.07)])[0], 0.045 * size, "line")


def pagoda(b: Brush, x, y, size, rng) -> None:
    """Three roofs with upturned eaves over pale storeys."""
    for half, low in ((0.34, 0.0), (0.26, 0.36), (0.18, 0.68)):
        put = lambda points: turned(points, 0, size, (x, y + low * size))
        b.shape(put([(-0.6 * half, 0), (0.6 * half, 0), (0.6 * half, 0.24), (-0.6 * half, 0.24)]), "glaze", 0.8 * LINE)
        b.fill(put([(-0.12 * half - 0.02, 0), (0.12 * half + 0.02, 0), (0.12 * half + 0.02, 0.16), (-0.12 * half - 0.02, 0.16)]), "deep")
        b.fill(put([(-1.35 * half, 0.25), (-0.9 * half, 0.21), (0.9 * half, 0.21), (1.35 * half, 0.25), (0.5 * half, 0.38), (-0.5 * half, 0.38)]), "line")
    b.stroke([(x, y + 1.02 * size), (x, y + 1.12 * size), (x, y + 1.22 * size)], LINE, "line")


def pine(b: Brush, x, y, size, rng) -> None:
    """A leaning trunk under flat pads of needles."""
    lean = rng.uniform(0.1, 0.3) * rng.choice([-1, 1])
    t = np.linspace(0, 1, 8)
    trunk = np.stack([x + size * lean * np.sin(2.4 * t), y + size * 0.9 * t], 1)
    b.stroke(trunk, size * 0.09 * (1.2 - 0.7 * t) + 0.4 * LINE, "line")
    for h, dx, r in ((0.5, -0.25, 0.2), (0.68, 0.22, 0.2), (0.9, 0.0, 0.26)):
        cx, cy = x + size * (lean * np.sin(2.4 * h) + dx), y + size * h
        pad = np.concatenate([arc(0, 0, 1, 0.15, np.pi - 0.15, 10) * [1, 0.62], [(-0.9, -0.1), (0.9, -0.1)]])
        b.fill(turned(pad, 0, size * (r + 0.03), (cx, cy - 0.01)), "leaf")
        b.fill(turned(pad, 0, size * r * 0.55, (cx, cy + 0.02 * size)), "wash" if b.colours.leaf is not b.colours.wash else "pale")


def mountain(b: Brush, x, y, width, height, rng) -> None:
    """A peak in washes that grow pale towards its foot, its ridge drawn dark."""
    t = np.linspace(-1, 1, 15)
    ridge = np.clip(1 - np.abs(t) ** rng.uniform(0.9, 1.4), 0, 1) + 0.09 * np.sin(7 * t + rng.uniform(0, 6)) * (1 - t**2)
    top = np.stack([x + width / 2 * t, y + height * ridge], 1)
    for k, step in enumerate((0.0, 0.30, 0.55, 0.78)):  # each wash covers the foot of the one before
        colour = b.colours.wash + (b.colours.glaze - b.colours.wash) * (k / 3.2)
        lower = np.stack([top[:, 0], y + (top[:, 1] - y) * (1 - step)], 1)
        b.fill(np.concatenate([lower, [(x + width / 2, y), (x - width / 2, y)]]), colour)
    b.stroke(top, LINE * (0.5 + 0.9 * ridge / ridge.max()), "line")
    b.stroke(np.stack([x + width * np.array([0.02, 0.09, 0.12]), y + height * np.array([0.85, 0.6, 0.35])], 1), 0.8 * LINE, "deep")


def boat(b: Brush, x, y, size, rng) -> None:
    b.fill(turned([(-0.5, 0.12), (-0.3, -0.02), (0.3, -0.02), (0.5, 0.12), (0.25, 0.07), (-0.25, 0.07)], 0, size, (x, y)), "line")
    b.shape(turned([(0.0, 0.1), (0.0, 0.75), (0.34, 0.2)], 0, size, (x, y)), "pale", 0.8 * LINE)


# Motifs: each fills a band of a wall: (brush, generator).

def scrolls(b: Brush, rng) -> None:
    """Small blossoms on a winding vine, whose tendrils curl."""
    count, step = b.columns(rng.uniform(0.42, 0.52))
    rows = max(1, round(b.height / 0.46))
    size = min(0.15, 0.3 * b.height / rows)
    for row in range(rows):
        y0, sway = b.height * (row + 0.5) / rows, min(0.14, 0.3 * b.height / rows)
        t = np.linspace(0, 1, 16 * count + 1)
        b.stroke(np.stack([t * b.width, y0 + sway * np.sin(2 * np.pi * count * t + np.pi * row)], 1), 1.2 * LINE, "leaf")
        for k in range(2 * count):
            x, up = (k + 0.5) * step / 2, 1 if (k + row) % 2 == 0 else -1
            curl = np.linspace(0, 4.4, 12)
            radius = size * 0.85 * (1 - curl / 5.2)
            centre = np.array([x, y0 - up * 0.1 * sway])
            if (k + row) % 2:
                b.stroke(centre + np.stack([radius * np.cos(curl + 1.57), up * radius * np.sin(curl + 1.57)], 1), 1.1 * LINE, "leaf")
                leaf(b, x + 0.2 * step, y0 + up * 0.5 * sway, 1.1 * size, 0.9 * up)
            else:
                for a in np.arange(5) * 2 * np.pi / 5 + 0.3:
                    b.disc(x + 0.62 * size * np.cos(a), y0 - 0.1 * sway + 0.62 * size * np.sin(a), 0.46 * size, "deep")
                    b.disc(x + 0.66 * size * np.cos(a), y0 - 0.1 * sway + 0.66 * size * np.sin(a), 0.26 * size, "flower")
                b.disc(x, y0 - 0.1 * sway, 0.28 * size, "glaze")
                b.disc(x, y0 - 0.1 * sway, 0.16 * size, "heart")


def peonies(b: Brush, rng) -> None:
    """Large blossoms on a vine with pointed leaves."""
    rows = 2 if b.height > 1.0 else 1
    r = min(0.27, 0.42 * b.height / rows)
    count, step = b.columns(3.1 * r)
    for row in range(rows):
        y0, phase = b.height * (row + 0.5) / rows, 0.5 * row
        sway = 0.5 * b.height / rows - r * 0.8
        t = np.linspace(0, 1, 16 * count + 1)
        b.stroke(np.stack([t * b.width, y0 - 0.8 * sway * np.cos(2 * np.pi * (count * t - phase)) - 0.25 * r], 1), 1.3 * LINE, "leaf")
        for k in range(count):
            x = (k + 0.5 + phase) * step
            for dx, dy, angle in ((0.62, 0.5, 0.9), (0.62, -0.55, -0.7), (-0.62, 0.5, 2.2), (-0.62, -0.55, 3.9)):
                leaf(b, x + dx * r, y0 + dy * r, 0.85 * r, angle)
            b.disc(x + step / 2, y0 + 0.55 * r, 0.17 * r + 0.02, "deep")
            b.disc(x + step / 2, y0 + 0.55 * r, 0.17 * r - 0.005, "flower")
            peony(b, x, y0 + 0.1 * r * (-1) ** k, r, rng)


def lattice(b: Brush, rng) -> None:
    """A diamond diaper with a blossom in each cell."""
    rows = max(1, round(b.height / 0.36))
    tall = b.height / rows
    count, wide = b.columns(tall * rng.uniform(0.9, 1.1))
    for k in range(-rows, count + rows):
        for way in (-1, 1):
            x = (k + (0.0 if way > 0 else rows)) * wide
            b.stroke([(x, 0), (x + way * rows * wide / 2, b.height / 2), (x + way * rows * wide, b.height)], 1.1 * LINE, "deep")
    for row in range(1, 2 * rows):
        for k in range(count):
            x, y = (k + 0.5 * ((row + 1) % 2)) * wide, row * tall / 2
            for a in np.arange(4) * np.pi / 2:
                b.disc(x + 0.06 * np.cos(a), y + 0.06 * np.sin(a), 0.042, "flower")
            b.disc(x, y, 0.035, "heart")


def waves(b: Brush, rng) -> None:
    """Overlapping scales of water, each of concentric arcs."""
    rows = max(2, round(b.height / 0.15))
    count, wide = b.columns(0.42)
    tall = b.height / rows
    for row in reversed(range(-1, rows + 1)):
        for k in range(count):
            x, y = (k + 0.5 * (row % 2)) * wide, row * tall - 0.02
            for radius, tone in ((0.5, "line"), (0.42, "glaze"), (0.34, "wash"), (0.25, "glaze"), (0.16, "deep")):
                b.disc(x, y, radius * wide, tone)


def leaves(b: Brush, rng) -> None:
    """Upright plantain leaves, outlined twice, with a midrib."""
    count, wide = b.columns(min(0.36, 0.55 * b.height + 0.1))
    t = np.linspace(0, 1, 12)
    for shift, scale in ((0.5, 0.8), (0.0, 1.0)):
        for k in range(count):
            x = (k + shift) * wide
            half, top = 0.47 * wide * (1 - t**2.2) ** 0.9, 0.96 * b.height * scale * t
            for inset, tone in ((0.0, "line"), (1.1 * LINE, "glaze"), (2.0 * LINE, "leaf")):
                w, h = np.maximum(half - inset, 0), top - 1.6 * inset * t
                b.fill(np.concatenate([np.stack([x + w, h], 1), np.stack([x - w, h], 1)[::-1]]), tone)
            b.stroke([(x, 0), (x, 0.4 * b.height * scale), (x, 0.8 * b.height * scale)], [LINE, 0.8 * LINE, 0.3 * LINE], "glaze")


def landscape(b: Brush, rng) -> None:
    """Ridges in graded washes over water, with a pagoda, pines, a boat, a sun and birds."""
    h = b.height
    count, step = b.columns(1.25)
    for k in range(count):
        x0 = k * step
        b.disc(x0 + 0.80 * step, 0.80 * h, min(0.10, 0.13 * h), "deep")
        b.disc(x0 + 0.80 * step, 0.80 * h, min(0.10, 0.13 * h) - 0.9 * LINE, "flower")
        for dx, dy in ((0.60, 0.86), (0.67, 0.78)):
            bird = np.array([(-0.07, 0.03), (-0.03, 0.04), (0, 0), (0.03, 0.04), (0.07, 0.03)]) + (x0 + dx * step, dy * h)
            b.stroke(bird, 0.7 * LINE, "line")
        for dx, w, tall in ((0.12, 0.62, 0.62), (0.36, 0.6, rng.uniform(0.75, 0.92)), (0.58, 0.55, 0.5)):
            mountain(b, x0 + dx * step, 0.24 * h, w * step, (tall - 0.24) * h, rng)
    b.bar(0, 0, b.width, 0.24 * h, "glaze")
    for k in range(count):
        x0 = k * step
        for dx, dy, w in ((0.1, 0.07, 0.2), (0.45, 0.12, 0.22), (0.3, 0.02, 0.2), (0.92, 0.05, 0.18), (0.72, 0.0, 0.2)):
            t = np.linspace(0, 1, 9)
            b.stroke(np.stack([x0 + step * (dx + w * t), h * dy + 0.015 + 0.012 * np.sin(6.28 * t)], 1), 0.8 * LINE * np.sin(np.pi * t) + 0.01, "wash")
        bank = np.array([(-0.3, 0), (-0.16, 0.05), (0.05, 0.07), (0.22, 0.04), (0.34, 0)]) * [step, h] + (x0 + 0.22 * step, 0.17 * h)
        b.fill(bank, "wash")
        b.stroke(bank, LINE, "line")
        pagoda(b, x0 + 0.18 * step, 0.22 * h, 0.44 * h, rng)
        pine(b, x0 + 0.42 * step, 0.20 * h, 0.46 * h, rng)
        boat(b, x0 + 0.82 * step, 0.22 * h, min(0.3, 0.36 * h), rng)


def dragon(b: Brush, rng) -> None:
    """One long dragon around the pot chasing a flaming pearl among clouds: scales, mane, horns, four clawed legs."""
    h = b.height
    turns = max(2, round(b.width / 1.15))
    sway, thick = 0.23 * h, min(0.2, 0.27 * h)
    end = b.width - min(0.68, 0.26 * b.width)
    for k in range(2 * turns):  # clouds in the hollows of the body
        x = (k + 0.5) * b.width / (2 * turns)
        cloud(b, x, h * (0.86 if k % 2 == 0 else 0.14) - 0.02, min(0.15, 0.18 * h), rng)
    for dx, y in ((0.34, 0.2), (0.3, 0.8), (0.02, 0.82), (0.0, 0.16)):  # and about the pearl
        cloud(b, b.width - dx, y * h, min(0.16, 0.2 * h), rng)
    n = 28 * turns
    t = np.linspace(0, 1, n)
    x = end * t
    body = np.stack([x, 0.5 * h - sway * np.sin(2 * np.pi * turns * x / b.width) * np.minimum(1, 6 * (1 - t) + 0.25)], 1)
    way = np.gradient(body, axis=0)
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    side = np.stack([-way[:, 1], way[:, 0]], 1)
    width = thick * np.clip(np.minimum(0.25 + 3.5 * t, 1.0), 0, 1) * (1 - 0.25 * np.clip(t - 0.85, 0, 1) / 0.15)
    for i in range(4, n - 8, 5):  # fins along the back
        root = body[i] + side[i] * width[i] * 0.4
        b.fill([root - way[i] * 0.05, root + side[i] * 0.085 - way[i] * 0.05, root + way[i] * 0.05], "deep")
    for at, sign in ((0.3, -1), (0.42, 1), (0.74, -1), (0.86, 1)):  # legs
        i = int(at * n)
        hip = body[i] + sign * side[i] * width[i] * 0.3
        knee = hip + sign * side[i] * 0.12 - way[i] * 0.10
        foot = knee + sign * side[i] * 0.06 + way[i] * 0.13
        foot[1] = np.clip(foot[1], 0.07 * h, 0.93 * h)
        b.stroke(np.array([hip, knee, foot]), [0.085, 0.07, 0.05], "line")
        for spread in (-0.6, 0.0, 0.6):
            angle = np.arctan2(*(foot - knee)[::-1]) + spread
            b.stroke([foot, foot + 0.05 * np.array([np.cos(angle), np.sin(angle)]), foot + 0.095 * np.array([np.cos(angle), np.sin(angle)])],
                     [LINE, 0.8 * LINE, 0.2 * LINE], "line")
    b.stroke(body, width + 1.6 * LINE, "line")
    b.stroke(body, width, "flower")
    b.stroke(body - side * width[:, None] * 0.30, 0.24 * width, "blush")  # belly
    for i in range(6, n - 4, 3):  # scales
        t9 = np.linspace(-0.9, 1.2, 5)[:, None]
        b.stroke(body[i] + side[i] * width[i] * 0.38 * t9 * 0.8 + way[i] * 0.05 * (1 - t9**2) - 0.02 * way[i], 0.7 * LINE, "line")
    head(b, body[-1], way[-1], 1.15 * thick)
    px, py = b.width - 0.14, 0.5 * h
    for a in np.arange(3) * 2.1 + 0.5:
        b.stroke([(px, py), (px + 0.1 * np.cos(a), py + 0.1 * np.sin(a)), (px + 0.17 * np.cos(a + 0.5), py + 0.17 * np.sin(a + 0.5))],
                 [0.07, 0.05, 0.01], "wash")
    b.disc(px, py, 0.085, "line")
    b.disc(px, py, 0.05, "blush")


def head(b: Brush, at, way, size) -> None:
    """A dragon's head in profile, looking along `way`: mane, horns, open jaws, whiskers, an eye."""
    angle = np.arctan2(way[1], way[0])
    put = lambda points: turned(points, angle, size, at)
    for a in (2.0, 2.5, 3.0, 3.6, 4.1):
        c, s = np.cos(a), np.sin(a)
        b.stroke(put([(0.1, 0), (0.1 + 0.6 * c, 0.6 * s), (1.0 * c - 0.15, 1.0 * s + 0.1)]), [0.3 * size, 0.2 * size, 0.02], "deep")
    for lift in (0.4, 0.2):
        b.stroke(put([(0.15, 0.3), (-0.15, 0.55 + lift), (-0.55, 0.75 + lift)]), [1.4 * LINE, 1.1 * LINE, 0.4 * LINE], "line")
    jaws = [(-0.3, 0.35), (0.25, 0.52), (0.7, 0.34), (1.05, 0.42), (1.2, 0.18), (0.6, 0.02), (0.9, -0.26), (0.75, -0.4), (0.2, -0.34), (-0.3, -0.35)]
    b.shape(put(jaws), "flower")
    b.stroke(put([(1.1, 0.3), (1.35, 0.55), (1.25, 0.8)]), [LINE, 0.8 * LINE, 0.3 * LINE], "line")
    b.disc(*put([(0.3, 0.24)])[0], 0.2 * size, "glaze")
    b.disc(*put([(0.34, 0.24)])[0], 0.11 * size, "line")


def coil(b: Brush, r: float, rng) -> None:
    """A dragon coiled about the middle of a square of half width r."""
    n, turn = 90, rng.uniform(0, 2 * np.pi)
    t = np.linspace(0, 1, n)
    angle, radius = turn + 7.8 * t, r * (0.74 - 0.48 * t + 0.06 * np.sin(22 * t))
    body = np.stack([r + radius * np.cos(angle), r + radius * np.sin(angle)], 1)
    way = np.gradient(body, axis=0)
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    side = np.stack([-way[:, 1], way[:, 0]], 1)
    width = 0.19 * r * np.minimum(1, 0.2 + 2.5 * t)
    for i in range(3, n - 6, 4):
        root = body[i] - side[i] * width[i] * 0.4
        b.fill([root - way[i] * 0.04, root - side[i] * 0.08 - way[i] * 0.04, root + way[i] * 0.04], "deep")
    b.stroke(body, width + 1.4 * LINE, "line")
    b.stroke(body, width, "flower")
    for i in range(4, n - 3, 3):
        b.stroke([body[i] - side[i] * 0.4 * width[i], body[i] + way[i] * 0.03, body[i] + side[i] * 0.4 * width[i]], 0.7 * LINE, "line")
    head(b, body[-1], way[-1], 0.24 * r)


def cranes(b: Brush, rng) -> None:
    """Cranes in flight among clouds."""
    rows = 2 if b.height > 0.9 else 1
    size = min(0.38, 0.52 * b.height / rows)
    count, step = b.columns(2.9 * size)
    for row in range(rows):
        y = b.height * (row + 0.5) / rows
        for k in range(count):
            x = (k + 0.5 * row + 0.25) * step
            for dy in (-0.62, 0.5):
                cloud(b, x + 0.5 * step, y + dy * size, 0.42 * size, rng)
            crane(b, x, y, size, rng)


def fish(b: Brush, rng) -> None:
    """Carp among water weeds."""
    rows = 2 if b.height > 0.85 else 1
    size = min(0.4, 0.62 * b.height / rows)
    count, step = b.columns(2.5 * size)
    for k in range(2 * count):
        x, t = (k + 0.1) * step / 2, np.linspace(0, 1, 12)
        for dx, tall in ((0, 0.8), (0.06, 0.55)):
            b.stroke(np.stack([x + dx + 0.05 * np.sin(7 * t + k), tall * rng.uniform(0.6, 1.1) * b.height * t], 1), 1.8 * LINE * (1.05 - t), "leaf")
    for row in range(rows):
        for k in range(count):
            carp(b, (k + 0.5 + 0.5 * row) * step, b.height * (row + 0.5) / rows, size, rng)


def medallions(b: Brush, rng) -> None:
    """Round or lobed reserves with a flower, bird, fish or view, on a ground of waves, lattice or solid colour with small blossoms."""
    ground, picture = int(rng.integers(3)), EMBLEMS[int(rng.integers(len(EMBLEMS)))]
    if ground == 0:
        waves(b, rng)
    elif ground == 1:
        lattice(b, rng)
    else:
        b.clear("deep")
    r = min(0.36, 0.43 * b.height)
    count, step = b.columns(2.75 * r)
    if ground == 2:
        for k in range(count):
            for y in (0.2, 0.5, 0.8):
                for a in np.arange(5) * 2 * np.pi / 5:
                    b.disc((k + 0.5) * step + 0.055 * np.cos(a), y * b.height + 0.055 * np.sin(a), 0.035, "glaze")
    t = np.linspace(0, 2 * np.pi, 49)[:-1]
    lobes = 1 + (0.06 * np.abs(np.sin(2 * t)) if rng.random() < 0.5 else 0)
    for k in range(count):
        x, y = k * step, b.height / 2
        for radius, tone in ((r, "line"), (r - 0.03, "glaze"), (r - 0.05, "deep"), (r - 0.075, "glaze")):
            b.fill(np.stack([x + radius * lobes * np.cos(t), y + radius * lobes * np.sin(t)], 1), tone)
        picture(b, x, y, 0.72 * r, rng)


def spray(b: Brush, x, y, r, rng) -> None:
    """One peony with leaves."""
    for angle in rng.uniform(0, 2 * np.pi) + np.arange(6) * 2 * np.pi / 6:
        leaf(b, x + 0.5 * r * np.cos(angle), y + 0.5 * r * np.sin(angle), 0.55 * r, angle)
    peony(b, x, y, 0.66 * r, rng)


def view(b: Brush, x, y, r, rng) -> None:
    """A small landscape in a circle: two peaks, a pagoda, a sun, water."""
    mountain(b, x + 0.28 * r, y - 0.22 * r, 1.15 * r, 0.72 * r, rng)
    mountain(b, x - 0.3 * r, y - 0.22 * r, 1.1 * r, 1.05 * r, rng)
    b.disc(x + 0.5 * r, y + 0.68 * r, 0.15 * r, "flower")
    b.stroke([(x - 0.95 * r, y - 0.24 * r), (x, y - 0.2 * r), (x + 0.95 * r, y - 0.24 * r)], [0.01, 1.4 * LINE, 0.01], "line")
    pagoda(b, x + 0.2 * r, y - 0.22 * r, 0.62 * r, rng)
    for dx, dy, half in ((-0.1, -0.42, 0.6), (0.25, -0.6, 0.5), (-0.15, -0.78, 0.4)):
        b.stroke([(x + (dx - half) * r, y + dy * r), (x + dx * r, y + dy * r + 0.01), (x + (dx + half) * r, y + dy * r)], [0.01, 1.3 * LINE, 0.01], "wash")


EMBLEMS = (spray, view, crane, carp)
MOTIFS = {f.__name__: f for f in (peonies, scrolls, lattice, waves, leaves, landscape, dragon, cranes, fish, medallions)}


# Borders: each fills a narrow band: (brush, generator).

def fret(b: Brush, rng) -> None:
    """A running key fret."""
    h = b.height
    count, wide = b.columns(1.5 * h)
    w = 0.17 * h
    key = np.array([(0.0, 0.1), (0.0, 0.9), (0.72, 0.9), (0.72, 0.38), (0.36, 0.38), (0.36, 0.62)])
    for k in range(count):
        x = (k + 0.08) * wide
        for (x0, y0), (x1, y1) in zip(key, key[1:]):
            b.bar(x + min(x0, x1) * wide - w / 2, min(y0, y1) * h - w / 2, x + max(x0, x1) * wide + w / 2, max(y0, y1) * h + w / 2, "deep")
    b.bar(0, 0.02 * h, b.width, 0.18 * h, "deep")


def petals(b: Brush, rng) -> None:
    """Lotus panels standing side by side."""
    count, wide = b.columns(1.15 * b.height)
    t = np.linspace(0, np.pi, 14)
    for k in range(count):
        for inset, tone in ((0.0, "line"), (0.9 * LINE, "glaze"), (1.7 * LINE, "wash")):
            half, tall = 0.5 * wide - inset, 0.98 * b.height - inset
            if min(half, tall) > 0.01:
                b.fill(np.stack([(k + 0.5) * wide + half * np.cos(t), tall * np.sin(t) ** 0.7], 1), tone)


def ruyi(b: Brush, rng) -> None:
    """Ruyi heads hanging from the upper rim: three lobes each."""
    h = b.height
    count, wide = b.columns(1.35 * h)
    b.level(0.94 * h, 0.12 * h, "deep")
    for k in range(count):
        x = (k + 0.5) * wide
        for dx, dy, r in ((-0.25, 0.62, 0.25), (0.25, 0.62, 0.25), (0.0, 0.34, 0.26)):
            b.disc(x + dx * wide, dy * h, r * wide, "deep")
        for dx, dy, r in ((-0.22, 0.6, 0.11), (0.22, 0.6, 0.11), (0.0, 0.36, 0.13)):
            b.disc(x + dx * wide, dy * h, r * wide, "blush")


def ripples(b: Brush, rng) -> None:
    """Rolling waves with curled crests."""
    count, wide = b.columns(1.5 * b.height)
    b.clear("wash")
    for k in range(count):
        x = k * wide
        b.fill(np.concatenate([[(x, 0), (x, 0.45 * b.height)], arc(x + 0.55 * wide, 0.45 * b.height, 0.42 * b.height, np.pi, 0.1), [(x + wide, 0)]]), "deep")
        b.disc(x + 0.62 * wide, 0.42 * b.height, 0.24 * b.height, "glaze")
        b.disc(x + 0.56 * wide, 0.36 * b.height, 0.1 * b.height, "deep")


def vine(b: Brush, rng) -> None:
    """A thin classic scroll: a sine with a leaf in each bend."""
    count, wide = b.columns(2.2 * b.height)
    t = np.linspace(0, 1, 16 * count + 1)
    b.stroke(np.stack([t * b.width, b.height * (0.5 + 0.27 * np.sin(2 * np.pi * count * t))], 1), LINE, "leaf")
    for k in range(2 * count):
        up = 1 if k % 2 else -1
        b.disc((k + 0.5) * wide / 2, b.height * (0.5 + 0.12 * up), 0.2 * b.height, "flower" if k % 2 else "deep")


def solid(b: Brush, rng) -> None:
    b.clear("deep")


def rings(b: Brush, rng) -> None:
    """Plain lines around."""
    for at in (0.2, 0.8) if b.height < 0.14 else (0.14, 0.5, 0.86):
        b.level(at * b.height, LINE if at != 0.5 else 1.8 * LINE, "line" if at != 0.5 else "wash")
