"""What a step of domain and text costs, against plain classifier-free guidance on the same prior."""

import time
from collections.abc import Callable
from statistics import median

import torch
from diffusers import UNet2DConditionModel
from tqdm import tqdm

from ..devices import default_dtype
from ..guidance import MultiGuidance
from ..null_text import NullTextUNet
from ..pipeline import InDomainPipeline
from ..terms import Term


def random_prior() -> UNet2DConditionModel:
    """Stable Diffusion 1.5's UNet, a third as wide: 109.8 M parameters, random."""
    return UNet2DConditionModel(sample_size=64, block_out_channels=(112, 224, 448, 448), cross_attention_dim=768, norm_num_groups=16)


PRIORS = {"kiln": lambda: InDomainPipeline.from_pretrained("kiln").unet, "random-100M": random_prior}


@torch.inference_mode()
def step_ratio(unet: UNet2DConditionModel, device: torch.device, batch: int, repeats: int, quiet: bool = False) -> dict[str, float]:
    """Median over paired runs of (a step of domain and text) / (a step of text), and the median seconds of each."""
    unet = unet.to(device, default_dtype(device)).eval()
    size, width = unet.config.sample_size, unet.config.cross_attention_dim
    z_t, t = torch.randn(batch, unet.config.in_channels, size, size).to(unet.device, unet.dtype), torch.tensor(500, device=device)
    empty, text = torch.randn(2, batch, 77, width).to(z_t)
    domain = NullTextUNet.from_prior(unet, text[:1, :1])
    rule = MultiGuidance(Term(unet, empty), [Term(domain), Term(unet, text)])

    def plain() -> torch.Tensor:
        eps_0, eps_c = unet(torch.cat([z_t] * 2), t, encoder_hidden_states=torch.cat([empty, text])).sample.chunk(2)
        return eps_0 + 7.0 * (eps_c - eps_0)

    steps = {"text": plain, "domain_and_text": lambda: rule(z_t, t)}
    seconds = {name: [] for name in steps}
    for step in steps.values():  # the first calls choose kernels and take memory
        seconds_of(step, device)
    for i in tqdm(range(repeats), "pairs", disable=quiet):
        for name in sorted(steps, reverse=i % 2):  # each goes first in turn
            seconds[name].append(seconds_of(steps[name], device))
    pairs = zip(seconds["domain_and_text"], seconds["text"], strict=True)
    return {"ratio": median(both / plain for both, plain in pairs)} | {f"seconds_{name}": median(spent) for name, spent in seconds.items()}


def seconds_of(step: Callable[[], torch.Tensor], device: torch.device) -> float:
    begun = time.perf_counter()
    step()
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return time.perf_counter() - begun
