"""A report from plain data: report.json, report.md, and report.html, one file that opens offline."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from ..checkpoints import write_atomically

Value = float | int | str | tuple[float, float, float] | list | None  # a figure, a figure with its interval (value, low, high), a word, or none yet


@dataclass(frozen=True)
class Column:
    """key: of the rows' values. better: "low", "high", or None where neither is. form: of its numbers. group: a heading over several columns."""

    key: str
    title: str
    better: str | None = None
    form: str = ".2f"
    group: str = ""

    @property
    def heading(self) -> str:
        return self.title + {"low": " ↓", "high": " ↑", None: ""}[self.better]

    def show(self, value: Value) -> str:
        """A value as it is printed; "…" for one that has not been computed yet."""
        if value is None:
            return "…"
        if isinstance(value, str):
            return value
        if isinstance(value, tuple | list):
            return "{} [{}, {}]".format(*(in_form(number, self.form) for number in value))
        return in_form(value, self.form)

    def ranks(self, rows: Sequence[Mapping[str, Value]]) -> list[int]:
        """1 for the best of the rows, 2 for the second best, 0 for others: of numbers as they are printed, so that equals share a rank."""
        shown = [round_as_shown(row.get(self.key), self.form) for row in rows]
        if self.better is None:
            return [0] * len(shown)
        distinct = sorted({value for value in shown if value is not None}, reverse=self.better == "high")
        return [distinct.index(value) + 1 if value in distinct[:2] else 0 for value in shown]


def in_form(number: float, form: str) -> str:
    """A number by its form; significant digits, such as "#.3g", are written out: 1230 and 0.00312, with no exponent."""
    return f"{Decimal(f'{number:{form}}'):f}" if form.endswith("g") else f"{number:{form}}"


def round_as_shown(value: Value, form: str) -> float | None:
    """The number of a value as printed, None where it is no number."""
    if value is None or isinstance(value, str):
        return None
    number = in_form(value[0] if isinstance(value, tuple | list) else value, form).replace(",", "")
    return float(number[:-1]) / 100 if number.endswith("%") else float(number)


@dataclass
class Table:
    """rows: one mapping a row, key -> value; "unranked": True keeps a row, such as a reference, out of best and second best."""

    title: str
    columns: list[Column]
    rows: list[dict[str, Any]]
    caption: str = ""

    def ranks(self) -> list[dict[str, int]]:
        """For each row the rank of each column, see `Column.ranks`."""
        ranked = [row for row in self.rows if not row.get("unranked")]
        columns = {column.key: iter(column.ranks(ranked)) for column in self.columns}
        return [{key: 0 if row.get("unranked") else next(ranks) for key, ranks in columns.items()} for row in self.rows]

    def markdown(self) -> str:
        headings = [f"{c.group}: {c.heading}" if c.group else c.heading for c in self.columns]
        lines = [headings, ["---"] * len(headings)]
        for row, ranks in zip(self.rows, self.ranks()):
            lines.append([MARK[ranks[c.key]].format(c.show(row.get(c.key))) for c in self.columns])
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


MARK = {0: "{}", 1: "**{}**", 2: "<u>{}</u>"}  # best in bold, second underlined, as in Table 1


@dataclass
class Grid:
    """Strips of images under one another. strips: label -> a PNG, images of one height side by side. columns: what is over them."""

    title: str
    strips: dict[str, Path]
    columns: list[str] = field(default_factory=list)
    caption: str = ""

    def markdown(self, folder: Path) -> str:
        return "\n\n".join(f"{label}\n\n![{label}]({relative(file, folder)})" for label, file in self.strips.items())


@dataclass
class Curves:
    """Lines through points. series: name -> points (x, y) or (x, y, label)."""

    title: str
    x: str
    y: str
    series: dict[str, list[Sequence]]
    caption: str = ""

    def markdown(self) -> str:
        lines = [f"| series | {self.x} | {self.y} | |", "| --- | --- | --- | --- |"]
        lines += [f"| {name} | {p[0]:.4g} | {p[1]:.4g} | {p[2] if len(p) > 2 else ''} |" for name, points in self.series.items() for p in points]
        return "\n".join(lines)


@dataclass
class Models:
    """Meshes to turn with the mouse. models: label -> a GLB."""

    title: str
    models: dict[str, Path]
    caption: str = ""

    def markdown(self, folder: Path) -> str:
        return "\n".join(f"- [{label}]({relative(file, folder)})" for label, file in self.models.items())


@dataclass
class Section:
    title: str
    blocks: list[Table | Grid | Curves | Models]
    text: str = ""


@dataclass
class Report:
    """command: what makes it. settings: shown at its head, with all counts. sections: in order. status: such as "12 of 40 cells"; "" when whole."""

    title: str
    command: str
    settings: dict[str, Any]
    sections: list[Section]
    status: str = ""

    def write(self, folder: Path) -> Path:
        """report.json, report.md and report.html in a folder; returns the last. Each is whole or as it was."""
        from .html import page  # which knows what stands here

        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(json.dumps(self.data(folder), indent=2, default=str) + "\n", folder / "report.json")
        write_atomically(self.markdown(folder), folder / "report.md")
        write_atomically(page(self), folder / "report.html")
        return folder / "report.html"

    def data(self, folder: Path) -> dict:
        """All of it, with files by their way from `folder`."""
        blocks = lambda section: [{"kind": type(block).__name__.lower()} | asdict(block) for block in section.blocks]
        sections = [{"title": s.title, "text": s.text, "blocks": blocks(s)} for s in self.sections]
        whole = {"title": self.title, "status": self.status, "command": self.command, "settings": self.settings, "sections": sections}
        return json.loads(json.dumps(whole, default=lambda x: relative(x, folder) if isinstance(x, Path) else str(x)))

    def markdown(self, folder: Path) -> str:
        parts = [f"# {self.title}", *([f"**{self.status}**"] if self.status else []), f"```\n{self.command}\n```",
                 "\n".join(f"- {key}: {value}" for key, value in self.settings.items())]
        for section in self.sections:
            parts += [f"## {section.title}", section.text]
            for block in section.blocks:
                body = block.markdown(folder) if isinstance(block, Grid | Models) else block.markdown()
                parts += [f"### {block.title}", body, block.caption]
        return "\n\n".join(part for part in parts if part) + "\n"


def relative(file: Path, folder: Path) -> str:
    """The way from a folder to a file."""
    return Path(os.path.relpath(file, folder)).as_posix()
