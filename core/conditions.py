"""What images are asked to obey, checked where it enters: spatial conditions, further terms, prompts."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from diffusers import ControlNetModel, UNet2DConditionModel
from PIL import Image
from skimage.feature import canny as canny_edges

from .errors import UserError
from .images import on_white
from .presets import find_controlnet, wanted
from .terms import Term


def canny(image: Image.Image, sigma: float = 1.0, low_threshold: float = 0.1, high_threshold: float = 0.2) -> Image.Image:
    """A picture's edges, white on black, in RGB (Canny 1986). sigma: of the blur, in pixels; thresholds: of the gradient, for grey in [0, 1]."""
    grey = np.asarray(on_white(image).convert("L"), np.float32) / 255
    return Image.fromarray(canny_edges(grey, sigma, low_threshold, high_threshold)).convert("RGB")


def load_controlnet(name: str | Path, unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet by its folder, Hub id or preset, for a UNet. Raises UserError for what is none, or one for another prior."""
    name = find_controlnet(name)
    with wanted(name, "a ControlNet"):
        kind = ControlNetModel.load_config(name).get("_class_name")
        if kind != "ControlNetModel":
            raise ValueError(f"it holds a {kind}")
        net = ControlNetModel.from_pretrained(name, torch_dtype=unet.dtype, use_safetensors=True)
    for key in ("in_channels", "cross_attention_dim", "block_out_channels"):
        theirs, ours = (json.dumps(model.config[key]) for model in (net, unet))  # a list once saved, a tuple before
        if theirs != ours:
            raise UserError(f"the ControlNet '{name}' was trained for another prior ({key} is {theirs}, this prior's is {ours})")
    return net.eval()


def per_image(prompt: str | list[str], batch: int, name: str) -> list[str]:
    """One prompt for each of `batch` images."""
    prompts = [prompt] * batch if isinstance(prompt, str) else list(prompt)
    if len(prompts) != batch:
        raise UserError(f"{name} is a list of {len(prompts)} for {batch} images: give one text for all, or one for each")
    return prompts


def check_interval(name: str, start: float, end: float) -> None:
    """Raise UserError for what are no fractions of the steps, in order."""
    if not 0 <= start < end <= 1:
        raise UserError(f"{name}: {start} to {end} is no share of the steps, give a start below the end, both in [0, 1]")


def check_terms(terms: Sequence[Term], unet: UNet2DConditionModel, batch: int) -> None:
    """Raise UserError for terms that do not fit a prior's latents or a batch."""
    for term in terms:
        theirs, ours = term.network.config.in_channels, unet.config.in_channels
        if theirs != ours:
            raise UserError(f"a term's UNet takes latents of {theirs} channels, this prior's {ours}: a customised checkpoint must share its latent space")
        for what, given in [("prompts", term.context), *(("control pictures", control.image) for control in term.controls)]:
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
