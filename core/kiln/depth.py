"""The kiln's depth estimator: how near each point of an object is in one picture of it, as MiDaS tells of photographs (Ranftl et al. 2022).

A GLPN of transformers' (Kim et al. 2022), so that its folder is read by the same code as the Hub's estimators. It tells inverse depth, as MiDaS and
Depth Anything do, up to a shift: how far away an object of unknown size is, a picture hardly shows.
"""

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm
from transformers import DPTImageProcessor, GLPNConfig, GLPNForDepthEstimation

from . import renderer
from .data import Views, make_form, on_white
from .loop import fit, make_fast
from .zero123 import CAMERA

BATCH = 32
SIDE = 64  # px of the pictures that it sees
NEAR, FAR = 2.0, 4.4  # distances of the unit ball's ends from the nearest and the farthest camera: 1 and 0
SCALE = 1 / NEAR - 1 / FAR  # by which what it tells is inverse depth, but for a shift
SCALES = 3  # at which differences are compared


def new_estimator() -> GLPNForDepthEstimation:
    return GLPNForDepthEstimation(GLPNConfig(hidden_sizes=[32, 64, 96, 160], depths=[2, 2, 2, 2], num_attention_heads=[1, 2, 4, 4], sr_ratios=[4, 2, 1, 1],
                                             mlp_ratios=[3, 3, 3, 3], decoder_hidden_size=32, max_depth=1, drop_path_rate=0.0,
                                             inverse_depth_scale=SCALE))


def new_processor() -> DPTImageProcessor:
    """Depth Anything's: GLPN's own leaves sizes as they are."""
    half = [0.5, 0.5, 0.5]
    return DPTImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=half, image_std=half)


def distances(world: str, records: list[dict], quiet: bool = False) -> torch.Tensor:
    """From each view's camera to the object, along rays: (N, SIDE, SIDE) fp16, 0 where there is none. Records of an object follow one another."""
    renderer.check_renderer()
    objects, found = [list(views) for _, views in groupby(records, key=lambda r: r["object"])], []
    for views in tqdm(objects, f"distances in {world}", unit="object", disable=quiet):
        form, _ = make_form(world, views[0]["object"])
        cameras = [renderer.View(*(r[key] for key in CAMERA)) for r in views]
        found.append(renderer.distances(form.parts, cameras, SIDE).astype(np.float16))
    return torch.from_numpy(np.concatenate(found))


def inverse(distance: torch.Tensor) -> torch.Tensor:
    """1 at NEAR, 0 at FAR."""
    return (1 / distance.clamp(NEAR, FAR) - 1 / FAR) / SCALE


def difference(predicted: torch.Tensor, true: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mean over the objects' pixels of the error but for each picture's own shift, and of its differences between neighbours at several scales
    (MiDaS, Eq. 11), by which rims and handles stand out. All (B, H, W)."""
    error = (predicted - true) * mask
    shift = error.sum((1, 2), keepdim=True) / mask.sum((1, 2), keepdim=True).clamp(min=1)  # how large or how far away it is, none can tell
    mean, edges = ((error - shift).abs() * mask).sum() / mask.sum().clamp(min=1), 0.0
    for scale in range(SCALES):
        e, m = error[:, :: 2**scale, :: 2**scale], mask[:, :: 2**scale, :: 2**scale]
        for axis in (1, 2):
            both = m.narrow(axis, 1, m.shape[axis] - 1) & m.narrow(axis, 0, m.shape[axis] - 1)
            edges = edges + (e.diff(dim=axis).abs() * both).sum() / both.sum().clamp(min=1)
    return {"loss": mean + edges + 0.1 * shift.abs().mean(), "mean": mean}


def altered(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] on white in other colours, half of them blotched and half of them softened, as Zero-1-to-3's are: what is painted
    is not to matter. mask: their objects (B, H, W)."""
    batch, side, device = len(x), x.shape[-1], x.device

    def half() -> torch.Tensor:
        """A random share for half of them, 0 for the rest: (B, 1, 1, 1)."""
        return (torch.rand(batch, 1, 1, 1, device=device) * 2 - 1).clamp(min=0)

    order = torch.rand(batch, 3, device=device).argsort(1)
    x = (x.gather(1, order[:, :, None, None].expand_as(x)) / 2 + 0.5).clamp(0, 1)
    x = x ** torch.empty(batch, 3, 1, 1, device=device).uniform_(-0.7, 0.7).exp()  # white stays white
    grain = int(torch.randint(6, 20, ()))
    blotches = F.interpolate(torch.randn(batch, 1, grain, grain, device=device), size=side, mode="bicubic").mul(4).sigmoid()
    tint = torch.rand(batch, 3, 1, 1, device=device)
    x = x * (1 - half().sqrt() * blotches * mask[:, None] * (1 - tint))
    soft = F.interpolate(F.interpolate(x, size=side // 2, mode="area"), size=side, mode="bilinear")
    return torch.lerp(x, soft, half()) * 2 - 1


def train(views: Views, distance: torch.Tensor, folder: Path, device: torch.device, steps: int, made_from: str, batch_size: int = BATCH,
          sample: Callable[[nn.Module, int], None] | None = None, quiet: bool = False) -> GLPNForDepthEstimation:
    """On views and the distances (N, SIDE, SIDE) in them, and on their mirror images. made_from: tells them from others. sample: as in `fit`."""
    torch.manual_seed(0)
    model = new_estimator().to(device)
    make_fast(device, steps, model)

    def loss(step):
        index = torch.randint(len(distance), (batch_size,))
        d = distance[index].to(device).float()
        x = altered(on_white(views.images[index.numpy()], device), d > 0)
        flip = torch.rand(batch_size, 1, 1, device=device) < 0.5
        x, d = torch.where(flip[:, None], x.flip(-1), x), torch.where(flip, d.flip(-1), d)
        return difference(model(x).predicted_depth.float(), inverse(d), d > 0)

    return fit(model, loss, steps, 1e-3, folder, made_from=f"{made_from} {batch_size}", sample=sample, quiet=quiet)
