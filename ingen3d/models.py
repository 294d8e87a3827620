"""The models that a run in 3D needs."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from core import InDomainPipeline
from core.devices import default_dtype
from core.domains import find_domain
from core.errors import UserError
from core.presets import PRESETS, find_preset

from .depth import DepthEstimator
from .run_folder import models_fingerprint
from .zero123 import Zero123


class Models:
    """The preset's models, each loaded when a stage first needs it; in half precision off the CPU.

    prior: another one in place of the preset's, of its latents and sizes, such as a fine-tuned one's folder.
    """

    def __init__(self, preset: str, domain: str | None, device, prior: str | Path | None = None):
        self.name, self.domain, self.device = preset, domain, torch.device(device)
        self.preset = find_preset(preset)
        found = find_domain(domain)  # an unknown one is an error now, not after the first stage
        if found and found.prior != self.preset.name and {found.prior, self.preset.name} <= PRESETS.keys():
            wrong = f"domain '{found.name}' was trained on the prior of --preset {found.prior}, not on {self.preset.name}'s"
            raise UserError(f"{wrong}: give --preset {found.prior}")
        self.domain_folder, self.arc_deg = found and found.folder, found.arc_deg if found else 360.0
        if prior is not None:
            self.name = str(prior)
            self.preset = replace(self.preset, prior=find_preset(prior).prior, unet=None)
        own = filter(None, (self.preset.unet, found and found.folder))
        self.fingerprint = models_fingerprint(self.preset.prior, self.preset.zero123, self.preset.depth, *own)

    @cached_property
    def pipe(self) -> InDomainPipeline:
        pipe = InDomainPipeline.from_pretrained(self.name, domain=self.domain, torch_dtype=default_dtype(self.device)).to(self.device)
        pipe.set_progress_bar_config(disable=True)
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False)
        return pipe

    @cached_property
    def zero123(self) -> Zero123:
        return Zero123.from_pretrained(self.preset.zero123, self.device, default_dtype(self.device), vae=self.pipe.vae)

    @cached_property
    def depth(self) -> DepthEstimator:
        return DepthEstimator.from_pretrained(self.preset.depth, self.device, default_dtype(self.device))

    def make_room(self, name: str) -> None:
        """Unload one of the above from a GPU."""
        if self.device.type != "cpu":
            vars(self).pop(name, None)
            torch.cuda.empty_cache()  # without CUDA it does nothing
