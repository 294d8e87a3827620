"""The multi-guidance rule: one noise predictor made of several (Eq. 3 and Sec. 3.4).

A *noise predictor* is a callable `(z_t, t) -> eps` over noisy latents z_t (B, C, h, w) and a timestep t, a scalar or (B,).
A scheduler turns one into an image, score distillation turns one into a gradient.

    predict = MultiGuidance(Term(unet, empty), [Term(unet_d), Term(unet, text)], guidance_scale=7.0)
    eps = predict(z_t, t)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

NoisePredictor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(eq=False)
class Term:
    """One conditional prediction eps_i(z_t, c_i) and its weight.

    network: a UNet as diffusers calls it, `network(z_t, t).sample` or, where there is a context,
        `network(z_t, t, encoder_hidden_states=context).sample`. Terms of one network share its forward pass.
    context: text features (B, T, d) or (1, T, d); None for a null-text UNet.
    concat: (B or 1, C', h, w) appended to the channels of z_t, for networks that see a picture this way (Zero-1-to-3).
    weight: w_i in diffusers' convention, eps_0 + w_i (eps_i - eps_0); None takes the first weight of Sec. 3.4.
    alphas_cumprod: (number of timesteps,), only for a network that predicts v and not eps.
    """

    network: Any
    context: torch.Tensor | None = None
    weight: float | None = None
    alphas_cumprod: torch.Tensor | None = None
    concat: torch.Tensor | None = None

    def latents(self, z_t: torch.Tensor) -> torch.Tensor:
        """What the network sees of z_t (B, C, h, w)."""
        return z_t if self.concat is None else torch.cat([z_t, self.concat.expand(len(z_t), -1, -1, -1)], 1)


class MultiGuidance:
    """eps_hat(z_t) = eps_0 + sum_i w_i (eps_i - eps_0), a noise predictor (Eq. 3).

    uncond: eps_0, always the *prior's* unconditional prediction: a fine-tuned network's drifts to its domain (Sec. 3.2).
    terms: the K conditional predictions; with none of them eps_hat is eps_0.
    guidance_scale: w0, the total that terms without a weight of their own share.

    `weights` (K, B) holds the weights in use. They are set by the first call and then held; None before it.
    """

    def __init__(self, uncond: Term, terms: Sequence[Term], guidance_scale: float = 7.0):
        self.uncond, self.terms, self.guidance_scale = uncond, list(terms), guidance_scale
        self.weights: torch.Tensor | None = None

    def __call__(self, z_t: torch.Tensor, t: torch.Tensor | int) -> torch.Tensor:
        eps_0, *eps = self.predictions(z_t, t)
        if self.weights is None:
            self.weights = self.first_weights(eps_0, eps)
        if self.weights.shape[1] != len(z_t):
            raise ValueError(f"weights were set for {self.weights.shape[1]} samples, not {len(z_t)}: make a MultiGuidance for each batch")
        weights = self.weights.to(z_t)[..., None, None, None]  # (K, B, 1, 1, 1)
        return eps_0 + sum(w * (eps_i - eps_0) for w, eps_i in zip(weights, eps, strict=True))  # Eq. 3

    def predictions(self, z_t: torch.Tensor, t: torch.Tensor | int) -> list[torch.Tensor]:
        """eps_0 and every term's eps_i, (B, C, h, w) each."""
        return predict_together([self.uncond, *self.terms], z_t, t)

    def first_weights(self, eps_0: torch.Tensor, eps: Sequence[torch.Tensor]) -> torch.Tensor:
        """w_i = (w0 / K) ||eps_0|| / ||eps_i|| for each sample, so that sum_i w_i ||eps_i|| = w0 ||eps_0|| (Sec. 3.4): (K, B)."""
        weights = eps_0.new_empty(len(eps), len(eps_0), dtype=torch.float32)
        for i, (term, eps_i) in enumerate(zip(self.terms, eps, strict=True)):
            automatic = self.guidance_scale / len(eps) * norm(eps_0) / norm(eps_i)
            weights[i] = automatic if term.weight is None else term.weight
        return weights


class PerpNeg(MultiGuidance):
    """The rule with Perp-Neg (Armandpour et al. 2023): its last term also avoids contexts, as far as they lie across it.

    avoid: terms whose `weight` a_j (B,) is negative and relative to the last term's w_K. What w_K multiplies becomes
    (eps_K - eps_0) + sum_j a_j perp(eps_j - eps_0, eps_K - eps_0).
    """

    def __init__(self, uncond: Term, terms: Sequence[Term], avoid: Sequence[Term], guidance_scale: float = 7.0):
        super().__init__(uncond, terms, guidance_scale)
        self.avoid = list(avoid)

    def predictions(self, z_t: torch.Tensor, t: torch.Tensor | int) -> list[torch.Tensor]:
        eps_0, *eps = predict_together([self.uncond, *self.terms, *self.avoid], z_t, t)
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


def predict_together(terms: Sequence[Term], z_t: torch.Tensor, t: torch.Tensor | int) -> list[torch.Tensor]:
    """eps of every term, (B, C, h, w) each; terms with one network and contexts of one length share one batched forward.

    A network computes in its own precision, all else is in z_t's.
    """
    batch, t = len(z_t), torch.as_tensor(t, device=z_t.device)
    groups: dict[tuple, list[int]] = {}
    for i, term in enumerate(terms):
        groups.setdefault((id(term.network), None if term.context is None else term.context.shape[1:]), []).append(i)
    eps: list[torch.Tensor] = [None] * len(terms)
    for members in groups.values():
        first, k = terms[members[0]], len(members)
        dtype = getattr(first.network, "dtype", z_t.dtype)
        inputs = (torch.cat([terms[i].latents(z_t) for i in members]).to(dtype), t.repeat(k) if t.ndim else t)
        if first.context is None:
            out = first.network(*inputs).sample
        else:
            contexts = [terms[i].context.expand(batch, -1, -1) for i in members]
            out = first.network(*inputs, encoder_hidden_states=torch.cat(contexts).to(dtype)).sample
        for i, prediction in zip(members, out.chunk(k), strict=True):
            eps[i] = as_eps(prediction.to(z_t.dtype), z_t, t, terms[i].alphas_cumprod)
    return eps


def as_eps(prediction: torch.Tensor, z_t: torch.Tensor, t: torch.Tensor, alphas_cumprod: torch.Tensor | None) -> torch.Tensor:
    """eps = sqrt(alpha_bar) v + sqrt(1 - alpha_bar) z_t (Salimans & Ho 2022); eps itself where there are no `alphas_cumprod`."""
    if alphas_cumprod is None:
        return prediction
    alpha_bar = alphas_cumprod.to(z_t.device)[t.long()].view(-1, 1, 1, 1)
    return alpha_bar.sqrt().to(z_t) * prediction + (1 - alpha_bar).sqrt().to(z_t) * z_t
