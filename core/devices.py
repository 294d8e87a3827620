"""Where to compute, and in which precision."""

import torch
from diffusers.models.attention_processor import AttnProcessor

from .errors import UserError


def find_device(name: torch.device | str | None = None) -> torch.device:
    """A device by name; without one cuda if there, else mps, else cpu. Raises UserError for a device that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    known = [device for device, is_there in there.items() if is_there]
    if name is None:
        return torch.device(known[0])
    try:
        torch.empty(1, device=name)  # a name may be right and its device missing, such as cuda:9
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"there is no device '{name}'; known: {', '.join(known)}") from error
    return torch.device(name)


def is_fast_in_bf16(device: torch.device | str) -> bool:
    """Whether a training is faster in bf16 there: on GPUs and CPUs that multiply it, since Ampere and since AVX512-BF16."""
    device = torch.device(device)
    if device.type == "cpu":
        return getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()  # an older torch cannot tell
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def suit_attention(unet: torch.nn.Module, device: torch.device) -> None:
    """Have a network that is trained in bf16 attend as its device does fastest: on a CPU by plain products, as torch's own attention is slow backwards.

    A large one is left alone: torch's never holds all the weights, which grow with the fourth power of the latents' side.
    """
    if device.type == "cpu" and hasattr(unet, "set_attn_processor") and unet.config.sample_size <= 32:
        unet.set_attn_processor(AttnProcessor())


def default_dtype(device: torch.device | str) -> torch.dtype:
    """fp16 off the CPU, where that is slower, not faster."""
    return torch.float32 if torch.device(device).type == "cpu" else torch.float16
