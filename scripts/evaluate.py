"""Measure the kiln's models and runs; each line of the output is one figure of the README.

    python scripts/evaluate.py fold parity autoencoder judge prior domain control
    python scripts/evaluate.py run --folder outputs/porcelain/a-vase-0
"""

import argparse
import json
from pathlib import Path

from core.errors import UserError, run_cli

MEASURES = ("fold", "parity", "autoencoder", "judge", "prior", "domain", "control", "run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=MEASURES, nargs="+")
    parser.add_argument("--folder", type=Path, help="the run to judge, for `run`")
    parser.add_argument("--domain", default="porcelain", help="for `domain` and `control`; `run` takes the run's own")
    parser.add_argument("--images", type=int, default=2000, help="samples for kiln-FID (default: 2000)")
    parser.add_argument("--seeds", type=int, default=20, help="seeds a prompt for the prior (default: 20)")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args()
    if args.seeds < 1 or args.images < 2:
        raise UserError(f"--seeds is {args.seeds} and --images {args.images}: give at least 1 and 2")

    from core.domains import find_domain
    from core.evaluation import kiln
    from core.kiln.fire import CACHE, WEIGHTS
    from core.progress import hide_loading_bars
    from ingen3d.mesh import facts
    from ingen3d.run_folder import finished_record

    if {"domain", "control"} & set(args.measure):
        find_domain(args.domain)  # a mistyped one is an error now
    run_domain = finished_record(args.folder)["domain"] if "run" in args.measure else args.domain
    if run_domain is None:
        raise UserError(f"the run in '{args.folder}' was made without a domain: there are no renders to compare it with")
    if args.quiet:
        hide_loading_bars()
    data, judge = CACHE / "data", WEIGHTS / "judge"
    if {"autoencoder", "judge", "domain", "control", "run"} & set(args.measure) and not data.is_dir():
        raise UserError(f"no renders in {data}: run `python scripts/fire_kiln.py data` first")
    if {"judge", "prior", "domain", "run"} & set(args.measure) and not judge.is_dir():
        raise UserError(f"no judge in {judge}: run `python scripts/fire_kiln.py judge` first")
    measures = {
        "fold": kiln.fold_errors,
        "parity": kiln.parity,
        "autoencoder": lambda: kiln.autoencoder_psnr(data),
        "judge": lambda: kiln.judge_accuracy(data),
        "prior": lambda: kiln.prior_alignment(args.seeds, args.quiet),
        "domain": lambda: kiln.domain_fidelity(data, args.domain, args.images, args.quiet),
        "control": lambda: kiln.control_agreement(data, args.domain, args.quiet),
        "run": lambda: kiln.run_quality(args.folder, data, Path(run_domain).name) | facts(args.folder / "mesh.glb"),
    }
    for name in args.measure:
        print(json.dumps({name: measures[name]()}), flush=True)


if __name__ == "__main__":
    run_cli(main)
