"""How well Zero-1-to-3 knows the kiln's objects from other cameras, and the depth estimator how near they are: measured on objects that no model has seen."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from core.errors import UserError
from core.images import to_pil
from core.kiln.data import choose, load_views, on_white
from core.kiln.depth import distances
from core.kiln.renderer import FOV_DEG

from .cameras import Cameras
from .depth import DepthEstimator, fitted
from .foreground import foreground
from .zero123 import Zero123


def novel_view_quality(model: Zero123, data: Path, count: int = 200, seed: int = 0, steps: int = 25, batch_size: int = 25,
                       quiet: bool = False) -> dict[str, float]:
    """PSNR in dB of novel views on white and IoU of their silhouettes, means over `count` held-out objects of the base world.

    Each is seen from one of its photo views and asked for from another of its cameras, both drawn at random.
    """
    views = load_views(data / "base", "test")
    rng, of = np.random.default_rng(seed), defaultdict(list)
    for i, record in enumerate(views.records):
        of[record["object"]].append(i)
    pairs = []
    objects = list(of.values())
    for rows in (objects[i] for i in choose(len(objects), count)):
        reference = rng.choice([i for i in rows if views.records[i]["photo"]])
        pairs.append((reference, rng.choice([i for i in rows if i != reference])))
    psnr, iou, generator = [], [], torch.Generator().manual_seed(seed)
    for start in tqdm(range(0, len(pairs), batch_size), "novel views", disable=quiet):
        reference, target = (list(rows) for rows in zip(*pairs[start : start + batch_size]))
        x, y = (on_white(views.images[rows]) for rows in (reference, target))
        found = model.sample(model.condition(x, cameras(views.records, reference)), cameras(views.records, target),
                             num_inference_steps=steps, generator=generator).clamp(-1, 1).cpu()
        psnr += (-10 * torch.log10((((found - y) / 2) ** 2).mean((1, 2, 3)))).tolist()
        iou += [overlap(silhouette(image), views.images[i][..., 3] > 127) for image, i in zip(to_pil(found), target)]
    return {"psnr": float(np.mean(psnr)), "iou": float(np.mean(iou)), "count": len(pairs)}


@torch.no_grad()
def depth_error(estimator: DepthEstimator, data: Path, count: int = 200, quiet: bool = False) -> dict[str, float]:
    """Mean error of distances, in radii of the unit ball, over `count` held-out views from all around, each moved to fit best; the same of
    flat pictures, which tell nothing."""
    views = load_views(data / "around", "test").some(count)
    found = estimator.nearness(on_white(views.images)).cpu()
    errors = []
    for true, nearness in zip(distances("around", views.records, quiet).float(), found):
        seen = true > 0
        errors.append([(1 / fitted(x[seen], 1 / true[seen], estimator.scale) - true[seen]).abs().mean() for x in (nearness, torch.zeros_like(nearness))])
    error, flat = torch.tensor(errors).mean(0).tolist()
    return {"error": error, "flat": flat, "count": len(errors)}


def cameras(records: list[dict], rows: list[int]) -> Cameras:
    return Cameras.at(*([records[i][key] for i in rows] for key in ("elevation_deg", "azimuth_deg", "distance")), FOV_DEG)


def silhouette(image) -> np.ndarray:
    """Where the object is (H, W); nowhere where none stands out."""
    try:
        return foreground(image)[..., 3] > 0.5
    except UserError:
        return np.zeros(image.size[::-1], bool)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks."""
    return float((a & b).sum() / max(1, (a | b).sum()))
