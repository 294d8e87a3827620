"""What must be right before any work on a domain begins: its name and place, the numbers, the prior. Each check raises UserError."""

import re
from pathlib import Path

import torch

from ..errors import UserError
from ..null_text import NullTextUNet
from ..pipeline import InDomainPipeline
from .fit import LR_SCHEDULERS


def check_target(name: str, phrase: str, out: Path, kind: str = "domain") -> None:
    """Raises UserError for a domain that none could find or use; it replaces what stands at `out`: only another of its kind may stand there."""
    if "{prompt}" not in phrase:
        raise UserError(f"the phrase '{phrase}' lacks the place for the prompt: write {{prompt}} in it")
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"'{name}' is no name for a domain: use letters, digits, '-', '_' and '.'")
    if name.lower() == "none":
        raise UserError(f"'{name}' is what --domain takes for no domain: choose another name")
    if out.name in ("", ".."):
        raise UserError(f"'{out}' is no folder that can be made anew: choose another --out, such as {out / name}")
    if out.is_file() or out.is_dir() and any(out.iterdir()) and not (out / f"{kind}.json").is_file():
        raise UserError(f"{out} is there already and is no {kind}: choose another --out, so that nothing in it is lost")


def check_numbers(parts: int, **numbers: float | None) -> None:
    """Raises UserError for one that makes no sense; None is none. parts: of a batch, on all processes together."""
    least = dict(steps=1, batch_size=parts, accumulation=1, feature_steps=0, lr_warmup_steps=0, sample_every=1, fid_every=1, fid_images=2, patience=1)
    for key, value in numbers.items():
        if key in least:
            is_right, wanted = value is None or value >= least[key], f"{least[key]} or more"
        elif key == "ema_decay":
            is_right, wanted = 0 <= value < 1, "0 or more, and less than 1"
        else:
            is_right, wanted = value is None or 0 < value < float("inf"), "more than 0"
        if not is_right:
            raise UserError(f"{key} is {value}: give {wanted}")
    if numbers.get("patience") and not numbers["fid_every"]:
        raise UserError(f"the patience is {numbers['patience']} measurements of FID, of which there are none: give --fid-every too")


def check_schedule(name: str, warmup: int, steps: int) -> None:
    """Raises UserError for a schedule of a learning rate that is none, or has no room for its warm-up."""
    if name not in LR_SCHEDULERS:
        raise UserError(f"the learning rate's schedule is '{name}': give one of {', '.join(LR_SCHEDULERS)}")
    if warmup and name == "constant":
        raise UserError(f"lr_warmup_steps is {warmup}, and a constant rate has none: give another schedule, such as constant_with_warmup")
    if warmup >= steps and name != "constant":
        raise UserError(f"lr_warmup_steps is {warmup} of {steps} steps: give less")


def load_prior(name: str, device: torch.device) -> InDomainPipeline:
    """Raises UserError for one that cannot be a prior, see `check_prior`, and one over which no domain can be learned."""
    pipe = InDomainPipeline.from_pretrained(name)
    unet, channels = pipe.unet.config, pipe.vae.config.latent_channels
    try:
        if unet.out_channels != channels:
            raise ValueError(f"its UNet gives {unet.out_channels} channels, where latents have {channels}")
        if not isinstance(unet.sample_size, int):
            raise ValueError(f"its latents of size {unet.sample_size} are not square")
        with torch.device("meta"):
            NullTextUNet.from_config(unet)
    except ValueError as error:
        raise UserError(f"no domain can be learned over '{name}': {error}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)
