"""Training by plain denoising loss, on one process or several: the null-text UNet (Sec. 3.3), or whatever is called as one is."""

import csv
import logging
import math
import pickle
from collections.abc import Callable, Container, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import reduce
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel, compute_snr
from torch import nn
from tqdm import tqdm

from ..checkpoints import checkpointed, save_atomically
from ..devices import is_fast_in_bf16
from ..errors import UserError
from ..images import reason
from .best import KeepBest
from .text_feature import add_noise, draw

logger = logging.getLogger(__name__)
PRECISIONS = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}  # as accelerate names them
FALLING = ("linear", "cosine")  # to 0 at the last step
LR_SCHEDULERS = ("constant", "constant_with_warmup", *FALLING)  # as diffusers names them


def find_precision(name: str, device: torch.device) -> tuple[AbstractContextManager, torch.amp.GradScaler]:
    """For the forward pass, and for the loss: fp16 loses small gradients unless it is scaled (Micikevicius et al. 2018). Raises UserError."""
    if name not in PRECISIONS:
        raise UserError(f"the mixed precision is '{name}': give one of {', '.join(PRECISIONS)}")
    if name != "no" and device.type == "cpu" and not (name == "bf16" and is_fast_in_bf16(device)):
        raise UserError(f"the mixed precision '{name}' is slower on this CPU, not faster: leave it out, or give another --device")
    try:
        autocast = torch.autocast(device.type, PRECISIONS[name], enabled=name != "no")
    except RuntimeError as error:
        raise UserError(f"this {device.type} device has no '{name}': give another --mixed-precision") from error
    return autocast, torch.amp.GradScaler(device.type, enabled=name == "fp16")


def fit(
    unet: nn.Module, gradients: Callable[[int], float], work: Path, steps: int, learning_rate: float, ema_decay: float,
    checkpoint_seconds: float, sample: Callable[[nn.Module, int], None], sample_at: Container[int], scaler: torch.amp.GradScaler,
    best: KeepBest | None = None, log: Callable[[str, float, int], None] = lambda *_: None, quiet: bool = False, name: str = "domain",
    lr_scheduler: str = "constant", lr_warmup_steps: int = 0,
) -> list[float]:
    """Train all parameters of `unet`, by default at a constant learning rate. Leaves the moving average in it, with `best` its best; returns every step's loss.

    sample: `(unet, step)`, called with the moving average in it after each step of `sample_at`. name: what is learned, for the bar.
    gradients: `(step) -> loss`, gives the parameters their gradients, scaled by `scaler`. log: `(name, value, step)`, of each loss and FID. With
    randomness that is seeded by the step's number, a resumed run is the same run. Of several processes the main one alone writes and samples.
    """
    unet.requires_grad_(True).train()
    optimizer, ema = new_optimizer(unet, learning_rate, ema_decay)
    rate = get_scheduler(lr_scheduler, optimizer, num_warmup_steps=lr_warmup_steps, num_training_steps=steps)
    parts = {"unet": unet, "optimizer": optimizer, "ema": ema, "scaler": scaler, "rate": rate} | ({"best": best} if best else {})
    checkpoint, main = work / "checkpoint.pt", PartialState().is_main_process
    history = load_checkpoint(checkpoint, parts) if checkpoint.exists() else []
    if len(history) > steps:
        raise UserError(f"the training in {work} has taken {len(history)} steps already: give at least as many, or delete that folder to start anew")
    ema.to(unet.device)
    if history and main:
        logger.info("goes on at step %d of %d", len(history), steps)
    PartialState().wait_for_everyone()  # all have read the checkpoint before it is written again

    def save(step: int) -> None:
        if not main:
            return
        save_atomically({name: part.state_dict() for name, part in parts.items()} | {"history": history}, checkpoint)
        with open(work / "loss.csv", "w", newline="") as file:
            csv.writer(file).writerows([("step", "loss"), *enumerate(history, 1)])
        if best:
            with open(work / "fid.csv", "w", newline="") as file:
                csv.writer(file).writerows([("step", "fid"), *best.scores])

    fid_at = steps_every(best.every, steps) if best else ()
    bar = tqdm(range(len(history), steps), name, initial=len(history), total=steps, disable=quiet or not main)
    for step in checkpointed(bar, name, save, checkpoint_seconds):
        if best and best.has_converged:
            save(step)
            if main:
                logger.info("no lower FID in %d measurements: ends at step %d", best.patience, step)
            break
        optimizer.zero_grad(set_to_none=True)
        history.append(gradients(step))
        if not math.isfinite(history[-1]) and not scaler.is_enabled():  # which leaves such a step out
            raise UserError(f"the loss is {history[-1]} at step {step + 1}: give a smaller learning rate; what {work} has of earlier steps is kept")
        scaler.step(optimizer)
        scaler.update()
        rate.step()
        ema.step(unet.parameters())
        log("loss", history[-1], step + 1)
        bar.set_postfix(loss=f"{sum(history[-50:]) / len(history[-50:]):.4f}", refresh=False)
        if main and step + 1 in sample_at:
            with averaged(unet, ema):
                sample(unet, step + 1)
        if step + 1 in fid_at:
            with averaged(unet, ema):
                log("fid", best.look(unet, step + 1), step + 1)
    ema.copy_to(unet.parameters())
    if best and best.weights:
        best.copy_to(unet)
    return history


def steps_every(every: int, steps: int) -> set[int]:
    """Each `every`-th step of so many, counted from 1, and the last one."""
    return {*range(every, steps, every), steps}


def new_optimizer(unet: nn.Module, learning_rate: float, ema_decay: float) -> tuple[torch.optim.AdamW, EMAModel]:
    """AdamW and the moving average, each over all parameters at once: one by one they take a tenth of a small network's step."""
    is_fusible = next(unet.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(unet.parameters(), learning_rate, fused=is_fusible), EMAModel(unet.parameters(), decay=ema_decay, foreach=True)


def load_checkpoint(file: Path, parts: dict[str, Any]) -> list[float]:
    """Give each part its state, by way of the CPU: a GPU has no room for two of each. Returns every step's loss."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{file} is broken ({reason(error)}): delete it to start anew") from error
    for name in parts.keys() & state.keys():  # older runs have no scaler and no rate, those without FID no best
        parts[name].load_state_dict(state[name])
    return state["history"]


@contextmanager
def averaged(unet: nn.Module, ema: EMAModel) -> Iterator[None]:
    """With the moving average in place of the weights."""
    ema.store(unet.parameters())
    ema.copy_to(unet.parameters())
    try:
        yield
    finally:
        ema.restore(unet.parameters())


def denoising_gradients(
    unet: nn.Module, scheduler: DDPMScheduler, latents: torch.Tensor, batch_size: int, accumulation: int,
    autocast: AbstractContextManager, scaler: torch.amp.GradScaler, seed: int, step: int, snr_gamma: float | None = None,
) -> float:
    """Give `unet` the gradients of the denoising loss on a step's batch of the latents (N, C, h, w), scaled by `scaler`, and return that loss.

    unet: called with z_t (B, C, h, w) and t (B,), gives `.sample`. snr_gamma: of min-SNR weighting, see `min_snr_weight`; None weighs all noise levels alike.
    The batch, its noise and timesteps follow from `seed` and `step` alone. It is computed in `accumulation` parts on each process, by turns
    shared among the processes: how many there are changes gradients by rounding only.
    """
    state = PartialState()
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    batch = add_noise(scheduler, draw(latents, batch_size, generator), generator)
    parts = zip(*(x.tensor_split(accumulation * state.num_processes) for x in batch))
    total = torch.zeros((), device=unet.device)
    for z_t, t, target in list(parts)[state.process_index :: state.num_processes]:
        with autocast:
            prediction = unet(z_t.to(unet.device), t.to(unet.device)).sample
        errors = F.mse_loss(prediction.float(), target.to(unet.device).float(), reduction="none").mean((1, 2, 3))
        loss = (errors * min_snr_weight(scheduler, t, snr_gamma).to(errors)).sum() / batch_size
        scaler.scale(loss).backward()
        total += loss.detach()
    if state.num_processes > 1:
        for parameter in unet.parameters():
            if parameter.grad is not None:
                parameter.grad = reduce(parameter.grad, "sum")
        total = reduce(total, "sum")
    return total.item()


def min_snr_weight(scheduler: DDPMScheduler, t: torch.Tensor, gamma: float | None) -> torch.Tensor:
    """Weights (B,) of losses at timesteps t (B,), for eps or v as the scheduler says (Hang et al. 2023): levels that only polish count less."""
    if gamma is None:
        return torch.ones(len(t))
    snr = compute_snr(scheduler, t)
    return snr.clamp(max=gamma) / (snr + 1 if scheduler.config.prediction_type == "v_prediction" else snr)
