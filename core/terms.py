"""One conditional prediction, and how several are evaluated together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch


class Step(NamedTuple):
    """Where a denoising is: at step i of n, with i (B,) or (1,) integers on the CPU, 0 the noisiest."""

    i: torch.Tensor
    n: int

    def within(self, start: float, end: float) -> torch.Tensor:
        """Whether the step lies between these fractions of all steps, as diffusers counts them: (B,) or (1,)."""
        return (self.i.double() / self.n >= start) & ((self.i.double() + 1) / self.n <= end)

    def pick(self, values: float | Sequence[float]) -> torch.Tensor:
        """This step's of `values`, which share all steps evenly: (B,) or (1,)."""
        table = torch.as_tensor(values, dtype=torch.float32).reshape(-1)
        return table[self.i * len(table) // self.n]


def velocity_schedule(scheduler) -> torch.Tensor | None:
    """`alphas_cumprod` for terms of a network that predicts v, as its scheduler says; None where it predicts eps."""
    return scheduler.alphas_cumprod if scheduler.config.prediction_type == "v_prediction" else None


def has_weight(weight: float | Sequence[float] | None) -> bool:
    """Whether a term of this weight has a say at any step; None is Sec. 3.4's, which is never 0."""
    return weight is None or bool(torch.as_tensor(weight).any())


@dataclass(eq=False)
class Control:
    """A ControlNet and the picture that it reads; it adds to the inner features of a term's network (Zhang et al. 2023).

    network: diffusers' ControlNetModel. image: (B or 1, 3, H, W) in [0, 1], of the size of the pictures to be made.
    conditioning_scale: what its residuals are multiplied by. start, end: the fractions of all steps between which it is at work.
    """

    network: Any
    image: torch.Tensor
    conditioning_scale: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def scale_at(self, step: Step) -> torch.Tensor:
        """The scale of its residuals at a step, (B,) or (1,)."""
        return self.conditioning_scale * step.within(self.start, self.end)


@dataclass(eq=False)
class Term:
    """One conditional prediction eps_i(z_t, c_i) and its weight.

    network: a UNet as diffusers calls it, `network(z_t, t).sample` or, where there is a context,
        `network(z_t, t, encoder_hidden_states=context).sample`. Terms of one network and the same controls share its forward pass.
    context: text features (B, T, d) or (1, T, d); None for a null-text UNet.
    concat: (B or 1, C', h, w) appended to the channels of z_t, for networks that see a picture this way (Zero-1-to-3).
    weight: w_i in diffusers' convention, eps_0 + w_i (eps_i - eps_0), or several, which share the steps evenly;
        None takes the first weight of Sec. 3.4. A term is not evaluated where its weight is 0.
    alphas_cumprod: (number of timesteps,), only for a network that predicts v and not eps.
    controls: ControlNets at work in this prediction. unconditional: this network's own text features for no prompt, like `context`.
    """

    network: Any
    context: torch.Tensor | None = None
    weight: float | Sequence[float] | None = None
    alphas_cumprod: torch.Tensor | None = None
    concat: torch.Tensor | None = None
    controls: Sequence[Control] = ()
    unconditional: torch.Tensor | None = None

    def latents(self, z_t: torch.Tensor) -> torch.Tensor:
        """What the network sees of z_t (B, C, h, w)."""
        return z_t if self.concat is None else torch.cat([z_t, self.concat.expand(len(z_t), -1, -1, -1)], 1)


def predict_together(
    terms: Sequence[Term], z_t: torch.Tensor, t: torch.Tensor, step: Step, alphas_cumprod: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """eps of every term, or with `alphas_cumprod` v, (B, C, h, w) each.

    Terms with one network, the same controls and contexts of one length share one batched forward. A network computes in its own precision,
    all else is in z_t's.
    """
    batch = len(z_t)
    terms = [replace(term, controls=[control for control in term.controls if control.scale_at(step).any()]) for term in terms]
    groups: dict[tuple, list[int]] = {}
    for i, term in enumerate(terms):
        alike = id(term.network), None if term.context is None else term.context.shape[1:], *map(id, term.controls)
        groups.setdefault(alike, []).append(i)
    eps: list[torch.Tensor] = [None] * len(terms)
    for members in groups.values():
        first, k = terms[members[0]], len(members)
        dtype = getattr(first.network, "dtype", z_t.dtype)
        inputs = (torch.cat([terms[i].latents(z_t) for i in members]).to(dtype), t.repeat(k) if t.ndim else t)
        if first.context is None:
            out = first.network(*inputs).sample
        else:
            contexts = torch.cat([terms[i].context.expand(batch, -1, -1) for i in members]).to(dtype)
            out = first.network(*inputs, encoder_hidden_states=contexts, **control_residuals(first.controls, *inputs, contexts, step, k)).sample
        for i, prediction in zip(members, out.chunk(k), strict=True):
            eps[i] = convert(prediction.to(z_t.dtype), z_t, t, terms[i].alphas_cumprod, alphas_cumprod)
    return eps


def control_residuals(controls: Sequence[Control], z_t: torch.Tensor, t: torch.Tensor, contexts: torch.Tensor, step: Step, k: int) -> dict:
    """What ControlNets add to a UNet's features, all summed; z_t (k B, C, h, w) holds the batches of k terms."""
    residuals = []
    for control in controls:
        scale = control.scale_at(step).to(z_t)[:, None, None, None]
        scale, image = (x.expand(len(z_t) // k, -1, -1, -1).repeat(k, 1, 1, 1) for x in (scale, control.image))
        out = control.network(z_t, t, encoder_hidden_states=contexts, controlnet_cond=image, conditioning_scale=scale)
        residuals.append([*out.down_block_res_samples, out.mid_block_res_sample])
    if not residuals:
        return {}
    *down, mid = map(sum, zip(*residuals, strict=True))
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}


def convert(
    prediction: torch.Tensor, z_t: torch.Tensor, t: torch.Tensor, given: torch.Tensor | None, wanted: torch.Tensor | None
) -> torch.Tensor:
    """eps = sqrt(alpha_bar) v + sqrt(1 - alpha_bar) z_t (Salimans & Ho 2022), or v of eps.

    given, wanted: alphas_cumprod where the prediction is v and is to become v, None where it is eps and is to become eps.
    """
    if (given is None) == (wanted is None):
        return prediction
    alphas_cumprod = wanted if given is None else given
    # between two timesteps, where Euler's may lie, diffusers' noise levels sigma are linear; 2^-24 is its floor for a prior of zero terminal SNR
    below, above = (alphas_cumprod.to(z_t.device)[whole.long()].clamp(min=2**-24) for whole in (t.floor(), t.ceil()))
    sigma = torch.lerp((1 / below - 1).sqrt(), (1 / above - 1).sqrt(), (t % 1).to(below)).view(-1, 1, 1, 1)
    signal, noise = (1 + sigma**2).rsqrt(), sigma * (1 + sigma**2).rsqrt()
    converted = signal * prediction + noise * z_t if wanted is None else (prediction - noise * z_t) / signal
    return converted.to(z_t.dtype)
