"""The kiln's Zero-1-to-3: the prior's UNet taught to see an object from another camera (Liu et al. 2023)."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from torch import nn
from transformers import CLIPVisionModelWithProjection

from ..sampling import denoise
from ..training.text_feature import denoising_loss
from ..zero123 import CCProjection, guided, relative_pose
from .clip import WIDTH, small
from .loop import digest, fit, generator, make_fast
from .renderer import View

BATCH = 20
DEPTH = 3  # layers of a transformer: with the prior's one the loss on held-out pairs was no worse than on others, and high
NO_IMAGE = 0.1  # share of steps without image and camera, for classifier-free guidance
CAMERA = ("elevation_deg", "azimuth_deg", "distance")  # of a view's record
POSE = 4  # d polar, sin d azimuth, cos d azimuth, d distance


def from_prior(prior: UNet2DConditionModel) -> UNet2DConditionModel:
    """The prior with as many input channels more for the reference's latents, and with transformers of DEPTH layers: at first both add nothing."""
    unet = UNet2DConditionModel.from_config(prior.config, in_channels=2 * prior.config.in_channels, transformer_layers_per_block=DEPTH)
    state = prior.state_dict()
    state["conv_in.weight"] = torch.cat([state["conv_in.weight"], torch.zeros_like(state["conv_in.weight"])], 1)
    unet.load_state_dict(unet.state_dict() | state)
    for name, layer in unet.named_modules():
        if isinstance(layer, BasicTransformerBlock) and f"{name}.norm1.weight" not in state:
            for last in (layer.attn1.to_out[0], layer.attn2.to_out[0], layer.ff.net[2]):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
    return unet


@torch.inference_mode()
def embed_images(vision: CLIPVisionModelWithProjection, images: np.ndarray, device: torch.device) -> torch.Tensor:
    """CLIP's image embeddings (N, d), on the CPU, of RGBA views."""
    return torch.cat([vision(small(images[i : i + 256], device)).image_embeds.cpu() for i in range(0, len(images), 256)])


def pairs(records: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """All (reference, target) view indices of two views of an object, and of one with itself: (P,), (P,)."""
    views = defaultdict(list)
    for i, r in enumerate(records):
        views[r["object"]].append(i)
    both = [(a, b) for same in views.values() for a in same for b in same if a != b or a == same[0]]
    return tuple(torch.tensor(both).T)


def mirrored(records: list[dict]) -> list[dict]:
    """Records of views' mirror images: of other objects, seen from the other side."""
    return [r | {"object": -1 - r["object"], "azimuth_deg": -r["azimuth_deg"] % 360} for r in records]


def pose_of(records: list[dict], target: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The relative cameras of views (B,) by number: (B, 4)."""
    target, reference = (View(*torch.tensor([[records[i][key] for i in rows] for key in CAMERA])) for rows in (target.tolist(), reference.tolist()))
    return relative_pose(target, reference)


@torch.inference_mode()
def novel_views(modules: nn.ModuleDict, scheduler: DDPMScheduler, latents: torch.Tensor, embeds: torch.Tensor, pose: torch.Tensor, scaling_factor: float,
                guidance_scale: float = 3.0, num_inference_steps: int = 20) -> torch.Tensor:
    """Scaled latents of objects from other cameras, of reference views' latents (B, C, h, w), embeddings (B, d) and relative poses (B, 4)."""
    token = modules["cc_projection"](torch.cat([embeds, pose], 1))[:, None]
    sampler = DDIMScheduler.from_config(scheduler.config)
    predict = guided(modules["unet"], sampler, token, latents / scaling_factor, guidance_scale).for_sampler(sampler)
    return denoise(predict, sampler, torch.randn_like(latents), num_inference_steps)


def train(latents: torch.Tensor, embeds: torch.Tensor, records: list[dict], prior: UNet2DConditionModel, scheduler: DDPMScheduler, scaling_factor: float,
          folder: Path, device: torch.device, steps: int, batch_size: int = BATCH, made_from: str = "",
          sample: Callable[[nn.Module, int], None] | None = None, quiet: bool = False) -> nn.ModuleDict:
    """Denoise a target view given the reference's latents (unscaled, concatenated) and one token of CLIP image and camera.

    latents (N, C, h, w) scaled, embeds (N, d) CLIP image embeddings, made_from tells their model from others. sample: as in `fit`.
    Returns {"unet", "cc_projection"}.
    """
    torch.manual_seed(0)
    unet, projection = from_prior(prior), CCProjection(WIDTH + POSE, WIDTH)
    modules = nn.ModuleDict({"unet": unet, "cc_projection": projection}).to(device)
    make_fast(device, steps, unet)
    made_from += digest(latents, records, scaling_factor, batch_size)
    reference, target = pairs(records)
    poses = pose_of(records, target, reference)
    latents, embeds, reference, target, poses = (x.to(device) for x in (latents, embeds, reference, target, poses))

    def loss(step):
        index = torch.randint(len(reference), (batch_size,), device=device)
        z, ref = latents[target[index]].float(), reference[index]
        keep = (torch.rand(batch_size, 1, device=device) > NO_IMAGE).float()
        context = (projection(torch.cat([embeds[ref], poses[index]], 1)) * keep)[:, None]
        image = latents[ref].float() / scaling_factor * keep[..., None, None]

        def predict(z_t, t):
            return unet(torch.cat([z_t, image], 1).contiguous(memory_format=torch.channels_last), t, context).sample

        return {"loss": denoising_loss(predict, scheduler, z, generator(device))}

    return fit(modules, loss, steps, 6e-4, folder, made_from=made_from, recorded=True, sample=sample, quiet=quiet)


def save_projection(projection: CCProjection, folder: Path) -> None:
    projection.half().save_pretrained(folder)
