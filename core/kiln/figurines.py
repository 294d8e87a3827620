"""Figurines of the kiln's world: human heads and animals, modelled as clay is: lumps that flow into one another, and details stuck on.

Bodies are smooth unions of signed distances, meshed by marching cubes; eyes, hats, glasses and the like are surfaces of their own.
They face along +x, and `Form.seen_from` says from where their face can be seen. The parts' roles are for looks to paint.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import mcubes
import numpy as np
from scipy.ndimage import map_coordinates

from .shapes import Form, Part, grid_faces, sweep

HEADS_SEEN_FROM = (-60.0, 60.0)  # azimuths: further round, an expression is out of sight
ANIMALS_SEEN_FROM = (-180.0, 180.0)
SPACING = 0.03  # of the grid that bodies are meshed on: 1.6 pixels of a 128 px view
FAR = 1e3

# How light each role is in a one-coloured figurine; more than 1 is paler than the body.
TONES = {"hair": 0.45, "brow": 0.22, "eye": 2.2, "iris": 0.4, "pupil": 0.1, "glint": 3.0, "lip": 0.4, "mouth": 0.12, "teeth": 2.5, "beard": 0.4,
         "hat": 0.65, "band": 0.3, "glasses": 0.12, "lens": 0.12, "shirt": 0.8, "nose": 0.15, "ear": 0.85, "inner ear": 0.6, "muzzle": 1.15,
         "hoof": 0.4, "beak": 0.55, "foot": 0.55, "tusk": 1.8, "tuft": 0.35, "mane": 0.5}


@dataclass
class Solid:
    """A lump: `distance(x, y, z)` of broadcastable coordinates, negative inside; `low` and `high` bound it."""

    distance: Callable
    low: np.ndarray
    high: np.ndarray
    role: str = "body"
    blend: float = 0.08  # how far it flows into the lumps before it


def turned_by(yaw: float = 0, pitch: float = 0, roll: float = 0) -> np.ndarray:
    """Rotation matrix, degrees: roll about x, then pitch (nose up) about y, then yaw about z."""
    (cz, cy, cx), (sz, sy, sx) = np.cos(a := np.deg2rad([yaw, -pitch, roll])), np.sin(a)
    return (np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
            @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]))


@dataclass
class Pose:
    """A frame to model in: heads are modelled about their own origin and looked round with."""

    origin: np.ndarray
    turn: np.ndarray
    scale: float = 1.0

    def point(self, p) -> np.ndarray:
        return self.origin + self.scale * np.asarray(p, float) @ self.turn.T

    def egg(self, center, radii, role="body", blend=0.08, turn=(0, 0, 0)) -> Solid:
        """An ellipsoid; the distance is first-order exact (I. Quilez, "ellipsoid SDF")."""
        c, r = self.point(center).astype(np.float32), np.float32(self.scale * np.broadcast_to(radii, 3))
        m = (self.turn @ turned_by(*turn)).astype(np.float32)

        def distance(x, y, z):
            q = [(x - c[0]) * m[0, i] + (y - c[1]) * m[1, i] + (z - c[2]) * m[2, i] for i in range(3)]
            inner = np.sqrt(sum((a / b) ** 2 for a, b in zip(q, r)))
            return inner * (inner - 1) / (np.sqrt(sum((a / b**2) ** 2 for a, b in zip(q, r))) + 1e-6)

        reach = np.sqrt((m * r) ** 2 @ np.ones(3))
        return Solid(distance, c - reach, c + reach, role, blend * self.scale)

    def limb(self, start, end, radius, end_radius=None, role="body", blend=0.08) -> Solid:
        """A capsule whose radius runs from `radius` to `end_radius`."""
        a, b = self.point(start).astype(np.float32), self.point(end).astype(np.float32)
        ra, rb = self.scale * radius, self.scale * (radius if end_radius is None else end_radius)
        d = b - a

        def distance(x, y, z):
            p = (x - a[0], y - a[1], z - a[2])
            h = np.clip(sum(u * v for u, v in zip(p, d)) / (d @ d), 0, 1)
            return np.sqrt(sum((u - h * v) ** 2 for u, v in zip(p, d))) - (ra + h * (rb - ra))

        return Solid(distance, np.minimum(a - ra, b - rb), np.maximum(a + ra, b + rb), role, blend * self.scale)

    def spun(self, profile, center, radii=1.0, role="body", turn=(0, 0, 0), segments=32) -> Part:
        """A (radius, z) profile about its own z axis, stretched by `radii`, turned and put at `center`: an eye, an ear, a hat."""
        profile = np.asarray(profile, float)
        theta = np.linspace(0, 2 * np.pi, segments + 1)[:, None]
        dr, dz = np.gradient(profile, axis=0).T
        c, s, zero = np.cos(theta), np.sin(theta), 0 * theta
        points = np.stack([profile[:, 0] * c, profile[:, 0] * s, profile[:, 1] + zero], -1).reshape(-1, 3)
        normals = np.stack([dz * c, dz * s, -dr + zero], -1).reshape(-1, 3)
        radii, m = np.broadcast_to(radii, 3), turned_by(*turn)
        normals = (normals / radii) @ (self.turn @ m).T
        normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
        vertices = self.point(np.asarray(center) + (points * radii) @ m.T)
        uv = np.stack(np.broadcast_arrays(theta / (2 * np.pi), np.linspace(0, 1, len(profile))), -1).reshape(-1, 2)
        size = (2 * np.pi * profile[:, 0].max() * radii[0], np.linalg.norm(np.diff(profile, axis=0), axis=1).sum() * radii[2])
        return Part(vertices, normals, uv, grid_faces(segments + 1, len(profile)), tuple(self.scale * np.array(size)), role, TONES.get(role, 1.0))

    def ball(self, center, radii, role="body", turn=(0, 0, 0), segments=20) -> Part:
        return self.spun(BALL, center, radii, role, turn, segments)

    def tube(self, path, radius, role) -> Part:
        part = sweep([self.point(p) for p in path], np.asarray(radius) * self.scale, role, samples=32, segments=12)
        ends = [self.ball(self.inverse(p), r, role, segments=8) for p, r in zip((self.point(path[0]), self.point(path[-1])),
                                                                                np.broadcast_to(radius, len(path))[[0, -1]])]
        return joined([replace(part, tone=TONES.get(role, 1.0)), *ends])

    def inverse(self, p) -> np.ndarray:
        return (p - self.origin) @ self.turn / self.scale

    def within(self, origin, yaw=0.0, pitch=0.0, roll=0.0, scale=1.0) -> "Pose":
        return Pose(self.point(origin), self.turn @ turned_by(yaw, pitch, roll), self.scale * scale)


GROUND = Pose(np.zeros(3), np.eye(3))
ARC = np.linspace(-np.pi / 2, np.pi / 2, 14)
BALL = np.stack([np.cos(ARC), np.sin(ARC)], 1)
SPIKE = np.stack([np.sin(np.linspace(0.03, np.pi, 16)) ** 0.7 * np.linspace(1.0, 0.35, 16), np.linspace(0, 1, 16)], 1)  # a cat's ear


def joined(parts: list[Part]) -> Part:
    """Parts of one role as one."""
    offsets = np.cumsum([0] + [len(p.vertices) for p in parts])
    return replace(parts[0], faces=np.concatenate([p.faces + o for p, o in zip(parts, offsets)]),
                   **{key: np.concatenate([getattr(p, key) for p in parts]) for key in ("vertices", "normals", "uv")})


class Lump:
    """The smooth union of solids, less the solids cut from it, as distances on a grid. `role`: of the mesh, instead of the solids' own."""

    def __init__(self, solids: list[Solid], cuts: list[Solid] = (), floor: float = -FAR, ceiling: float = FAR, spacing: float = SPACING):
        self.solids, self.spacing = solids, spacing
        self.low = np.min([s.low for s in solids], 0) - 2.5 * spacing
        count = np.ceil((np.max([s.high for s in solids], 0) - self.low) / spacing + 2.5).astype(int)
        self.axes = [(np.arange(n) * spacing + low).astype(np.float32) for n, low in zip(count, self.low)]
        self.grid = np.full(count, FAR, np.float32)
        for solid in solids:
            self.add(solid, lambda old, new, k: np.minimum(old, new) - np.maximum(k - abs(old - new), 0) ** 2 / (4 * k))
        for solid in cuts:
            self.add(solid, lambda old, new, k: np.maximum(old, -new) + np.maximum(k - abs(old + new), 0) ** 2 / (4 * k))
        z = self.axes[2]
        if floor > -FAR or ceiling < FAR:
            self.grid = np.maximum(self.grid, np.maximum(floor - z, z - ceiling))

    def add(self, solid: Solid, combine: Callable) -> None:
        """Only near the solid, since farther off it changes nothing."""
        margin = solid.blend + 3 * self.spacing
        at = tuple(slice(*np.searchsorted(a, [lo - margin, hi + margin])) for a, lo, hi in zip(self.axes, solid.low, solid.high))
        x, y, z = np.ix_(*(a[s] for a, s in zip(self.axes, at)))
        self.grid[at] = combine(self.grid[at], solid.distance(x, y, z), np.float32(solid.blend))

    def normals(self, points: np.ndarray) -> np.ndarray:
        """Outward at points (N, 3) near the surface: the field's gradient by central differences."""
        at = (points - self.low) / self.spacing
        steps = np.concatenate([at + s * e for e in np.eye(3) for s in (0.6, -0.6)]).T
        d = map_coordinates(np.minimum(self.grid, 1), steps, order=1, mode="nearest").reshape(3, 2, -1)
        normals = (d[:, 0] - d[:, 1]).T
        return normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9)

    def front(self, y, z, lift: float = 0.0) -> np.ndarray:
        """The foremost surface points at the given y and z, lifted off it: (..., 3)."""
        y, z = np.broadcast_arrays(np.asarray(y, float), z)
        x = self.axes[0][::-1]
        points = np.stack(np.broadcast_arrays(x[:, None], y.ravel(), z.ravel()), -1)
        d = map_coordinates(self.grid, ((points - self.low) / self.spacing).reshape(-1, 3).T, order=1, mode="nearest").reshape(len(x), -1)
        first = np.maximum((d < 0).argmax(0), 1)
        near, far, k = d[first, range(d.shape[1])], d[first - 1, range(d.shape[1])], np.arange(d.shape[1])
        points = points[first, k] + np.stack([np.clip(-near / (far - near), 0, 1) * self.spacing, 0 * k, 0 * k], 1)
        return (points + lift * self.normals(points)).reshape(*y.shape, 3)

    def patch(self, across, low, high, role: str, bulge: float, rows: int = 8) -> Part:
        """A cushion on the front between the curves z = low and z = high over y = across: a mouth, teeth."""
        t = np.linspace(0, 1, rows)
        y, z = np.broadcast_arrays(across[:, None], low[:, None] + t * (high - low)[:, None])
        edge = (1 - (2 * t - 1) ** 2) * (1 - np.linspace(-1, 1, len(across))[:, None] ** 6)
        points = self.front(y, z)
        normals = self.normals(points.reshape(-1, 3))
        points = points.reshape(-1, 3) + (bulge * edge.reshape(-1, 1) - 0.004) * normals
        uv = np.stack(np.meshgrid(np.linspace(0, 1, len(across)), t, indexing="ij"), -1).reshape(-1, 2)
        return Part(points, normals, uv, grid_faces(len(across), rows), (float(np.ptp(y)), float(np.ptp(z))), role, TONES.get(role, 1.0))

    def parts(self, role: str = "") -> list[Part]:
        """The mesh, one part a role: a face goes to the role of the solid that it is nearest to (or all to `role`)."""
        vertices, faces = mcubes.marching_cubes(self.grid, 0.0)
        vertices, faces = vertices * self.spacing + self.low, faces[:, ::-1].astype(np.int64)
        normals = self.normals(vertices)
        around = np.arctan2(vertices[:, 1], vertices[:, 0]) / (2 * np.pi) % 1
        height = np.ptp(vertices[:, 2])
        uv = np.stack([around, (vertices[:, 2] - vertices[:, 2].min()) / height], 1)
        size = (2 * np.pi * float(np.percentile(np.hypot(*vertices[:, :2].T), 75)), float(height))
        roles = [role] if role else sorted({s.role for s in self.solids})
        owner = np.zeros(len(vertices), int)
        if len(roles) > 1:
            p = vertices.astype(np.float32)
            d = np.full((len(roles), len(p)), FAR, np.float32)
            for s in self.solids:
                row = d[roles.index(s.role)]
                np.minimum(row, s.distance(*p.T), out=row)
            owner = d.argmin(0)
        of_face = np.sort(owner[faces], 1)[:, 1]
        parts = []
        for k, name in enumerate(roles):
            used, index = np.unique(faces[of_face == k], return_inverse=True)
            if len(used):
                parts.append(Part(vertices[used], normals[used], uv[used], index.reshape(-1, 3), size, name, TONES.get(name, 1.0)))
        return parts


def either(u, *choices):
    return choices[min(int(u(0, len(choices))), len(choices) - 1)]


# ---------------------------------------------------------------------------------------------------------------------------- heads

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
    g, kind = GROUND, either(u, "full", "long", "goatee")
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
    kind = either(u, "brimmed", "cap", "top", "cone", "beanie")
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
        height, brim = u(0.75, 0.95), either(u, 0.0, 0.68)
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
    expression, cut = either(u, "smiling", "neutral", "surprised"), either(u, *HAIR)
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
                {**{key: key if on else f"no {key}" for key, on in has.items()}, "expression": expression}, HEADS_SEEN_FROM)


def describe(has: dict[str, bool]) -> str:
    """What a head has, as one says it: "wearing a hat and glasses", "with a beard, wearing glasses"."""
    worn = " and ".join(article + key for key, article in (("hat", "a "), ("glasses", "")) if has[key])
    return ", ".join(filter(None, ["with a beard" if has["beard"] else "", f"wearing {worn}" if worn else ""]))


# -------------------------------------------------------------------------------------------------------------------------- animals


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
    return Form(name, Lump(solids, floor=0.0).parts() + parts, tuple(filter(None, words)), "", {}, ANIMALS_SEEN_FROM)


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
    side, lift = either(u, -1, 1), u(0.2, 0.5)
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
FIGURINES = {"head": head} | ANIMALS
