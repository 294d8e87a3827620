"""Shapes of the kiln's world: surfaces of revolution, swept tubes and boxes, put together into objects.

Every object is a `Form`: `Part`s, z up, centred at the origin and inside the unit sphere.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.interpolate import PchipInterpolator

SEGMENTS = 200  # around an axis of revolution; a vertex is about one pixel of a 128 px view


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


def revolve(profile: np.ndarray, role: str = "body", v_range=(0.0, 1.0)) -> Part:
    """Turn a profile of (radius, z) points about the z axis; going up on the outside faces outward."""
    profile = np.asarray(profile, float)
    r, z = profile.T
    dr, dz = np.gradient(profile, axis=0).T
    theta = np.linspace(0, 2 * np.pi, SEGMENTS + 1)
    c, s = np.cos(theta)[:, None], np.sin(theta)[:, None]
    vertices = np.stack([r * c, r * s, z + 0 * c], -1)
    normals = np.stack([dz * c, dz * s, -dr + 0 * c], -1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-12
    length = np.linalg.norm(np.diff(profile, axis=0), axis=1)
    along = np.concatenate([[0], np.cumsum(length)])
    v = v_range[0] + (v_range[1] - v_range[0]) * along / along[-1]
    uv = np.stack(np.broadcast_arrays(theta[:, None] / (2 * np.pi), v), -1)
    size = (2 * np.pi * float(np.percentile(r, 75)), float(along[-1]))
    return Part(vertices.reshape(-1, 3), normals.reshape(-1, 3), uv.reshape(-1, 2), grid_faces(*uv.shape[:2]), size, role)


def vessel(outer, wall: float = 0.05) -> list[Part]:
    """An open pot with a thick wall from the control points of its outer profile, foot to lip."""
    curve = smooth(outer)
    base = np.stack([np.linspace(0, curve[0, 0], 12), np.full(12, curve[0, 1])], 1)
    inner = curve[::-1] - [wall, 0]
    inner = inner[(inner[:, 0] > 0.02) & (inner[:, 1] > curve[0, 1] + wall)]
    inner = np.concatenate([inner, [[0, inner[-1, 1]]]])
    lip = np.stack([np.linspace(curve[-1, 0], inner[0, 0], 8), curve[-1, 1] + wall * 0.4 * np.sin(np.linspace(0, np.pi, 8))], 1)
    inside = smooth(np.concatenate([lip, inner[4:]]), 60)
    return [revolve(curve), revolve(base, "limb"), revolve(inside, "body", (1.0, 2.0))]


def sweep(path, radius, role: str = "limb", samples: int = 48, segments: int = 20) -> Part:
    """A tube along a smooth path; `radius` is one number or one per control point."""
    path = np.asarray(path, float)
    radius = np.broadcast_to(np.asarray(radius, float), len(path))
    curve = smooth(np.concatenate([path, radius[:, None]], 1), samples)
    path, radius = curve[:, :3], curve[:, 3]
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.cross(tangent, [0.0, 1.0, 0.0] if abs(tangent[:, 1]).max() < 0.9 else [1.0, 0.0, 0.0])
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    theta = np.linspace(0, 2 * np.pi, segments + 1)[None, :, None]
    normals = np.cos(theta) * side[:, None] + np.sin(theta) * np.cross(tangent, side)[:, None]
    vertices = path[:, None] + radius[:, None, None] * normals
    uv = np.stack(np.meshgrid(np.linspace(0, 1, samples), theta.ravel() / (2 * np.pi), indexing="ij")[::-1], -1)
    length = float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
    faces = grid_faces(samples, segments + 1)[:, ::-1]
    return Part(vertices.reshape(-1, 3), normals.reshape(-1, 3), uv.reshape(-1, 2), faces, (2 * np.pi * float(radius.mean()), length), role)


def box(center, size, role: str = "body", cells: int = 48) -> list[Part]:
    """Six flat faces, finely divided so that vertex colours can carry a pattern."""
    center, half = np.asarray(center, float), np.asarray(size, float) / 2
    parts = []
    a, b = np.meshgrid(np.linspace(-1, 1, cells), np.linspace(-1, 1, cells), indexing="ij")
    uv = np.stack([a, b], -1).reshape(-1, 2) / 2 + 0.5
    for axis in range(3):
        for sign in (-1, 1):
            i, j = (axis + 1) % 3, (axis + 2) % 3
            grid = np.zeros((cells, cells, 3))
            grid[..., axis], grid[..., i], grid[..., j] = sign, a, b
            normal = np.zeros(3)
            normal[axis] = sign
            vertices = (grid * half + center).reshape(-1, 3)
            faces = grid_faces(cells, cells)[:, :: sign]
            parts.append(Part(vertices, np.broadcast_to(normal, vertices.shape).copy(), uv, faces, (2 * half[i], 2 * half[j]), role))
    return parts


def dome(radius: float, height: float, z: float, role: str = "body") -> Part:
    """A lid: a flattened half ball standing on z, its rim of `radius` outward."""
    t = np.linspace(0, np.pi / 2, 40)
    return revolve(np.stack([radius * np.cos(t), z + height * np.sin(t)], 1), role)


def knob(radius: float, z: float) -> Part:
    t = np.linspace(-np.pi / 2, np.pi / 2, 24)
    return revolve(np.stack([radius * np.cos(t), z + radius * np.sin(t)], 1), "limb")


def handle(x: float, low: float, high: float, reach: float, thickness: float) -> Part:
    """An ear on the +x side, from (x, low) out by `reach` and back to (x, high)."""
    mid = (low + high) / 2
    return sweep([(x - 0.04, 0, low), (x + 0.75 * reach, 0, low + 0.12 * (high - low)), (x + reach, 0, mid),
                  (x + 0.75 * reach, 0, high - 0.12 * (high - low)), (x - 0.04, 0, high)], thickness)


def vase(u):
    foot, belly, neck, lip = u(0.24, 0.38), u(0.42, 0.66), u(0.16, 0.30), u(0.26, 0.46)
    at = u(0.35, 0.6)
    return vessel([(foot, 0), (foot * 1.02, 0.06), (belly * 0.86, at * 0.55), (belly, at), (belly * 0.8, at + 0.35),
                   (neck, at + u(0.62, 0.8)), (neck * 1.05, at + 0.9), (lip, at + u(1.05, 1.2))])


def bottle(u):
    body, neck, shoulder = u(0.36, 0.5), u(0.09, 0.14), u(0.85, 1.05)
    return vessel([(body * 0.9, 0), (body, 0.1), (body, shoulder), (body * 0.7, shoulder + 0.2), (neck, shoulder + 0.38),
                   (neck, shoulder + u(0.7, 0.95)), (neck * 1.5, shoulder + 1.0)], wall=0.035)


def bowl(u):
    foot, height = u(0.28, 0.4), u(0.55, 0.85)
    return vessel([(foot, 0), (foot, 0.1), (u(0.62, 0.8), height * 0.45), (0.92, height * 0.85), (u(0.94, 1.04), height)])


def plate(u):
    depth = u(0.12, 0.24)
    return vessel([(0.5, 0), (0.52, 0.03), (0.7, depth * 0.45), (0.95, depth * 0.85), (1.05, depth)], wall=0.04)


def jar(u):
    foot, belly, neck, height = u(0.34, 0.44), u(0.55, 0.72), u(0.28, 0.36), u(0.95, 1.25)
    lid = neck * u(1.15, 1.3)
    rim = height + 0.1
    return [*vessel([(foot, 0), (belly * 0.85, height * 0.3), (belly, height * 0.62), (belly * 0.8, height * 0.9), (neck, height), (neck, rim)]),
            revolve([(lid, rim), (lid, rim + 0.06)]), revolve([(0, rim), (lid, rim)], "limb"),
            dome(lid, u(0.18, 0.3), rim + 0.06), knob(u(0.07, 0.1), rim + 0.36)]


def cup(u):
    foot, lip, height = u(0.38, 0.5), u(0.52, 0.62), u(0.85, 1.1)
    body = vessel([(foot, 0), (foot * 1.05, 0.05), ((foot + lip) / 2 * u(1.0, 1.1), height * 0.5), (lip, height)])
    return [*body, handle((foot + lip) / 2, 0.2 * height, 0.85 * height, u(0.3, 0.42), u(0.05, 0.07))]


def teapot(u):
    belly, height, neck = u(0.56, 0.66), u(0.75, 0.95), u(0.26, 0.34)
    mid = height * 0.48
    body = vessel([(belly * 0.6, 0), (belly * 0.95, height * 0.25), (belly, mid), (belly * 0.85, height * 0.8), (neck, height), (neck, height + 0.02)])
    spout = sweep([(-belly * 0.75, 0, mid * 0.7), (-belly - 0.2, 0, mid * 0.9), (-belly - 0.32, 0, height * 0.8),
                   (-belly - u(0.42, 0.5), 0, height * u(1.0, 1.12))], [0.15, 0.12, 0.08, 0.06])
    return [*body, spout, handle(belly * 0.9, 0.2 * height, 0.85 * height, u(0.32, 0.42), u(0.05, 0.07)),
            revolve([(0, height + 0.02), (neck * 1.1, height + 0.02)], "limb"),
            dome(neck * 1.1, u(0.12, 0.2), height + 0.02), knob(u(0.07, 0.1), height + 0.25)]


def ball(u):
    t = np.linspace(-np.pi / 2, np.pi / 2, 100)
    return [revolve(np.stack([np.cos(t), np.sin(t)], 1))]


def cube(u):
    return box((0, 0, 0), (1, 1, 1))


def cone(u):
    height = u(1.3, 2.2)
    side = np.linspace((0.8, 0), (0.0, height), 100)
    return [revolve(side), revolve(np.linspace((0, 0), (0.8, 0), 20), "limb")]


def ring(u):
    thickness, tilt = u(0.16, 0.3), u(0.9, 1.57)
    t = np.linspace(0, 2 * np.pi, 80)
    torus = revolve(np.stack([1 - thickness * np.cos(t), -thickness * np.sin(t)], 1)[::-1])
    c, s = np.cos(tilt), np.sin(tilt)
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])  # stands up, leaning a little
    return [replace(torus, vertices=torus.vertices @ turn.T, normals=torus.normals @ turn.T)]


def legs(width: float, depth: float, height: float, t: float) -> list[Part]:
    return [p for x in (-1, 1) for y in (-1, 1)
            for p in box((x * (width - t) / 2, y * (depth - t) / 2, height / 2), (t, t, height), "limb", cells=12)]


def chair(u):
    w, h, t, back = u(0.8, 1.0), u(0.7, 0.95), u(0.08, 0.14), u(0.8, 1.1)
    return [*box((0, 0, h), (w, w, 0.12)), *legs(w, w, h, t), *box((-w / 2 + 0.05, 0, h + back / 2), (0.1, w, back))]


def table(u):
    w, d, h, t = u(1.5, 2.0), u(1.0, 1.4), u(0.8, 1.1), u(0.1, 0.18)
    return [*box((0, 0, h), (w, d, 0.12)), *legs(w, d, h, t)]


def mushroom(u):
    stem, cap, height, top = u(0.14, 0.26), u(0.6, 0.9), u(0.6, 0.9), u(0.35, 0.7)
    return [revolve(smooth([(stem * 1.3, 0), (stem, height * 0.4), (stem, height + 0.1)], 40), "limb"),
            revolve(np.linspace((0, height), (cap, height - 0.03), 20), "limb"), dome(cap, top, height - 0.03)]


POTTERY = {f.__name__: f for f in (vase, bottle, bowl, plate, jar, cup, teapot)}
SHAPES = POTTERY | {f.__name__: f for f in (ball, cube, cone, ring, chair, table, mushroom)}


def build(name: str, make: Callable[[Callable], list[Part] | Form], rng: np.random.Generator) -> Form:
    """What `make` makes of random proportions, turned at random about z (and what it is seen from with it) and scaled into the unit sphere."""
    made = make(lambda low, high: float(rng.uniform(low, high)))
    form = made if isinstance(made, Form) else Form(name, made)
    vertices = np.concatenate([p.vertices for p in form.parts])
    center = (vertices.min(0) + vertices.max(0)) / 2
    scale = 0.98 / np.linalg.norm(vertices - center, axis=1).max()
    c, s = np.cos(turn := rng.uniform(0, 2 * np.pi)), np.sin(turn)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    parts = [replace(p, vertices=(p.vertices - center) * scale @ rotation.T, normals=p.normals @ rotation.T,
                     size=(p.size[0] * scale, p.size[1] * scale)) for p in form.parts]
    return replace(form, parts=parts, seen_from=tuple(float(a + np.degrees(turn)) for a in form.seen_from))
