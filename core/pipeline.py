"""InDomainPipeline: a diffusers pipeline that samples with the multi-guidance rule (Sec. 3.4)."""

import inspect
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, DiffusionPipeline, ImagePipelineOutput, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from .conditions import (
    check_arguments,
    check_controlnet,
    check_interval,
    check_scales,
    check_terms,
    common_size,
    count_images,
    load_controlnet,
    own_unconditional,
    per_image,
)
from .errors import UserError
from .guidance import MultiGuidance
from .images import on_white
from .loading import PriorLoader
from .null_text import NullTextUNet
from .sampling import denoise, last_timesteps
from .terms import Control, Term, has_weight, velocity_schedule
from .text import encode_prompts

logger = logging.getLogger(__name__)


class InDomainPipeline(PriorLoader, DiffusionPipeline):
    """A Stable Diffusion prior and, where there is one, a domain's null-text UNet.

    phrase: how a prompt is said in the domain, with "{prompt}" in it; negative_prompt: what eps_0 has there for a prompt by default.
    guidance_scale, num_inference_steps and, where there is a domain, unconditional_scale (w_d without a prompt), guidance_interval and guidance_every:
    what calls use by default. So are domain_scale and control_scale with a domain and a prompt, unless guidance_scale or further terms ask for
    Sec. 3.4's weights.
    `enable_model_cpu_offload` keeps both UNets on the GPU during a call, as each step needs them; `enable_sequential_cpu_offload` neither.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"  # not domain_unet: each step needs both UNets, neither may evict the other
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
        domain_scale: tuple | None = None,
        control_scale: tuple | None = None,
        unconditional_scale: float = 1.0,
        guidance_interval: tuple = (0.0, 1.0),  # diffusers warns of tuple[float, float]
        guidance_every: int = 1,
        negative_prompt: str = "",
    ):
        super().__init__()
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet)
        self.register_modules(scheduler=scheduler, domain_unet=domain_unet)
        self.register_to_config(phrase=phrase, negative_prompt=negative_prompt, guidance_scale=guidance_scale)
        self.register_to_config(domain_scale=domain_scale, control_scale=control_scale)
        self.register_to_config(num_inference_steps=num_inference_steps, unconditional_scale=unconditional_scale)
        self.register_to_config(guidance_interval=guidance_interval, guidance_every=guidance_every)
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)
        self.control_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor, do_normalize=False)
        self.mask_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor, do_normalize=False, do_binarize=True, do_convert_grayscale=True)

    def compose(self, prompt: str) -> str:
        """The prompt as the domain says it: bare conditions, multiplied as if independent, fight each other (App. A)."""
        return prompt if self.domain_unet is None or not prompt else self.config.phrase.replace("{prompt}", prompt)

    def negative_of(self, prompt: str) -> str:
        """What eps_0 is conditioned on beside a prompt by default: what all of the domain's pictures show, for a prompt to tell what it adds.

        A prompt that says just that adds nothing, and leaves the domain its variety: over the kiln's faces, "a head" against an eps_0 of nothing
        is one and the same head again and again.
        """
        return "" if self.domain_unet is None or not prompt else self.config.negative_prompt

    def encode_prompt(self, prompts: list[str]) -> torch.Tensor:
        """Text features (B, T, d). What the tokenizer cannot take is cut off and logged."""
        return encode_prompts(self.tokenizer, self.text_encoder, prompts, self._execution_device).to(self.unet.dtype)

    def encode_images(self, images: torch.Tensor, generator: torch.Generator | list[torch.Generator] | None = None) -> torch.Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] to scaled latents (B, C, H/f, W/f); differentiable. generator: draw them; else the posterior's mode."""
        posterior = self.vae.encode(images.to(self._execution_device, self.vae.dtype)).latent_dist
        return (posterior.mode() if generator is None else posterior.sample(generator)) * self.vae.config.scaling_factor

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents (B, C, h, w) to pictures (B, 3, H, W), nominally in [-1, 1]; differentiable."""
        return self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor).sample

    @property
    def alphas_cumprod(self) -> torch.Tensor | None:
        """The noise schedule (number of timesteps,) where the prior predicts v, None where it predicts eps: what its terms need."""
        return velocity_schedule(self.scheduler)

    def domain_term(self, scale: float | Sequence[float] | None = None) -> Term:
        """The domain's own prediction, for the `terms` of any pipeline over the same prior. Raises UserError where there is no domain."""
        if self.domain_unet is None:
            raise UserError("this pipeline has no domain: load it with one, from_pretrained(name, domain=...)")
        return Term(self.domain_unet, None, scale, self.alphas_cumprod)

    def term(
        self,
        prompt: str | list[str],
        scale: float | Sequence[float] | None = None,
        negative_prompt: str | list[str] | None = None,
        controls: Sequence[Control] = (),
        compose_prompt: bool = True,
    ) -> Term:
        """This pipeline's UNet under a prompt: one more condition, or, from a customised checkpoint's pipeline, a condition of its own.

        negative_prompt: the checkpoint's own, used in eps_0 without rectification only. Scales as in `noise_predictor`.
        """
        check_scales(scale=scale)
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if compose_prompt:
            composed = [self.compose(p) for p in prompts]
            if composed != prompts:
                logger.info("prompt composed for the domain: '%s'", composed[0])
            prompts = composed
        unconditional = self.encode_prompt([negative_prompt or ""] if not isinstance(negative_prompt, list) else negative_prompt)
        return Term(self.unet, self.encode_prompt(prompts), scale, self.alphas_cumprod, controls=controls, unconditional=unconditional)

    def control(
        self,
        controlnet: ControlNetModel | str | Path,
        image: Image.Image | torch.Tensor,
        controlnet_conditioning_scale: float = 1.0,
        control_guidance_start: float = 0.0,
        control_guidance_end: float = 1.0,
    ) -> Control:
        """A ControlNet that reads a picture, PIL or (B or 1, 3, H, W) in [0, 1], such as `conditions.canny`'s.

        controlnet: its folder or Hub id do too, and "kiln", a preset, for the preset's own. It is brought to the prior's device and
        precision. Start and end are fractions of the steps, as in diffusers.
        Raises UserError for those out of [0, 1], for what is no ControlNet and for one that was trained for another prior.
        """
        check_interval("control_guidance_start and control_guidance_end", control_guidance_start, control_guidance_end)
        is_name = isinstance(controlnet, str | Path)
        controlnet = load_controlnet(controlnet, self.unet) if is_name else check_controlnet(controlnet, self.unet)
        controlnet = controlnet.to(self._execution_device, self.unet.dtype)
        image = self.control_processor.preprocess(on_white(image) if isinstance(image, Image.Image) else image)
        image = image.to(self._execution_device, self.unet.dtype)
        return Control(controlnet, image, controlnet_conditioning_scale, control_guidance_start, control_guidance_end)

    def noise_predictor(
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None = None,
        batch: int = 1,
        guidance_scale: float | None = None,
        domain_scale: float | Sequence[float] | None = None,
        control_scale: float | Sequence[float] | None = None,
        compose_prompt: bool = True,
        controls: Sequence[Control] = (),
        terms: Sequence[Term] = (),
        rectify: bool = True,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_every: int = 1,
        timesteps: torch.Tensor | None = None,
    ) -> MultiGuidance:
        """`(z_t, t) -> eps` for `batch` images: the rule with the domain's term, the prompt's term and others, as far as there are such.

        prompt, negative_prompt: one for all images or one for each; a negative prompt takes the empty one's place in eps_0, for all terms; None: the
        domain's own, where the prompt is composed.
        guidance_scale: w0. domain_scale, control_scale: explicit w_d and w_c, in diffusers' convention, or several, which share the steps
        evenly; None for Sec. 3.4's. prompt None, or of weight 0, is unconditional: w_d is w0, by default `unconditional_scale` (at 1 eps_0
        cancels), and the prior's prediction without a domain. controls: what `control` gives, for the prompt's term. terms: more, from this or other pipelines.
        rectify: eps_0 is the bare prior's (Sec. 3.2). Without, it is the network's that is customised, by a checkpoint (the last of `terms`)
        or else by the domain (Fig. 12a).

        Raises UserError for an empty prompt, a scale of what is not there, a negative prompt that nothing is guided from, lists of another length
        than `batch` and terms that do not fit.
        """
        controls = [control for control in controls if control.conditioning_scale]
        if prompt is not None and not controls and not all(p.strip() for p in ([prompt] if isinstance(prompt, str) else prompt)):
            raise UserError("the prompt is empty: say what to make, or give None for unconditional generation")
        for scale, given, lacking in (("domain_scale", domain_scale, self.domain_unet is None and "domain"),
                                      ("control_scale", control_scale, prompt is None and not controls and "prompt")):
            if given is not None and lacking:
                raise UserError(f"{scale} is {given} but there is no {lacking} for it to weigh: give one, or leave it out")
        check_scales(guidance_scale=guidance_scale, domain_scale=domain_scale, control_scale=control_scale, guidance_rescale=guidance_rescale)
        if not 0 <= guidance_rescale <= 1:
            raise UserError(f"guidance_rescale is {guidance_rescale}: give 0, which leaves all as it is, to 1")
        check_interval("guidance_interval", *guidance_interval)
        if guidance_every < 1:
            raise UserError(f"guidance_every is {guidance_every}: give 1, which evaluates all terms at every step, or more")
        prompts = per_image(prompt or "", batch, "prompt")
        terms = [term for term in terms if has_weight(term.weight)]
        customised = bool(terms or controls)
        from_domain = not rectify and not customised and self.domain_unet is not None  # whose eps_0 takes no text
        if from_domain and any([negative_prompt] if isinstance(negative_prompt, str) else negative_prompt or ()):
            raise UserError("the negative prompt has nothing to act on: without rectification eps_0 is the domain's own, which takes no text")
        if negative_prompt is None and compose_prompt and has_weight(control_scale) and not from_domain:
            negative_prompt = [self.negative_of(p) for p in prompts]
            if any(negative_prompt):
                logger.info("negative prompt of the domain: '%s'", self.config.negative_prompt)
        negative = per_image(negative_prompt or "", batch, "negative_prompt")
        uncond = Term(self.unet, self.encode_prompt(negative), None, self.alphas_cumprod)
        if (prompt is not None or controls) and has_weight(control_scale):
            terms = [self.term(prompts, control_scale, negative, controls, compose_prompt), *terms]
        if not rectify:
            uncond = self.domain_term() if from_domain else own_unconditional(terms)
        check_terms(terms, self.unet, batch)
        others = terms
        if self.domain_unet is not None:
            is_alone = domain_scale is None and guidance_scale is None and not others
            terms = [self.domain_term(self.config.unconditional_scale if is_alone else domain_scale), *others]
        if any(negative) and not others and all(term.weight is not None and (torch.as_tensor(term.weight) == 1).all() for term in terms):
            raise UserError("the negative prompt has nothing to act on: give a prompt, or with a domain a domain_scale above 1")
        guidance_scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        return MultiGuidance(uncond, terms, guidance_scale, guidance_rescale, guidance_interval, guidance_every, timesteps)

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
        image: Image.Image | torch.Tensor | None = None,
        strength: float = 0.5,
        mask_image: Image.Image | torch.Tensor | None = None,
        **guidance,
    ) -> ImagePipelineOutput | tuple:
        """Images of a prompt in the domain; arguments as in diffusers' StableDiffusionPipeline, `guidance` as in `noise_predictor`.

        guidance_interval, guidance_every: by default the pipeline's own where there is a domain, all steps where there is none. So are domain_scale and
        control_scale for a prompt, where neither guidance_scale nor `terms` ask for Sec. 3.4's weights.
        With a list of generators each image has its own noise and does not depend on what else is in the batch.
        output_type: "pil", "np" (B, H, W, 3) in [0, 1], "pt" (B, 3, H, W) in [0, 1] or "latent" (B, C, h, w).
        callback_on_step_end: `(pipe, step, t, {"latents"}) -> {"latents"}`.
        image: edit this picture, PIL or (B or 1, 3, H, W) in [0, 1], and not noise: `strength` 0 keeps it, 1 makes it anew (SDEdit).
        mask_image: PIL or (B or 1, 1, H, W) in [0, 1], white where to edit. Controls and pictures are of one size, by default the images' too.
        Raises UserError for an unknown argument, an empty prompt, no image to make, a size that is no multiple of the latents', sizes that
        differ, a strength out of [0, 1] or of no step, a mask without an image and lists or latents for another number of images.
        """
        check_arguments(guidance, self.noise_predictor, inspect.signature(self.__call__).parameters.keys() | {"batch", "timesteps"})
        batch = count_images(prompt, num_images_per_prompt, generator)
        prompt, negative_prompt = (
            [one for one in p for _ in range(num_images_per_prompt)] if isinstance(p, list) else p for p in (prompt, negative_prompt)
        )
        steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        most = self.scheduler.config.num_train_timesteps - (self.scheduler.config.get("timestep_spacing") == "leading")
        if not 1 <= steps <= most:
            raise UserError(f"num_inference_steps is {steps}: give 1 to {most}")
        if not 0 <= strength <= 1:
            raise UserError(f"strength is {strength}: give 0, which keeps the picture, to 1, which makes it anew")
        scheduler = type(self.scheduler).from_config(self.scheduler.config)  # one of its own for each call
        start = 1.0 if image is None else strength
        timesteps = last_timesteps(scheduler, steps, start)
        if start and not len(timesteps):
            least = math.ceil(100 / steps) / 100
            raise UserError(f"strength is {strength}, which takes none of {steps} steps: give {least:g} or more, or 0, which keeps the picture")
        for name, without in (("guidance_interval", (0.0, 1.0)), ("guidance_every", 1)):
            if guidance.get(name) is None:
                guidance[name] = without if self.domain_unet is None else self.config[name]
        guidance["terms"] = [term for term in guidance.get("terms", ()) if has_weight(term.weight)]
        has_control = any(control.conditioning_scale for control in guidance.get("controls", ()))
        has_prompt = (prompt is not None or has_control) and has_weight(guidance.get("control_scale"))
        if has_prompt and self.domain_unet is not None and guidance_scale is None and not guidance["terms"]:
            for name in ("domain_scale", "control_scale"):
                guidance[name] = self.config[name] if guidance.get(name) is None else guidance[name]
        predict = self.noise_predictor(prompt, negative_prompt, batch, guidance_scale, timesteps=timesteps, **guidance)
        clean, mask = self.encode_edit(image, mask_image, batch, height, width, generator)
        if clean is not None:
            height, width = (side * self.vae_scale_factor for side in clean.shape[-2:])
        elif latents is not None and latents.ndim == 4:
            height, width = (side or size * self.vae_scale_factor for side, size in zip((height, width), latents.shape[-2:]))
        shape = self.latent_shape(batch, *common_size(predict.terms, height, width))
        if latents is None:
            latents = randn_tensor(shape, generator, self._execution_device, self.unet.dtype)
        elif latents.shape != shape:
            raise UserError(f"latents are {tuple(latents.shape)}, not {shape}: (images, channels, height, width)")
        latents = latents.to(self._execution_device, self.unet.dtype)

        def on_step(i: int, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor | None:
            bar.update()
            return callback_on_step_end and callback_on_step_end(self, i, t, {"latents": latents}).get("latents")

        with self.progress_bar(total=len(timesteps)) as bar:
            latents = denoise(predict.for_sampler(scheduler), scheduler, latents, steps, generator, on_step, clean, start, mask)
        images = latents if output_type == "latent" else self.image_processor.postprocess(self.decode_latents(latents), output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images) if return_dict else (images,)

    def encode_edit(self, image, mask_image, batch: int, height: int | None, width: int | None, generator) -> tuple[torch.Tensor | None, ...]:
        """A picture's latents (B, C, h, w) and its mask (B or 1, 1, h, w), 1 where to edit; None for what is not given."""
        if image is None:
            if mask_image is not None:
                raise UserError("there is a mask but no image: give the image that it belongs to")
            return None, None
        pixels = self.image_processor.preprocess(on_white(image) if isinstance(image, Image.Image) else image, height, width)
        if len(pixels) not in (1, batch):
            raise UserError(f"there are {len(pixels)} pictures to edit for {batch} images: give one for all, or one for each")
        pixels = pixels.expand(batch, -1, -1, -1) if isinstance(generator, list) else pixels  # each is drawn by its own generator
        clean = self.encode_images(pixels, generator).to(self.unet.dtype).expand(batch, -1, -1, -1)
        if mask_image is None:
            return clean, None
        mask = self.mask_processor.preprocess(mask_image, height, width)
        if len(mask) not in (1, batch):
            raise UserError(f"there are {len(mask)} masks for {batch} images: give one for all, or one for each")
        if mask.shape[-2:] != pixels.shape[-2:]:
            sizes = ("{1} x {0}".format(*x.shape[-2:]) for x in (mask, pixels))
            raise UserError("the mask is {} px and the image {}: give them one size".format(*sizes))
        return clean, F.interpolate(mask.to(clean), clean.shape[-2:])  # the nearest, as in diffusers

    @property
    def resolution(self) -> int:
        """The prior's own, in pixels; of the shorter side where it is not square."""
        return min(self.latent_shape(1)[-2:]) * self.vae_scale_factor

    def latent_shape(self, batch: int, height: int | None = None, width: int | None = None) -> tuple[int, int, int, int]:
        """(B, C, h, w) for a size in pixels, the prior's own by default. Raises UserError for what is no multiple of the VAE's factor."""
        size = self.unet.config.sample_size
        own = (size, size) if isinstance(size, int) else size
        for side, value in (("height", height), ("width", width)):
            if value is not None and (value < 1 or value % self.vae_scale_factor):
                raise UserError(f"{side} is {value}: give a positive multiple of {self.vae_scale_factor}")
        h, w = (value // self.vae_scale_factor if value else default for value, default in zip((height, width), own, strict=True))
        return batch, self.unet.config.in_channels, h, w
