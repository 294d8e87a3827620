"""The radiance field: three feature planes and a small MLP that give density and view-independent colour.

Tri-planes as in EG3D (Chan et al. 2022, Sec. 3.2), density blob start as in threestudio's `blob_magic3d`. Colour does not depend on
the view: a score model judges pictures whose light is fixed in the world, so shading belongs to the surface.
"""

from ast import literal_eval
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import nn

RADIUS = 1.0  # the object lives in the ball of this radius about the origin


class TriPlaneField(nn.Module):
    """Density and colour at points of the unit ball.

    Each plane is the sum of a pyramid of resolutions (coarsest first, each half the next): Adam then moves large regions together,
    which is a coarse-to-fine schedule without one. The pyramid is summed once a step, so a sample costs one look-up a plane.
    """

    unit = 1.0  # the unit ball's radius, in the cameras' units

    def __init__(
        self,
        resolution: int = 128,
        features: int = 16,
        levels: int = 4,
        hidden: int = 32,
        blob_density: float = 10.0,
        blob_radius: float = 0.5,
    ):
        super().__init__()
        self.config = dict(
            resolution=resolution, features=features, levels=levels, hidden=hidden, blob_density=blob_density, blob_radius=blob_radius
        )
        self.blob_density, self.blob_radius = blob_density, blob_radius
        self.planes = nn.ParameterList(
            [nn.Parameter(0.1 * torch.randn(3, features, resolution >> i, resolution >> i)) for i in reversed(range(levels))]
        )
        self.mlp = nn.Sequential(nn.Linear(3 * features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 4))
        nn.init.zeros_(self.mlp[-1].bias)

    def pyramid_sum(self) -> torch.Tensor:
        """The three planes at full resolution, (3, features, R, R)."""
        total = self.planes[0]
        for finer in self.planes[1:]:
            total = F.interpolate(total, scale_factor=2, mode="bilinear", align_corners=False) + finer
        return total

    def forward(self, x: torch.Tensor, planes: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Density (N,), in 1 / world unit, and colour (N, 3) in [0, 1] at points x (N, 3).

        planes: what `pyramid_sum` returned, for a caller that queries more than once a step.
        """
        planes = self.pyramid_sum() if planes is None else planes
        uv = torch.stack([x[:, [0, 1]], x[:, [0, 2]], x[:, [1, 2]]])[:, None] / RADIUS  # (3, 1, N, 2)
        features = F.grid_sample(planes, uv, mode="bilinear", padding_mode="border", align_corners=False)  # (3, C, 1, N)
        features = features.squeeze(2).permute(2, 0, 1).flatten(1)  # (N, 3 C)
        raw = self.mlp(features)
        blob = self.blob_density * (1 - x.norm(dim=-1) / self.blob_radius)
        density = 10 * F.softplus(raw[:, 0] + blob)  # the gain lets a surface get sharp within a few hundred steps
        return density, torch.sigmoid(raw[:, 1:])

    def density(self, x: torch.Tensor, planes: torch.Tensor | None = None) -> torch.Tensor:
        """Density (N,) at points (N, 3)."""
        return self(x, planes)[0]

    def normal(self, x: torch.Tensor, planes: torch.Tensor | None = None, eps: float = 0.02) -> torch.Tensor:
        """Outward unit normals (N, 3): minus the density's gradient, by forward differences on four tetrahedron corners.

        Differentiable (grid_sample has no second derivative on CPU, so autograd's gradient of a gradient is no way out).
        """
        corners = torch.tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], dtype=x.dtype, device=x.device)
        density = self.density((x[None] + eps * corners[:, None]).reshape(-1, 3), planes).reshape(4, -1)
        # log: the direction is the same and the scale does not run away inside
        return F.normalize(-(corners.T @ torch.log1p(density)).T, dim=-1, eps=1e-6)

    def total_variation(self) -> torch.Tensor:
        """Mean squared difference of neighbouring plane features, summed over the pyramid's levels."""
        return sum((p.diff(dim=-1) ** 2).mean() + (p.diff(dim=-2) ** 2).mean() for p in self.planes)

    def save(self, path: str | Path) -> None:
        """Weights and configuration as one safetensors file."""
        content = save(self.state_dict(), metadata={k: repr(v) for k, v in self.config.items()})
        Path(path).write_bytes(content)  # save_file makes files that their owner alone may read

    @classmethod
    def load(cls, path: str | Path, device="cpu") -> "TriPlaneField":
        from safetensors import safe_open

        with safe_open(str(path), "pt") as file:
            config = {k: literal_eval(v) for k, v in file.metadata().items() if k != "format"}
        field = cls(**config)
        field.load_state_dict(load_file(str(path)))
        return field.to(device)
