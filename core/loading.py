"""What InDomainPipeline is loaded from: a preset, a folder, a Hub id or one file, and a domain's null-text UNet."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import FromSingleFileMixin

from .conditions import check_prior
from .domains import find_domain, load_domain_unet
from .errors import UserError
from .images import reason
from .presets import find_preset, nearest, wanted
from .sampling import new_sampler

if TYPE_CHECKING:
    from .pipeline import InDomainPipeline

LOAD_OPTIONS = (  # what diffusers' from_pretrained and from_single_file say that they take; their signatures don't
    "dtype", "torch_dtype", "variant", "revision", "token", "cache_dir", "local_files_only", "force_download", "proxies", "mirror",
    "use_safetensors", "use_onnx", "low_cpu_mem_usage", "disable_mmap", "device_map", "max_memory", "offload_folder", "offload_state_dict",
    "quantization_config", "custom_pipeline", "custom_revision", "trust_remote_code", "output_loading_info", "config", "original_config_file",
    "original_config", "safety_checker", "requires_safety_checker", "feature_extractor", "image_encoder",  # these four: parts of pipelines that ours lacks
)


class PriorLoader(FromSingleFileMixin):
    """The loading half of InDomainPipeline: a prior, and a domain over it."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path = "kiln", domain: str | Path | None = None, **kwargs
    ) -> "InDomainPipeline":
        """Load a preset ("kiln", "kiln-toon", "sd15"), a folder or Hub id in Stable Diffusion's diffusers layout, or a .safetensors checkpoint.

        domain: a known name, a domain's folder or Hub id, or None for the prior alone (or for the domain that a saved
        InDomainPipeline holds). Other arguments are diffusers' own (`dtype` or `torch_dtype`, `variant`, `scheduler`, and `token`,
        `cache_dir` and `local_files_only`, which are for the domain too); fp32 by default.
        The scheduler becomes stochastic DPM-Solver++ with the prior's noise schedule unless one is given. What a file lacks, configurations and the
        tokenizer, is taken from `config`, a folder or Hub id, by default what diffusers takes it for on the Hub. Raises UserError,
        for an argument that nobody knows too.
        """
        known = [*inspect.signature(cls).parameters, *LOAD_OPTIONS]
        for name in kwargs:
            if name not in known:
                raise UserError(f"there is no argument '{name}'{nearest(name, ['domain', *known])}")
        hub = {name: kwargs[name] for name in ("token", "cache_dir", "local_files_only") if name in kwargs}
        where = hub | {name: kwargs[name] for name in ("revision", "force_download", "proxies") if name in kwargs}
        preset, domain = find_preset(pretrained_model_name_or_path), find_domain(domain, **hub)  # an unknown one is said before anything is loaded
        kwargs = {"dtype": kwargs.pop("torch_dtype", torch.float32)} | kwargs
        names = ("guidance_scale", "num_inference_steps", "domain_scale", "control_scale", "unconditional_scale", "guidance_interval", "guidance_every")
        defaults = {name: getattr(preset, name) for name in names}
        if preset.unet and "unet" not in kwargs:
            with wanted(preset.unet, "a UNet"):
                kwargs["unet"] = UNet2DConditionModel.from_pretrained(preset.unet, subfolder="unet", dtype=kwargs["dtype"], use_safetensors=True)
        with wanted(preset.prior, "a Stable Diffusion pipeline (unet, vae, text_encoder, tokenizer, scheduler)"):
            is_file = Path(preset.prior).is_file()
            ours = not is_file and cls.load_config(preset.prior, **where).get("_class_name") == cls.__name__
            if is_file:
                pipe = cls.from_file(preset.prior, **defaults | kwargs)
            else:
                pipe = super().from_pretrained(preset.prior, **({} if ours else defaults) | {"use_safetensors": True} | kwargs)
        check_prior(pretrained_model_name_or_path, pipe.unet, pipe.vae, pipe.text_encoder, pipe.scheduler)
        if not ours and "scheduler" not in kwargs:
            pipe.scheduler = new_sampler(pipe.scheduler)
        if domain is not None:
            pipe.set_domain(domain.folder)
        return pipe

    @classmethod
    def from_file(cls, file: str, **kwargs) -> "InDomainPipeline":
        """diffusers' from_single_file. Raises UserError."""
        try:
            return cls.from_single_file(file, **kwargs)
        except Exception as error:  # what a checkpoint lacks shows in many ways
            config = kwargs.get("config")
            advice = f"is it of '{config}''s kind?" if config else "without a network give config=, the folder of a pipeline of its kind"
            raise UserError(f"'{file}' could not be read as a Stable Diffusion checkpoint ({reason(error)[:160]}): {advice}") from error

    def set_domain(self, name: str | Path | None) -> "InDomainPipeline":
        """Take another domain (or none) over the same prior. Raises UserError for one that was trained on another prior."""
        domain = find_domain(name)
        with self.without_offload():
            self.register_modules(domain_unet=None if domain is None else load_domain_unet(domain, self.unet))
        self.register_to_config(phrase="{prompt}" if domain is None else domain.phrase, negative_prompt="" if domain is None else domain.negative_prompt)
        return self

    @contextmanager
    def without_offload(self) -> Iterator[None]:
        """All weights in place, with none of the hooks of CPU offload, for as long as parts are exchanged."""
        if not hasattr(self, "_offload_device") or not hasattr(self.unet, "_hf_hook"):
            yield
            return
        offload = self.enable_model_cpu_offload if self._all_hooks else self.enable_sequential_cpu_offload
        self.remove_all_hooks()
        try:
            yield
        finally:
            offload(device=self._offload_device)
