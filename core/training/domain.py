"""Domain learning from images alone (Sec. 3.3): a folder of pictures -> text feature -> null-text UNet -> a domain's folder."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from diffusers import DDPMScheduler
from torch import nn

from ..checkpoints import cached, fingerprint, write_atomically
from ..devices import find_device, suit_attention
from ..domains import Domain, check_arc, public_name, save_domain, unet_fingerprint, user_domains
from ..errors import UserError, check_seed
from ..images import contact_sheet, to_pil
from ..interrupts import kept_in
from ..null_text import NullTextUNet
from ..pipeline import InDomainPipeline
from ..presets import WEIGHTS, find_preset
from .best import KeepBest, domain_images, fid_measure, find_fid_features
from .checks import check_numbers, check_schedule, check_target, load_prior
from .data import Pictures, encode, find_file, load_latents
from .fit import FALLING, denoising_gradients, find_precision, fit, steps_every
from .text_feature import initial_features, optimise_text_feature

logger = logging.getLogger(__name__)
FEATURE_STEPS = 100  # of the text feature, before the UNet's
LEFT = ("checkpoint.pt", "latents.f32", "text_feature.safetensors", "fid.safetensors", "*.partial", "loss.csv", "fid.csv", "sample-*.png",
        "tensorboard/*", "settings.json")  # what a run leaves in its work folder


def train_domain(
    name: str,
    data: str | Path,
    preset: str = "kiln",
    out: str | Path | None = None,
    work: str | Path | None = None,
    latents: str | Path | None = None,
    phrase: str = "{prompt}",
    negative_prompt: str = "",
    arc_deg: float = 360.0,
    licence: str = "other",
    prior: str | None = None,
    image_column: str | None = None,
    steps: int = 1000,
    batch_size: int = 32,
    accumulation: int = 1,
    gradient_checkpointing: bool = False,
    mixed_precision: str = "no",
    learning_rate: float | None = None,
    lr_scheduler: str = "constant",
    lr_warmup_steps: int = 0,
    snr_gamma: float | None = None,
    feature_steps: int = FEATURE_STEPS,
    ema_decay: float = 0.995,
    sample_every: int = 250,
    fid_every: int | None = None,
    fid_images: int = 1000,
    patience: int | None = None,
    checkpoint_seconds: float = 120,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    resume: bool = True,
    device: torch.device | str | None = None,
    tensorboard: bool = False,
    quiet: bool = False,
) -> Path:
    """Learn the domain `name` from images alone; returns the domain's folder. `accelerate launch` shares the work.

    data: a folder of images or of tar files of them, or a Hugging Face dataset by name; image_column: the dataset's, by default its first one.
    preset: the prior, a preset's name, a folder or a Hub id. out: the folder to write, by default where `find_domain(name)` looks.
    work: latents, checkpoints, loss.csv and sample grids, by default OUT.work. phrase: how prompts are said, with "{prompt}" in it.
    negative_prompt: what all the pictures show, such as "a head": with it in eps_0 a prompt's term tells what the prompt adds.
    arc_deg: for 3D, the arc of azimuths about a picture's own from which the domain may look too, such as 80 where all pictures show faces.
    latents: a folder that keeps the latents, for several trainings on the same pictures; resume=False leaves those in it as they are.
    licence: of the domain's model, as the Hugging Face Hub names them, such as cc-by-4.0.
    prior: what the domain names as its prior, where that is to be known as something other than the preset.
    learning_rate: the preset's by default (the paper's 1e-5 for SD1.5). lr_scheduler, lr_warmup_steps: how it changes, of diffusers'
    `get_scheduler`; the paper's is constant, "cosine" falls towards 0. snr_gamma: of min-SNR weighting (5 is usual), none by default.
    dtype: of the saved weights, which are the moving average.
    accumulation: parts of a batch that are computed one after the other, and gradient_checkpointing: both for less memory, to the same end;
    pictures too are encoded and made no more at once than a part has.
    mixed_precision: "bf16" or "fp16": less memory and time; on a CPU "bf16" alone, for less time, where it multiplies that. Weights, their
    average and text feature stay in fp32.
    fid_every: steps from one measurement of FID to the next, on `fid_images` images; what is saved is the average where it was lowest.
    patience: end the training after so many measurements without a lower one. tensorboard: write losses and FID for it too, into `work`.
    A killed run goes on where it was, to the same weights, when called again; resume=False starts anew. Raises UserError.
    """
    out = Path(out) if out else user_domains() / name
    check_target(name, phrase, out)
    check_arc(arc_deg)
    work = Path(work) if work else out.with_name(out.name + ".work")
    found = find_preset(preset)
    learning_rate = found.learning_rate if learning_rate is None else learning_rate
    state, device = find_process(device)
    parts = accumulation * state.num_processes  # of a batch
    check_seed(seed)
    check_numbers(parts, steps=steps, accumulation=accumulation, batch_size=batch_size, fid_every=fid_every,
                  fid_images=fid_images, patience=patience, feature_steps=feature_steps, sample_every=sample_every,
                  learning_rate=learning_rate, lr_warmup_steps=lr_warmup_steps, snr_gamma=snr_gamma, ema_decay=ema_decay)
    check_schedule(lr_scheduler, lr_warmup_steps, steps)
    at_once = min(batch_size // parts, 16)  # pictures that are read, made and measured
    autocast, scaler = find_precision(mixed_precision, device)
    extractor = find_fid_features(found.judge) if fid_every and state.is_main_process else None
    pipe = load_prior(found.name, device)
    if gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()
    if mixed_precision != "no":
        suit_attention(pipe.unet, device)
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    pictures = Pictures(data, pipe.unet.config.sample_size * pipe.vae_scale_factor, image_column)
    file = find_file(pipe, pictures, work, latents)
    if not resume or not file.exists():
        next(iter(pictures))  # a source without an image is an error before anything is written
    settings = {"name": name, "data": pictures.source, "image_column": image_column, "prior": str(preset),
                "prior_weights": prior_fingerprint(pipe, pipe.unet, pipe.vae), "batch_size": batch_size, "learning_rate": learning_rate,
                "snr_gamma": snr_gamma, "feature_steps": feature_steps, "ema_decay": ema_decay, "seed": seed, "mixed_precision": mixed_precision,
                "lr_scheduler": lr_scheduler} | ({"fid_images": fid_images} if fid_every else {})
    if lr_scheduler != "constant":
        settings |= {"lr_warmup_steps": lr_warmup_steps}
    if lr_scheduler in FALLING:
        settings |= {"lr_steps": steps}  # to which the rate falls: a longer run is another one
    if state.is_main_process:
        open_work(work, settings, resume)
    state.wait_for_everyone()

    with tensorboard_log(work / "tensorboard", tensorboard and state.is_main_process) as log:
        with state.main_process_first():  # the others find them in their file
            z = find_latents(pipe, pictures, file, at_once, quiet)
        with kept_in(work):
            with state.main_process_first():
                feature = cached(work / "text_feature.safetensors", lambda: {"tensor": optimise_text_feature(
                    pipe.unet, scheduler, z, initial_features(pipe, name),
                    *find_precision(mixed_precision, device),  # with a scale of its own: the network's begins anew after it
                    parts, feature_steps, batch_size, seed=seed, quiet=quiet)})["tensor"]
            unet = NullTextUNet.from_prior(pipe.unet, feature)
            if mixed_precision != "no":
                suit_attention(unet, device)
            if gradient_checkpointing:
                unet.enable_gradient_checkpointing()
            gradients = partial(denoising_gradients, unet, scheduler, z, batch_size, accumulation, autocast, scaler, seed,
                                snr_gamma=snr_gamma)
            sample, best = partial(save_samples, pipe, work, at_once, seed, autocast), None
            if fid_every:
                measure = fid_measure(pipe, pictures, work / "fid.safetensors", extractor, fid_images, at_once, seed, autocast, quiet)
                best = KeepBest(measure, fid_every, patience)
            history = fit(unet, gradients, work, steps, learning_rate, ema_decay, checkpoint_seconds, sample,
                          steps_every(sample_every, steps), scaler, best, log, quiet, lr_scheduler=lr_scheduler, lr_warmup_steps=lr_warmup_steps)
    if state.is_main_process:
        if best and not best.scores:
            logger.warning("FID was not measured, as no step was left: give more --steps, or --no-resume")
        if out.parent == user_domains() and (WEIGHTS / "domains" / name).is_dir():
            logger.warning("by the name '%s' this domain is found from now on, and no more the one that ships", name)
        prior = prior or public_name(found.name)
        record = settings | {"data": pictures.name, "prior": prior, "images": len(z) // 2} | describe(history, best)
        domain = Domain(out, name, phrase, prior, pictures.resolution, licence, unet_fingerprint(pipe.unet), record, negative_prompt, arc_deg)
        save_domain(domain, unet.to(dtype), feature)
    state.wait_for_everyone()
    return out


def prior_fingerprint(pipe: InDomainPipeline, *modules: nn.Module) -> str:
    """Tells a prior from others: by the weights of these of its modules, by its noise schedule, and by the scale of its latents."""
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    told = f"{fingerprint(*modules)} {scheduler.config.prediction_type} {scheduler.alphas_cumprod.tolist()} {pipe.vae.config.scaling_factor}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def find_process(device: torch.device | str | None) -> tuple[PartialState, torch.device]:
    """This process among those that `accelerate launch` started, mostly the only one, and its device. Raises UserError for one that is not there."""
    device = find_device(device)
    state = PartialState(cpu=device.type == "cpu", timeout=timedelta(days=1))  # the others wait while the main one encodes all images
    return state, state.device if state.num_processes > 1 else device


def open_work(work: Path, settings: dict, resume: bool) -> None:
    """Begin, or go on in, a work folder; going on with other settings would mix two runs, and is a UserError.

    What is left of a run without its settings goes too. What no run leaves stays: a folder that was given may hold more.
    """
    file = work / "settings.json"
    if not resume or not file.exists():
        for left in (path for pattern in LEFT for path in work.glob(pattern)):  # settings last: killed amid this, nothing goes on under others
            left.unlink()
    work.mkdir(parents=True, exist_ok=True)
    try:
        begun = json.loads(file.read_text()) if file.exists() else {}
    except ValueError as error:
        raise UserError(f"{file} is broken ({error}): delete it to start anew") from error
    known = {"lr_scheduler": "constant"} | begun if begun else {}  # as it was before it could be another
    for key, value in settings.items():
        if key in known and known[key] != value:  # what it does not say yet cannot differ
            raise UserError(f"the run in {work} has {key} {known[key]}, not {value}: give the same, or delete that folder to start anew")
    if begun != settings:
        write_atomically(json.dumps(settings, indent=2), file)


def find_latents(pipe: InDomainPipeline, pictures: Pictures, file: Path, at_once: int, quiet: bool) -> torch.Tensor:
    """Of every picture and its mirror image, (2 N, C, h, w): encoded into `file`, or as that was done before."""
    found = file.exists()
    if not found:
        encode(pipe, pictures, file, at_once, quiet)
    latents = load_latents(file, pipe.unet.config.in_channels, pipe.unet.config.sample_size)
    if found and PartialState().is_main_process:
        whole = file.parent if file.name == "latents.f32" else file  # of a run, or what several runs share
        logger.info("using %d pictures encoded earlier; delete %s to read them anew", len(latents) // 2, whole)
        if pictures.changed_since(file):
            logger.warning("%s has changed since they were encoded", pictures.source)
    return latents


def save_samples(
    pipe: InDomainPipeline, work: Path, at_once: int, seed: int, autocast: AbstractContextManager, unet: NullTextUNet, step: int
) -> None:
    """What the domain looks like at a step."""
    pipe.domain_unet = unet
    images = [image for batch in domain_images(pipe, 16, at_once, seed, autocast) for image in to_pil(batch)]
    contact_sheet(images).save(work / f"sample-{step:06d}.png")


def describe(history: list[float], best: KeepBest | None) -> dict:
    """What a training came to, for its record."""
    came = {"steps": len(history), "loss": sum(history[-50:]) / len(history[-50:]), "processes": PartialState().num_processes,
            "date": datetime.now(timezone.utc).date().isoformat()}
    return came | (dict(zip(("fid_step", "fid"), best.best)) if best and best.scores else {})


@contextmanager
def tensorboard_log(folder: Path, is_wanted: bool) -> Iterator[Callable[[str, float, int], None]]:
    """`(name, value, step)` for TensorBoard, or for nobody; from the first step on it stands in place of what was written before. Raises UserError
    where it is not installed.
    """
    if not is_wanted:
        yield lambda *_: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("TensorBoard is not installed: pip install 'ingen3d[train]', or leave --tensorboard out") from error
    writers = []

    def log(name: str, value: float, step: int) -> None:
        if not writers:
            writers.append(SummaryWriter(str(folder), purge_step=step))  # a killed run had gone on beyond its checkpoint: these steps come again
        writers[0].add_scalar(name, value, step)

    try:
        yield log
    finally:
        for writer in writers:
            writer.close()
