"""What the objects of the kiln's world are made of: surfaces of revolution, swept tubes, boxes and patches, and deformations of them.

Every object is a `Form`: `Part`s, z up, centred at the origin and inside the unit sphere. Its classes are in `pottery` and `things`.
Parts that stand for one body meet in the same vertices, so that bodies are closed; hard edges are two parts, or two rows of vertices.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.interpolate import PchipInterpolator

SEGMENTS = 200  # around an axis of revolution; a vertex is about one pixel of a 128 px view
STEP = 0.025  # between rows of vertices along a profile, before an object is scaled into the unit sphere

Draw = Callable[[float, float], float]  # u(low, high): uniformly between them


@dataclass
class Part:
    """A grid surface. `uv` are in [0, 1] except on vessels, whose inner wall runs on from v = 1 to 2."""

    vertices: np.ndarray  # (N, 3)
    normals: np.ndarray  # (N, 3), outward
    uv: np.ndarray  # (N, 2): u around, v along
    faces: np.ndarray  # (M, 3)
    size: tuple[float, float]  # world length of the u and the v direction: patterns keep their scale
    role: str = "body"  # body: carries the pattern; limb: handles, spouts, legs, knobs; figurines have more
    tone: float = 1.0  # how much darker than the body a captioned surface paints it: a figurine's eyes, hair, hat


@dataclass
class Form:
    """The geometry of one object and what is true of it. name: its class, one word."""

    name: str
    parts: list[Part]
    words: tuple[str, ...] = ()  # adjectives that it deserves, such as "tall" or "smiling", of which a caption may use one
    detail: str = ""  # what a caption may say after the class, such as "wearing a hat and glasses"
    attributes: dict[str, str] = field(default_factory=dict)  # what else the judge may read, such as {"hat": "no hat", "expression": "smiling"}
    seen_from: tuple[float, float] = (0.0, 360.0)  # azimuths in degrees that show its face: where photos of it are taken from


def grid_faces(nu: int, nv: int) -> np.ndarray:
    """Two triangles for each cell of an (nu, nv) vertex grid stored row by row: (2 (nu-1)(nv-1), 3)."""
    i = np.arange((nu - 1) * nv).reshape(nu - 1, nv)[:, :-1].ravel()
    return np.concatenate([np.stack([i, i + nv, i + 1], 1), np.stack([i + 1, i + nv, i + nv + 1], 1)])


def smooth(points, samples: int = 90) -> np.ndarray:
    """A shape-preserving curve through control points, (samples, dim), evenly spaced by arc length."""
    points = np.asarray(points, float)
    for _ in range(2):  # the second pass evens out what the interpolation stretched
        s = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
        points = PchipInterpolator(s, points)(np.linspace(0, s[-1], samples))
    return points


def revolve(profile: np.ndarray, role: str = "body", v_range=(0.0, 1.0), segments: int = SEGMENTS, tone: float = 1.0) -> Part:
    """Turn a profile of (radius, z) points about the z axis; going up on the outside faces outward."""
    profile = np.asarray(profile, float)
    r, z = profile.T
    dr, dz = np.gradient(profile, axis=0).T
    theta = np.linspace(0, 2 * np.pi, segments + 1)
    c, s = np.cos(theta)[:, None], np.sin(theta)[:, None]
    vertices = np.stack([r * c, r * s, z + 0 * c], -1)
    normals = np.stack([dz * c, dz * s, -dr + 0 * c], -1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-12
    length = np.linalg.norm(np.diff(profile, axis=0), axis=1)
    along = np.concatenate([[0], np.cumsum(length)])
    v = v_range[0] + (v_range[1] - v_range[0]) * along / along[-1]
    uv = np.stack(np.broadcast_arrays(theta[:, None] / (2 * np.pi), v), -1)
    size = (2 * np.pi * float(np.percentile(r, 75)), float(along[-1]))
    return Part(vertices.reshape(-1, 3), normals.reshape(-1, 3), uv.reshape(-1, 2), grid_faces(*uv.shape[:2]), size, role, tone)


def rows(length: float) -> int:
    """How many rows of vertices a profile of that length gets."""
    return int(np.clip(length / STEP, 2, 88)) + 2


def turned(points, role: str = "body", hard=None, segments: int = SEGMENTS, tone: float = 1.0) -> list[Part]:
    """A solid of revolution through (radius, z) points, smooth but for the corners `hard` (indices; None: all are).

    From the axis to the axis, or from a point back to it, it is closed.
    """
    points = np.asarray(points, float)
    corners = range(1, len(points) - 1) if hard is None else hard
    pieces = [points[a:b + 1] for a, b in zip((0, *corners), (*corners, len(points) - 1))]
    lengths = [np.linalg.norm(np.diff(piece, axis=0), axis=1).sum() for piece in pieces]
    curves = [np.linspace(*piece, rows(length)) if len(piece) == 2 else smooth(piece, rows(length)) for piece, length in zip(pieces, lengths)]
    return [revolve(curve, role, segments=segments, tone=tone) for curve in curves]


def vessel(outer, wall: float = 0.05, floor: float | None = None, segments: int = SEGMENTS) -> list[Part]:
    """An open pot with a thick wall from the control points of its outer profile, foot to lip.

    floor: height of the inside's bottom, by default a wall above the foot; a stem below it is solid.
    """
    curve = smooth(outer)
    floor = curve[0, 1] + wall if floor is None else floor
    base = np.stack([np.linspace(0, curve[0, 0], 3), np.full(3, curve[0, 1])], 1)
    tangent = np.gradient(curve, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    inner = (curve - wall * np.stack([tangent[:, 1], -tangent[:, 0]], 1))[::-1]
    outside = (inner[:, 0] < 0.02) | (inner[:, 1] < floor)
    inner = inner[:outside.argmax()] if outside.any() else inner
    inner = np.concatenate([inner, [[0, inner[-1, 1]]]])
    along = np.linspace(0, 1, 8)[:, None]
    lip = curve[-1] + along * (inner[0] - curve[-1]) + 0.4 * wall * np.sin(np.pi * along) * tangent[-1]
    inside = smooth(np.concatenate([lip, inner[4:]]), 44)
    return [revolve(curve, segments=segments), revolve(base, "limb", segments=segments), revolve(inside, "body", (1.0, 2.0), segments)]


def sweep(path, radius, role: str = "limb", samples: int = 48, segments: int = 20, flat: float = 1.0, hollow: float = 0.0, tone: float = 1.0) -> Part:
    """A tube along a smooth path, closed at its ends; `radius` is one number or one per control point.

    flat: how much wider it is across the path's plane than in it. hollow: the wall of a tube that one can look into from its end.
    """
    path = np.asarray(path, float)
    radius = np.broadcast_to(np.asarray(radius, float), len(path))
    curve = smooth(np.concatenate([path, radius[:, None]], 1), samples)
    path, radius = curve[:, :3], curve[:, 3]
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.cross(tangent, [0.0, 1.0, 0.0] if abs(tangent[:, 1]).max() < 0.9 else [1.0, 0.0, 0.0])
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    # Rings of vertices: where on the path, how wide, and how much they face away from the path and along it.
    last, into = samples - 1, samples // 3
    rings = [(0, 0, 0, -1), (0, 1, 0, -1), *((i, 1, 1, 0) for i in range(samples)), (last, 1, 0, 1)]
    if hollow:
        rings += [(last, 1 - hollow / radius[-1], 0, 1), *((last - i, 1 - hollow / radius[last - i], -1, 0) for i in range(into)), (last - into, 0, 0, 1)]
    else:
        rings += [(last, 0, 0, 1)]
    at, wide, away, ahead = np.array(rings).T
    at = at.astype(int)
    theta = np.linspace(0, 2 * np.pi, segments + 1)[None, :, None]
    across = np.cross(tangent, side)
    round_ = np.cos(theta) * side[at, None] + flat * np.sin(theta) * across[at, None]
    outward = np.cos(theta) * side[at, None] + np.sin(theta) / flat * across[at, None]
    outward /= np.linalg.norm(outward, axis=-1, keepdims=True)
    vertices = path[at, None] + (radius[at] * wide)[:, None, None] * round_
    normals = away[:, None, None] * outward + ahead[:, None, None] * tangent[at, None]
    uv = np.stack(np.broadcast_arrays(theta[..., 0] / (2 * np.pi), at[:, None] / last), -1)
    length = float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
    faces = grid_faces(len(at), segments + 1)[:, ::-1]
    return Part(vertices.reshape(-1, 3), normals.reshape(-1, 3), uv.reshape(-1, 2), faces, (2 * np.pi * float(radius.mean()), length), role, tone)


def box(center, size, role: str = "body", cells: int = 48, bevel: float = 0.0, tone: float = 1.0) -> list[Part]:
    """Six faces, finely divided so that vertex colours can carry a pattern. bevel: radius of the rounded edges and corners."""
    center, half = np.asarray(center, float), np.asarray(size, float) / 2
    parts = []
    a, b = np.meshgrid(np.linspace(-1, 1, cells), np.linspace(-1, 1, cells), indexing="ij")
    uv = np.stack([a, b], -1).reshape(-1, 2) / 2 + 0.5
    for axis in range(3):
        for sign in (-1, 1):
            i, j = (axis + 1) % 3, (axis + 2) % 3
            grid = np.zeros((cells, cells, 3))
            grid[..., axis], grid[..., i], grid[..., j] = sign, a, b
            vertices = (grid * half).reshape(-1, 3)
            normals = np.zeros_like(vertices)
            normals[:, axis] = sign
            if bevel:
                core = np.clip(vertices, bevel - half, half - bevel)
                normals = (vertices - core) / np.linalg.norm(vertices - core, axis=1, keepdims=True)
                vertices = core + bevel * normals
            faces = grid_faces(cells, cells)[:, :: sign]
            parts.append(Part(vertices + center, normals, uv, faces, (2 * half[i], 2 * half[j]), role, tone))
    return parts


def sheet(points: np.ndarray, role: str = "body", tone: float = 1.0) -> Part:
    """A curved grid of points (nu, nv, 3), facing where the cross product of its two directions points."""
    du, dv = np.gradient(points, axis=(0, 1))
    normals = np.cross(du, dv)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-12
    u, v = np.meshgrid(*(np.linspace(0, 1, n) for n in points.shape[:2]), indexing="ij")
    size = tuple(float(np.linalg.norm(np.diff(points, axis=k), axis=-1).sum(k).mean()) for k in (0, 1))
    return Part(points.reshape(-1, 3), normals.reshape(-1, 3), np.stack([u, v], -1).reshape(-1, 2), grid_faces(*points.shape[:2]), size, role, tone)


def patch(a, b, c, d, role: str = "body", tone: float = 1.0, counts: tuple[int, int] | None = None) -> Part:
    """A flat face with the corners a, b, c, d, counterclockwise from outside; a triangle has c = d. counts: vertices along ab and along ad."""
    a, b, c, d = (np.asarray(each, float) for each in (a, b, c, d))
    nu, nv = counts or (rows(max(np.linalg.norm(x), np.linalg.norm(y))) for x, y in ((b - a, c - d), (d - a, c - b)))
    u, v = np.linspace(0, 1, nu)[:, None, None], np.linspace(0, 1, nv)[None, :, None]
    part = sheet((1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * d + u * c), role, tone)
    normal = np.cross(b - a, d - a)
    return replace(part, normals=np.broadcast_to(normal / np.linalg.norm(normal), part.vertices.shape).copy())


def block(bottom, top, role: str = "body", tone: float = 1.0) -> list[Part]:
    """The solid between two triangles or two quadrilaterals (n, 3), both counterclockwise from above."""
    bottom, top = np.asarray(bottom, float), np.asarray(top, float)
    n = len(bottom)
    edge = np.maximum(*(np.linalg.norm(face - np.roll(face, -1, 0), axis=1) for face in (bottom, top)))
    along = [rows(max(edge[i::2])) for i in (0, 1)] if n == 4 else [rows(max(edge))] * 2  # faces meet in the same vertices
    up = rows(np.linalg.norm(top - bottom, axis=1).max())
    sides = [patch(bottom[i], bottom[(i + 1) % n], top[(i + 1) % n], top[i], role, tone, (along[i % 2], up)) for i in range(n)]
    a, b, c, d = bottom[[0, n - 1, n - 2, 1 if n == 4 else n - 2]]
    return [*sides, patch(a, b, c, d, role, tone, (along[1], along[0])), patch(*top[[0, 1, 2, n - 1]], role, tone, tuple(along))]


def blob(center, radii, role: str = "body", segments: int = 64, tone: float = 1.0) -> Part:
    """An ellipsoid."""
    t = np.linspace(-np.pi / 2, np.pi / 2, segments // 2)
    return moved([revolve(np.stack([np.cos(t), np.sin(t)], 1), role, segments=segments, tone=tone)], np.diag(np.broadcast_to(radii, 3)), center)[0]


def moved(parts: list[Part], matrix=None, shift=(0, 0, 0)) -> list[Part]:
    """Parts turned or stretched by a matrix (3, 3) of positive determinant, then shifted."""
    matrix = np.eye(3) if matrix is None else np.asarray(matrix, float)
    of_normals = np.linalg.inv(matrix)
    scale = float(np.linalg.det(matrix)) ** (1 / 3)
    found = []
    for p in parts:
        normals = p.normals @ of_normals
        normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
        found.append(replace(p, vertices=p.vertices @ matrix.T + shift, normals=normals, size=(p.size[0] * scale, p.size[1] * scale)))
    return found


def about(axis: int, angle: float) -> np.ndarray:
    """The turn by an angle in radians about x, y or z (0, 1, 2), as a matrix."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[j, i] = np.sin(angle)
    matrix[i, j] = -matrix[j, i]
    return matrix


def deformed(parts: list[Part], f: Callable[[np.ndarray], np.ndarray]) -> list[Part]:
    """Parts whose points (N, 3) went where the smooth map f takes them; normals by its cofactors."""
    found = []
    for p in parts:
        vertices = f(p.vertices)
        x, y, z = ((f(p.vertices + 1e-4 * axis) - vertices) / 1e-4 for axis in np.eye(3))
        normals = sum(np.cross(a, b) * n[:, None] for a, b, n in zip((y, z, x), (z, x, y), p.normals.T))
        found.append(replace(p, vertices=vertices, normals=normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12)))
    return found


def pick(u: Draw, *options):
    """One of them, each as likely."""
    return options[min(int(u(0, len(options))), len(options) - 1)]


def build(name: str, make: Callable[[Draw], list[Part] | Form], rng: np.random.Generator) -> Form:
    """What `make` makes of random proportions, turned at random about z and scaled into the unit sphere."""
    made = make(lambda low, high: float(rng.uniform(low, high)))
    form = made if isinstance(made, Form) else Form(name, made)
    vertices = np.concatenate([p.vertices for p in form.parts])
    center = (vertices.min(0) + vertices.max(0)) / 2
    scale = 0.98 / np.linalg.norm(vertices - center, axis=1).max()
    turn = about(2, angle := rng.uniform(0, 2 * np.pi))
    parts = [replace(p, vertices=(p.vertices - center) * scale @ turn.T, normals=p.normals @ turn.T,
                     size=(p.size[0] * scale, p.size[1] * scale)) for p in form.parts]
    return replace(form, parts=parts, seen_from=tuple(float(a + np.degrees(angle)) for a in form.seen_from))
