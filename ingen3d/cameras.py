"""Cameras on a sphere about the origin, in threestudio's conventions.

World: z up; azimuth 0 looks from +x, 90 from +y; elevation above the xy plane; angles in degrees. Camera: OpenGL, that is
x right, y up, looking along -z.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Cameras:
    """A batch of cameras that look at the origin. All fields are (B,) and live on one device."""

    elevation_deg: torch.Tensor
    azimuth_deg: torch.Tensor
    distance: torch.Tensor
    fovy_deg: torch.Tensor

    @classmethod
    def at(cls, elevation_deg, azimuth_deg, distance, fovy_deg, device="cpu") -> "Cameras":
        """Cameras from numbers or sequences, broadcast against each other."""
        values = [
            torch.as_tensor(v, dtype=torch.float32, device=device).reshape(-1) for v in (elevation_deg, azimuth_deg, distance, fovy_deg)
        ]
        return cls(*torch.broadcast_tensors(*values))

    def __len__(self) -> int:
        return len(self.distance)

    def __getitem__(self, i: int) -> "Cameras":
        """The i-th camera, as a batch of one."""
        return Cameras(*(v[i : i + 1] for v in (self.elevation_deg, self.azimuth_deg, self.distance, self.fovy_deg)))

    def position(self) -> torch.Tensor:
        """Camera centres in the world, (B, 3)."""
        elevation, azimuth = torch.deg2rad(self.elevation_deg), torch.deg2rad(self.azimuth_deg)
        direction = torch.stack([elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()], -1)
        return self.distance[:, None] * direction

    def c2w(self) -> torch.Tensor:
        """Camera-to-world matrices, (B, 4, 4)."""
        position = self.position()
        backward = F.normalize(position, dim=-1)
        azimuth = torch.deg2rad(self.azimuth_deg)
        # from the azimuth and not up x backward, which vanishes at the poles
        right = torch.stack([-azimuth.sin(), azimuth.cos(), torch.zeros_like(azimuth)], -1)
        up = torch.linalg.cross(backward, right)
        matrix = torch.eye(4, device=position.device).repeat(len(self), 1, 1)
        matrix[:, :3] = torch.stack([right, up, backward, position], -1)
        return matrix

    def rays(self, height: int, width: int, jitter: torch.Tensor | float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
        """Rays through the pixels, row 0 on top: origins and unit directions, both (B, height, width, 3).

        jitter: where in the pixel, 0 to 1; 0.5 is its centre, a (2,) tensor (x, y) moves the whole grid.
        """
        jx, jy = jitter if isinstance(jitter, torch.Tensor) else (jitter, jitter)
        device = self.distance.device
        y = 1 - 2 * (torch.arange(height, device=device) + jy) / height
        x = (2 * (torch.arange(width, device=device) + jx) / width - 1) * width / height
        y, x = torch.meshgrid(y, x, indexing="ij")
        tan = torch.tan(torch.deg2rad(self.fovy_deg) / 2)[:, None, None]
        directions = torch.stack([x * tan, y * tan, -torch.ones_like(x * tan)], -1)  # (B, H, W, 3), camera space
        c2w = self.c2w()
        rays_d = F.normalize(torch.einsum("bij,bhwj->bhwi", c2w[:, :3, :3], directions), dim=-1)
        return c2w[:, None, None, :3, 3].expand_as(rays_d), rays_d


def orbit(n: int, elevation_deg: float, distance: float, fovy_deg: float, start_deg: float = 0.0, device="cpu") -> Cameras:
    """n cameras at even azimuths, counter-clockwise seen from above."""
    azimuth = start_deg + 360.0 * torch.arange(n) / n
    return Cameras.at(elevation_deg, azimuth, distance, fovy_deg, device)


def random_cameras(
    n: int,
    elevation_range: tuple[float, float],
    distance_range: tuple[float, float],
    fovy_deg: float,
    generator: torch.Generator,
    device="cpu",
    centre_deg: float = 0.0,
    arc_deg: float = 360.0,
) -> Cameras:
    """n cameras, uniform in elevation and distance; one azimuth in each of n equal sectors of an arc about centre_deg, turned by a random angle."""
    u = torch.rand(3, n, generator=generator)
    elevation = elevation_range[0] + (elevation_range[1] - elevation_range[0]) * u[0]
    distance = distance_range[0] + (distance_range[1] - distance_range[0]) * u[1]
    turn = torch.rand((), generator=generator)
    azimuth = (centre_deg + arc_deg * (((torch.arange(n) + u[2]) / n + turn + 0.5) % 1.0 - 0.5)) % 360.0
    return Cameras.at(elevation, azimuth, distance, fovy_deg, device)
