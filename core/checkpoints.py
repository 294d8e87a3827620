"""What lets a stopped run go on: checkpoints that are whole or not there, a Ctrl-C that waits for one, and a hash of what it stands on."""

import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from .interrupts import interrupt_between_steps


def save_atomically(state: Any, file: Path) -> None:
    """torch.save by way of another file, so that a run killed amid it keeps the one before."""
    partial = file.with_suffix(".partial")
    with open(partial, "wb", buffering=0) as stream:  # torch's own writer hides a full disk in a RuntimeError, Python's is an OSError
        torch.save(state, stream)
    partial.replace(file)


def write_atomically(text: str, file: Path) -> None:
    """The same for a text."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text)
    partial.replace(file)


@contextmanager
def replaced_whole(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which then takes the place of `folder`, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    put_back(folder)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.{owner()}.", dir=folder.parent))  # a name that nobody has
    new, old = scratch / "new", scratch / "old"
    new.mkdir()
    try:
        yield new
        for file in new.rglob("*.safetensors"):
            file.chmod(new.stat().st_mode & 0o666)  # as Python would have made it: safetensors lets nobody else read
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        if folder.exists() or not old.exists():  # or else the old one is all there is
            shutil.rmtree(scratch, ignore_errors=True)


def put_back(folder: Path) -> None:
    """Clear up after processes that were killed while they replaced a folder: what they were filling goes, what they had put aside comes back."""
    for scratch in abandoned(folder.parent, f".{folder.name}."):
        if (scratch / "old").exists() and not folder.exists():
            (scratch / "old").rename(folder)
        shutil.rmtree(scratch, ignore_errors=True)


def owner() -> str:
    """This process, in the name of what it would leave behind if it were killed."""
    return f"{os.getpid()}@{platform.node()}"


def abandoned(folder: Path, prefix: str) -> list[Path]:
    """What is called PREFIX, `owner()` and more after a dot, of owners that are gone. Another machine's may be alive, which cannot be known here."""
    called = re.compile(rf"{re.escape(prefix)}(\d+)@{re.escape(platform.node())}\..*")
    return [path for path in folder.iterdir() if (found := called.fullmatch(path.name)) and not psutil.pid_exists(int(found[1]))]


def cached(file: Path, make: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Tensors made once and kept, as safetensors."""
    if not file.exists():
        partial = file.with_suffix(".partial")
        save_file({name: tensor.cpu().contiguous() for name, tensor in make().items()}, partial)
        partial.replace(file)
    return load_file(file)


def checkpointed(bar: tqdm, name: str, save: Callable[[int], None], seconds: float) -> Iterator[int]:
    """The steps of a bar, with `save(steps done)` after the last one and every `seconds`; Ctrl-C is raised between steps, after saving."""
    saved = time.monotonic()
    with interrupt_between_steps() as interrupted:
        for step in bar:
            yield step
            if step + 1 == bar.total or interrupted.is_set() or time.monotonic() - saved > seconds:
                save(step + 1)
                saved = time.monotonic()
            if interrupted.is_set():
                raise KeyboardInterrupt(f"{name} stopped after step {step + 1} of {bar.total}")


def fingerprint(*modules: nn.Module, of: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor) -> str:
    """A short hash of all weights, or `of` them: a run begun on some models must not go on with others of the same name."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            digest.update(of(tensor).cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
