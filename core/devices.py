"""Where to compute, and in which precision."""

import torch


def best_device() -> torch.device:
    """cuda if there, else mps, else cpu."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def default_dtype(device: torch.device | str) -> torch.dtype:
    """fp16 off the CPU, where half precision is slower, not faster."""
    return torch.float32 if torch.device(device).type == "cpu" else torch.float16
