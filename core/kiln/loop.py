"""The one training loop of the kiln: resumable, logged, with an exponential moving average."""

import csv
import hashlib
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from ..checkpoints import checkpointed, fingerprint, save_atomically
from ..interrupts import kept_in

logger = logging.getLogger(__name__)


def digest(*inputs) -> str:
    """A short hash of what a stage learns from: arrays, tensors, and whatever JSON can say."""
    whole = hashlib.sha256()
    for x in inputs:
        whole.update(np.ascontiguousarray(x) if isinstance(x, (np.ndarray, torch.Tensor)) else json.dumps(x).encode())
    return whole.hexdigest()[:16]


def fit(
    model: nn.Module,
    loss: Callable[[int], dict[str, torch.Tensor]],
    steps: int,
    learning_rate: float,
    folder: Path,
    *,
    made_from: str = "",
    ema: float = 0.995,
    warmup: int = 100,
    weight_decay: float = 0.01,
    checkpoint_seconds: float = 120,
    sample: Callable[[nn.Module, int], None] | None = None,
    sample_every: int = 1000,
    quiet: bool = False,
) -> nn.Module:
    """Train `model` in place for `steps` and return its moving average.

    `loss(step)` gives a dict whose "loss" is minimised and whose other entries are only logged. All randomness of a step is
    seeded by its number, so that a killed and resumed run ends like one that was not. Warm-up, then cosine to a tenth.
    made_from: the `digest` of the data. A run begun on other data, or from other weights than `model` has now, starts anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log = folder / "checkpoint.pt", folder / "loss.csv"
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema))
    average.requires_grad_(False)
    first, made_from = 0, f"{fingerprint(model)} {made_from}"
    state = torch.load(checkpoint, map_location=params[0].device, weights_only=True) if checkpoint.exists() else {}
    if state and state.get("made_from") != made_from:
        logger.info("%s was begun on other data or models: it starts anew", folder.name)
        log.unlink(missing_ok=True)
    elif state:
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        logger.info("%s goes on at step %d of %d", folder.name, first, steps)

    def save(step: int) -> None:
        state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
        save_atomically(state | {"step": step, "made_from": made_from}, checkpoint)

    means = {}
    bar = tqdm(range(first, steps), folder.name, initial=first, total=steps, disable=quiet, mininterval=5)
    with kept_in(folder):
        for step in checkpointed(bar, folder.name, save, checkpoint_seconds):
            torch.manual_seed(step)
            scale = min(1, (step + 1) / warmup) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * scale
            terms = loss(step)
            optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()
            nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
            average.update_parameters(model)
            for key, value in terms.items():
                means[key] = 0.98 * means.get(key, value.item()) + 0.02 * value.item()
            if (step + 1) % 20 == 0:
                bar.set_postfix({k: f"{v:.4f}" for k, v in means.items()})
                with open(log, "a", newline="") as f:
                    csv.writer(f).writerow([step + 1, *(f"{v:.6f}" for v in means.values())])
            if sample and (step + 1) % sample_every == 0:
                sample(average.module, step + 1)
    return average.module.eval()
