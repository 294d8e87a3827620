"""Which weights a training ends in: those of the lowest FID so far, measured until there is no lower one."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast
from torch import nn
from tqdm import tqdm

from ..checkpoints import cached
from ..errors import UserError
from ..null_text import NullTextUNet
from ..pipeline import InDomainPipeline
from .data import Pictures


@dataclass
class KeepBest:
    """measure: a network -> its FID. every: steps. patience: so many measurements in a row without a lower one end the training; None: none do."""

    measure: Callable[[nn.Module], float]
    every: int
    patience: int | None = None
    scores: list[tuple[int, float]] = field(default_factory=list)  # (steps, FID)
    weights: list[torch.Tensor] = field(default_factory=list)  # the parameters at the best of them, on the CPU

    def look(self, unet: nn.Module, step: int) -> float:
        """Measure `unet` as it is after so many steps, and keep it where it is the best."""
        self.scores.append((step, self.measure(unet)))
        if self.best == self.scores[-1]:
            self.weights = [p.detach().cpu().clone() for p in unet.parameters()]
        return self.scores[-1][1]

    @property
    def best(self) -> tuple[int, float]:
        """Its steps and FID; of equals the first, and one that is not a number only where there is no other."""
        return min(self.scores, key=lambda score: math.inf if math.isnan(score[1]) else score[1])

    @property
    def has_converged(self) -> bool:
        return bool(self.patience and self.scores) and len(self.scores) - 1 - self.scores.index(self.best) >= self.patience

    @torch.no_grad()
    def copy_to(self, unet: nn.Module) -> None:
        for parameter, best in zip(unet.parameters(), self.weights, strict=True):
            parameter.copy_(best)

    def state_dict(self) -> dict:
        return {"scores": self.scores, "weights": self.weights}

    def load_state_dict(self, state: dict) -> None:
        self.scores, self.weights = state["scores"], [w.cpu() for w in state["weights"]]


def find_fid_features(judge: str | None) -> nn.Module:
    """The network whose features FID compares: the kiln's judge in a file, or Inception. Raises UserError where it cannot be had."""
    try:
        from ..evaluation.measures import find_extractor
    except ModuleNotFoundError as error:
        raise UserError("FID needs torchmetrics: pip install 'ingen3d[fid]', or leave --fid-every out") from error
    return find_extractor(judge)


def domain_images(
    pipe: InDomainPipeline, count: int, at_once: int, seed: int, autocast: AbstractContextManager, quiet: bool = True
) -> Iterator[torch.Tensor]:
    """(<= at_once, 3, H, W) in [-1, 1]: what the domain looks like, each image always from the same noise."""
    for first in tqdm(range(0, count, at_once), "FID", leave=False, disable=quiet):
        generators = [torch.Generator().manual_seed(seed + i) for i in range(first, min(first + at_once, count))]
        with autocast:
            batch = pipe(None, num_images_per_prompt=len(generators), generator=generators, output_type="pt").images
        yield batch.float() * 2 - 1


def fid_measure(
    pipe: InDomainPipeline, pictures: Pictures, file: Path, extractor: nn.Module, count: int, at_once: int, seed: int,
    autocast: AbstractContextManager, quiet: bool,
) -> Callable[[NullTextUNet], float]:
    """`measure` for KeepBest: FID of `count` images in the domain, always from the same noise, to all the pictures, whose
    statistics are kept in `file`. Of several processes the main one measures, and all get to know. Raises UserError for a single picture."""
    from ..evaluation.measures import fid_to, real_statistics

    state, device = PartialState(), pipe.device if pipe.device.type == "cuda" else torch.device("cpu")  # mps has no float64, which FID needs
    if state.is_main_process:
        real = cached(file, lambda: real_statistics(extractor, pictures.batches(at_once, quiet), device))
        if real["real_features_num_samples"] < 2:
            raise UserError(f"there is one picture in {pictures.source}, and FID compares sets: give more, or leave --fid-every out")

    def measure(unet: NullTextUNet) -> float:
        score = torch.zeros((), device=pipe.device)
        if state.is_main_process:
            pipe.domain_unet = unet
            score += fid_to(real, extractor, domain_images(pipe, count, at_once, seed, autocast, quiet), device)
        return broadcast(score).item()

    return measure
