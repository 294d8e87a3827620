"""InDomainPipeline: a diffusers pipeline that samples with the multi-guidance rule (Sec. 3.4)."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, DPMSolverMultistepScheduler, ImagePipelineOutput, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils.torch_utils import randn_tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .errors import UserError
from .guidance import MultiGuidance, Term
from .null_text import NullTextUNet
from .presets import find_domain, find_preset, load_domain_unet, wanted
from .sampling import denoise
from .text import encode_prompts

logger = logging.getLogger(__name__)


class InDomainPipeline(DiffusionPipeline):
    """A Stable Diffusion prior and, where there is one, a domain's null-text UNet.

    phrase: how a prompt is said in the domain, with "{prompt}" in it. guidance_scale, num_inference_steps: what calls use by default.
    """

    model_cpu_offload_seq = "text_encoder->domain_unet->unet->vae"
    _optional_components = ["domain_unet"]

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: KarrasDiffusionSchedulers,
        domain_unet: NullTextUNet | None = None,
        phrase: str = "{prompt}",
        guidance_scale: float = 7.0,
        num_inference_steps: int = 25,
    ):
        super().__init__()
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet)
        self.register_modules(scheduler=scheduler, domain_unet=domain_unet)
        self.register_to_config(phrase=phrase, guidance_scale=guidance_scale, num_inference_steps=num_inference_steps)
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    @classmethod
    def from_pretrained(cls, name: str | Path = "kiln", domain: str | Path | None = None, **kwargs) -> "InDomainPipeline":
        """Load a preset ("kiln", "sd15"), a folder or a Hub id in diffusers' Stable Diffusion layout.

        domain: a known name, a domain's folder or Hub id, or None for the prior alone (or for the domain that a saved
        InDomainPipeline holds). Other arguments are diffusers' own (`dtype` or `torch_dtype`, `variant`, `scheduler`); fp32 by default.
        The scheduler becomes DPM-Solver++ with the prior's noise schedule unless one is given. Raises UserError.
        """
        preset = find_preset(name)
        kwargs = {"dtype": kwargs.pop("torch_dtype", torch.float32), "use_safetensors": True} | kwargs
        with wanted(preset.prior, "a Stable Diffusion pipeline (unet, vae, text_encoder, tokenizer, scheduler)"):
            saved = cls.load_config(preset.prior)
            ours = saved.get("_class_name") == cls.__name__
            if not ours:
                kwargs = {"guidance_scale": preset.guidance_scale, "num_inference_steps": preset.num_inference_steps} | kwargs
            pipe = super().from_pretrained(preset.prior, **kwargs)
        if not ours and "scheduler" not in kwargs:
            pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, algorithm_type="dpmsolver++")
        if domain is not None:
            pipe.set_domain(domain)
        return pipe

    def set_domain(self, name: str | Path | None) -> "InDomainPipeline":
        """Take another domain (or none) over the same prior. Raises UserError for one that was trained on another latent space."""
        domain = find_domain(name)
        unet = None if domain is None else load_domain_unet(domain, self.unet)
        self.register_modules(domain_unet=unet)
        self.register_to_config(phrase="{prompt}" if domain is None else domain.phrase)
        return self

    def compose(self, prompt: str) -> str:
        """The prompt as the domain says it: bare conditions, multiplied as if independent, fight each other (App. A)."""
        return prompt if self.domain_unet is None else self.config.phrase.replace("{prompt}", prompt)

    def encode_prompt(self, prompts: list[str]) -> torch.Tensor:
        """Text features (B, T, d). What the tokenizer cannot take is cut off and logged."""
        return encode_prompts(self.tokenizer, self.text_encoder, prompts).to(self.unet.dtype)

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] to scaled latents (B, C, H/f, W/f): the posterior's mode; differentiable."""
        return self.vae.encode(images.to(self.vae.device, self.vae.dtype)).latent_dist.mode() * self.vae.config.scaling_factor

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents (B, C, h, w) to pictures (B, 3, H, W), nominally in [-1, 1]; differentiable."""
        return self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor).sample

    def noise_predictor(
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None = None,
        batch: int = 1,
        guidance_scale: float | None = None,
        domain_scale: float | None = None,
        control_scale: float | None = None,
        compose_prompt: bool = True,
    ) -> MultiGuidance:
        """`(z_t, t) -> eps` for `batch` images: the rule with the domain's term and the prompt's term, as far as there are such.

        prompt, negative_prompt: one for all images or one for each; a negative prompt takes the empty one's place in eps_0.
        guidance_scale: w0. domain_scale, control_scale: explicit w_d and w_c, in diffusers' convention; None for Sec. 3.4's.
        prompt None is unconditional: the domain's own prediction (w_d = 1, for which eps_0 cancels), the prior's without a domain.
        Raises UserError for an empty prompt and for lists of another length than `batch`.
        """
        alphas = self.scheduler.alphas_cumprod if self.scheduler.config.prediction_type == "v_prediction" else None
        if guidance_scale is None:
            guidance_scale = self.config.guidance_scale
        domain = [] if self.domain_unet is None else [Term(self.domain_unet, None, domain_scale, alphas)]
        if prompt is None and domain and domain_scale in (None, 1):
            return MultiGuidance(domain[0], [])
        uncond = Term(self.unet, self.encode_prompt(per_image(negative_prompt or "", batch, "negative_prompt")), None, alphas)
        if prompt is None:
            return MultiGuidance(uncond, domain, guidance_scale)
        prompts = per_image(prompt, batch, "prompt")
        if not all(p.strip() for p in prompts):
            raise UserError("the prompt is empty: say what to make, or give None for unconditional generation")
        if compose_prompt:
            composed = [self.compose(p) for p in prompts]
            if composed != prompts:
                logger.info("prompt composed for the domain: '%s'", composed[0])
            prompts = composed
        return MultiGuidance(uncond, [*domain, Term(self.unet, self.encode_prompt(prompts), control_scale, alphas)], guidance_scale)

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
        domain_scale: float | None = None,
        control_scale: float | None = None,
        compose_prompt: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Images of a prompt in the domain; arguments as in diffusers' StableDiffusionPipeline, scales as in `noise_predictor`.

        With a list of generators each image has its own noise and does not depend on what else is in the batch.
        output_type: "pil", "np" (B, H, W, 3) in [0, 1], "pt" (B, 3, H, W) in [0, 1] or "latent" (B, C, h, w).
        callback_on_step_end: `(pipe, step, t, {"latents"}) -> {"latents"}`.
        Raises UserError for an empty prompt, a size that is no multiple of the latents' and lists of another length than the batch.
        """
        batch = (len(prompt) if isinstance(prompt, list) else 1) * num_images_per_prompt
        prompt, negative_prompt = (
            [one for one in p for _ in range(num_images_per_prompt)] if isinstance(p, list) else p for p in (prompt, negative_prompt)
        )
        scales = guidance_scale, domain_scale, control_scale
        predict = self.noise_predictor(prompt, negative_prompt, batch, *scales, compose_prompt)
        steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        if steps < 1:
            raise UserError(f"num_inference_steps is {steps}: give 1 or more")
        if latents is None:
            latents = randn_tensor(self.latent_shape(batch, height, width), generator, self._execution_device, self.unet.dtype)
        else:
            latents = latents.to(self._execution_device, self.unet.dtype)

        def on_step(i: int, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor | None:
            bar.update()
            return callback_on_step_end and callback_on_step_end(self, i, t, {"latents": latents}).get("latents")

        # a scheduler of its own for each call, set to what the rule predicts
        scheduler = type(self.scheduler).from_config(self.scheduler.config, prediction_type="epsilon")
        with self.progress_bar(total=steps) as bar:
            latents = denoise(predict, scheduler, latents, steps, generator, on_step)
        images = latents if output_type == "latent" else self.image_processor.postprocess(self.decode_latents(latents), output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images) if return_dict else (images,)

    def latent_shape(self, batch: int, height: int | None = None, width: int | None = None) -> tuple[int, int, int, int]:
        """(B, C, h, w) for a size in pixels, the prior's own by default. Raises UserError for what is no multiple of the VAE's factor."""
        size = self.unet.config.sample_size
        own = (size, size) if isinstance(size, int) else size
        for side, value in (("height", height), ("width", width)):
            if value is not None and (value < 1 or value % self.vae_scale_factor):
                raise UserError(f"{side} is {value}: give a multiple of {self.vae_scale_factor}")
        h, w = (value // self.vae_scale_factor if value else default for value, default in zip((height, width), own, strict=True))
        return batch, self.unet.config.in_channels, h, w


def per_image(prompt: str | list[str], batch: int, name: str) -> list[str]:
    """One prompt for each of `batch` images."""
    prompts = [prompt] * batch if isinstance(prompt, str) else list(prompt)
    if len(prompts) != batch:
        raise UserError(f"{name} is a list of {len(prompts)} for {batch} images: give one text for all, or one for each")
    return prompts
