"""The one denoising loop, from a noise predictor and a diffusers scheduler to latents: of noise, or of a picture (SDEdit)."""

import inspect
from collections.abc import Callable

import torch
from diffusers import DPMSolverMultistepScheduler

from .guidance import NoisePredictor


def new_sampler(scheduler) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ over a prior's noise schedule, in its stochastic form (Lu et al. 2022): the noise that a step adds lets later ones mend its mistakes."""
    return DPMSolverMultistepScheduler.from_config(scheduler.config, algorithm_type="sde-dpmsolver++")


def denoise(
    predict: NoisePredictor,
    scheduler,
    latents: torch.Tensor,
    num_inference_steps: int,
    generator: torch.Generator | list[torch.Generator] | None = None,
    callback: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor | None] | None = None,
    clean: torch.Tensor | None = None,
    strength: float = 1.0,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Standard normal noise (B, C, h, w) -> clean latents (B, C, h, w).

    predict: `(z_t, t) ->` what the scheduler's prediction_type says, eps or v. scheduler: any of diffusers; its state is changed.
    generator: for schedulers that add noise. callback: `(step, t, latents)` after each step; latents that it returns go on.
    clean: (B, C, h, w), a picture's latents to start from, with noise up to `strength`, 0 to 1 (SDEdit, Meng et al. 2022).
    mask: (B or 1, 1, h, w), 1 where to change them; elsewhere they are put back after each step, under its noise (Lugmayr et al. 2022).
    """
    timesteps = last_timesteps(scheduler, num_inference_steps, strength, latents.device)
    stochastic = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    noise = latents

    def noised(step: int) -> torch.Tensor:
        """The picture as it is before this step; clean after the last."""
        return scheduler.add_noise(clean, noise, timesteps[step : step + 1]) if step < len(timesteps) else clean

    latents = noise * scheduler.init_noise_sigma if clean is None else noised(0)
    for i, t in enumerate(timesteps):
        prediction = predict(scheduler.scale_model_input(latents, t), t)
        latents = scheduler.step(prediction, t, latents, **stochastic).prev_sample
        if mask is not None:
            latents = mask * latents + (1 - mask) * noised(i + 1)
        if callback is not None and (changed := callback(i, t, latents)) is not None:
            latents = changed
    return latents


def last_timesteps(scheduler, num_inference_steps: int, strength: float = 1.0, device: torch.device | str = "cpu") -> torch.Tensor:
    """Set a scheduler to the last `strength` of its steps, 0 to 1, and return their timesteps (n,), counted as in diffusers."""
    scheduler.set_timesteps(num_inference_steps, device=device)
    start = (num_inference_steps - int(num_inference_steps * strength)) * scheduler.order
    if start and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    return scheduler.timesteps[start:]
