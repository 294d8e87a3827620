"""Domain learning from images alone (Sec. 3.3): a folder of pictures -> text feature -> null-text UNet -> a domain's folder."""

import csv
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from ..checkpoints import checkpointed, fingerprint, save_atomically
from ..devices import find_device
from ..domains import Domain, save_domain, unet_fingerprint, user_domains
from ..errors import UserError
from ..images import ImageFolder, contact_sheet
from ..interrupts import kept_in
from ..null_text import NullTextUNet
from ..pipeline import InDomainPipeline
from ..presets import find_preset
from .text_feature import denoising_loss, draw, initial_features, optimise_text_feature

logger = logging.getLogger(__name__)


def train_domain(
    name: str,
    data: str | Path,
    preset: str = "kiln",
    out: str | Path | None = None,
    work: str | Path | None = None,
    phrase: str = "{prompt}",
    licence: str = "other",
    steps: int = 1000,
    batch_size: int = 32,
    learning_rate: float | None = None,
    feature_steps: int = 100,
    ema_decay: float = 0.995,
    sample_every: int = 250,
    checkpoint_seconds: float = 120,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    resume: bool = True,
    device: torch.device | str | None = None,
    quiet: bool = False,
) -> Path:
    """Learn the domain `name` from the images below the folder `data`; returns the domain's folder.

    preset: the prior, a preset's name, a folder or a Hub id. out: the folder to write, by default where `find_domain(name)` looks.
    work: latents, checkpoints, loss.csv and sample grids, by default OUT.work. phrase: how prompts are said, with "{prompt}" in it.
    licence: of the domain's model, as the Hugging Face Hub names them, such as cc-by-4.0.
    learning_rate: the preset's by default (the paper's 1e-5 for SD1.5). dtype: of the saved weights, which are the moving average.
    A killed run goes on where it was, to the same weights, when called again; resume=False starts anew. Raises UserError.
    """
    out = Path(out) if out else user_domains() / name
    work = Path(work) if work else out.with_name(out.name + ".work")
    found = find_preset(preset)
    learning_rate = found.learning_rate if learning_rate is None else learning_rate
    if "{prompt}" not in phrase:
        raise UserError(f"the phrase '{phrase}' lacks the place for the prompt: write {{prompt}} in it")
    for key, value in (("steps", steps), ("batch size", batch_size)):
        if value < 1:
            raise UserError(f"the {key} is {value}: give 1 or more")
    check_target(name, out)
    device = find_device(device)
    next(iter(ImageFolder(data, 1)))  # a folder without an image is an error before anything is written
    pipe = InDomainPipeline.from_pretrained(preset).to(device)
    pipe.set_progress_bar_config(disable=True)
    settings = {"name": name, "data": str(Path(data).resolve()), "prior": str(preset), "prior_weights": fingerprint(pipe.unet, pipe.vae),
                "batch_size": batch_size, "learning_rate": learning_rate, "feature_steps": feature_steps, "ema_decay": ema_decay, "seed": seed}
    open_work(work, settings, resume)

    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    resolution = pipe.unet.config.sample_size * pipe.vae_scale_factor

    def sample(unet_d: NullTextUNet, step: int) -> None:
        pipe.domain_unet = unet_d
        images = pipe(None, num_images_per_prompt=16, generator=torch.Generator().manual_seed(seed)).images
        contact_sheet(images).save(work / f"sample-{step:06d}.png")

    with kept_in(work):
        latents = cached(work / "latents.safetensors", lambda: encode_folder(pipe, ImageFolder(data, resolution), quiet))
        feature = cached(work / "text_feature.safetensors", lambda: optimise_text_feature(
            pipe.unet, scheduler, latents, initial_features(pipe, name), feature_steps, batch_size, seed=seed, quiet=quiet))
        unet = NullTextUNet.from_prior(pipe.unet, feature)
        history = fit(unet, scheduler, latents, work, steps, batch_size, learning_rate, ema_decay, seed,
                      checkpoint_seconds, sample, sample_every, quiet)
    record = settings | {"images": len(latents) // 2, "steps": steps, "loss": sum(history[-50:]) / len(history[-50:]),
                         "date": datetime.now(timezone.utc).date().isoformat()}
    record["data"] = Path(data).name
    save_domain(Domain(out, name, phrase, found.name, resolution, licence, unet_fingerprint(pipe.unet), record), unet.to(dtype), feature)
    return out


def check_target(name: str, out: Path) -> None:
    """A domain replaces what stands at `out`: only another domain may stand there."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"'{name}' is no name for a domain: use letters, digits, '-', '_' and '.'")
    if out.is_file() or out.is_dir() and any(out.iterdir()) and not (out / "domain.json").is_file():
        raise UserError(f"{out} is there already and is no domain: choose another --out, so that nothing in it is lost")


def open_work(work: Path, settings: dict, resume: bool) -> None:
    """Begin, or go on in, a work folder; going on with other settings would mix two runs, and is a UserError."""
    file = work / "settings.json"
    if not resume and file.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    begun = json.loads(file.read_text()) if file.exists() else settings
    for key, value in settings.items():
        if begun.get(key) != value:
            raise UserError(f"the run in {work} has {key} {begun.get(key)}, not {value}: give the same, or --no-resume to start anew")
    file.write_text(json.dumps(settings, indent=2))


def cached(file: Path, make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """A tensor made once and kept."""
    if not file.exists():
        save_file({"tensor": make().cpu().contiguous()}, file.with_suffix(".partial"))
        os.replace(file.with_suffix(".partial"), file)
    return load_file(file)["tensor"]


@torch.no_grad()
def encode_folder(pipe: InDomainPipeline, images: ImageFolder, quiet: bool) -> torch.Tensor:
    """Latents of every image, then of every mirror image: (2 N, C, h, w)."""
    upright, mirrored = [], []
    for x in images.batches(16, quiet):
        upright.append(pipe.encode_images(x).cpu())
        mirrored.append(pipe.encode_images(x.flip(-1)).cpu())
    return torch.cat(upright + mirrored)


def fit(
    unet: NullTextUNet, scheduler: DDPMScheduler, latents: torch.Tensor, work: Path, steps: int, batch_size: int, learning_rate: float,
    ema_decay: float, seed: int, checkpoint_seconds: float, sample: Callable[[NullTextUNet, int], None], sample_every: int, quiet: bool,
) -> list[float]:
    """Stage two: plain denoising loss at a constant learning rate. Leaves the moving average in `unet`; returns every step's loss.

    A step's randomness is seeded by its number, so that a resumed run is the same run.
    """
    unet.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(unet.parameters(), learning_rate)
    ema = EMAModel(unet.parameters(), decay=ema_decay)
    checkpoint, history = work / "checkpoint.pt", []
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=unet.device, weights_only=True)
        unet.load_state_dict(state["unet"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
        history = state["history"]
        logger.info("goes on at step %d of %d", len(history), steps)

    def save(step: int) -> None:
        save_atomically({"unet": unet.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema.state_dict(), "history": history}, checkpoint)
        with open(work / "loss.csv", "w", newline="") as file:
            csv.writer(file).writerows([("step", "loss"), *enumerate(history, 1)])

    bar = tqdm(range(len(history), steps), "domain", initial=len(history), total=steps, disable=quiet)
    for step in checkpointed(bar, "domain", save, checkpoint_seconds):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        z = draw(latents, batch_size, generator).to(unet.device)
        loss = denoising_loss(lambda z_t, t: unet(z_t, t).sample, scheduler, z, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        ema.step(unet.parameters())
        history.append(loss.item())
        bar.set_postfix(loss=f"{sum(history[-50:]) / len(history[-50:]):.4f}", refresh=False)
        if (step + 1) % sample_every == 0 or step + 1 == steps:
            ema.store(unet.parameters())
            ema.copy_to(unet.parameters())
            sample(unet, step + 1)
            ema.restore(unet.parameters())
    ema.copy_to(unet.parameters())
    return history
