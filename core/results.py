"""Where images go: a folder named by what was asked for, with the settings that made them."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError

try:
    import fcntl
except ImportError:
    fcntl = None

SETTINGS = "settings.json"


def slug(text: str) -> str:
    """A folder name from a prompt; a hash keeps long ones apart."""
    words = re.sub(r"[^\w]+", "-", text.lower()).strip("-")
    return words if 0 < len(words) <= 60 else f"{words[:50]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}".strip("-")


def result_folder(root: Path, settings: dict[str, Any]) -> Path:
    """`root`/DOMAIN/PROMPT-SEED, or that with a short hash of the settings where images of others lie."""
    text = to_json(settings)
    path = root / Path(settings["domain"] or "open").name / f"{slug(settings['prompt'] or 'anything')}-{settings['seed']}"
    own, there = path.with_name(f"{path.name}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"), path / SETTINGS
    taken = any(path.glob("*.png")) and not (there.is_file() and there.read_text() == text)
    return own if taken or own.exists() else path


def make_folder(path: Path) -> None:
    """Raises UserError for one that cannot be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to '{path}' ({error.strerror}): choose another folder with --out") from error


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder meanwhile; a killed one's lock goes with it. Raises UserError where one is at work in it."""
    if fcntl is None:  # Windows has other locks
        yield
        return
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is at work in '{folder}': wait for it, or give another --out") from None
        except OSError:  # of a file system without locks, as clusters have
            pass
        yield
    finally:
        os.close(lock)


def to_json(settings: dict[str, Any]) -> str:
    """Settings as they are written."""
    return json.dumps(settings, indent=2, default=str) + "\n"
