"""Distances between sets of images, by torchmetrics over any feature extractor."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from torchmetrics.image.kid import KernelInceptionDistance

from ..errors import UserError
from ..images import reason

REAL = ("real_features_sum", "real_features_cov_sum", "real_features_num_samples")  # the part of torchmetrics' FID that stays the same


class Inception(nn.Module):
    """The features that FID is measured by in papers (Heusel et al. 2017), of images in [-1, 1]. Raises UserError where they cannot be had."""

    num_features = 2048

    def __init__(self):
        super().__init__()
        try:
            self.net = NoTrainInceptionV3("inception-v3-compat", [str(self.num_features)])
        except ModuleNotFoundError as error:
            raise UserError("FID on this prior needs torch-fidelity: pip install 'ingen3d[fid]'") from error
        except OSError as error:  # its weights are downloaded at first
            raise UserError(f"could not get the weights of FID's Inception network ({reason(error)}): try again with a network") from error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(((x + 1) * 127.5).round().clamp(0, 255).byte())


def find_extractor(judge: str | None) -> nn.Module:
    """What FID is measured by: the kiln's judge in a file, or Inception. Raises UserError."""
    if judge is None:
        return Inception().eval()
    from ..kiln.judge import Judge

    return Judge.load(Path(judge))


@torch.inference_mode()
def real_statistics(extractor: nn.Module, real: Iterable[torch.Tensor], device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """What `fid_to` needs to know of the real images, given in batches (B, 3, H, W) as the extractor takes them."""
    metric = FrechetInceptionDistance(feature=extractor, sync_on_compute=False).to(device)
    for x in real:
        metric.update(x.to(device), real=True)
    return {name: getattr(metric, name).cpu() for name in REAL}


@torch.inference_mode()
def fid_to(statistics: dict[str, torch.Tensor], extractor: nn.Module, fake: Iterable[torch.Tensor], device: torch.device | str = "cpu") -> float:
    """Frechet distance of features (Heusel et al. 2017) of images in batches, to `real_statistics` of others."""
    metric = FrechetInceptionDistance(feature=extractor, sync_on_compute=False).to(device)
    for name, value in statistics.items():
        setattr(metric, name, value.to(device))
    for x in fake:
        metric.update(x.to(device), real=False)
    return float(metric.compute())


def edge_f_score(edges: np.ndarray, asked: np.ndarray, tolerance: float = 1.5) -> float:
    """F-score of edges (H, W) bool, found and asked for: shares of each within `tolerance` pixels of the other, 0 if one has none."""
    if not edges.any() or not asked.any():
        return 0.0
    precision, recall = ((distance_transform_edt(~other)[these] <= tolerance).mean() for these, other in ((edges, asked), (asked, edges)))
    return float(2 * precision * recall / max(precision + recall, 1e-8))


@torch.inference_mode()
def kid(extractor: nn.Module, real: torch.Tensor, fake: torch.Tensor, subsets: int = 50) -> float:
    """Kernel distance of features, unbiased also for a handful of images (Binkowski et al. 2018)."""
    size = min(1000, len(real), len(fake))  # torchmetrics' own: a subset takes its square in time and memory
    metric = KernelInceptionDistance(feature=extractor, subsets=subsets, subset_size=size)
    for images, is_real in ((real, True), (fake, False)):
        for x in images.split(128):
            metric.update(x, real=is_real)
    with torch.random.fork_rng():  # it draws its subsets: the same ones each time, so that the same images give the same figure
        torch.manual_seed(0)
        return float(metric.compute()[0])
