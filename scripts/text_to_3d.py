"""From a prompt to a textured mesh, or from a field that is there already.

python scripts/text_to_3d.py --domain porcelain --prompt "a vase"
python scripts/text_to_3d.py --from-checkpoint outputs/multi-guidance-refine/a_vase@20261123-120000/ckpts/last.ckpt
"""

import argparse
from pathlib import Path

from core.errors import UserError, run_cli


def main() -> None:
    from core.command_line import choose_domain  # inside, as these take seconds, in which Ctrl-C is one line too
    from core.progress import hide_loading_bars
    from ingen3d.pipeline import mesh_checkpoint, text_to_3d

    parser = argparse.ArgumentParser(description="From a prompt to a textured mesh.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", help="what to make: 'a vase'")
    source.add_argument("--from-checkpoint", type=Path, help="only mesh a field: a run's field.safetensors or threestudio's ckpts/last.ckpt")
    parser.add_argument("--domain", help="a known domain or its folder; 'none' for the prior alone (default: porcelain over the kiln)")
    parser.add_argument("--preset", default="kiln", help="the models: kiln or sd15")
    parser.add_argument("--image", type=Path, help="start from this picture and not from a sampled one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("outputs"))
    parser.add_argument("--steps", type=int, help="steps of each of the two optimisation stages")
    parser.add_argument("--engine", choices=("native", "threestudio"), default="native", help="what optimises; threestudio needs a GPU")
    parser.add_argument("--threestudio-root", type=Path, metavar="DIR", help="its checkout")
    parser.add_argument("--device", help="cuda, mps or cpu; the best there is by default")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="a setting, such as refine.sds=0.2"
    )
    args = vars(parser.parse_args())
    if args["from_checkpoint"]:
        for name in ("image", "steps", "seed", "domain", "engine", "threestudio_root"):
            if args[name] != parser.get_default(name):
                raise UserError(f"--{name.replace('_', '-')} has no effect with --from-checkpoint, which only meshes a field: leave it out")
    if args["quiet"]:
        hide_loading_bars()
    args["domain"] = choose_domain(args["domain"], args["preset"])
    checkpoint = args.pop("from_checkpoint")
    if checkpoint is None:
        run = text_to_3d(**args)
    else:
        run = mesh_checkpoint(checkpoint, **{name: args[name] for name in ("preset", "out", "device", "overrides", "quiet")})
    print(f"mesh: {run.mesh}\nturntable and views: {run.folder}\nseconds: {run.metrics['seconds']:g}")


if __name__ == "__main__":
    run_cli(main)
