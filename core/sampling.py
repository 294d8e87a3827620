"""The one denoising loop, from a noise predictor and a diffusers scheduler to latents."""

import inspect
from collections.abc import Callable

import torch

from .guidance import NoisePredictor


def denoise(
    predict: NoisePredictor,
    scheduler,
    latents: torch.Tensor,
    num_inference_steps: int,
    generator: torch.Generator | list[torch.Generator] | None = None,
    callback: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor | None] | None = None,
) -> torch.Tensor:
    """Standard normal noise (B, C, h, w) -> clean latents (B, C, h, w).

    predict: `(z_t, t) -> eps`. scheduler: any diffusers scheduler set to `prediction_type="epsilon"`; its state is changed.
    generator: for schedulers that add noise. callback: `(step, t, latents)` after each step; latents that it returns go on.
    """
    scheduler.set_timesteps(num_inference_steps, device=latents.device)
    noise = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    latents = latents * scheduler.init_noise_sigma
    for i, t in enumerate(scheduler.timesteps):
        eps = predict(scheduler.scale_model_input(latents, t), t)
        latents = scheduler.step(eps, t, latents, **noise).prev_sample
        if callback is not None and (changed := callback(i, t, latents)) is not None:
            latents = changed
    return latents
