"""One conditional prediction, and how several are evaluated together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


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


def predict_together(terms: Sequence[Term], z_t: torch.Tensor, t: torch.Tensor | int) -> list[torch.Tensor]:
    """eps of every term, (B, C, h, w) each; terms with one network and contexts of one length share one batched forward."""
    batch, t = len(z_t), torch.as_tensor(t, device=z_t.device)
    groups: dict[tuple, list[int]] = {}
    for i, term in enumerate(terms):
        groups.setdefault((id(term.network), None if term.context is None else term.context.shape[1:]), []).append(i)
    eps: list[torch.Tensor] = [None] * len(terms)
    for members in groups.values():
        first, k = terms[members[0]], len(members)
        inputs = (torch.cat([terms[i].latents(z_t) for i in members]), t.repeat(k) if t.ndim else t)
        if first.context is None:
            out = first.network(*inputs).sample
        else:
            contexts = [terms[i].context.expand(batch, -1, -1) for i in members]
            out = first.network(*inputs, encoder_hidden_states=torch.cat(contexts)).sample
        for i, prediction in zip(members, out.chunk(k), strict=True):
            eps[i] = as_eps(prediction, z_t, t, terms[i].alphas_cumprod)
    return eps


def as_eps(prediction: torch.Tensor, z_t: torch.Tensor, t: torch.Tensor, alphas_cumprod: torch.Tensor | None) -> torch.Tensor:
    """eps = sqrt(alpha_bar) v + sqrt(1 - alpha_bar) z_t (Salimans & Ho 2022); eps itself where there are no `alphas_cumprod`."""
    if alphas_cumprod is None:
        return prediction
    alpha_bar = alphas_cumprod.to(z_t.device)[t.long()].view(-1, 1, 1, 1)
    return alpha_bar.sqrt().to(z_t) * prediction + (1 - alpha_bar).sqrt().to(z_t) * z_t
