"""Clay for figurines: lumps that flow into one another, meshed, and a frame to stick details on.

Bodies are smooth unions of signed distances, meshed by marching cubes; eyes, hats, glasses and the like are surfaces of their own.
Figurines face along +x. The parts' roles are for looks to paint.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import mcubes
import numpy as np
from scipy.ndimage import map_coordinates

from .shapes import Part, grid_faces, sweep

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
