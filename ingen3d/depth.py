"""Monocular depth: what one picture tells of how near its points are, and the loss by which a field follows it.

As in Magic123 (Qian et al. 2024, Sec. 3.1) for the reference view, and here for views that Zero-1-to-3 samples from high up too. Without it a vessel is a
lid in the colours of what is to be seen inside.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForDepthEstimation, PreTrainedModel

from core.presets import wanted

from .zero123 import hub_file


@dataclass
class DepthEstimator:
    """A depth estimator of transformers' that tells inverse depth up to a scale and a shift, as MiDaS and Depth Anything do.

    scale: in 1 / world unit, where its configuration knows it (`inverse_depth_scale`): that of a picture by itself is easily missed.
    """

    model: PreTrainedModel
    size: tuple[int, int]  # of the pictures that it takes, height and width
    mean: torch.Tensor  # (1, 3, 1, 1)
    std: torch.Tensor
    scale: float | None = None

    @classmethod
    def from_pretrained(cls, name: str | Path, device="cpu", dtype=torch.float32) -> "DepthEstimator":
        """From a folder or a Hub id. Raises UserError where there is none."""
        name = str(name)
        with wanted(name, "a depth estimator"):
            processor = json.loads(hub_file(name, "preprocessor_config.json").read_text())
            if not {"image_mean", "image_std"} <= processor.keys() or not isinstance(processor.get("size"), dict):
                raise ValueError("its preprocessor_config.json says no size, mean and standard deviation")
            model = AutoModelForDepthEstimation.from_pretrained(name, torch_dtype=dtype).to(device).eval().requires_grad_(False)
        mean, std = (torch.tensor(processor[key], device=device, dtype=dtype).view(1, 3, 1, 1) for key in ("image_mean", "image_std"))
        return cls(model, (processor["size"]["height"], processor["size"]["width"]), mean, std, getattr(model.config, "inverse_depth_scale", None))

    @torch.no_grad()
    def nearness(self, images: torch.Tensor) -> torch.Tensor:
        """Inverse depth (B, H, W), up to a scale and a shift of each, in pictures (B, 3, H, W) in [-1, 1]."""
        x = F.interpolate(images.float(), self.size, mode="bicubic", antialias=True, align_corners=False).to(self.mean)
        found = self.model((x / 2 + 0.5 - self.mean) / self.std).predicted_depth.float()
        return F.interpolate(found[:, None], images.shape[-2:], mode="bilinear", antialias=True)[:, 0]


def depth_loss(depth: torch.Tensor, nearness: torch.Tensor, scale: float | None = None) -> torch.Tensor:
    """Mean absolute error of a field's inverse depth from what a picture tells of it, see `fitted`.

    depth: distances (N,) along rays to the points whose nearness (N,) the picture tells; 0 where these are too few to compare.
    """
    if len(depth) < 3:
        return depth.sum() * 0
    inverse = 1 / depth
    return (inverse - fitted(nearness, inverse.detach(), scale)).abs().mean()


def fitted(nearness: torch.Tensor, inverse: torch.Tensor, scale: float | None = None) -> torch.Tensor:
    """A picture's nearness (N,), moved, and scaled where its scale is not known, to be as near as can be to inverse depths (N,) (MiDaS, Ranftl et al.
    2022, Eq. 5)."""
    x, y = nearness - nearness.mean(), inverse - inverse.mean()
    if scale is None:
        scale = ((x * y).sum() / (x * x).sum().clamp(min=1e-8)).clamp(min=0)
    return inverse.mean() + scale * x
