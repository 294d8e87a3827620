"""The 3D table: eight ways from a prompt to an object over the same pots, in one report."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from core.domains import find_domain
from core.errors import UserError
from core.evaluation import features, kiln, study, tables
from core.evaluation.cells import Cell, Cells
from core.evaluation.report import Column, Grid, Models, Report, Section, Table
from core.evaluation.worlds import shipped
from core.kiln.renderer import check_renderer
from core.presets import find_preset
from core.training.domain import find_process

from .geometry import QUERIES, SAMPLES, THRESHOLDS
from .pots import VIEWS, Pots

CLASSES, SEEDS = 7, 3  # of a domain's classes, and of each
TURNTABLE = {"turntable": {"views": VIEWS, "frames": 1}}  # the video is for people
QUICK = {"init": {"steps": 20}, "refine": {"steps": 20}}
TITLE = "Text to 3D"
FROM_TEXT = [
    Column("method", "Method"),
    Column("kid_of_all", "KID of all views", "low", ".1f"),
    Column("kid", "KID of one pot's", "low", ".1f"),
    Column("class", "class as asked", "high", ".0%"),
    Column("consistency", "view consistency", "high", ".3f"),
    Column("mesh", "meshes", "high", ".0%"),
    Column("seconds", "seconds", None, ".0f"),
    Column("count", "pots", None, ".0f"),
]
LIFTED = [
    Column("method", "Method"),
    Column("chamfer", "Chamfer distance", "low", ".3f"),
    *(Column(f"f_score_{t}", f"F-score at {t:g}", "high", ".2f") for t in THRESHOLDS),
    Column("mesh", "meshes", "high", ".0%"),
    Column("count", "pots", None, ".0f"),
]
MEASURES = f"""KID compares {VIEWS} views all around an object with the domain's renders of all classes, by the judge's features: those of all pots
together, and those of each pot alone, which is of one class and far from the rest: compare it with the true pots'. A view's class is what
the judge reads. View consistency is the cosine similarity of the features of neighbouring views; an empty or a round object has it, too. Chamfer
distance and F-score compare the mesh of a lifted picture with the true mesh, both in the world of the camera that took the picture, in fractions of
the true one's bounding radius: the mean distance of a point to the other surface, both ways averaged, and the harmonic mean of the shares of points
within a threshold, of what is seen from outside. Other figures than KID of all are means over pots, with 95% intervals by bootstrap over them; a pot
without a mesh has no distance and counts under meshes."""


def table3d(
    preset: str = "kiln",
    domains: Sequence[str] = (),
    out: str | Path = "outputs/evaluation",
    quick: bool = False,
    seeds: int | None = None,
    counts: study.Counts | None = None,
    device=None,
    quiet: bool = False,
    command: str = "python scripts/evaluate.py table3d",
    overrides: Mapping[str, Any] | None = None,
    fine_tuned: Mapping[str, Path] | None = None,
    less_memory: Mapping[str, int | bool] | None = None,
) -> Path:
    """The report of OUT/table3d, report.html; its figures are cells in OUT/cells, its runs lie in OUT/runs, 13 MB each.

    domains: by default all that ship over this preset. quick: two classes, one seed and few steps, to see that all of it runs. seeds: pots of each
    class, 3 by default. counts: Table 1's, for its fine-tuned prior. overrides: settings that all methods share. fine_tuned: domain -> the prior
    fine-tuned for it; by default Table 1's, trained where it is not there.
    The whole takes hours a domain on two cores: of each seed 56 objects from text, and after those 35 lifted pictures. What is done is reported after
    each, a stopped run goes on where it was, and `accelerate launch` shares the work. Raises UserError.
    """
    check_measurable(preset, () if fine_tuned else domains)
    state, device = find_process(device)
    common = OmegaConf.to_container(OmegaConf.merge(TURNTABLE, QUICK if quick else {}, dict(overrides or {})))
    out, count, seeds = Path(out), 2 if quick else CLASSES, range(seeds or (1 if quick else SEEDS))
    names, runs = list(domains) or shipped(preset), out / "runs" / ("quick" if quick else "full")
    fine_tuned = fine_tuned or {name: fine_tune(preset, name, out, counts or (study.QUICK if quick else study.Counts()), device, quiet, less_memory)
                                for name in names}
    pots = {name: Pots(preset, name, common, runs, fine_tuned[name], device, quiet) for name in names}
    wanted = {name: each.cells(each.classes[:count], seeds) for name, each in pots.items()}
    true = {name: [each.rendered(c, s) for c in each.classes[:count] for s in seeds] if each.has_truth else [] for name, each in pots.items()}
    cells = Cells(out / "cells", quiet)
    every = [*(cell for cells_of in true.values() for cell in cells_of), *(cell for cells_of in wanted.values() for cell in cells_of.values())]

    def write() -> Path:
        done = sum(cells.read(cell) is not None for cell in every)
        sections = [section(cells, each, wanted[name], true[name]) for name, each in pots.items()]
        settings = facts(pots, count, seeds)
        status = "" if done == len(every) else f"{done} of {len(every)} cells"
        return Report(TITLE, command, settings, sections, status).write(out / "table3d")

    for name, each in pots.items():
        cells.make_all(true[name], write)
        for _, batch in groupby(wanted[name], each.batch):  # the next begins when all processes are through: some go on from our first fields
            cells.make_all([wanted[name][key] for key in batch], write)
    return write() if state.is_main_process else out / "table3d" / "report.html"


def check_measurable(preset: str, domains: Sequence[str]) -> None:
    """Raises UserError for a preset without a judge, for domains that nothing is rendered of, as no prior can be fine-tuned for these here, and
    where true objects cannot be rendered."""
    if find_preset(preset).judge is None:
        raise UserError(f"the 3D table needs a judge and a world of known objects, and '{preset}' has none: give --preset kiln")
    for name in domains:
        kiln.check_world(name, "the 3D table")
        find_domain(name)
    check_renderer()


def fine_tune(preset: str, domain: str, out: Path, counts: study.Counts, device: torch.device, quiet: bool,
              less_memory: Mapping[str, int | bool] | None) -> Path:
    """The folder of Table 1's fine-tuned prior: from the pictures that the domain's model learns from, for as many steps."""
    found = study.Study(preset, counts, out, device=device, quiet=quiet, less_memory=less_memory)
    (world,) = tables.find_study_worlds(found, [domain])
    trained = found.train(world, ["fine-tuning"])["fine-tuning"]
    return Path(tables.last(trained).folder)


def facts(pots: dict[str, Pots], count: int, seeds: range) -> dict[str, Any]:
    """What stands at the report's head."""
    s = next(iter(pots.values())).settings
    return {
        **{f"objects of {name}": f"{', '.join(each.classes[:count])}, each of {len(seeds)} seeds" for name, each in pots.items()},
        "steps": f"{s.init.steps + s.refine.steps} for each method; ours {s.init.steps} with Zero-1-to-3, {s.refine.steps} with the rule",
        "depth": "followed by every first field from a picture, Zero-1-to-3's alone too" if s.init.depth else "not used",
        "painting": f"{s.paint.pictures} pictures around each of ours, but for the row without",
        "KID": f"{VIEWS} views of an object, elevation {s.turntable.elevation_deg:g} degrees, or all objects' views; 50 subsets of as many, or of 1000; "
               "judge's features",
        "shape": f"{QUERIES} points of a mesh to the nearest of {SAMPLES} on the other; thresholds {', '.join(map(str, THRESHOLDS))} bounding radii",
        "true pots": "of the domain's ground truth, held out from all training, another for each seed",
    }


def section(cells: Cells, pots: Pots, wanted: dict[tuple, Cell], true: list[Cell]) -> Section:
    """A domain's tables, views of the first object of each class, and its first object to turn."""
    rows = {task: [row(cells, pots, wanted, task, key) for key in pots.methods] for task in ("text", "lift")}
    if true:
        rows["text"].append(measured(cells, pots, true) | {"method": "true pots, rendered", "unranked": True, "mesh": "", "seconds": ""})
    blocks: list = [Table("From text", FROM_TEXT, rows["text"], prompts(pots))]
    if pots.has_truth:
        blocks.append(Table("Pictures of true pots, lifted", LIFTED, rows["lift"]))
    first = {(key, name): cell for (task, key, name, seed), cell in wanted.items() if (task, seed) == ("text", 0)}
    for name in dict.fromkeys(name for _, name in first):
        strips = {pots.methods[key].title: cells.folder(first[key, name]) / "views.png" for key in pots.methods}
        blocks.append(Grid(f"A {name}, seed 0", {title: file for title, file in strips.items() if file.is_file()}))
    name = next(name for _, name in first)
    meshes = {pots.methods[key].title: cells.folder(first[key, name]) / "mesh.glb" for key in pots.methods}
    blocks.append(Models(f"The {name}, to turn", {title: file for title, file in meshes.items() if file.is_file()}))
    return Section(pots.domain.name, blocks, " ".join(MEASURES.split()))


def prompts(pots: Pots) -> str:
    """What each method was asked for."""
    asked: dict[str, list[str]] = {}
    for method in pots.methods.values():
        asked.setdefault(pots.prompt(method, pots.classes[0], 0), []).append(method.title)
    return f"Asked for a {pots.classes[0]}. " + " ".join(f"'{prompt}': {', '.join(titles)}." for prompt, titles in asked.items())


def row(cells: Cells, pots: Pots, wanted: dict[tuple, Cell], task: str, key: str) -> dict[str, Any]:
    """A method's row; what it cannot lift is a dash."""
    mine = [cell for (its_task, its_key, *_), cell in wanted.items() if (its_task, its_key) == (task, key)]
    if not mine:
        return {column.key: "–" for column in LIFTED} | {"method": pots.methods[key].title}
    return measured(cells, pots, mine) | {"method": pots.methods[key].title}


def measured(cells: Cells, pots: Pots, mine: list[Cell]) -> dict[str, Any]:
    """The summary of some objects, and KID of all their views together when all are there: of fewer classes it is higher."""
    found = [cells.read(cell) for cell in mine]
    return summary(found) | {"kid_of_all": pots.kid_of_all([cells.folder(cell) for cell in mine]) if None not in found else None}


def summary(found: list[dict[str, float] | None]) -> dict[str, Any]:
    """Means over the objects that there are so far, with 95% intervals by bootstrap over them where there are several."""
    found = [figures for figures in found if figures is not None]
    columns = {key: [figures[key] for figures in found if key in figures] for key in dict.fromkeys(k for figures in found for k in figures)}
    intervals = {key: features.mean_with_interval(torch.tensor(values)) for key, values in columns.items() if len(values) > 1}
    return {"count": len(found)} | {key: values[0] for key, values in columns.items()} | intervals
