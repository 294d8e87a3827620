"""Figures that take long: each is computed once, kept on disk, and shared among the processes of `accelerate launch`."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm import tqdm

from ..checkpoints import replaced_whole
from ..interrupts import kept_in
from ..results import slug


@dataclass(frozen=True)
class Cell:
    """A few figures that belong together, such as those of one method in one domain and task.

    name: such as "porcelain lora text". depends: plain data, all that the figures follow from: fingerprints of models, settings, counts, seeds.
    make: `(folder) -> figures`, plain data; other files that it writes into that folder (PNG, NPY, GLB) are kept beside them.
    """

    name: str
    depends: dict[str, Any]
    make: Callable[[Path], dict[str, Any]]

    @property
    def key(self) -> str:
        """Tells it from cells of the same name that follow from something else."""
        return hashlib.sha256(json.dumps([self.name, self.depends], sort_keys=True, default=str).encode()).hexdigest()[:12]


class Cells:
    """Cells on disk: FOLDER/NAME-KEY/cell.json with the figures, and whatever the cell wrote beside it. Whole or not there."""

    def __init__(self, folder: Path, quiet: bool = False):
        self.root, self.quiet = folder, quiet

    def folder(self, cell: Cell) -> Path:
        return self.root / f"{slug(cell.name)}-{cell.key}"

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """The figures, or None where they have not been computed from what the cell depends on now."""
        file = self.folder(cell) / "cell.json"
        return json.loads(file.read_text())["figures"] if file.exists() else None

    def make(self, cell: Cell) -> dict[str, Any]:
        """The figures, computed if there are none."""
        if (figures := self.read(cell)) is not None:
            return figures
        with replaced_whole(self.folder(cell)) as new:  # of several commands over one folder each has its own
            record = {"name": cell.name, "depends": cell.depends, "figures": cell.make(new)}
            (new / "cell.json").write_text(json.dumps(record, indent=2, default=str) + "\n")
        return record["figures"]

    def make_all(self, cells: Sequence[Cell], on_figures: Callable[[], None] = lambda: None) -> None:
        """Compute those that are missing. Of several processes each takes every n-th; all of them come back when all is done.

        on_figures: called by the main process after each of its own, to report what there is so far.
        A Ctrl-C loses the cell under way only, and says how to go on.
        """
        state = PartialState()
        todo = [cell for cell in cells if self.read(cell) is None]
        state.wait_for_everyone()  # all have seen the same ones missing
        with kept_in(self.root):
            for cell in (bar := tqdm(todo[state.process_index :: state.num_processes], unit="cell", leave=False, disable=self.quiet or not todo)):
                bar.set_description(cell.name)
                self.make(cell)
                if state.is_main_process:
                    on_figures()
        state.wait_for_everyone()
