"""A field that threestudio fitted, read from its checkpoint without CUDA, so that it can be rendered and meshed like our own.

threestudio's `implicit-volume` is a multi-resolution hash grid (Instant-NGP, Mueller et al. 2022, Sec. 3), kept by tiny-cuda-nn as one
flat list of parameters, under two small networks. Read here as tiny-cuda-nn computes it (include/tiny-cuda-nn/encodings/grid.h).
"""

import glob
import itertools
import math
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from core.errors import UserError

PRIMES = 1, 2_654_435_761, 805_459_861
LARGEST_DENSE = 0x659  # the side of the largest grid whose cells tiny-cuda-nn's 32 bits can count
MATTER = 1.0  # density, in 1 / threestudio's unit, of what our unit ball is to hold

GEOMETRY = """  # what threestudio takes for an implicit-volume where a configuration does not say
radius: 1.0
density_activation: softplus
density_bias: blob_magic3d
density_blob_scale: 10.0
density_blob_std: 0.5
n_feature_dims: 3
pos_encoding_config: {otype: HashGrid, n_levels: 16, n_features_per_level: 2, log2_hashmap_size: 19, base_resolution: 16, per_level_scale: 1.447269237440378}
mlp_network_config: {otype: VanillaMLP, output_activation: none}
"""
ENCODING_KEYS = ("otype", "n_levels", "n_features_per_level", "log2_hashmap_size", "base_resolution", "per_level_scale",
                 "start_level", "start_step", "update_steps")  # fmt: skip
ACTIVATIONS = {"softplus": F.softplus, "exp": torch.exp, "trunc_exp": torch.exp, "sigmoid": torch.sigmoid, "none": lambda x: x,
               "scale_-11_01": lambda x: x * 0.5 + 0.5}  # fmt: skip
MATERIALS = ("diffuse-with-point-light-material", "no-material")  # whose features are colours
BLOBS = {
    "blob_magic3d": lambda distance, scale, std: scale * (1 - distance / std),
    "blob_dreamfusion": lambda distance, scale, std: scale * torch.exp(-0.5 * (distance / std) ** 2),
}


class HashGrid(nn.Module):
    """tiny-cuda-nn's `HashGrid` encoding, `params` as it lays them out: level by level, cell by cell, feature by feature.

    levels: how many are in use, the coarsest first; the features of the others are 0 (threestudio's `ProgressiveBandHashGrid`).
    """

    def __init__(self, params: torch.Tensor, config: DictConfig, levels: int):
        super().__init__()
        self.params, self.levels, self.features = nn.Parameter(params, requires_grad=False), levels, config.n_features_per_level
        self.scales = [2 ** (level * math.log2(config.per_level_scale)) * config.base_resolution - 1 for level in range(config.n_levels)]
        self.sizes = [min(-(-((math.ceil(scale) + 1) ** 3) // 8) * 8, 2**config.log2_hashmap_size) for scale in self.scales]
        if sum(self.sizes) * self.features != params.numel():
            raise UserError(f"the checkpoint's hash grid has {params.numel()} parameters, its configuration says {sum(self.sizes) * self.features}")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, levels * features) at points (N, 3) of the unit cube."""
        tables = self.params.view(-1, self.features).split(self.sizes)
        used = [self.interpolate(x, table, scale) for table, scale in zip(tables[: self.levels], self.scales)]
        return F.pad(torch.cat(used, -1), (0, (len(tables) - self.levels) * self.features))

    def interpolate(self, x: torch.Tensor, table: torch.Tensor, scale: float) -> torch.Tensor:
        """One level's features (N, features), trilinear between the corners of the cell that a point is in."""
        position = x * scale + 0.5  # staggers the levels
        low = position.floor()
        fraction, total = position - low, 0
        for corner in itertools.product((0, 1), repeat=3):
            corner = torch.tensor(corner, device=x.device)
            weight = torch.where(corner.bool(), fraction, 1 - fraction).prod(-1, keepdim=True)
            total = total + weight * table[self.index(low.long() + corner, math.ceil(scale) + 1, len(table))]
        return total

    @staticmethod
    def index(cell: torch.Tensor, resolution: int, size: int) -> torch.Tensor:
        """Where a table of `size` rows keeps a cell (N, 3) of a grid, (N,): in order if it has room for all, else hashed."""
        x, y, z = cell.unbind(-1)
        if resolution <= LARGEST_DENSE and resolution**3 <= size:
            return (x + resolution * (y + resolution * z)) % size
        x, y, z = ((axis * prime) & 0xFFFFFFFF for axis, prime in zip((x, y, z), PRIMES))
        return (x ^ y ^ z) % size


def newest_trial(path: Path) -> Path:
    """NAME@LAST/... as NAME@TIME/... of the latest time there is, which ends the name; any other path, or without a trial, as it is."""
    i = next((i for i, part in enumerate(path.parts) if part.endswith("@LAST")), None)
    if i is None:
        return path
    trials = sorted(Path(*path.parts[:i]).glob(f"{glob.escape(path.parts[i].removesuffix('LAST'))}*"))
    return trials[-1].joinpath(*path.parts[i + 1 :]) if trials else path


class ThreestudioField(nn.Module):
    """Density and colour of an `implicit-volume`, for `render` and `mesh` in place of a TriPlaneField.

    unit: the radius of our unit ball in threestudio's units: it is fitted round the matter, so that a mesh spends its resolution there.
    """

    def __init__(self, encoding: HashGrid, density: nn.Module, features: nn.Module, geometry: DictConfig, colour_activation: str):
        super().__init__()
        self.encoding, self.density_network, self.feature_network, self.geometry = encoding, density, features, geometry
        self.activate, self.colour = (known(ACTIVATIONS, name, "activation") for name in (geometry.density_activation, colour_activation))
        bias = geometry.density_bias
        self.bias = known(BLOBS, bias, "density_bias") if isinstance(bias, str) else lambda distance, scale, std: bias
        self.unit = 1.0
        self.unit = self.reach()

    @classmethod
    def from_checkpoint(cls, path: str | Path, device="cpu") -> "ThreestudioField":
        """From TRIAL/ckpts/NAME.ckpt, with TRIAL/configs/parsed.yaml beside it, as threestudio writes them. Raises UserError."""
        path = Path(path)
        config = path.parent.parent / "configs" / "parsed.yaml"
        try:
            system, checkpoint = OmegaConf.load(config).system, torch.load(path, map_location="cpu", weights_only=True)
            state, step = checkpoint["state_dict"], checkpoint["global_step"]
            known(("implicit-volume",), system.geometry_type, "geometry_type")
            geometry = OmegaConf.merge(OmegaConf.create(GEOMETRY), system.geometry)
            encoding = read_encoding(state, geometry.pos_encoding_config, step)
            networks = [read_mlp(state, f"geometry.{name}_network.layers.", geometry.mlp_network_config) for name in ("density", "feature")]
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, AttributeError, OmegaConfBaseException, yaml.YAMLError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"'{path}' is no threestudio checkpoint of tensors alone, with its configuration in '{config}': {reason}") from error
        material = system.get("material", {})
        known(MATERIALS, system.get("material_type", MATERIALS[0]), "material_type")
        if (geometry.n_feature_dims, material.get("n_output_dims", 3), material.get("input_feature_dims")) != (3, 3, None):
            raise UserError(f"the checkpoint in '{path}' has {geometry.n_feature_dims} features, which are no colours: export it by threestudio itself")
        colour = material.get("albedo_activation", material.get("color_activation", "sigmoid"))
        return cls(encoding, *networks, geometry, colour).to(device)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoding((x * self.unit / self.geometry.radius + 1) / 2)

    def forward(self, x: torch.Tensor, planes: None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Density (N,), in 1 / our unit, and colour (N, 3) in [0, 1] at points x (N, 3) of our unit ball."""
        encoded = self.encode(x)
        return self.density(x, encoded=encoded), self.colour(self.feature_network(encoded)[:, :3]).clamp(0, 1)

    def density(self, x: torch.Tensor, planes: None = None, encoded: torch.Tensor | None = None) -> torch.Tensor:
        """Density (N,) at points (N, 3)."""
        raw = self.density_network(self.encode(x) if encoded is None else encoded)[:, 0]
        bias = self.bias(self.unit * x.norm(dim=-1), self.geometry.density_blob_scale, self.geometry.density_blob_std)
        return self.unit * self.activate(raw + bias)

    def pyramid_sum(self) -> None:
        """A TriPlaneField's callers sum its planes once; here is nothing to sum."""

    @torch.no_grad()
    def reach(self, resolution: int = 64) -> float:
        """How far from the origin there is matter, and a cell more; at most to the box's walls."""
        radius = self.geometry.radius
        axis = torch.linspace(-radius, radius, resolution)
        points = torch.cartesian_prod(axis, axis, axis)
        dense = torch.cat([self.density(chunk) for chunk in points.split(200_000)]) > MATTER
        return min(radius, points[dense].norm(dim=-1).max().item() + 2 * radius / resolution) if dense.any() else radius


def read_encoding(state: dict[str, torch.Tensor], config: DictConfig, step: int) -> HashGrid:
    """The hash grid as it was after `step` steps."""
    known(("HashGrid", "ProgressiveBandHashGrid"), config.otype, "pos_encoding_config.otype")
    for key in config:
        known(ENCODING_KEYS, key, "pos_encoding_config")
    levels = config.n_levels
    if config.otype == "ProgressiveBandHashGrid":  # threestudio lets one more level in every so many steps
        levels = min(config.start_level + max(step - config.start_step, 0) // config.update_steps, levels)
    return HashGrid(state["geometry.encoding.encoding.encoding.params"].float(), config, levels)


def read_mlp(state: dict[str, torch.Tensor], prefix: str, config: DictConfig) -> nn.Sequential:
    """threestudio's `VanillaMLP`: linear layers without bias, ReLU between them."""
    known(("VanillaMLP",), config.otype, "mlp_network_config.otype")
    known(("none",), str(config.output_activation), "mlp_network_config.output_activation")
    layers = []
    for name in sorted((name for name in state if name.startswith(prefix)), key=lambda name: int(name.split(".")[-2])):
        layers += [nn.Linear(*reversed(state[name].shape), bias=False), nn.ReLU()]
        layers[-2].weight = nn.Parameter(state[name].float(), requires_grad=False)
    return nn.Sequential(*layers[:-1])


def known(table, name: str, what: str):
    """What a mapping has under a name, or the name where it is in a sequence. Raises UserError for one that is not there."""
    if name not in table:
        raise UserError(f"the checkpoint's {what} is '{name}', which cannot be read ({', '.join(table)} can): export it by threestudio itself")
    return table[name] if isinstance(table, Mapping) else name
