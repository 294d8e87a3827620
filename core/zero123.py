"""What Zero-1-to-3's training and its use share: the relative camera, and the layer that makes a token of it (Liu et al. 2023)."""

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn


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
