"""How close a mesh comes to the true one, as Chamfer distance and F-score, and the kiln's own true meshes."""

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from core.kiln.data import HELD_OUT_EVERY, WORLDS
from core.kiln.shapes import Part

SAMPLES, QUERIES = 200_000, 10_000  # points on a mesh; of these, how many ask for their nearest on the other: two samplings of one lie 0.004 apart
THRESHOLDS = (0.02, 0.1)  # of the F-score: 1 % (as Tatarchenko et al. 2019 advise) and 5 % of the side of the cube about the unit ball


def true_mesh(parts: list[Part]) -> trimesh.Trimesh:
    """The kiln's object as one mesh in the renderer's world, which is that of `cameras`: z up, azimuth 0 from +x."""
    return trimesh.util.concatenate([trimesh.Trimesh(p.vertices, p.faces, process=False) for p in parts])


def held_out(name: str, count: int, world: str = "porcelain") -> list[int]:
    """The first `count` objects of a class that no model has seen, for `core.kiln.data.make_object`: see `core.kiln.data.class_of`."""
    classes = WORLDS[world].classes
    return [HELD_OUT_EVERY * (classes.index(name) + len(classes) * k) for k in range(count)]


def shape_errors(found: trimesh.Trimesh, true: trimesh.Trimesh) -> dict[str, float]:
    """Between two meshes in one frame. Lengths are fractions of the true mesh's bounding radius, about the centre of its box.

    chamfer: the mean distance of a point to the other surface, found to true and true to found, averaged. f_score_T: the harmonic mean
    of the shares of each surface's points that lie within T of the other (Knapitsch et al. 2017), for T of THRESHOLDS.
    Only what can be seen from outside counts: no picture tells of all of a vase's inside, and none shows it.
    """
    radius = np.linalg.norm(true.vertices - true.bounds.mean(0), axis=1).max()
    a, b = (seen(trimesh.sample.sample_surface(mesh, SAMPLES, seed=0)[0]) / radius for mesh in (found, true))  # in random order
    to_true, to_found = (cKDTree(other).query(points[:QUERIES])[0] for points, other in ((a, b), (b, a)))
    return {"chamfer": float(to_true.mean() + to_found.mean()) / 2} | {f"f_score_{t}": f_score(to_true <= t, to_found <= t) for t in THRESHOLDS}


def f_score(precise: np.ndarray, recalled: np.ndarray) -> float:
    """Harmonic mean of two shares, 0 where both are."""
    precision, recall = precise.mean(), recalled.mean()
    return float(2 * precision * recall / max(precision + recall, 1e-12))


def seen(points: np.ndarray, directions: int = 60, cells: int = 48, depth: float = 0.03) -> np.ndarray:
    """Those of a surface's points (N, 3) that can be seen from outside, in their order.

    directions: from which one looks, evenly over the sphere (a Fibonacci spiral). What lies deeper than `depth`, in units of the points'
    extent, below the highest of its cell in a raster of `cells` squared is hidden there.
    """
    points = np.asarray(points, float)
    centred = points - (points.min(0) + points.max(0)) / 2
    extent = np.linalg.norm(centred, axis=1).max() + 1e-9
    z = 1 - (2 * np.arange(directions) + 1) / directions
    turn = np.pi * (1 + 5**0.5) * np.arange(directions)
    towards = np.stack([np.sqrt(1 - z * z) * np.cos(turn), np.sqrt(1 - z * z) * np.sin(turn), z], 1)
    visible = np.zeros(len(points), bool)
    for direction in towards:
        across = np.linalg.svd(direction[None])[2][1:]  # two axes across the direction
        x, y = ((centred @ across.T / extent + 1) * (cells / 2)).astype(int).T
        height, top = centred @ direction / extent, np.full(cells * cells, -np.inf)
        np.maximum.at(top, x * cells + y, height)
        visible |= height > top[x * cells + y] - depth
    return points[visible]
