"""Stage two of domain learning (Sec. 3.3): the null-text UNet, by plain denoising loss, on one process or several."""

import csv
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import reduce
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from tqdm import tqdm

from ..checkpoints import checkpointed, save_atomically
from ..errors import UserError
from ..null_text import NullTextUNet
from .text_feature import add_noise, draw

logger = logging.getLogger(__name__)
PRECISIONS = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}  # as accelerate names them


def find_precision(name: str, device: torch.device) -> tuple[AbstractContextManager, torch.amp.GradScaler]:
    """For the forward pass, and for the loss: fp16 loses small gradients unless it is scaled (Micikevicius et al. 2018). Raises UserError."""
    if name not in PRECISIONS:
        raise UserError(f"the mixed precision is '{name}': give one of {', '.join(PRECISIONS)}")
    if name != "no" and device.type == "cpu":
        raise UserError(f"the mixed precision is '{name}': half precision is slower on the CPU, not faster: leave it out, or give another --device")
    try:
        autocast = torch.autocast(device.type, PRECISIONS[name], enabled=name != "no")
    except RuntimeError as error:
        raise UserError(f"the mixed precision is '{name}', which this {device.type} has not: give fp16 or no") from error
    return autocast, torch.amp.GradScaler(device.type, enabled=name == "fp16")


def fit(
    unet: NullTextUNet, gradients: Callable[[int], float], work: Path, steps: int, learning_rate: float, ema_decay: float,
    checkpoint_seconds: float, sample: Callable[[NullTextUNet, int], None], sample_every: int, scaler: torch.amp.GradScaler,
    log: Callable[[str, float, int], None] = lambda *_: None, quiet: bool = False,
) -> list[float]:
    """Train `unet` at a constant learning rate. Leaves the moving average in it; returns every step's loss.

    gradients: `(step) -> loss`, gives the parameters their gradients, scaled by `scaler`. log: `(name, value, step)`, of each loss. With randomness that is
    seeded by the step's number, a resumed run is the same run. Of several processes the main one alone writes and samples.
    """
    unet.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(unet.parameters(), learning_rate)
    ema = EMAModel(unet.parameters(), decay=ema_decay)
    checkpoint, history, main = work / "checkpoint.pt", [], PartialState().is_main_process
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=unet.device, weights_only=True)
        unet.load_state_dict(state["unet"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
        scaler.load_state_dict(state.get("scaler", {}))  # there is none in runs from before mixed precision
        history = state["history"]
        if main:
            logger.info("goes on at step %d of %d", len(history), steps)
    PartialState().wait_for_everyone()  # all have read the checkpoint before it is written again

    def save(step: int) -> None:
        if not main:
            return
        parts = {"unet": unet, "optimizer": optimizer, "ema": ema, "scaler": scaler}
        save_atomically({name: part.state_dict() for name, part in parts.items()} | {"history": history}, checkpoint)
        with open(work / "loss.csv", "w", newline="") as file:
            csv.writer(file).writerows([("step", "loss"), *enumerate(history, 1)])

    bar = tqdm(range(len(history), steps), "domain", initial=len(history), total=steps, disable=quiet or not main)
    for step in checkpointed(bar, "domain", save, checkpoint_seconds):
        optimizer.zero_grad(set_to_none=True)
        history.append(gradients(step))
        scaler.step(optimizer)
        scaler.update()
        ema.step(unet.parameters())
        log("loss", history[-1], step + 1)
        bar.set_postfix(loss=f"{sum(history[-50:]) / len(history[-50:]):.4f}", refresh=False)
        if main and ((step + 1) % sample_every == 0 or step + 1 == steps):
            ema.store(unet.parameters())
            ema.copy_to(unet.parameters())
            sample(unet, step + 1)
            ema.restore(unet.parameters())
    ema.copy_to(unet.parameters())
    return history


def denoising_gradients(
    unet: NullTextUNet, scheduler: DDPMScheduler, latents: torch.Tensor, batch_size: int, accumulation: int,
    autocast: AbstractContextManager, scaler: torch.amp.GradScaler, seed: int, step: int,
) -> float:
    """Give `unet` the gradients of the denoising loss on a step's batch of the latents (N, C, h, w), scaled by `scaler`, and return that loss.

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
        loss = F.mse_loss(prediction.float(), target.to(unet.device).float()) * (len(z_t) / batch_size)
        scaler.scale(loss).backward()
        total += loss.detach()
    if state.num_processes > 1:
        for parameter in unet.parameters():
            if parameter.grad is not None:
                parameter.grad = reduce(parameter.grad, "sum")
        total = reduce(total, "sum")
    return total.item()
