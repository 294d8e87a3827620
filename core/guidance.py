"""The multi-guidance rule: one noise predictor made of several (Eq. 3 and Sec. 3.4).

A *noise predictor* is a callable `(z_t, t) -> eps` over noisy latents z_t (B, C, h, w) and a timestep t, a scalar or (B,).
A scheduler turns one into an image, score distillation turns one into a gradient.

    predict = MultiGuidance(Term(unet, empty), [Term(unet_d), Term(unet, text, controls=[Control(canny, edges)])], guidance_scale=7.0)
    eps = predict(z_t, t)
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch

from .terms import Step, Term, convert, has_weight, predict_together, velocity_schedule

NoisePredictor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class MultiGuidance:
    """eps_hat(z_t) = eps_0 + sum_i w_i (eps_i - eps_0), a noise predictor (Eq. 3).

    uncond: eps_0, the *prior's* unconditional prediction: a fine-tuned network's drifts to its domain (Sec. 3.2).
    terms: the K conditional predictions; with none of them eps_hat is eps_0. Those of weight 0 are left out.
    guidance_scale: w0, the total that terms without a weight of their own share, by themselves.
    guidance_rescale: diffusers', 0 to 1: how far eps_hat takes the spread of the conditional prediction (Lin et al. 2023, Sec. 3.4).
    guidance_interval: fractions of all steps (Kynkaanniemi et al. 2024); outside, negative weights are 0 and the others, where they add up
        to more than 1, are scaled to add up to 1, so that eps_0 cancels.
    guidance_every: evaluate all terms at every n-th step only. In between the first one alone, from which the others differ as they last did:
        that changes slowly (FasterCache's CFG-Cache, Lv et al. 2025, which holds the difference of two). For samplers, whose steps come in turn.
    timesteps: (n,) the sampler's steps, the noisiest first; by default each of the 1000, for score distillation.

    `weights` (K, B) are the first call's; those of Sec. 3.4 are held from then on. None before it.
    """

    def __init__(self, uncond: Term, terms: Sequence[Term], guidance_scale: float = 7.0, guidance_rescale: float = 0.0,
                 guidance_interval: tuple[float, float] = (0.0, 1.0), guidance_every: int = 1, timesteps: torch.Tensor | None = None):
        self.uncond, self.guidance_scale = uncond, guidance_scale
        self.terms = [term for term in terms if has_weight(term.weight)]
        self.guidance_rescale, self.guidance_interval, self.guidance_every = guidance_rescale, guidance_interval, guidance_every
        self.timesteps = torch.arange(999, -1, -1) if timesteps is None else timesteps.cpu()
        self.weights: torch.Tensor | None = None
        self.held: dict[int, torch.Tensor] = {}  # what was predicted when all terms last were, by number, 0 for eps_0
        self.held_at = 0  # and at which step,
        self.held_controls: list[bool] = []  # with which ControlNets

    def __call__(self, z_t: torch.Tensor, t: torch.Tensor | int) -> torch.Tensor:
        return self.prediction(z_t, t)

    def prediction(self, z_t: torch.Tensor, t: torch.Tensor | int, alphas_cumprod: torch.Tensor | None = None) -> torch.Tensor:
        """eps_hat (B, C, h, w), or with `alphas_cumprod` v_hat, what the scheduler of a prior that predicts v takes.

        The rule is computed in what eps_0's network predicts, v or eps: one is linear in the other, and what z_t adds cancels. From eps
        no v can be had at a terminal SNR of zero, where every eps is z_t.
        """
        t = torch.as_tensor(t, device=z_t.device)
        step = Step((self.timesteps[:, None] - t.cpu().reshape(-1)).abs().argmin(0), len(self.timesteps))
        weights = self.weights_at(step, len(z_t))
        eps_0, *eps = self.predict(weights, z_t, t, step)
        if self.weights is None:
            as_eps = [convert(each, z_t, t, self.uncond.alphas_cumprod, None) for each in (eps_0, *eps)]
            self.weights = self.first_weights(as_eps[0], as_eps[1:], step)
            weights = self.weights_at(step, len(z_t))
        weights = weights.to(z_t.device)[..., None, None, None]  # (K, B, 1, 1, 1), in fp32 as is the sum: neither is rounded to fp16's
        eps_hat = eps_0 + sum(w * (eps_i - eps_0) for w, eps_i in zip(weights, eps, strict=True))  # Eq. 3
        if self.guidance_rescale and eps:
            eps_hat = self.rescale(eps_hat, weights, eps)
        return convert(eps_hat.to(z_t.dtype), z_t, t, self.uncond.alphas_cumprod, alphas_cumprod)

    def for_sampler(self, scheduler) -> NoisePredictor:
        """eps_hat, or v_hat where that is what the scheduler takes."""
        return partial(self.prediction, alphas_cumprod=velocity_schedule(scheduler))

    def predict(self, weights: torch.Tensor, z_t: torch.Tensor, t: torch.Tensor, step: Step) -> Iterable[torch.Tensor]:
        """eps_0 and each eps_i, all as eps_0's network predicts, (B, C, h, w); what falls out of the sum, as eps_0 does where the weights
        add up to 1, is not evaluated and 0."""
        cancels = ((1 - weights.sum(0)).abs() < 1e-6).all()  # never for nan, a weight that is still to be decided
        used = [i for i, is_used in enumerate([not cancels, *(weights != 0).any(1)]) if is_used]
        eps = self.evaluate(used, z_t, t, step)
        return (eps[i] if i in eps else torch.zeros_like(z_t) for i in range(1 + len(self.terms)))

    def evaluate(self, used: list[int], z_t: torch.Tensor, t: torch.Tensor, step: Step) -> dict[int, torch.Tensor]:
        """The predictions by number, 0 for eps_0: all anew, or, until `guidance_every` steps after that, as far as one of them has moved."""
        terms = [self.uncond, *self.terms]
        at_work = [bool(control.scale_at(step).any()) for term in terms for control in term.controls]
        in_between = self.held.keys() >= set(used) and at_work == self.held_controls and 0 < int(step.i[0]) - self.held_at < self.guidance_every
        anew = [next((i for i in used if i), 0)] if in_between else used  # of the terms the first, where there is one
        eps = dict(zip(anew, predict_together([terms[i] for i in anew], z_t, t, step, self.uncond.alphas_cumprod), strict=True))
        if in_between:
            moved = eps[anew[0]] - self.held[anew[0]]
            return {i: self.held[i] + moved for i in used}
        self.held, self.held_at, self.held_controls = {i: each.detach() for i, each in eps.items()}, int(step.i[0]), at_work
        return eps

    @torch.no_grad()  # the paper's weights are constants
    def first_weights(self, eps_0: torch.Tensor, eps: Sequence[torch.Tensor], step: Step) -> torch.Tensor:
        """(K, B): those given; for the k terms without, w_i = (w0 / k) ||eps_0|| / ||eps_i||, whose w_i ||eps_i|| add up to w0 ||eps_0||."""
        weights, share = torch.empty(len(eps), len(eps_0)), self.guidance_scale / max(sum(term.weight is None for term in self.terms), 1)
        for i, (term, eps_i) in enumerate(zip(self.terms, eps, strict=True)):
            weights[i] = share * norm(eps_0) / norm(eps_i) if term.weight is None else step.pick(term.weight)  # Sec. 3.4
        return weights

    def weights_at(self, step: Step, batch: int) -> torch.Tensor:
        """The weights at a step, (K, batch); nan for those that the first predictions are still to decide."""
        held = torch.full((len(self.terms), batch), torch.nan) if self.weights is None else self.weights
        if held.shape[1] != batch:
            raise ValueError(f"weights were set for {held.shape[1]} samples, not {batch}: make a MultiGuidance for each batch")
        weights = held.clone()
        for i, term in enumerate(self.terms):
            if term.weight is not None:
                weights[i] = step.pick(term.weight)
        outside = weights.clamp(min=0)
        return torch.where(step.within(*self.guidance_interval), weights, outside / outside.sum(0).clamp(min=1))

    def rescale(self, eps_hat: torch.Tensor, weights: torch.Tensor, eps: Sequence[torch.Tensor]) -> torch.Tensor:
        """eps_hat with the spread of the terms' weighted mean eps_c."""
        total = weights.abs().sum(0)
        eps_c = sum(w.abs() * eps_i for w, eps_i in zip(weights, eps, strict=True)) / total
        ratio = torch.where(total > 0, spread(eps_c) / spread(eps_hat), 1)
        return (self.guidance_rescale * ratio + 1 - self.guidance_rescale).to(eps_hat) * eps_hat


class PerpNeg(MultiGuidance):
    """The rule with Perp-Neg (Armandpour et al. 2023): its last term also avoids contexts, as far as they lie across it.

    avoid: terms whose `weight` a_j (B,) is negative and relative to the last term's w_K. What w_K multiplies becomes
    (eps_K - eps_0) + sum_j a_j perp(eps_j - eps_0, eps_K - eps_0).
    """

    def __init__(self, uncond: Term, terms: Sequence[Term], avoid: Sequence[Term], guidance_scale: float = 7.0):
        super().__init__(uncond, terms, guidance_scale)
        self.terms, self.avoid = list(terms), list(avoid)  # the last one stays the last, whatever its weight

    def predict(self, weights: torch.Tensor, z_t: torch.Tensor, t: torch.Tensor, step: Step) -> list[torch.Tensor]:
        eps_0, *eps = predict_together([self.uncond, *self.terms, *self.avoid], z_t, t, step, self.uncond.alphas_cumprod)
        kept, avoided = eps[: len(self.terms)], eps[len(self.terms) :]
        towards = kept[-1] - eps_0
        away = (term.weight.to(z_t)[:, None, None, None] * perpendicular(eps_j - eps_0, towards) for term, eps_j in zip(self.avoid, avoided, strict=True))
        return [eps_0, *kept[:-1], sum(away, kept[-1])]


def perpendicular(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """What of each sample of a (B, C, h, w) is perpendicular to that of b."""
    along = (a * b).sum((1, 2, 3), keepdim=True) / (b * b).sum((1, 2, 3), keepdim=True).clamp(min=1e-6)
    return a - along * b


def norm(eps: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of each sample, (B, C, h, w) -> (B,), in fp32: squares overflow fp16."""
    return eps.float().flatten(1).norm(dim=1)


def spread(eps: torch.Tensor) -> torch.Tensor:
    """Standard deviation of each sample, (B, C, h, w) -> (B, 1, 1, 1), in fp32."""
    return eps.float().std((1, 2, 3), keepdim=True)
