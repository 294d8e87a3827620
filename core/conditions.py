"""What images are asked to obey, checked where it enters: spatial conditions, further terms, prompts."""

import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from PIL import Image
from skimage.feature import canny as canny_edges

from .errors import UserError
from .images import on_white
from .presets import find_controlnet, nearest, wanted
from .terms import Term


def canny(image: Image.Image, sigma: float = 1.0, low_threshold: float = 0.1, high_threshold: float = 0.2) -> Image.Image:
    """A picture's edges, white on black, in RGB (Canny 1986). sigma: of the blur, in pixels; thresholds: of the gradient, for grey in [0, 1]."""
    grey = np.asarray(on_white(image).convert("L"), np.float32) / 255
    return Image.fromarray(canny_edges(grey, sigma, low_threshold, high_threshold)).convert("RGB")


def check_prior(name: str | Path, unet: UNet2DConditionModel, vae, text_encoder, scheduler) -> None:
    """Raise UserError for models that are no Stable Diffusion prior: its UNet sees latents and one text feature, and predicts eps or v."""
    config, latents, width = unet.config, vae.config.latent_channels, text_encoder.config.hidden_size
    others = ("addition_embed_type", "encoder_hid_dim_type", "class_embed_type", "num_class_embeds")
    more, kind = [key for key in others if config.get(key) is not None], scheduler.config.get("prediction_type")
    widths = [config.cross_attention_dim] if isinstance(config.cross_attention_dim, int) else config.cross_attention_dim
    for wrong, what in (
        (more, f"its UNet wants a condition besides text ({', '.join(more)}), as Stable Diffusion XL's does"),
        (config.in_channels != latents, f"its UNet takes {config.in_channels} channels, not the latents' {latents}, as inpainting ones do"),
        (set(widths) != {width}, f"its UNet reads features of width {', '.join(map(str, widths))}, its text encoder's are {width} wide"),
        (kind not in ("epsilon", "v_prediction"), f"it predicts '{kind}', not epsilon or v_prediction"),
    ):
        if wrong:
            raise UserError(f"'{name}' cannot be a prior: {what}; take one of the kind of Stable Diffusion 1 or 2")


def load_controlnet(name: str | Path, unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet by its folder, Hub id or preset, for a UNet. Raises UserError for what is none, or one for another prior."""
    name = find_controlnet(name)
    with wanted(name, "a ControlNet"):
        kind = ControlNetModel.load_config(name).get("_class_name")
        if kind != "ControlNetModel":
            raise ValueError(f"it holds a {kind}")
        net = ControlNetModel.from_pretrained(name, torch_dtype=unet.dtype, use_safetensors=True)
    return check_controlnet(net, unet, f"ControlNet '{name}'")


def check_controlnet(net: ControlNetModel, unet: UNet2DConditionModel, name: str = "given ControlNet") -> ControlNetModel:
    """The ControlNet. Raises UserError for one that was trained for another prior, or is none."""
    if not isinstance(net, ControlNetModel):
        raise UserError(f"a {type(net).__name__} is no ControlNet: give a ControlNetModel, its folder or its Hub id")
    for key in ("in_channels", "cross_attention_dim", "block_out_channels"):
        theirs, ours = (json.dumps(model.config[key]) for model in (net, unet))  # a list once saved, a tuple before
        if theirs != ours:
            raise UserError(f"the {name} was trained for another prior ({key} is {theirs}, this prior's is {ours})")
    return net.eval()


def per_image(prompt: str | list[str], batch: int, name: str) -> list[str]:
    """One prompt for each of `batch` images."""
    prompts = [prompt] * batch if isinstance(prompt, str) else list(prompt)
    if len(prompts) != batch:
        raise UserError(f"{name} is a list of {len(prompts)} for {batch} images: give one text for all, or one for each")
    return prompts


def count_images(prompt: str | list[str] | None, num_images_per_prompt: int, generator) -> int:
    """How many images a call makes. Raises UserError for none, and for a list of generators that is not one for each."""
    batch = (len(prompt) if isinstance(prompt, list) else 1) * num_images_per_prompt
    if prompt == [] or num_images_per_prompt < 1:
        wrong = "prompt is []" if prompt == [] else f"num_images_per_prompt is {num_images_per_prompt}"
        raise UserError(f"{wrong}: there is nothing to make")
    if isinstance(generator, list) and len(generator) != batch:
        raise UserError(f"generator is a list of {len(generator)} for {batch} images: give one for all, or one for each")
    return batch


def check_arguments(given: Iterable[str], function: Callable, own: Iterable[str]) -> None:
    """Raise UserError for arguments that a function does not know, or that its caller gives by its `own` names."""
    known = inspect.signature(function).parameters.keys() - own
    for name in given:
        if name not in known:
            raise UserError(f"there is no argument '{name}'{nearest(name, [*known, *own])}")


def check_interval(name: str, start: float, end: float) -> None:
    """Raise UserError for what are no fractions of the steps, in order."""
    if not 0 <= start < end <= 1:
        raise UserError(f"{name}: {start} to {end} is no share of the steps, give a start below the end, both in [0, 1]")


def check_scales(**scales: float | Sequence[float] | None) -> None:
    """Raise UserError for a scale that is no finite number; None is none."""
    for name, scale in scales.items():
        if scale is not None and not torch.as_tensor(scale, dtype=torch.float32).isfinite().all():
            raise UserError(f"{name} is {scale}: give finite numbers")


def check_terms(terms: Sequence[Term], unet: UNet2DConditionModel, batch: int) -> None:
    """Raise UserError for terms that do not fit a prior's latents or a batch."""
    for term in terms:
        theirs, ours = term.network.config.in_channels, unet.config.in_channels
        if theirs != ours:
            raise UserError(f"a term's UNet takes latents of {theirs} channels, this prior's {ours}: a customised checkpoint must share its latent space")
        pictures = (("control pictures", control.image) for control in term.controls)
        for what, given in [("prompts", term.context), ("negative prompts", term.unconditional), *pictures]:
            if given is not None and len(given) not in (1, batch):
                raise UserError(f"a term has {len(given)} {what} for {batch} images: give one for all, or one for each")


def own_unconditional(terms: Sequence[Term]) -> Term:
    """eps_0 without rectification: what the customised network itself predicts for no prompt, that of the last term that reads text."""
    for term in reversed(terms):
        if term.unconditional is not None:
            return replace(term, context=term.unconditional)
    raise UserError("rectify=False takes eps_0 from the customised network of a term with a prompt: give a prompt, or such a term")


def common_size(terms: Sequence[Term], height: int | None, width: int | None) -> tuple[int | None, int | None]:
    """The size of the images in pixels: of what the ControlNets read, where it is not given. Raises UserError for sizes that differ."""
    for control in (control for term in terms for control in term.controls):
        h, w = control.image.shape[-2:]
        if (height or h, width or w) != (h, w):
            raise UserError(f"a ControlNet's picture is {w} x {h} px, the image {width or w} x {height or h}: give them one size")
        height, width = h, w
    return height, width
