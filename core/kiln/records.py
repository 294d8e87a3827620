"""What the firing keeps of each stage: what it was made from, what it made, and the seconds it took; and the short hashes that tell these apart."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..checkpoints import write_atomically

MINUTE = 60.0  # seconds between two entries of a stage's time


def has_changed(mark: Path, made_from: str) -> bool:
    """Whether what a file marks was made from something else, or not at all."""
    return not mark.exists() or mark.read_text() != made_from


def digest_files(folders: Sequence[Path]) -> str:
    """A short hash of models: their weights and configurations, but not where these were loaded from; "" where a folder is missing."""
    whole = hashlib.sha256()
    for folder in folders:
        if not folder.is_dir():
            return ""
        for file in sorted(file for file in folder.rglob("*") if file.suffix in (".json", ".safetensors")):
            content = file.read_bytes()
            if file.suffix == ".json":
                content = json.dumps({key: value for key, value in json.loads(content).items() if not key.startswith("_")}).encode()
            whole.update(str(file.relative_to(folder)).encode() + content)
    return whole.hexdigest()[:16]


def forget_places(weights: Path) -> None:
    """Drop from the configurations of all models below a folder where their firing loaded them from: that is a path of the machine's."""
    for file in weights.rglob("config.json"):
        config = json.loads(file.read_text())
        if config.pop("_name_or_path", None) is not None:
            write_atomically(json.dumps(config, indent=2) + "\n", file)


class Record:
    """A stage's file: "inputs", "steps" and "code", which it depends on; "made", None until it is finished; "seconds", by machine."""

    def __init__(self, file: Path):
        self.file, self.entries = file, json.loads(file.read_text()) if file.exists() else {}

    def is_of(self, now: dict, *keys: str) -> bool:
        """Whether the stage was begun with what there is now: all of it, or `keys`."""
        return all(self.entries.get(key) == now[key] for key in keys or now)

    def is_finished(self, now: dict, made: Callable[[], str]) -> bool:
        """Whether the stage was made from what there is now, and what is there of it, which `made` tells, is what it left.

        An unfinished or outdated stage is not looked into: what a kill has left of it may not be readable.
        """
        return bool(self.entries.get("made")) and self.is_of(now) and self.entries["made"] == made()

    def begin(self, now: dict) -> None:
        """With the seconds of an earlier run from the same inputs: those were spent on the same."""
        self.entries = now | {"made": None, "seconds": self.entries.get("seconds", {}) if self.is_of(now, "inputs") else {}}

    def finish(self, made: str) -> None:
        self.entries["made"] = made

    @property
    def seconds(self) -> float:
        return sum(self.entries["seconds"].values())

    @contextmanager
    def clock(self, machine: str) -> Iterator[None]:
        """Add the seconds spent inside and write the file, every minute and at the end: those of a killed run count too."""
        before, start, done = self.entries["seconds"].get(machine, 0.0), time.monotonic(), threading.Event()
        self.file.parent.mkdir(parents=True, exist_ok=True)

        def write() -> None:
            self.entries["seconds"][machine] = round(before + time.monotonic() - start, 1)
            write_atomically(json.dumps(self.entries, indent=1), self.file)

        def write_every_minute() -> None:
            while not done.wait(MINUTE):
                write()

        write()
        thread = threading.Thread(target=write_every_minute, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            write()
