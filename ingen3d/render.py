"""Volume rendering of a field on any device, with nerfacc's dense functions and an occupancy grid of our own."""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from nerfacc import accumulate_along_rays, render_transmittance_from_density, render_weight_from_density
from torch import nn
from tqdm.auto import tqdm

from .cameras import Cameras
from .field import RADIUS, TriPlaneField

SAMPLES_AT_ONCE = 2_000_000  # where nothing is learned: a picture of 512 px has 67 million


class OccupancyGrid(nn.Module):
    """Which cells of the cube about the unit ball may hold matter.

    Keeps the running maximum of density (Instant-NGP, Mueller et al. 2022, App. E). Occupied cells are dilated by one, since a point
    that is never queried gets no gradient and matter could otherwise not grow.
    """

    def __init__(self, resolution: int = 64, threshold: float = 0.5, decay: float = 0.8):
        super().__init__()
        self.resolution, self.threshold, self.decay = resolution, threshold, decay
        self.register_buffer("density", torch.full((resolution,) * 3, 1e3))  # all occupied until the first update
        self.register_buffer("occupied", torch.ones((resolution,) * 3, dtype=torch.bool))

    @torch.no_grad()
    def update(self, field: TriPlaneField, generator: torch.Generator | None = None, decay: float | None = None) -> None:
        """Look at one random point of every cell; decay 0 forgets the past."""
        n, device = self.resolution, self.density.device
        axis = torch.arange(n, device=device)
        cells = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
        jitter = torch.rand(cells.shape, generator=generator).to(device) if generator is not None else 0.5
        x = (2 * (cells + jitter) / n - 1) * RADIUS
        inside = x.norm(dim=-1) < RADIUS
        density = torch.zeros(len(x), device=device)
        density[inside] = field.density(x[inside])
        decay = self.decay if decay is None else decay
        self.density = torch.maximum(self.density * decay, density.view_as(self.density))
        occupied = (self.density > self.threshold).float()
        self.occupied = F.max_pool3d(occupied[None, None], 3, stride=1, padding=1)[0, 0] > 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Whether points (..., 3) lie in occupied cells: bool (...)."""
        n = self.resolution
        i = ((x / RADIUS + 1) * (n / 2)).long().clamp_(0, n - 1)
        return self.occupied.view(-1)[(i[..., 0] * n + i[..., 1]) * n + i[..., 2]]


@dataclass
class Render:
    """What a camera sees; (B, H, W, ...) each. Colour is composited on the background that was asked for."""

    rgb: torch.Tensor  # (B, H, W, 3)
    opacity: torch.Tensor  # (B, H, W)
    depth: torch.Tensor  # (B, H, W), along the ray to the surface, zero where opacity < 0.5
    rays_d: torch.Tensor  # (B, H, W, 3)
    normal: torch.Tensor | None = None  # (B, H, W, 3), outward, zero where opacity < 0.5
    distortion: torch.Tensor | None = None  # (B, H, W), in world units, how spread out along the ray what is seen there is


def render(
    field: TriPlaneField,
    grid: OccupancyGrid,
    cameras: Cameras,
    height: int,
    width: int,
    samples: int = 64,
    background: torch.Tensor | float = 1.0,
    generator: torch.Generator | None = None,
    jitter: torch.Tensor | float = 0.5,
    priors: bool = False,
) -> Render:
    """Render a field from a batch of cameras outside the unit ball.

    samples: per ray, across the ball's diameter. background: grey level or (3,) or (B, 1, 1, 3).
    priors: normals and distortion too, of which losses on shape are made.
    generator: jitters the samples along each ray (training). jitter: where rays pass through their pixels, see `Cameras.rays`.
    """
    device = cameras.distance.device
    rays_o, rays_d = cameras.rays(height, width, jitter)
    shape = rays_d.shape[:-1]
    near = (cameras.distance - RADIUS)[:, None, None].expand(shape).reshape(-1, 1)
    offset = torch.rand(len(near), 1, generator=generator).to(device) - 0.5 if generator is not None else torch.zeros_like(near)
    rays, planes = (rays_o.reshape(-1, 3), rays_d.reshape(-1, 3), near, offset), field.pyramid_sum()
    chunk = len(near) if torch.is_grad_enabled() else max(1, SAMPLES_AT_ONCE // samples)
    parts = [march(field, grid, planes, *part, samples, priors) for part in zip(*(x.split(chunk) for x in rays), strict=True)]
    rgb, opacity, depth, *more = (torch.cat(x).view(*shape, -1) for x in zip(*parts, strict=True))
    seen = Render(rgb + (1 - opacity) * background, opacity[..., 0], depth[..., 0], rays_d)
    return replace(seen, normal=more[0], distortion=more[1][..., 0]) if priors else seen


def march(field, grid, planes, origins, directions, near, offset, samples: int, priors: bool) -> tuple[torch.Tensor, ...]:
    """Rays (n, 3), near and offset (n, 1), to premultiplied colour (n, 3), opacity and depth (n, 1), and with `priors` normal (n, 3) and distortion (n, 1)."""
    # every ray is cut into the same number of equal steps over the ball's depth, so tensors are dense
    step = 2 * RADIUS / samples
    t_starts = near + (torch.arange(samples, device=near.device) + offset) * step  # (n, samples)
    t_ends = t_starts + step
    with torch.no_grad():
        x = origins[:, None] + directions[:, None] * (t_starts + step / 2)[..., None]
        active = grid(x) & ((x * x).sum(-1) < RADIUS**2)  # (n, samples)

        # what lies behind an opaque surface is not seen and gets no gradient: drop it before the costly pass
        density = _scatter(field.density(x[active], planes), active)
        active &= render_transmittance_from_density(t_starts, t_ends, density)[0] > 1e-3
    density, colour = field(x[active], planes)
    density, colour = _scatter(density, active), _scatter(colour, active)
    weights = render_weight_from_density(t_starts, t_ends, density)[0]  # (n, samples)
    opacity, rgb = accumulate_along_rays(weights), accumulate_along_rays(weights, colour)
    middles = (t_starts + t_ends) / 2
    middle = accumulate_along_rays(weights, middles[..., None])  # (n, 1)
    hit = opacity.view(-1).detach() > 0.5
    depth = (middle / opacity.clamp(min=1e-6))[hit]
    if not priors:
        return rgb, opacity, _scatter(depth, hit)
    # the surface point itself is held fixed: normal losses should turn the surface, not slide along the ray
    surface = origins[hit] + directions[hit] * depth.detach()
    return rgb, opacity, _scatter(depth, hit), _scatter(field.normal(surface, planes), hit), distortion(weights, middles, step)


def distortion(weights: torch.Tensor, middles: torch.Tensor, step: float) -> torch.Tensor:
    """Mip-NeRF 360's Eq. 15 (Barron et al. 2022): the mean distance between two points of what a ray sees, times its opacity squared; (n, 1).

    weights: (n, samples), of the ray's steps, whose middles (n, samples) are so many world units from its origin; step: a step's length.
    It is next to nothing for one thin opaque wall, and large for two that are half transparent.
    """
    before = weights.cumsum(-1) - weights
    between = 2 * weights * (middles * before - ((weights * middles).cumsum(-1) - weights * middles))
    return (between + weights**2 * step / 3).sum(-1, keepdim=True)


def _scatter(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Values (N, ...) into zeros where the mask is true: (*mask.shape, ...)."""
    out = values.new_zeros(*mask.shape, *values.shape[1:])
    return out.index_put(mask.nonzero(as_tuple=True), values)


@torch.no_grad()
def render_views(
    field: TriPlaneField, grid: OccupancyGrid, cameras: Cameras, size: int, samples: int = 128, name: str = "views", quiet: bool = True
) -> np.ndarray:
    """Pictures on white, one camera at a time: uint8 (B, size, size, 3)."""
    bar = tqdm(range(len(cameras)), name, disable=quiet, delay=2)
    views = (render(field, grid, cameras[i], size, size, samples).rgb[0] for i in bar)
    return np.stack([(255 * view.clamp(0, 1)).round().byte().cpu().numpy() for view in views])
