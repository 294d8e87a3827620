"""The paper's 2D tables from a study's cells: Table 1 with Fig. 2's curves, and the effects of rectification (Fig. 12)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from accelerate import PartialState

from .contenders import TITLES, Contender
from .features import win_rates
from .report import Column, Curves, Grid, Report, Section, Table, Value
from .study import Study
from .worlds import World, find_worlds

BASELINES = ("textual-inversion", "custom-diffusion", "oft", "fine-tuning", "lora")
RATIOS = tuple(i / 6 for i in range(7))  # w_d over w_d + w_c
MEASURES = (
    Column("images", "images", None, ",d"), Column("fid", "FID", "low"), Column("kid", "KID", "low", "#.3g"),  # 0.003 by Inception, tens by the judge
    Column("density", "density", "high"), Column("coverage", "coverage", "high"), Column("copied", "copied", "low", ".1%"),
    Column("ratio", "distance to training images", None), Column("text_fid", "FID with text", "low"), Column("alignment", "alignment", "high"),
    Column("clip_score", "CLIP score", "high"), Column("discrepancy", "canny discrepancy", "low"), Column("spatial_fid", "FID with edges", "low"),
)
HELD_OUT = {"method": "Held-out pictures", "parameters": "–", "unranked": True}
LEGEND = (
    "FID and KID: to the training pictures, in the features named above; in brackets 95% bootstrap intervals at these counts, FID's too wide where it is "
    "near that of the domain's own pictures. Density and coverage: "
    "Naeem et al. 2020, k = 5. Copied: the share of images nearer to a training picture than 95% of the held-out pictures are (5% where nothing is memorised). "
    "Distance to training images: the median, over that of held-out pictures. Alignment: the share of images that show all that the text names, as the judge "
    "reads them. Held-out pictures: the domain's own, which no method has seen, as many as there are unconditional images, or all there are: what a perfect "
    "method would have; of fewer images FID is higher, and of several pictures of one thing. "
    "Canny discrepancy: 1 - F-score of edges within 1.5 px, to the edges that were to be followed. Win rate: "
    "in place of human preference, how often a method's image is best in the eyes of the judge, at the same text and seed: right, and then nearest to a "
    "held-out picture."
)


def find_study_worlds(study: Study, domains: Sequence[str] = (), data: str | Path | None = None, held_out: str | Path | None = None,
                 prompts: str | Path | None = None, negative_prompt: str | None = None) -> list[World]:
    """As `find_worlds`; of several processes one lays pictures out. Prompts that nothing could read are an error now. Raises UserError."""
    with PartialState().main_process_first():
        worlds = find_worlds(study.preset, domains, data, held_out, prompts, study.out / "data", negative_prompt)
    for world in worlds:
        study.reader(world.prompts)
    return worlds


def table1(study: Study, worlds: Sequence[World], command: str = "") -> Path:
    """Six methods and the prior, in each domain: unconditional, with texts, along edges; and control against fidelity (Fig. 2).

    Returns the report's HTML file, which is written anew as figures come in. Raises UserError.
    """
    contenders: dict[World, dict[str, dict[int, Contender]]] = {}

    def write() -> Path:
        return write_report(study, report1(study, contenders, command), "table1", [one for world in contenders for one in asked1(study, world, contenders)])

    for world in worlds:
        contenders[world] = {"prior": {0: study.prior_contender(world)}} | study.train(world, (*BASELINES, "ours"))
        study.measure(world, [rest for _, *rest in asked1(study, world, contenders)], write)
    return study.out / "table1" / "report.html"


def asked1(study: Study, world: World, contenders: Mapping) -> list[tuple[World, Contender, str, int | None]]:
    """Everything that is measured in a world: whole trainings in all tasks, then what the curves need."""
    whole = [(world, last(steps), task, None) for steps in contenders[world].values() for task in study.tasks]
    few = study.counts.curve_per_prompt
    return whole + [(world, one, "text", few) for one in (*over_time(contenders[world]), *over_ratios(study, contenders[world]))]


def last(steps: Mapping[int, Contender]) -> Contender:
    return steps[max(steps)]


def over_time(methods: Mapping[str, Mapping[int, Contender]]) -> list[Contender]:
    return [replace(one, name=f"{method} step {step}") for method in ("fine-tuning", "ours") for step, one in methods[method].items()]


def over_ratios(study: Study, methods: Mapping[str, Mapping[int, Contender]]) -> list[Contender]:
    """Ours at w_d + w_c = w0."""
    ours, w0 = last(methods["ours"]), study.prior.config.guidance_scale
    return [replace(ours, name=f"ours ratio {r:.2f}", domain_scale=r * w0, control_scale=(1 - r) * w0) for r in RATIOS]


def write_report(study: Study, report: Report, name: str, asked: Sequence[tuple]) -> Path | None:
    """The main process's report, with how much of it is done."""
    if not PartialState().is_main_process:
        return None
    done = sum(study.cells.read(study.figures(*one)) is not None for one in asked)
    report.status = "" if done == len(asked) else f"{done} of {len(asked)} figures so far: run the same command again to go on"
    return report.write(study.out / name)


def report1(study: Study, contenders: Mapping[World, Mapping[str, Mapping[int, Contender]]], command: str) -> Report:
    worlds, found = list(contenders), {world: row_figures(study, world, contenders[world]) for world in contenders}
    real = {world: real_figures(study, world) for world in worlds}
    group = lambda key, title, better, form, above: [Column(f"{world.name} {key}", world.name, better, form, above) for world in worlds]
    columns = [Column("method", "Method"), Column("parameters", "#param.", None, ",d"), *group("fid", "FID", "low", ".2f", "Unconditional: FID"),
               *group("alignment", "Align.", "high", ".3f", "Text-guided: alignment"), *group("win", "Win", "high", ".1%", "Text-guided: win rate"),
               *(group("discrepancy", "Canny", "low", ".3f", "Spatial-guided: canny discrepancy") if study.controlnet else [])]
    named = lambda figures: {f"{world.name} {key}": value for world in worlds for key, value in figures[world].items()}
    rows = [HELD_OUT | named(real)]
    rows += [{"method": title, "parameters": last(contenders[worlds[0]][method]).parameters, "unranked": method == "prior"}
             | named({world: found[world][method] for world in worlds}) for method, title in TITLES.items()]
    sections = [Section("Table 1", [Table("Quantitative comparison", columns, rows, LEGEND), claims(study, found)],
                        "All methods have learned from the same pictures, without captions, and have seen as many of them.")]
    for world in worlds:
        measured = [column for column in MEASURES if any(column.key in row for row in found[world].values())]
        rows = [HELD_OUT | real[world]]
        rows += [{"method": TITLES[method], "unranked": method == "prior"} | row for method, row in found[world].items()]
        detail = Table("All measures", [Column("method", "Method"), *measured], rows)
        sections.append(Section(world.name, [detail, *figure2(study, world, contenders[world]), *grids(study, world, contenders[world])]))
    return Report("Table 1: in-domain generation", command, study.settings(worlds), sections)


def real_figures(study: Study, world: World) -> dict[str, Value]:
    """The row of the domain's own pictures: nobody asked for those, so there are figures of the unconditional task only."""
    return dict.fromkeys([*(column.key for column in MEASURES), "win"], "–") | (study.cells.read(study.held_out(world)) or {})


def row_figures(study: Study, world: World, methods: Mapping[str, Mapping[int, Contender]]) -> dict[str, dict]:
    """method -> its figures of all tasks, as far as there are; FID of the tasks with a condition under names of their own."""
    rows = {}
    for method, steps in methods.items():
        rows[method] = {}
        for task in study.tasks:
            figures = study.cells.read(study.figures(world, last(steps), task)) or {}
            rows[method] |= {key if task == "unconditional" or key != "fid" else f"{task}_fid": value for key, value in figures.items()
                             if task == "unconditional" or key != "images"}
    trained = [method for method in methods if method != "prior"]
    cells = [study.figures(world, last(methods[method]), "text") for method in trained]
    if all(study.cells.read(cell) is not None for cell in cells):
        each = [np.load(study.cells.folder(cell) / "each.npz") for cell in cells]
        rates = win_rates(np.stack([x["alignment"] for x in each]), np.stack([x["distance"] for x in each]))
        for method, rate in zip(trained, rates):
            rows[method]["win"] = float(rate)
    rows.get("prior", {})["win"] = "–"  # it is not in the contest
    return rows


def claims(study: Study, found: Mapping[World, Mapping[str, Mapping]]) -> Table:
    """What the paper says of its method, as ratios: a goal, and what came out."""
    rows = []
    for world, methods in found.items():
        for claim, key, goal, compare in (
            ("FID over vanilla fine-tuning's", "fid", "<= 0.53", lambda of: of["ours"] / of["fine-tuning"]),
            ("FID over the best other's", "fid", "< 1", lambda of: of["ours"] / min(of[method] for method in BASELINES)),
            ("alignment over the prior's", "alignment", ">= 0.95", lambda of: of["ours"] / max(of["prior"], 1e-9)),
            ("canny discrepancy less the best other's", "discrepancy", "<= 0", lambda of: of["ours"] - min(of[method] for method in BASELINES)),
        ):
            if key == "discrepancy" and not study.controlnet:
                continue
            of = {method: row[key][0] for method, row in methods.items() if key in row}
            rows.append({"claim": claim, "domain": world.name, "goal": goal, "measured": compare(of) if len(of) == len(methods) else None})
    return Table("Ours", [Column("claim", "Claim"), Column("domain", "Domain"), Column("goal", "Goal"), Column("measured", "Measured", None, ".3f")], rows)


def figure2(study: Study, world: World, methods: Mapping[str, Mapping[int, Contender]]) -> list[Curves]:
    """Control against fidelity: over the time of training, and over the weights."""
    few = study.counts.curve_per_prompt

    def point(one: Contender, label: str) -> list[tuple]:
        figures = study.cells.read(study.figures(world, one, "text", few))
        return [(figures["fid"][0], figures["alignment"][0], label)] if figures else []

    time = {TITLES[method]: [p for one in over_time(methods) if one.name.startswith(method) for p in point(one, f"{one.steps * study.counts.batch_size:,}")]
            for method in ("fine-tuning", "ours")}
    ratios = [p for one in over_ratios(study, methods) for p in point(one, f"{one.domain_scale:.2g} : {one.control_scale:.2g}")]
    own = point(replace(last(methods["ours"]), name=f"ours step {last(methods['ours']).steps}"), "")
    counted = (f"{few} images of each of {len(world.prompts)} texts; FID is of these images to the training pictures, "
               "though some texts may ask for what the domain has none of.")
    axes = dict(x="FID with text (lower: more in the domain)", y="alignment with the text")
    return [Curves("Fidelity against control, over training time (Fig. 2)", **axes, series=time, caption=f"At each point: images seen. {counted}"),
            Curves("Fidelity against control, over w_d : w_c", **axes, series={"w_d + w_c = w0": ratios, "the preset's": own}, caption=counted)]


def grids(study: Study, world: World, methods: Mapping[str, Mapping[int, Contender]]) -> list[Grid]:
    """Images of all methods, of the same seeds in each column."""
    blocks = []
    for task in study.tasks:
        strips = {}
        if task == "unconditional" and study.cells.read(cell := study.held_out(world)) is not None:
            strips[HELD_OUT["method"]] = study.cells.folder(cell) / "strip.png"
        if task == "spatial" and study.cells.read(cell := study.strip_of_edges(world)) is not None:
            strips["Edges"] = study.cells.folder(cell) / "strip.png"
        strips |= strips_of(study, world, {TITLES[method]: last(steps) for method, steps in methods.items()}, task)
        title = {"unconditional": "Unconditional", "text": "Text-guided", "spatial": "Spatial-guided"}[task]
        blocks.append(Grid(title, strips, list(world.prompts[:10]) if task == "text" else [], "The same seed in each column."))
    return blocks


def strips_of(study: Study, world: World, contenders: Mapping[str, Contender], task: str) -> dict[str, Path]:
    cells = {title: study.figures(world, one, task) for title, one in contenders.items()}
    return {title: study.cells.folder(cell) / "strip.png" for title, cell in cells.items() if study.cells.read(cell) is not None}


def rectification(study: Study, worlds: Sequence[World], command: str = "") -> Path:
    """Each customised model with the eps_0 that it predicts itself, and with the prior's (Sec. 4.5, Fig. 12). Returns the HTML file. Raises UserError.

    Fig. 12a: checkpoints trained on a world's pictures; 12b: in their place, those of others that it has.
    """
    pairs: dict[World, dict[str, tuple[Contender, Contender]]] = {}

    def write() -> Path:
        asked = [(world, one, "text", None) for world in pairs for pair in pairs[world].values() for one in pair]
        return write_report(study, report_rectification(study, pairs, command), "rectification", asked)

    for world in worlds:
        models = {name: study.checkpoint(world, name) for name in world.checkpoints}
        models = models or {method: last(steps) for method, steps in study.train(world, BASELINES).items()}
        pairs[world] = {name: (one, replace(one, name=f"{one.name} rectified", rectify=True)) for name, one in models.items()}
        study.measure(world, [(one, "text", None) for pair in pairs[world].values() for one in pair], write)
    return study.out / "rectification" / "report.html"


def report_rectification(study: Study, pairs: Mapping[World, Mapping[str, tuple[Contender, Contender]]], command: str) -> Report:
    sections = []
    for world, methods in pairs.items():
        rows, blocks = [], []
        for method, pair in methods.items():
            row = {"method": TITLES.get(method, method)}
            for whose, one in zip(("own", "prior"), pair):
                figures = study.cells.read(study.figures(world, one, "text")) or {}
                row |= {f"{key} {whose}": figures.get(key) for key in ("fid", "alignment")}
            rows.append(row)
            strips = strips_of(study, world, dict(zip(("its own", "the prior's"), pair)), "text")
            blocks.append(Grid(f"{TITLES.get(method, method)}, by whose eps_0", strips, list(world.prompts[:10]), "The same seed in each column."))
        columns = [Column("method", "Method")]
        for key, title, better, form in (("fid", "FID with text", "low", ".2f"), ("alignment", "Alignment", "high", ".3f")):
            columns += [Column(f"{key} own", "its own eps_0", better, form, title), Column(f"{key} prior", "the prior's eps_0", better, form, title)]
        table = Table("Without and with rectification", columns, rows, "FID of the images with a text. " + LEGEND)
        sections.append(Section(world.name, [table, *blocks], "Checkpoints of others: nothing was trained here." if world.checkpoints else ""))
    settings = study.settings(pairs, trained=not all(world.checkpoints for world in pairs))
    return Report("Rectification of the unconditional guidance (Fig. 12)", command, settings, sections)
