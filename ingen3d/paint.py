"""Painting: views all around a field are sampled anew by the rule, one after the other, and projected onto it.

Score distillation averages what a domain allows, and so blurs it. A sampled view is one choice, and the next goes on from it (TEXTure,
Richardson et al. 2023; Text2Tex, Chen et al. 2023). The shape stays, and so does the colour where no view sees the surface well.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from tqdm.auto import tqdm

from core.images import to_pil

from .cameras import Cameras, orbit
from .field import TriPlaneField
from .render import OccupancyGrid, render
from .settings import Settings

SAMPLES = 96  # along a ray that finds the surface
TOLERANCE = 0.08  # how far off the surface, in radii of the ball, matter still has the colour of what is seen there
SHARPNESS = 16  # the power of a view's quality in the mean of several: the best one all but decides
OWN = 0.15  # the quality of the field's own colour in it


class View(NamedTuple):
    """A picture of a field (3, S, S), distance (S, S) of the surface in it, and how well it shows that: quality (S, S) in [0, 1]."""

    camera: Cameras  # a batch of one
    picture: torch.Tensor
    depth: torch.Tensor
    quality: torch.Tensor


class PaintedField(nn.Module):
    """A field in the colours of pictures of it, at each point mostly of the one that sees it best.

    Its densities are those of `field`, its colours too until `add` is called.
    """

    normal = TriPlaneField.normal  # by differences of anyone's densities

    def __init__(self, field: nn.Module, grid: OccupancyGrid):
        super().__init__()
        self.field, self.grid, self.unit, self.views = field, grid, field.unit, []

    def pyramid_sum(self) -> torch.Tensor | None:
        return self.field.pyramid_sum()

    def density(self, x: torch.Tensor, planes: torch.Tensor | None = None) -> torch.Tensor:
        return self.field.density(x, planes)

    def forward(self, x: torch.Tensor, planes: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """As a field's: density (N,) and colour (N, 3) at points x (N, 3)."""
        density, own = self.field(x, planes)
        colour, total = OWN**SHARPNESS * own, OWN**SHARPNESS
        normal = self.normal(x, planes) if self.views else None
        for view in self.views:
            seen, quality = look_up(view, x, normal)
            weight = quality[:, None] ** SHARPNESS
            colour, total = colour + weight * seen, total + weight
        return density, colour / total

    def best(self, x: torch.Tensor) -> torch.Tensor:
        """The quality (N,) in which the best of the pictures shows points x (N, 3); 0 where none does."""
        normal = self.normal(x, self.pyramid_sum()) if self.views else None
        return torch.stack([x.new_zeros(len(x)), *(look_up(view, x, normal)[1] for view in self.views)]).amax(0)

    @torch.no_grad()
    def survey(self, camera: Cameras, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """From a new camera, at size x size pixels: a picture (3, S, S), the surface's distance, its quality, and the best that it has so far, (S, S) each."""
        seen = render(self, self.grid, camera, size, size, SAMPLES, priors=True)
        picture, opacity, depth, facing = seen.rgb[0].permute(2, 0, 1), seen.opacity[0], seen.depth[0], -(seen.normal * seen.rays_d).sum(-1)[0]
        # a pixel at an edge mixes what is before it with what is behind; the mean spreads that doubt, and takes the noise out of normals
        jump = F.max_pool2d(depth[None], 3, 1, 1) + F.max_pool2d(-depth[None], 3, 1, 1)
        sure = (opacity > 0.5) & (jump[0] < 2 * TOLERANCE)
        width = 2 * round(size / 64) + 1
        quality = F.avg_pool2d((facing.clamp(0, 1) * sure)[None], width, 1, width // 2)[0] * (opacity > 0.5)
        rays_o, rays_d = camera.rays(size, size)
        best = self.best((rays_o + rays_d * depth[None, ..., None]).reshape(-1, 3)).view(size, size)
        return picture, depth, quality, best

    def add(self, camera: Cameras, picture: torch.Tensor, depth: torch.Tensor, quality: torch.Tensor) -> None:
        self.views.append(View(camera, picture, depth, quality))


def look_up(view: View, x: torch.Tensor, normal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a picture shows at points x (N, 3): colour (N, 3) and quality (N,), 0 where they are hidden from it, before the surface or out of it, or
    on the other side of a thin wall, by their normals (N, 3)."""
    ray = x - view.camera.position()
    local = ray @ view.camera.c2w()[0, :3, :3]  # the camera looks along -z
    tan = torch.tan(torch.deg2rad(view.camera.fovy_deg) / 2)
    pixel = (local[:, :2] / (-local[:, 2:] * tan) * local.new_tensor([1, -1]))[None, None]
    maps = torch.cat([view.picture, view.quality[None], view.depth[None]])[None]
    *colour, quality, depth = F.grid_sample(maps, pixel, align_corners=False)[0, :, 0]
    off = (local.norm(dim=-1) - depth).abs() * quality.clamp(min=0.4)  # about as far as across the surface, which may be seen aslant
    return torch.stack(colour, -1), quality * ((off < TOLERANCE) & (local[:, 2] < 0) & ((ray * normal).sum(-1) < 0))


def paint(field: nn.Module, grid: OccupancyGrid, reference, pipe, prompt: str, settings: Settings, seed: int, folder: Path, quiet: bool) -> PaintedField:
    """The field in the colours of pictures all around it, or of those on refinement's arc, from the front to the back. The reference, where there
    is one, is the first.

    They are FOLDER/000.png and so on, counter-clockwise seen from above. Those that are there are taken as they are; `pipe()`, an InDomainPipeline,
    is called where one is missing.
    """
    painted, s, c = PaintedField(field, grid), settings.paint, settings.camera
    device = grid.density.device
    ring = orbit(s.pictures, c.reference_elevation_deg, c.reference_distance / field.unit, c.fovy_deg, c.reference_azimuth_deg, device)
    off = {i: 360 / s.pictures * min(i, s.pictures - i) for i in range(s.pictures)}  # degrees from the front
    for i in tqdm(sorted((i for i in off if off[i] <= settings.refine.arc_deg / 2), key=off.get), "paint", unit="picture", disable=quiet):
        file = folder / f"{i:03d}.png"
        size = Image.open(file).width if file.exists() else pipe().resolution
        seen, depth, quality, best = painted.survey(ring[i], size)
        if not file.exists():
            if i == 0 and reference is not None:
                made = F.interpolate(reference.on_white() / 2 + 0.5, (size, size), mode="bilinear", antialias=True)[0]
            else:
                edit = quality > best  # where no earlier picture shows the surface better
                made = resample(pipe(), prompt, settings, seen, edit, depth == 0, torch.Generator().manual_seed(1000 * seed + i))
            partial = file.with_suffix(".partial")
            to_pil(made[None] * 2 - 1)[0].save(partial, "PNG")
            partial.replace(file)
        # always from the file, so that a resumed run sees the very same pixels
        picture = torch.from_numpy(np.asarray(Image.open(file).convert("RGB"), np.float32) / 255).permute(2, 0, 1).to(device)
        painted.add(ring[i], picture, depth, quality * object_in(picture))
    return painted


def object_in(picture: torch.Tensor) -> torch.Tensor:
    """Where a picture (3, S, S) is not white as its background is, nor next to that: 1, else 0 (S, S).

    Its object may be narrower than the field's, whose surface is not to turn white there: that is left to the next pictures and to the field's own colour.
    Stricter than `foreground`, which closes gaps in an object: they would be painted white.
    """
    white = (picture > 0.96).all(0).float()
    width = 2 * round(len(white) / 128) + 1
    return 1 - F.max_pool2d(white[None, None], width, 1, width // 2)[0, 0]


def resample(pipe, prompt: str, settings: Settings, picture: torch.Tensor, edit: torch.Tensor, free: torch.Tensor, generator) -> torch.Tensor:
    """A picture (3, S, S) with what it shows at `edit` (S, S) sampled anew; where it is free, it may change for that and is not kept."""
    s, mask = settings.paint, (edit | free).float()[None, None]
    scales = {name: scale for name in ("domain_scale", "control_scale") if (scale := getattr(s, name)) is not None}
    made = pipe(prompt, image=picture[None].clamp(0, 1), mask_image=mask, strength=s.strength, rectify=settings.refine.rectify, guidance_every=1,
                num_inference_steps=settings.image.num_inference_steps, generator=generator, output_type="pt", **scales).images[0]
    return torch.where(edit, made.to(picture), picture)
