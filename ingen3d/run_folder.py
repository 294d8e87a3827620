"""A run's folder: stages that end by a rename, a record of each, and reuse of what is finished."""

import hashlib
import json
import os
import shutil
from pathlib import Path

from core.errors import UserError


def fingerprint(**what) -> str:
    """A short hash of everything a stage's result depends on."""
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:16]


class RunFolder:
    """`run.json` is the truth: a stage is finished when it is recorded there, and it is recorded after its files are in place."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(f"cannot write to '{self.path}' ({error.strerror}): choose another folder with --out") from error
        file = self.path / "run.json"
        try:
            self.record = json.loads(file.read_text()) if file.exists() else {}
        except ValueError:  # cut short by a full disk: the stages are made again
            self.record = {}
        self.record.setdefault("stages", {})

    def write_record(self) -> None:
        partial = self.path / "run.json.partial"
        partial.write_text(json.dumps(self.record, indent=2, default=str) + "\n")
        partial.replace(self.path / "run.json")

    def finished(self, stage: str, print_: str) -> bool:
        entry = self.record["stages"].get(stage)
        return bool(entry) and entry["fingerprint"] == print_ and all((self.path / file).exists() for file in entry["files"])

    def begin(self, stage: str, print_: str) -> Path:
        """The folder to work in: what an interrupted run with the same settings left, or an empty one."""
        partial = self.path / f"{stage}.partial"
        mark = partial / "fingerprint"
        if partial.exists() and not (mark.exists() and mark.read_text() == print_):
            shutil.rmtree(partial)
        partial.mkdir(exist_ok=True)
        mark.write_text(print_)
        return partial

    def end(self, stage: str, print_: str, as_folder: bool, **entry) -> None:
        """Put a stage's files in place, as the folder `stage` or side by side in the run's, and record it."""
        partial = self.path / f"{stage}.partial"
        (partial / "fingerprint").unlink()
        if as_folder:
            files, target = [stage], self.path / stage
            if target.exists():
                shutil.rmtree(target)
            os.replace(partial, target)
        else:
            files = sorted(file.name for file in partial.iterdir())
            for file in files:
                os.replace(partial / file, self.path / file)
            partial.rmdir()
        self.record["stages"][stage] = {"fingerprint": print_, "files": files, **entry}
        self.write_record()
