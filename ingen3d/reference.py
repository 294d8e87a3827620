"""The picture that an object is made from, and others that Zero-1-to-3 makes of it: what fields are fitted to."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from core.checkpoints import cached
from core.errors import UserError
from core.images import contact_sheet, to_pil

from .cameras import Cameras, orbit
from .depth import DepthEstimator
from .foreground import foreground, frame
from .render import render
from .settings import CameraSettings, Settings
from .zero123 import Condition, Zero123

logger = logging.getLogger(__name__)
STEPS = 25  # of sampling a picture


@dataclass
class Reference:
    """The picture that the object is made from, and the camera that is taken to have seen it."""

    rgb: torch.Tensor  # (H, W, 3) in [0, 1], straight
    mask: torch.Tensor  # (H, W) in [0, 1]
    camera: Cameras  # a batch of one
    nearness: torch.Tensor | None = None  # (H, W), inverse depth up to a scale and a shift, as an estimator sees it
    scale: float | None = None  # of nearness, in 1 / world unit, where it is known

    def on_white(self) -> torch.Tensor:
        """(1, 3, H, W) in [-1, 1], as the score models want it."""
        rgb = self.rgb * self.mask[..., None] + 1 - self.mask[..., None]
        return (rgb * 2 - 1).permute(2, 0, 1)[None]

    def sample(self, size: int, jitter: torch.Tensor, background: torch.Tensor | float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Colour (size, size, 3) on a background, mask and nearness (size, size), where rays with this jitter pass."""
        x, y = ((2 * (torch.arange(size, device=jitter.device) + j) / size - 1) for j in jitter)
        coordinates = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
        nearness = torch.zeros_like(self.mask) if self.nearness is None else self.nearness
        picture = torch.cat([self.rgb * self.mask[..., None], self.mask[..., None], nearness[..., None]], -1).permute(2, 0, 1)[None]
        sampled = F.grid_sample(picture, coordinates, padding_mode="border", align_corners=False)[0].permute(1, 2, 0)
        rgb, mask, nearness = sampled[..., :3], sampled[..., 3], sampled[..., 4]
        return rgb + (1 - mask[..., None]) * background, mask, nearness


def framed(image: Image.Image, size: int, fill: float | None) -> np.ndarray:
    """A user's picture moved to the framing that the models know: straight RGBA (size, size, 4) in [0, 1].

    fill: see ImageSettings; None takes the framing, and the size up to 1024, as they are. Raises UserError for one that is not square then.
    """
    if fill is None and image.width != image.height:
        raise UserError(f"the picture is {image.width} x {image.height} px: one that keeps its framing (image.fill=null) is square")
    image = image.convert("RGBA")  # a copy
    image.thumbnail((1024, 1024), Image.Resampling.LANCZOS)  # no model sees more, and a phone's picture would take minutes
    return foreground(image) if fill is None else frame(foreground(image), size, fill)


def read_reference(file: Path, c: CameraSettings, device) -> Reference:
    """The reference from a straight RGBA picture."""
    rgba = torch.from_numpy(np.asarray(Image.open(file).convert("RGBA"), np.float32) / 255).to(device)
    camera = Cameras.at(c.reference_elevation_deg, c.reference_azimuth_deg, c.reference_distance, c.fovy_deg, device)
    return Reference(rgba[..., :3], rgba[..., 3], camera)


def with_depth(
    reference: Reference, zero123: Zero123, condition: Condition, estimator: DepthEstimator, settings: Settings, seed: int, folder: Path
) -> list[Reference]:
    """The reference, then what Zero-1-to-3 sees all around from high up, where a vessel shows how deep it is; all with the nearness of their points.

    folder: keeps what it sees, in above.safetensors for a run that goes on and in above.png for a look.
    """
    s, c, device = settings.init, settings.camera, reference.rgb.device
    found = [replace(reference, nearness=estimator.nearness(reference.on_white())[0], scale=estimator.scale)]
    if not s.pictures:
        return found
    ring = orbit(s.pictures, s.pictures_elevation_deg, c.reference_distance, c.fovy_deg, c.reference_azimuth_deg, device)

    def look() -> dict[str, torch.Tensor]:
        logger.info("sampling %d pictures from above", s.pictures)
        images = zero123.sample(condition, ring, s.guidance_scale, STEPS, torch.Generator().manual_seed(seed)).float().clamp(-1, 1)
        contact_sheet(to_pil(images)).save(folder / "above.png")
        return {"images": images}

    images = cached(folder / "above.safetensors", look)["images"].to(device)
    for i, (picture, nearness) in enumerate(zip(to_pil(images), estimator.nearness(images))):
        try:
            rgba = torch.from_numpy(foreground(picture)).to(device)
        except UserError:  # it shows nothing
            continue
        found.append(Reference(rgba[..., :3], rgba[..., 3], ring[i], nearness, estimator.scale))
    return found


@torch.no_grad()
def reference_metrics(field, grid, reference: Reference) -> dict[str, float]:
    """How well the field shows the reference picture: PSNR in dB, and IoU of the masks."""
    size = len(reference.mask)
    camera = replace(reference.camera, distance=reference.camera.distance / field.unit)
    seen = render(field, grid, camera, size, size, samples=128)
    target = (reference.on_white()[0].permute(1, 2, 0) + 1) / 2
    mine, theirs = seen.opacity[0] > 0.5, reference.mask > 0.5
    return {
        "reference_psnr": round(-10 * torch.log10(F.mse_loss(seen.rgb[0], target)).item(), 2),
        "reference_iou": round(((mine & theirs).sum() / (mine | theirs).sum().clamp(min=1)).item(), 4),
    }
