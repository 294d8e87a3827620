"""The baselines of Sec. 4.4: a prior customised by other methods, from the same images, into a folder that any pipeline loads."""

import copy
import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import diffusers
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline

from ..checkpoints import replaced_whole
from ..devices import suit_attention
from ..domains import public_name, unet_fingerprint
from ..errors import UserError, check_seed
from ..interrupts import kept_in
from ..presets import BASELINE, find_preset, wanted
from .checks import check_numbers, check_target, load_prior
from .data import Pictures, find_file
from .domain import describe, find_latents, find_process, open_work, prior_fingerprint
from .fit import denoising_gradients, find_precision, fit
from .methods import Baseline, domain_words, find_method

logger = logging.getLogger(__name__)


def train_baseline(
    method: str,
    name: str,
    data: str | Path,
    preset: str = "kiln",
    out: str | Path | None = None,
    work: str | Path | None = None,
    latents: str | Path | None = None,
    image_column: str | None = None,
    steps: int = 1000,
    batch_size: int = 32,
    accumulation: int = 1,
    gradient_checkpointing: bool = False,
    mixed_precision: str = "no",
    learning_rate: float | None = None,
    snr_gamma: float | None = None,
    ema_decay: float = 0.995,
    keep_at: Sequence[int] = (),
    checkpoint_seconds: float = 120,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    resume: bool = True,
    device: torch.device | str | None = None,
    quiet: bool = False,
) -> Path:
    """Customise a prior for the domain `name` by one of `methods.METHODS`, from images alone; returns a folder in StableDiffusionPipeline's layout.

    `baseline.json` in it says the prompt that it was trained under, "a photo of [V] <domain name>", and as `phrase` how prompts are said:
    "a photo of {prompt}, [V] <domain name>".
    out: by default outputs/baselines/NAME/METHOD. keep_at: steps after which the same folder is written too, as OUT-step-000500.
    learning_rate: the method's by default. The rest is as in `train_domain`, whose batches, noise and moving average these are;
    `accelerate launch` shares the work, and a killed run goes on where it was. Raises UserError.
    """
    how, found = find_method(method), find_preset(preset)
    out = Path(out) if out else Path("outputs") / "baselines" / name / method
    # the template with the prompt in it; with the whole template before the prompt the kiln's untouched prior draws nothing that is asked for
    phrase = f"a photo of {{prompt}}, {domain_words(how, name)}"
    kept = {step: out.with_name(f"{out.name}-step-{step:06d}") for step in sorted(keep_at)}
    for folder in (out, *kept.values()):
        check_target(name, phrase, folder, "baseline")
    work = Path(work) if work else out.with_name(out.name + ".work")
    learning_rate = how.rate * found.learning_rate if learning_rate is None else learning_rate
    state, device = find_process(device)
    parts = accumulation * state.num_processes  # of a batch
    check_seed(seed)
    check_numbers(parts, steps=steps, accumulation=accumulation, batch_size=batch_size, learning_rate=learning_rate, snr_gamma=snr_gamma,
                  ema_decay=ema_decay)
    if wrong := [step for step in kept if not 1 <= step <= steps]:
        raise UserError(f"keep_at has step {wrong[0]}, and the training steps 1 to {steps}")
    autocast, scaler = find_precision(mixed_precision, device)
    pipe = load_prior(found.name, device)
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    if noise := own_schedule(found.prior):  # for DPM-Solver++, which was taken for it
        pipe.scheduler = getattr(diffusers, noise["_class_name"]).from_config(noise)
    pictures = Pictures(data, pipe.unet.config.sample_size * pipe.vae_scale_factor, image_column)
    file = find_file(pipe, pictures, work, latents)
    if not resume or not file.exists():
        next(iter(pictures))  # a source without an image is an error before anything is written
    prior_unet = unet_fingerprint(pipe.unet)
    settings = {"method": method, "name": name, "data": pictures.source, "image_column": image_column, "prior": str(preset),
                "prior_weights": prior_fingerprint(pipe, pipe.unet, pipe.vae, pipe.text_encoder), "batch_size": batch_size, "learning_rate": learning_rate,
                "snr_gamma": snr_gamma, "ema_decay": ema_decay, "seed": seed, "mixed_precision": mixed_precision}
    if mixed_precision != "no":
        suit_attention(pipe.unet, device)
    baseline = Baseline(pipe, how, name, seed)  # peft's absence is said before anything is written, too
    if gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()
    if state.is_main_process:
        open_work(work, settings, resume)
    state.wait_for_everyone()

    def save(folder: Path, step: int, **came) -> None:
        training = settings | {"data": pictures.name, "prior": public_name(found.name), "images": len(z) // 2}
        save_baseline(baseline, folder, dtype, noise, {
            "method": method, "name": name, "prompt": baseline.prompt, "phrase": phrase, "prior": training["prior"], "prior_unet": prior_unet,
            "parameters": sum(p.numel() for p in baseline.parameters()), "images_seen": step * batch_size,
            "training": training | {"steps": step} | came})

    with state.main_process_first():  # the others find them in their file
        z = find_latents(pipe, pictures, file, min(batch_size // parts, 16), quiet)
    with kept_in(work):
        gradients = partial(denoising_gradients, baseline, scheduler, z, batch_size, accumulation, autocast, scaler, seed, snr_gamma=snr_gamma)
        history = fit(baseline, gradients, work, steps, learning_rate, ema_decay, checkpoint_seconds,
                      lambda _, step: save(kept[step], step), kept, scaler, quiet=quiet, name=method)
        if state.is_main_process:
            save(out, len(history), **describe(history, None))
            for step, folder in kept.items():
                if not folder.exists():
                    logger.warning("%s was not kept: the run had gone beyond step %d; delete %s to start anew", folder, step, work)
    state.wait_for_everyone()
    return out


def own_schedule(prior: str) -> dict | None:
    """The configuration of the prior's own scheduler, as it says it; a prior in one file says none."""
    if Path(prior).is_file():
        return None
    with wanted(prior, "a scheduler"):
        return DDPMScheduler.load_config(prior, subfolder="scheduler")


def save_baseline(baseline: Baseline, out: Path, dtype: torch.dtype, noise: dict | None, record: dict) -> None:
    """The prior as it now is, adapters merged and [V] among its words, in place of what was in `out`. noise: the prior's own schedule,
    as it says it: diffusers would add defaults to it, such as a spacing of the steps that is not the one that the prior is sampled with here."""
    baseline.write_token()
    pipe = baseline.pipe
    vae, text_encoder, unet = (
        each if each.dtype == dtype else copy.deepcopy(each).to(dtype) for each in (pipe.vae, pipe.text_encoder, baseline.plain_unet())
    )
    whole = StableDiffusionPipeline(vae, text_encoder, pipe.tokenizer, unet, pipe.scheduler, None, None, requires_safety_checker=False)
    with replaced_whole(out) as new:
        whole.save_pretrained(new, safe_serialization=True)
        if noise:
            (new / "scheduler" / "scheduler_config.json").write_text(json.dumps(noise, indent=2) + "\n")
        (new / BASELINE).write_text(json.dumps(record, indent=2) + "\n")
