"""Score distillation over any noise predictor (DreamFusion, Poole et al. 2023, Eq. 3; the paper's Sec. 4.3)."""

from collections.abc import Callable

import torch

from core.guidance import NoisePredictor

WEIGHTINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {  # w(t) from alpha_bar; the names are threestudio's
    "sds": lambda alpha_bar: 1 - alpha_bar,  # DreamFusion's sigma_t^2
    "uniform": torch.ones_like,
    "fantasia3d": lambda alpha_bar: alpha_bar.sqrt() * (1 - alpha_bar),
}


def sds(
    latents: torch.Tensor,
    predict: NoisePredictor,
    alphas_cumprod: torch.Tensor,
    t_range: tuple[float, float],
    generator: torch.Generator,
    predict_uncond: NoisePredictor | None = None,
) -> torch.Tensor:
    """A scalar whose gradient on `latents` (B, C, h, w) is w(t) (eps_hat - eps), with one timestep for each sample.

    predict_uncond: the rule's own eps_0. With it the gradient is w(t) (eps_hat - eps_0), guidance alone (classifier score distillation,
    Yu et al. 2024): that has none of the noise by which eps_0 - eps pulls this way and that, and blurs what it is to sharpen.

    t_range: fractions of the schedule's length, drawn uniformly between them. generator: on the CPU, so that a seed gives the same
    draws on every device. Samples are summed: divide by B for a mean.
    """
    batch, steps = len(latents), len(alphas_cumprod)
    low, high = (min(int(fraction * steps), steps - 1) for fraction in t_range)
    t = torch.randint(low, high + 1, (batch,), generator=generator).to(latents.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    return with_gradient(latents, sds_gradient(latents, predict, alphas_cumprod, t, noise, predict_uncond=predict_uncond))


@torch.no_grad()
def sds_gradient(
    latents: torch.Tensor,
    predict: NoisePredictor,
    alphas_cumprod: torch.Tensor,
    t: torch.Tensor,
    noise: torch.Tensor,
    weighting: str = "sds",
    predict_uncond: NoisePredictor | None = None,
) -> torch.Tensor:
    """w(t) (eps_hat - eps), (B, C, h, w), for timesteps t (B,) and noise eps (B, C, h, w); with `predict_uncond` w(t) (eps_hat - eps_0)."""
    alpha_bar = alphas_cumprod.to(latents)[t].view(-1, 1, 1, 1)
    z_t = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
    origin = noise if predict_uncond is None else predict_uncond(z_t, t)
    return torch.nan_to_num(WEIGHTINGS[weighting](alpha_bar) * (predict(z_t, t) - origin), nan=0.0, posinf=0.0, neginf=0.0)  # fp16 overflows


def with_gradient(latents: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """A scalar whose gradient on `latents` is `gradient`."""
    return 0.5 * ((latents - (latents - gradient).detach()) ** 2).sum()


def anneal(start: tuple[float, float], end: tuple[float, float], progress: float) -> tuple[float, float]:
    """The timestep range at a stage's progress in [0, 1], linear from start to end."""
    return tuple(a + (b - a) * progress for a, b in zip(start, end, strict=True))
