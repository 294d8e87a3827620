"""Score distillation over any noise predictor (DreamFusion, Poole et al. 2023, Eq. 3; the paper's Sec. 4.3)."""

from collections.abc import Callable

import torch

from core.guidance import NoisePredictor


def one_minus_alpha_bar(alpha_bar: torch.Tensor) -> torch.Tensor:
    """DreamFusion's w(t) = sigma_t^2."""
    return 1 - alpha_bar


def sds(
    latents: torch.Tensor,
    predict: NoisePredictor,
    alphas_cumprod: torch.Tensor,
    t_range: tuple[float, float],
    generator: torch.Generator,
    weighting: Callable[[torch.Tensor], torch.Tensor] = one_minus_alpha_bar,
) -> torch.Tensor:
    """A scalar whose gradient on `latents` (B, C, h, w) is w(t) (eps_hat - eps), with one timestep for each sample.

    t_range: fractions of the schedule's length, drawn uniformly between them. generator: on the CPU, so that a seed gives the same
    draws on every device. Samples are summed: divide by B for a mean.
    """
    batch, steps = len(latents), len(alphas_cumprod)
    low, high = (min(int(fraction * steps), steps - 1) for fraction in t_range)
    t = torch.randint(low, high + 1, (batch,), generator=generator).to(latents.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    alpha_bar = alphas_cumprod.to(latents)[t].view(-1, 1, 1, 1)
    with torch.no_grad():
        z_t = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
        gradient = weighting(alpha_bar) * (predict(z_t, t) - noise)
        target = latents - torch.nan_to_num(gradient)
    return 0.5 * ((latents - target) ** 2).sum()


def anneal(start: tuple[float, float], end: tuple[float, float], progress: float) -> tuple[float, float]:
    """The timestep range at a stage's progress in [0, 1], linear from start to end."""
    return tuple(a + (b - a) * progress for a, b in zip(start, end, strict=True))
