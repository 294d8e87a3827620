"""What Zero-1-to-3's training and its use share: relative camera, the layer that makes a token of it, and guided prediction (Liu et al. 2023)."""

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn

from .guidance import MultiGuidance
from .terms import Term, velocity_schedule


class CCProjection(ModelMixin, ConfigMixin):
    """One linear layer from (CLIP image embedding, relative camera) to a cross-attention token."""

    @register_to_config
    def __init__(self, in_channel: int = 772, out_channel: int = 768):
        super().__init__()
        self.projection = nn.Linear(in_channel, out_channel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.projection(x)


def relative_pose(target, reference) -> torch.Tensor:
    """(d polar, sin d azimuth, cos d azimuth, d distance) in radians and world units, (B, 4).

    Cameras are anything with `elevation_deg`, `azimuth_deg` and `distance`, each (B,).
    """
    d_polar = torch.deg2rad(reference.elevation_deg - target.elevation_deg)  # polar = 90 deg - elevation
    d_azimuth = torch.deg2rad(target.azimuth_deg - reference.azimuth_deg)
    return torch.stack([d_polar, d_azimuth.sin(), d_azimuth.cos(), target.distance - reference.distance], -1)


def guided(unet: nn.Module, scheduler, token: torch.Tensor, image: torch.Tensor, guidance_scale: float) -> MultiGuidance:
    """(z_t (B, C, h, w), t) -> eps of an object from other cameras. token: (B, 1, d). image: the reference's unscaled latents, (B or 1, C, h, w).

    guidance_scale is diffusers' w: eps_0 + w (eps - eps_0), eps_0 with a zero token and a zero picture, as it was trained.
    """
    alphas = velocity_schedule(scheduler)
    uncond = Term(unet, torch.zeros_like(token), None, alphas, torch.zeros_like(image))
    return MultiGuidance(uncond, [Term(unet, token, guidance_scale, alphas, image)])
