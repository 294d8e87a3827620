"""A run's folder: stages that end by a rename, a record of each, and reuse of what is finished."""

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

from core.checkpoints import write_atomically
from core.errors import UserError
from core.results import make_folder

ENDS = 2**16
STAGES = ("image", "init", "refine", "paint", "mesh")  # each made from the one before
SCAFFOLD = ("fingerprint", "checkpoint.pt")  # what only an unfinished stage needs


def fingerprint(**what) -> str:
    """A short hash of everything a stage's result depends on."""
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:16]


def models_fingerprint(*names: str | Path) -> str:
    """A short hash of model folders: their configs, and of weights the size and both ends, as training changes a file all through.

    A prior may be one file. A name of nothing that is there is a Hub id and stands for itself.
    """
    digest = hashlib.sha256()
    for name in map(Path, names):
        if not name.exists():
            digest.update(str(name).encode())
        for file in [name] if name.is_file() else sorted(file for file in name.rglob("*") if file.suffix in (".json", ".safetensors", ".bin")):
            with open(file, "rb") as stream:
                size = file.stat().st_size
                digest.update(f"{file.relative_to(name)} {size}".encode() + stream.read(ENDS))
                stream.seek(max(0, size - ENDS))
                digest.update(stream.read())
    return digest.hexdigest()[:16]


def choose_folder(path: Path, made_from: dict) -> Path:
    """`path`, or `path` with a short hash of `made_from` when the run there has finished a stage and was made from something else."""
    own, there = path.with_name(f"{path.name}-{fingerprint(**made_from)[:6]}"), read_record(path)
    taken = there.get("stages") and any(there.get(key, value) != value for key, value in made_from.items())
    return own if taken or own.exists() else path


def read_record(path: Path) -> dict:
    """run.json of a folder; empty when there is none, or one that is none of ours."""
    try:
        record = json.loads((path / "run.json").read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(record, dict) or not isinstance(stages := record.get("stages", {}), dict):
        return {}
    return record if all(isinstance(entry, dict) for entry in stages.values()) else {}


def finished_record(path: Path | None) -> dict:
    """run.json of a finished run from a prompt. Raises UserError."""
    record = read_record(path) if path else {}
    if not record:
        raise UserError(f"--folder {path} is no run folder: give one that scripts/text_to_3d.py wrote")
    if "metrics" not in record or "prompt" not in record or not (path / "mesh.glb").is_file():
        raise UserError(f"the run in '{path}' did not come from a prompt to a mesh: give the command that began it again, then measure it")
    return record


class RunFolder:
    """`run.json` is the truth: a stage is finished when it is recorded there, and it is recorded after its files are in place.

    Its `metrics` are there when every stage is of the settings beside them.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        make_folder(self.path)
        self.record = {"stages": {}} | read_record(self.path)

    def describe(self, **what) -> None:
        """Record what is to be made; metrics of what was made before go."""
        self.record = {k: v for k, v in self.record.items() if k != "metrics"} | what
        self.write_record()

    def write_record(self) -> None:
        write_atomically(json.dumps(self.record, indent=2, default=str) + "\n", self.path / "run.json")

    def finished(self, stage: str, print_: str) -> bool:
        entry = self.record["stages"].get(stage)
        return bool(entry) and entry["fingerprint"] == print_ and all((self.path / file).exists() for file in entry["files"])

    def begin(self, stage: str, print_: str) -> Path:
        """The folder to work in: what an interrupted run with the same settings left, or an empty one. Starts the stage's clock."""
        partial, target = self.path / f"{stage}.partial", self.path / stage
        if not self.record["stages"].get(stage) and (target / "fingerprint").exists() and not partial.exists():
            os.replace(target, partial)  # whole, but killed before it was recorded
        mark, spent = partial / "fingerprint", 0.0
        if partial.exists():
            found, _, before = mark.read_text().partition(" ") if mark.exists() else ("", "", "")
            if found == print_:  # what it took until its newest file, its last sign of life however it ended
                spent = float(before or 0) + max(file.stat().st_mtime for file in partial.iterdir()) - mark.stat().st_mtime
            else:
                shutil.rmtree(partial)
        partial.mkdir(exist_ok=True)
        write_atomically(f"{print_} {spent:.1f}", mark)
        self.started = time.monotonic() - spent
        return partial

    def forget(self, stage: str) -> None:
        """Drop a stage from the record, and those that were made from it."""
        later = STAGES[STAGES.index(stage) :]
        if stage in self.record["stages"]:
            self.record["stages"] = {name: entry for name, entry in self.record["stages"].items() if name.partition("/")[0] not in later}

    def end(self, stage: str, print_: str, as_folder: bool, **entry) -> None:
        """Put a stage's files in place, as the folder `stage` or side by side in the run's, and record it.

        It is forgotten first, with those after it: a run killed amid this has too few stages on record, never files of other settings.
        Nothing is made from a part of a stage, STAGE/PART.
        """
        partial, target = self.path / f"{stage}.partial", self.path / stage
        if "/" in stage:
            self.record["stages"][stage] = {}
        else:
            self.forget(stage)
        self.write_record()
        if as_folder:
            files = [stage]
            shutil.rmtree(target, ignore_errors=True)
            os.replace(partial, target)
        else:
            files = sorted(file.name for file in partial.iterdir() if file.name not in SCAFFOLD)
            for file in files:
                os.replace(partial / file, self.path / file)
        seconds = round(time.monotonic() - self.started, 1)
        self.record["stages"][stage] = {"fingerprint": print_, "files": files, "seconds": seconds, **entry}
        self.write_record()
        for name in SCAFFOLD if as_folder else ():
            (target / name).unlink(missing_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
