"""Build the kiln's world and train its models, stage by stage; every stage can be killed and goes on where it was.

    python scripts/fire_kiln.py data            # render the worlds (extra [kiln])
    python scripts/fire_kiln.py all             # everything, from nothing to the weights in core/kiln/weights
    python scripts/fire_kiln.py budget          # what size and training time buy, as a table: other architectures, each for some of the steps

A stage that is finished is passed over, unless its data, models, steps or recipe have changed. CACHE/stages says how long each took, CACHE/STAGE
has its loss.csv, loss.svg and sample sheets.
"""

import argparse
import json
import math
from pathlib import Path

from core.errors import UserError, run_cli


def main() -> None:
    from core.kiln.budget import as_markdown, compare
    from core.kiln.fire import CACHE, STAGES, WEIGHTS, Kiln
    from core.progress import hide_loading_bars

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*STAGES, "all", "budget"], nargs="+")
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"data and checkpoints (default: {CACHE})")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="the models, read and written (default: those that ship with the package)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every stage's training steps (default: 1)")
    parser.add_argument("--device", default=None)
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args()
    if not 0 < args.scale < math.inf:
        raise UserError(f"--scale is {args.scale:g}: give a number above 0, such as 0.1 for a tenth of the training")
    if args.quiet:
        hide_loading_bars()
    kiln = Kiln(args.cache, args.device, args.scale, args.quiet, args.weights)
    stages = [stage for stage in args.stage if stage not in ("all", "budget")]
    for stage in STAGES if "all" in args.stage else stages:
        kiln.run(stage)
    print(f"MiB: {json.dumps(kiln.sizes())}")
    if "budget" in args.stage:
        print(as_markdown(list(compare(kiln))))


if __name__ == "__main__":
    run_cli(main)
