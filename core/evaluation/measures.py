"""Distances between sets of images, by torchmetrics over any feature extractor."""

import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance


def _measure(metric, real: torch.Tensor, fake: torch.Tensor):
    for images, is_real in ((real, True), (fake, False)):
        for x in images.split(128):
            metric.update(x, real=is_real)
    return metric.compute()


@torch.inference_mode()
def fid(extractor: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> float:
    """Frechet distance of features; images (N, 3, H, W) as the extractor takes them (Heusel et al. 2017)."""
    return float(_measure(FrechetInceptionDistance(feature=extractor), real, fake))


@torch.inference_mode()
def kid(extractor: nn.Module, real: torch.Tensor, fake: torch.Tensor, subsets: int = 50) -> float:
    """Kernel distance of features, unbiased also for a handful of images (Binkowski et al. 2018)."""
    metric = KernelInceptionDistance(feature=extractor, subsets=subsets, subset_size=min(len(real), len(fake)))
    with torch.random.fork_rng():  # it draws its subsets: the same ones each time, so that the same images give the same figure
        torch.manual_seed(0)
        return float(_measure(metric, real, fake)[0])
