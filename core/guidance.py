"""The multi-guidance rule: one noise predictor made of several (Eq. 3 and Sec. 3.4).

A *noise predictor* is a callable `(z_t, t) -> eps` over noisy latents z_t (B, C, h, w) and a timestep t, a scalar or (B,).
A scheduler turns one into an image, score distillation turns one into a gradient.

    predict = MultiGuidance(Term(unet, empty), [Term(unet_d), Term(unet, text)], guidance_scale=7.0)
    eps = predict(z_t, t)
"""

from collections.abc import Callable, Sequence

import torch

from .terms import Term, predict_together

NoisePredictor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


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
        eps_0, *eps = predict_together([self.uncond, *self.terms], z_t, t)
        if self.weights is None:
            self.weights = self.first_weights(eps_0, eps)
        if self.weights.shape[1] != len(z_t):
            raise ValueError(f"weights were set for {self.weights.shape[1]} samples, not {len(z_t)}: make a MultiGuidance for each batch")
        weights = self.weights.to(z_t)[..., None, None, None]  # (K, B, 1, 1, 1)
        return eps_0 + sum(w * (eps_i - eps_0) for w, eps_i in zip(weights, eps, strict=True))  # Eq. 3

    def first_weights(self, eps_0: torch.Tensor, eps: Sequence[torch.Tensor]) -> torch.Tensor:
        """w_i = (w0 / K) ||eps_0|| / ||eps_i|| for each sample, so that sum_i w_i ||eps_i|| = w0 ||eps_0|| (Sec. 3.4): (K, B)."""
        weights = eps_0.new_empty(len(eps), len(eps_0), dtype=torch.float32)
        for i, (term, eps_i) in enumerate(zip(self.terms, eps, strict=True)):
            automatic = self.guidance_scale / len(eps) * norm(eps_0) / norm(eps_i)
            weights[i] = automatic if term.weight is None else term.weight
        return weights


def norm(eps: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of each sample, (B, C, h, w) -> (B,), in fp32: squares overflow fp16."""
    return eps.float().flatten(1).norm(dim=1)
