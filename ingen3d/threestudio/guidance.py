"""What the guidances share: a rendered picture in, threestudio's dictionary out. The maths is in `ingen3d.distillation`."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from threestudio.utils.base import BaseObject
from threestudio.utils.misc import C

from core.errors import UserError
from core.guidance import NoisePredictor
from core.presets import nearest
from ingen3d.cameras import Cameras
from ingen3d.distillation import WEIGHTINGS, sds_gradient, with_gradient


class ScoreDistillation(BaseObject):
    """Score distillation of the noise predictor that a subclass makes for a batch of cameras.

    A subclass loads `unet`, `vae` and `scheduler` in its `configure`, before it calls this one's.
    """

    @dataclass
    class Config(BaseObject.Config):
        pretrained_model_name_or_path: str = "sd15"  # a preset, a folder or a Hub id, in diffusers' layout
        half_precision_weights: bool = True
        min_step_percent: Any = 0.02  # here and for grad_clip: a number or one of threestudio's schedules
        max_step_percent: Any = 0.98
        grad_clip: Any = None
        weighting_strategy: str = "sds"  # or uniform, fantasia3d
        max_items_eval: int = 4  # pictures of `guidance_eval`; -1 for the whole batch

    cfg: Config

    @property
    def weights_dtype(self) -> torch.dtype:
        return torch.float16 if self.cfg.half_precision_weights else torch.float32

    def configure(self) -> None:
        if self.cfg.weighting_strategy not in WEIGHTINGS:
            raise UserError(f"unknown weighting_strategy '{self.cfg.weighting_strategy}'{nearest(self.cfg.weighting_strategy, WEIGHTINGS)}")
        self.alphas = self.scheduler.alphas_cumprod.to(self.device)
        size = self.unet.config.sample_size
        self.latent_size = (size, size) if isinstance(size, int) else tuple(size)
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.image_size = tuple(side * factor for side in self.latent_size)
        self.update_step(0, 0)

    def predictor(self, prompt_utils, cameras: Cameras) -> NoisePredictor:
        raise NotImplementedError

    def __call__(
        self,
        rgb: torch.Tensor,
        prompt_utils=None,
        elevation: torch.Tensor | None = None,
        azimuth: torch.Tensor | None = None,
        camera_distances: torch.Tensor | None = None,
        rgb_as_latents: bool = False,
        guidance_eval: bool = False,
        **batch,
    ) -> dict[str, Any]:
        """rgb (B, H, W, 3) in [0, 1], or latents (B, H, W, C); elevation, azimuth (B,) in degrees; camera_distances (B,)."""
        cameras = Cameras.at(elevation, azimuth, camera_distances, 0.0, self.device)  # no predictor asks for the field of view
        with torch.autocast(self.device.type, enabled=False):
            rgb = rgb.float().permute(0, 3, 1, 2)
            if rgb_as_latents:
                latents = F.interpolate(rgb, self.latent_size, mode="bilinear", align_corners=False)
            else:
                latents = self.encode_images(F.interpolate(rgb, self.image_size, mode="bilinear", align_corners=False))
            # drawn as threestudio's own guidance draws, from the stream that its `seed` starts
            t = torch.randint(self.min_step, self.max_step + 1, [len(latents)], device=self.device)
            noise = torch.randn_like(latents)
            predict = self.predictor(prompt_utils, cameras)
            gradient = sds_gradient(latents, predict, self.alphas, t, noise, self.cfg.weighting_strategy)
            if self.grad_clip_val is not None:
                gradient = gradient.clamp(-self.grad_clip_val, self.grad_clip_val)
            loss = with_gradient(latents, gradient) / len(latents)
            out = {"loss_sds": loss, "grad_norm": gradient.norm(), "min_step": self.min_step, "max_step": self.max_step}
            return out | {"eval": self.guidance_eval(latents, t, noise, prompt_utils, cameras)} if guidance_eval else out

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1] to scaled latents (B, C, h, w), a sample of the posterior as in threestudio."""
        posterior = self.vae.encode((images * 2 - 1).to(self.weights_dtype)).latent_dist
        return posterior.sample().float() * self.vae.config.scaling_factor

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents (B, C, h, w) to pictures (B, H, W, 3) in [0, 1]."""
        images = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.weights_dtype)).sample
        return (images.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)

    @torch.no_grad()
    def guidance_eval(self, latents: torch.Tensor, t: torch.Tensor, noise: torch.Tensor, prompt_utils, cameras: Cameras) -> dict[str, Any]:
        """What the guidance wants of the first pictures, as threestudio shows it: noisy, one step on, its guess of the end, and the end."""
        count = len(latents) if self.cfg.max_items_eval < 0 else min(len(latents), self.cfg.max_items_eval)
        scheduler = DDIMScheduler.from_config(self.scheduler.config, prediction_type="epsilon")
        scheduler.set_timesteps(50, device=self.device)
        shown, levels, texts = [], [], []
        for i in range(count):
            first, *rest = scheduler.timesteps[(scheduler.timesteps > t[i]).sum().clamp(max=49) :]
            predict, camera = self.predictor(prompt_utils, cameras[i]), cameras[i]
            noisy = scheduler.add_noise(latents[i : i + 1], noise[i : i + 1], first)
            step = scheduler.step(predict(noisy, first), first, noisy)
            end = step.prev_sample
            for later in rest:
                end = scheduler.step(predict(end, later), later, end).prev_sample
            shown.append(torch.cat([noisy, step.prev_sample, step.pred_original_sample, end]))
            levels.append(first.item() / scheduler.config.num_train_timesteps)
            angles = f"e{camera.elevation_deg.item():.01f}\na{camera.azimuth_deg.item():.01f}\nc{camera.distance.item():.02f}"
            texts.append(f"n{levels[-1]:.02f}\n{angles}")
        names = ("imgs_noisy", "imgs_1step", "imgs_1orig", "imgs_final")
        pictures = {name: self.decode_latents(z) for name, z in zip(names, torch.stack(shown, 1), strict=True)}
        return {"bs": count, "noise_levels": levels, "texts": texts, **pictures}

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Follow the schedules."""
        percents = (C(value, epoch, global_step) for value in (self.cfg.min_step_percent, self.cfg.max_step_percent))
        self.min_step, self.max_step = (min(int(percent * len(self.alphas)), len(self.alphas) - 1) for percent in percents)
        self.grad_clip_val = None if self.cfg.grad_clip is None else C(self.cfg.grad_clip, epoch, global_step)
