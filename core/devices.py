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
    """Whether a training is faster in bf16 there: on CUDA, and on CPUs that multiply it (AVX512-BF16, AMX)."""
    kind = torch.device(device).type
    return torch.cpu._is_avx512_bf16_supported() if kind == "cpu" else kind == "cuda"


def suit_attention(unet: torch.nn.Module, device: torch.device) -> None:
    """Have a network that is trained in bf16 attend as its device does fastest: on a CPU by plain products, as torch's own attention is slow backwards."""
    if device.type == "cpu" and hasattr(unet, "set_attn_processor"):
        unet.set_attn_processor(AttnProcessor())


def default_dtype(device: torch.device | str) -> torch.dtype:
    """fp16 off the CPU, where that is slower, not faster."""
    return torch.float32 if torch.device(device).type == "cpu" else torch.float16
