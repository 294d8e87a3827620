"""The kiln's Zero-1-to-3: the prior's UNet taught to see an object from another camera (Liu et al. 2023)."""

from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPVisionModelWithProjection

from ..zero123 import CCProjection, relative_pose
from .clip import WIDTH
from .loop import digest, fit
from .prior import new_scheduler, new_unet
from .renderer import View

NO_IMAGE = 0.1  # share of steps without image and camera, for classifier-free guidance
POSE = 4  # d polar, sin d azimuth, cos d azimuth, d distance


def from_prior(prior: UNet2DConditionModel) -> UNet2DConditionModel:
    """The prior with as many input channels more for the reference's latents, their weights zero at first."""
    unet = new_unet(in_channels=2 * prior.config.in_channels)
    state = prior.state_dict()
    state["conv_in.weight"] = torch.cat([state["conv_in.weight"], torch.zeros_like(state["conv_in.weight"])], 1)
    unet.load_state_dict(state)
    return unet


@torch.inference_mode()
def embed_images(vision: CLIPVisionModelWithProjection, pixels: torch.Tensor, device) -> torch.Tensor:
    return torch.cat([vision(x.to(device)).image_embeds for x in pixels.split(256)])


def pairs(records: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """All (reference, target) view indices of the same object: (P,), (P,)."""
    views = defaultdict(list)
    for i, r in enumerate(records):
        views[r["object"]].append(i)
    both = [(a, b) for same in views.values() for a in same for b in same]
    return tuple(torch.tensor(both).T)


def train(latents: torch.Tensor, embeds: torch.Tensor, records: list[dict], prior: UNet2DConditionModel, scaling_factor: float,
          folder: Path, device: torch.device, steps: int, batch_size: int = 20, made_from: str = "", quiet: bool = False) -> nn.ModuleDict:
    """Denoise a target view given the reference's latents (unscaled, concatenated) and one token of CLIP image and camera.

    latents (N, C, h, w) scaled, embeds (N, d) CLIP image embeddings, made_from tells their model from others.
    Returns {"unet", "cc_projection"}.
    """
    torch.manual_seed(0)
    unet, projection = from_prior(prior), CCProjection(WIDTH + POSE, WIDTH)
    modules = nn.ModuleDict({"unet": unet, "cc_projection": projection}).to(device)
    unet.to(memory_format=torch.channels_last)
    scheduler = new_scheduler()
    camera = torch.tensor([[r["elevation_deg"], r["azimuth_deg"], r["distance"]] for r in records]).T  # (3, N)
    reference, target = pairs(records)

    def loss(step):
        index = torch.randint(len(reference), (batch_size,))
        ref, tgt = reference[index], target[index]
        z, keep = latents[tgt].to(device), (torch.rand(batch_size, 1) > NO_IMAGE).float().to(device)
        pose = relative_pose(View(*camera[:, tgt]), View(*camera[:, ref])).to(device)
        context = (projection(torch.cat([embeds[ref].to(device), pose], 1)) * keep)[:, None]
        image = latents[ref].to(device) / scaling_factor * keep[..., None, None]
        t = torch.randint(0, 1000, (batch_size,), device=device)
        noise = torch.randn_like(z)
        z_t = torch.cat([scheduler.add_noise(z, noise, t), image], 1).contiguous(memory_format=torch.channels_last)
        return {"loss": F.mse_loss(unet(z_t, t, context).sample, noise)}

    return fit(modules, loss, steps, 6e-4, folder, made_from=made_from + digest(latents, records, scaling_factor), quiet=quiet)


def save_projection(projection: CCProjection, folder: Path) -> None:
    projection.half().save_pretrained(folder)
