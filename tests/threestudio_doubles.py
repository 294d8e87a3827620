"""Stand-ins for what threestudio needs CUDA for, in plain torch, so that the rest of it runs as it is on any machine."""

import contextlib
import importlib.abc
import importlib.util
import itertools
import math
import sys
from types import ModuleType

import nerfacc
import torch
from torch import nn
from transformers.utils import is_torchvision_available

# packages whose import is all that threestudio asks of them here; the first four are built against CUDA
IMPORTED_ONLY = ("tinycudann", "nvdiffrast", "envlight", "pysdf", "igl", "wandb", "torchvision", "controlnet_aux", "IPython")


class Encoding(nn.Module):
    """tinycudann's hash grid, its parameters laid out and hashed as there; of other encodings the shape alone."""

    def __init__(self, n_input_dims: int, config: dict, dtype=torch.float32):
        super().__init__()
        self.config, self.hashed = config, "n_levels" in config
        if not self.hashed:
            self.n_output_dims = config["degree"] ** 2
            self.linear = nn.Linear(n_input_dims, self.n_output_dims)
            return
        self.n_output_dims = config["n_levels"] * config["n_features_per_level"]
        self.scales = [config["base_resolution"] * config["per_level_scale"] ** i - 1 for i in range(config["n_levels"])]
        self.rows = [min(math.ceil((math.ceil(s) + 1) ** 3 / 8) * 8, 1 << config["log2_hashmap_size"]) for s in self.scales]
        self.params = nn.Parameter(torch.empty(sum(self.rows) * config["n_features_per_level"]).uniform_(-1e-4, 1e-4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.hashed:
            return torch.sin(4 * self.linear(x))
        table, out = self.params.view(-1, self.config["n_features_per_level"]), []
        for scale, rows in zip(self.scales, self.rows):
            position = scale * x + 0.5
            corners = position.detach().floor()[:, None] + torch.tensor(list(itertools.product((0, 1), repeat=3)))  # (N, 8, 3)
            tent = (1 - (position[:, None] - corners).abs()).prod(-1, keepdim=True)
            side, i = math.ceil(scale) + 1, corners.long()
            if side**3 > rows:
                row = i[..., 0] ^ (i[..., 1] * 2654435761) % 2**32 ^ (i[..., 2] * 805459861) % 2**32
            else:
                row = (i * torch.tensor([1, side, side**2])).sum(-1)
            out.append((tent * table[row % rows]).sum(1))
            table = table[rows:]
        return torch.cat(out, -1)


class OccGridEstimator(nn.Module):
    """nerfacc's estimator, with `SAMPLES` even samples on every ray through the box."""

    SAMPLES = 12

    def __init__(self, roi_aabb: torch.Tensor, resolution: int, levels: int):
        super().__init__()
        self.radius = roi_aabb.max().item()

    def sampling(self, rays_o: torch.Tensor, rays_d: torch.Tensor, **unused) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        middle = -(rays_o * rays_d).sum(-1, keepdim=True)  # where a ray is nearest to the origin
        edges = middle + self.radius * torch.linspace(-1, 1, self.SAMPLES + 1, device=rays_o.device)
        return torch.arange(len(rays_o)).repeat_interleave(self.SAMPLES), edges[:, :-1].flatten(), edges[:, 1:].flatten()

    def update_every_n_steps(self, **unused):
        pass


def render_weight_from_density(t_starts, t_ends, sigmas, ray_indices=None, n_rays=None, **kwargs):
    """nerfacc's own, over dense rays: over packed ones it is a CUDA kernel."""
    if ray_indices is None:
        return DENSE(t_starts, t_ends, sigmas, **kwargs)
    return tuple(x.flatten() for x in DENSE(*(x.view(n_rays, -1) for x in (t_starts, t_ends, sigmas))))


DENSE = nerfacc.render_weight_from_density


class Absent(ModuleType):
    __path__: list = []

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *args, **kwargs: None})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds an empty module for whatever is asked of these packages."""

    def __init__(self, names: set[str]):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self) if name.split(".")[0] in self.names else None

    def create_module(self, spec):
        return Absent(spec.name)

    def exec_module(self, module):
        pass


def import_threestudio(root: str):
    """The checkout at `root`, on the CPU."""
    sys.path.insert(0, root)
    is_torchvision_available()  # remembers the answer, before a stand-in changes it
    sys.meta_path.append(Finder({name for name in IMPORTED_ONLY if importlib.util.find_spec(name) is None}))
    import tinycudann

    tinycudann.Encoding, tinycudann.free_temporary_memory = Encoding, lambda: None
    nerfacc.OccGridEstimator, nerfacc.render_weight_from_density = OccGridEstimator, render_weight_from_density
    import threestudio

    for name, module in list(sys.modules.items()):  # its devices are written as cuda:0, and taken from misc by name
        if name.startswith("threestudio.") and name != "threestudio.utils.misc":
            for function in {"get_device", "get_rank"} & vars(module).keys():
                setattr(module, function, lambda: torch.device("cpu"))
    torch.cuda.device = lambda _: contextlib.nullcontext()
    return threestudio
