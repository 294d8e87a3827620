"""Measures between sets of features (N, d): extracted once, then compared, resampled, and searched for neighbours."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from . import measures


class AsTheyAre(nn.Identity):
    """Features in place of images, for the measures that extract them by themselves."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features


@torch.inference_mode()
def extract(extractor: nn.Module, batches: Iterable[torch.Tensor], device: torch.device | str = "cpu") -> torch.Tensor:
    """Features (N, d) of images in batches (B, 3, H, W) as the extractor takes them, on the CPU."""
    return torch.cat([extractor(x.to(device)).float().cpu() for x in batches])


def fid(real: torch.Tensor, fake: torch.Tensor) -> float:
    """Frechet distance of two sets of features (Heusel et al. 2017), as torchmetrics' is, by symmetric eigenproblems: fast enough for a bootstrap."""
    (mean, cov), (fake_mean, fake_cov) = ((x.double().mean(0), torch.atleast_2d(x.double().T.cov())) for x in (real, fake))
    values, vectors = torch.linalg.eigh(cov)
    root = vectors * values.clamp(min=0).sqrt()  # cov = root root^T, so that root^T fake_cov root has the eigenvalues of cov fake_cov
    between = torch.linalg.eigvalsh(root.T @ fake_cov @ root).clamp(min=0).sqrt().sum()
    return float((mean - fake_mean).square().sum() + cov.trace() + fake_cov.trace() - 2 * between)


def kid(real: torch.Tensor, fake: torch.Tensor) -> float:
    """Kernel distance of two sets of features (Binkowski et al. 2018)."""
    return measures.kid(AsTheyAre(real.shape[1]), real, fake)


def fid_with_interval(real: torch.Tensor, fake: torch.Tensor, resamples: int = 200, device: torch.device | str = "cpu", seed: int = 0,
                      ) -> tuple[float, float, float]:
    """FID, and its 95% interval by bootstrap: each set is drawn anew, with replacement (Efron 1979); on a CUDA device if that is where it is asked for,
    as Inception's 2048 features take a CPU half a minute a resample.

    FID grows as sets shrink, and grows once more in a resample, which has fewer distinct members: the interval is moved by what the
    resamples are off on average. So it is that of the figure *at these counts*, whose own excess all methods share. Near the FID of one
    distribution to itself it is up to twice as wide as FID varies, elsewhere about as wide.
    """
    if torch.device(device).type == "cuda":
        real, fake = real.to(device), fake.to(device)
    generator, value = torch.Generator().manual_seed(seed), fid(real, fake)
    drawn = [fid(*(x[torch.randint(len(x), (len(x),), generator=generator)] for x in (real, fake))) for _ in range(resamples)]
    low, high = np.quantile(drawn, (0.025, 0.975)) - np.mean(drawn) + value
    return value, float(low), float(high)


def mean_with_interval(x: torch.Tensor, resamples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """The mean of numbers (N,), and its 95% interval by bootstrap, which is within their range."""
    drawn = x[torch.randint(len(x), (resamples, len(x)), generator=torch.Generator().manual_seed(seed))].double().mean(1)
    return float(x.double().mean()), *drawn.quantile(drawn.new_tensor([0.025, 0.975])).tolist()


def nearest(x: torch.Tensor, others: torch.Tensor, k: int = 1) -> torch.Tensor:
    """Distances (N, k) of features (N, d) to their k nearest of others (M, d), the nearest first."""
    return torch.cat([torch.cdist(part, others).topk(k, largest=False).values for part in x.split(1024)])


def density_coverage(real: torch.Tensor, fake: torch.Tensor, k: int = 5) -> dict[str, float]:
    """Fidelity and diversity (Naeem et al. 2020), of balls around each real one that reach to its k-th nearest real neighbour.

    density: how many balls a fake lies in, over k; about 1 for fakes like the real ones, more where they crowd together.
    coverage: the share of balls with a fake in them; 1 at best.
    """
    k = min(k, len(real) - 1)
    radius = nearest(real, real, k + 1)[:, -1]  # the nearest is itself
    inside, covered = 0, torch.zeros(len(real), dtype=torch.bool)
    for part in fake.split(1024):
        within = torch.cdist(real, part) < radius[:, None]  # (N, <= 1024)
        inside, covered = inside + int(within.sum()), covered | within.any(1)
    return {"density": inside / (k * len(fake)), "coverage": float(covered.float().mean())}


def memorising(train: torch.Tensor, fake: torch.Tensor, held_out: torch.Tensor, quantile: float = 0.05) -> dict[str, float]:
    """How near generated images come to training images, beside held-out ones, which nobody could copy.

    copied: the share that is nearer than all but `quantile` of the held-out ones, about that `quantile` where nothing is memorised.
    ratio: of the median distances, about 1 there, and near 0 for copies.
    """
    theirs, ours = nearest(held_out, train)[:, 0], nearest(fake, train)[:, 0]
    return {"copied": float((ours < theirs.quantile(quantile)).float().mean()), "ratio": float(ours.median() / theirs.median().clamp(min=1e-12))}


def fidelity(train: torch.Tensor, fake: torch.Tensor, held_out: torch.Tensor, resamples: int, device: torch.device | str = "cpu") -> dict:
    """All of the above, of images that were made without a text: FID with its interval, KID, density and coverage, and how many are copies."""
    return {"images": len(fake), "fid": fid_with_interval(train, fake, resamples, device), "kid": kid(train, fake), **density_coverage(train, fake),
            **memorising(train, fake, held_out)}


def win_rates(right: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """The share of images at which each method wins (methods,), in place of people's preference: it is the judge's.

    right: (methods, images) whether an image shows what was asked for; distance: (methods, images) how far it is from the domain's held-out
    pictures. At each prompt and seed one method wins: of those that are right, or of all where none is, the nearest.
    """
    score = np.where(right == right.max(0), distance, np.inf)
    return np.bincount(score.argmin(0), minlength=len(score)) / score.shape[1]
