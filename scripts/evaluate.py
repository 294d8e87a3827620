"""Measure the kiln's models and runs, each line of the output one figure of docs/results.md; and make the paper's tables.

    python scripts/evaluate.py fold parity autoencoder judge prior toon zero123 depth domain control costs
    python scripts/evaluate.py run --folder outputs/porcelain/a-vase-0
    python scripts/evaluate.py table1 --quick               # minutes, for a look; without it hours, as in the paper
    python scripts/evaluate.py table1 rectification table3d
    accelerate launch scripts/evaluate.py table1 --preset sd15 --domain mine --data my/pictures --prompts texts.txt \\
        --controlnet lllyasviel/control_v11p_sd15_canny --images 50000 --train-steps 20000 --batch-size 32 --accumulation 4

A table is a report in OUT/TABLE: report.html, which opens offline, report.md and report.json. It is written anew as figures come in; what was
stopped goes on when the same command is given again.
"""

import argparse
import json
import math
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from core.errors import UserError, run_cli

MEASURES = ("fold", "parity", "autoencoder", "judge", "prior", "toon", "zero123", "depth", "domain", "control", "costs", "run")
TABLES = ("table1", "rectification", "table3d")
IN_2D = dict.fromkeys(("data", "held_out", "prompts", "negative_prompt", "steps"), TABLES[:2])  # option -> what takes it
OF_SOME = {"folder": ("run",), "seeds": ("prior", "toon", "table3d"), "domain": ("domain", "control", "costs", *TABLES),
           "images": ("zero123", "depth", "domain", "control", "costs", "table1"), "controlnet": ("table1",), "customised": ("rectification",)}
TRAINING = ("train_steps", "batch_size", "accumulation", "gradient_checkpointing")  # without effect on checkpoints of others


def main() -> None:
    from accelerate import PartialState  # inside, as these take seconds, in which Ctrl-C is one line too

    from core.presets import find_preset
    from core.progress import hide_loading_bars

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=[*MEASURES, *TABLES], nargs="+")
    parser.add_argument("--folder", type=Path, help="the run to judge, for `run`")
    parser.add_argument("--domain", action="append", default=[], help="for `domain`, `control` and `costs`, porcelain by default; several may be "
                        "given; for tables all that ship by default, for `rectification` with the styles of checkpoints that do; "
                        "`run` takes the run's own")
    parser.add_argument("--images", type=int, help="samples for FID (default: 2000; 1000 of each setting for `costs`), objects for `zero123`, "
                        "views for `depth` and held-out pictures for `control` (200 each)")
    parser.add_argument("--seeds", type=int, help="of each of 40 prompts for `prior` and `toon` (default: 25), of each class for `table3d` (3)")
    parser.add_argument("--quiet", action="store_true")
    tables, of_tables = parser.add_argument_group("tables"), []

    def table_option(*names: str, **settings) -> None:
        of_tables.append(tables.add_argument(*names, **settings).dest)

    table_option("--preset", default="kiln", help="the prior: kiln, sd15, a folder or a Hub id")
    table_option("--quick", action="store_true", help="short trainings and few images: a look at what there will be, not at who is best")
    table_option("--scale", type=float, default=1.0, help="multiplies training steps and numbers of images where they are not given (default: 1)")
    table_option("--out", type=Path, default=Path("outputs/evaluation"), help="reports, models and figures (default: outputs/evaluation)")
    table_option("--data", help="a folder of the domain's pictures, where they are not the kiln's")
    table_option("--held-out", help="others of the domain, to learn nothing from (default: every twentieth of --data)")
    table_option("--prompts", help="a text file of what to ask for, one a line, such as 'a vase'; needed with --data")
    table_option("--negative-prompt", help="what all the pictures show, such as 'a head': every trained method gets it beside a text (default: the kiln's own)")
    table_option("--controlnet", help="one that reads edges, by its folder or Hub id (default: the preset's)")
    table_option("--customised", action="append", default=[], help="for `rectification`: a checkpoint that others customised, by preset, folder, "
                 ".safetensors file or Hub id, in place of those trained here; several may be given")
    table_option("--train-steps", type=int, help="of each method's training (default: 2750 by --scale)")
    table_option("--batch-size", type=int, help="of each method's training (default: 16)")
    table_option("--accumulation", type=int, default=1, help="compute a training's batch in so many parts, for less memory")
    table_option("--gradient-checkpointing", action="store_true", help="less memory in training, more time")
    table_option("--steps", type=int, help="of the sampler (default: the preset's)")
    table_option("--device", help="cuda, mps or cpu; the best there is by default")
    args = parser.parse_args()
    for name, least in {"seeds": 1, "images": 2, "steps": 1}.items():
        if (value := getattr(args, name)) is not None and value < least:
            raise UserError(f"--{name} is {value}: give {least} or more")
    if not 0 < args.scale < math.inf:
        raise UserError(f"--scale is {args.scale:g}: give a number above 0, such as 0.1 for a tenth of training and images")
    training = dict.fromkeys(TRAINING, ("table1", "table3d")) if args.customised else {}
    for name, takers in (dict.fromkeys(of_tables, TABLES) | IN_2D | OF_SOME | training).items():
        if getattr(args, name) != parser.get_default(name) and not set(takers) & set(args.measure):
            raise UserError(f"--{name.replace('_', '-')} has no effect on {', '.join(args.measure)}: leave it out, or ask for {' or '.join(takers)}")
    if args.quiet:
        hide_loading_bars()
    if "table3d" in args.measure:
        from ingen3d.evaluation import check_measurable

        check_measurable(args.preset, args.domain)  # before another table takes hours
    for name in args.customised:
        find_preset(name)  # likewise
    figures = [name for name in args.measure if name in MEASURES]
    if figures:
        print_figures(figures, args)
    for name in args.measure:
        if name in TABLES:
            report = make_table(name, args)
            if PartialState().is_main_process:
                print(f"{name}: {report}", flush=True)


def print_figures(names: list[str], args: argparse.Namespace) -> None:
    from core.domains import find_domain
    from core.evaluation import kiln
    from core.kiln.fire import CACHE, WEIGHTS
    from core.presets import PRESETS
    from ingen3d.depth import DepthEstimator
    from ingen3d.mesh import facts
    from ingen3d.novel_views import depth_error, novel_view_quality
    from ingen3d.run_folder import finished_record
    from ingen3d.zero123 import Zero123

    domains = args.domain or ["porcelain"]
    if {"domain", "control", "costs"} & set(names):
        for name in domains:
            find_domain(name)  # a mistyped one is an error now
            kiln.check_world(name)
    run_domain = finished_record(args.folder)["domain"] if "run" in names else ""
    if run_domain is None:
        raise UserError(f"the run in '{args.folder}' was made without a domain: there are no renders to compare it with")
    if "run" in names:
        kiln.check_world(Path(run_domain).name)
    data, judge = CACHE / "data", WEIGHTS / "judge"
    if {"autoencoder", "judge", "zero123", "depth", "domain", "control", "costs", "run"} & set(names) and not data.is_dir():
        raise UserError(f"no renders in {data}: run `python scripts/fire_kiln.py data` first")
    if {"judge", "prior", "toon", "domain", "costs", "run"} & set(names) and not judge.is_dir():
        raise UserError(f"no judge in {judge}: run `python scripts/fire_kiln.py judge` first")
    measures = {
        "fold": kiln.fold_errors,
        "parity": kiln.parity,
        "autoencoder": lambda: kiln.autoencoder_psnr(data),
        "judge": lambda: kiln.judge_accuracy(data),
        "prior": lambda: kiln.prior_alignment(args.seeds or 25, quiet=args.quiet),
        "toon": lambda: kiln.prior_alignment(args.seeds or 25, "kiln-toon", args.quiet),
        "zero123": lambda: novel_view_quality(Zero123.from_pretrained(PRESETS["kiln"].zero123, vae=PRESETS["kiln"].prior), data, args.images or 200,
                                              quiet=args.quiet),
        "depth": lambda: depth_error(DepthEstimator.from_pretrained(PRESETS["kiln"].depth), data, args.images or 200, args.quiet),
        "domain": lambda: ({name: kiln.domain_fidelity(data, name, args.images or 2000, args.quiet)} for name in domains),
        "control": lambda: ({name: kiln.control_agreement(data, name, args.images or 200, args.quiet)} for name in domains),
        "costs": lambda: ({name: kiln.sampling_costs(data, name, args.images or 1000, args.quiet)} for name in domains),
        "run": lambda: kiln.run_quality(args.folder, data, Path(run_domain).name) | facts(args.folder / "mesh.glb"),
    }
    for name in names:
        found = measures[name]()
        for part in found if isinstance(found, Iterator) else [found]:
            print(json.dumps({name: part}), flush=True)


def make_table(name: str, args: argparse.Namespace) -> Path:
    """The table's report."""
    command = f"python {shlex.join(sys.argv)}"
    from dataclasses import replace

    from core.evaluation import study, tables, worlds

    given = {"images": args.images, "steps": args.train_steps, "batch_size": args.batch_size, "inference_steps": args.steps}
    counts = replace((study.QUICK if args.quick else study.Counts()).scaled(args.scale), **{key: value for key, value in given.items() if value is not None})
    less_memory = {"accumulation": args.accumulation, "gradient_checkpointing": args.gradient_checkpointing}
    if name == "table3d":
        from ingen3d.evaluation import table3d

        common = dict(out=args.out, device=args.device, quiet=args.quiet, command=command, less_memory=less_memory)
        return table3d(preset=args.preset, domains=args.domain, quick=args.quick, seeds=args.seeds, counts=counts, **common)
    found = study.Study(args.preset, counts, args.out, args.controlnet, device=args.device, quiet=args.quiet, less_memory=less_memory)
    domains = args.domain
    if name == "rectification" and found.preset.judge and not (domains or args.data or args.customised):
        domains = [*worlds.shipped(found.preset.name), *worlds.styles(found.preset.name)]
    asked = tables.find_study_worlds(found, domains, args.data, args.held_out, args.prompts, args.negative_prompt)
    if args.customised:
        asked = [replace(world, checkpoints=tuple(args.customised)) for world in asked]
    return getattr(tables, name)(found, asked, command)


if __name__ == "__main__":
    run_cli(main, "give more --accumulation, or a smaller --batch-size, if it was training, or use another device")
