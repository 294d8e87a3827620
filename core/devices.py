"""Where to compute, and in which precision."""

import torch

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


def default_dtype(device: torch.device | str) -> torch.dtype:
    """fp16 off the CPU, where half precision is slower, not faster."""
    return torch.float32 if torch.device(device).type == "cpu" else torch.float16
