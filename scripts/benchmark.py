"""How much longer a step of domain and text takes than one of plain classifier-free guidance (the goal is 1.55 times at most), and how many more
images a second a domain is learned from than diffusers fine-tunes the same prior on (the goal is 1.3 times at least). On a CUDA device also the
seconds per image and the peak memory at Stable Diffusion 1.5's sizes, 512 px in fp16, against diffusers' own pipeline.

python scripts/benchmark.py --repeats 30
"""

import argparse
import json

from core.errors import UserError, run_cli


def main() -> None:
    from core.devices import find_device  # inside, as these take seconds, in which Ctrl-C is one line too
    from core.evaluation.speed import PRIORS, image_cost, random_sd15, step_ratio, training_ratio
    from core.pipeline import InDomainPipeline
    from core.progress import hide_loading_bars

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", choices=PRIORS, nargs="+", default=list(PRIORS), help="whose steps are compared; all of them by default")
    parser.add_argument("--repeats", type=int, default=30, help="pairs of steps, of which the median is taken (default: 30)")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--device", help="cuda, mps or cpu; the best there is by default")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args()
    for name, value in (("--repeats", args.repeats), ("--batch-size", args.batch_size)):
        if value < 1:
            raise UserError(f"{name} is {value}: give 1 or more")
    if args.quiet:
        hide_loading_bars()
    device = find_device(args.device)
    for name in args.prior:
        print(json.dumps({name: step_ratio(*PRIORS[name](), device, args.batch_size, args.repeats, args.quiet)}), flush=True)
    pipe = InDomainPipeline.from_pretrained("kiln")
    print(json.dumps({"training kiln": training_ratio(pipe, device, args.batch_size, args.repeats, args.quiet)}), flush=True)
    if device.type == "cuda":
        print(json.dumps({"images random-sd15": image_cost(random_sd15(device), args.batch_size, args.repeats, args.quiet)}), flush=True)


if __name__ == "__main__":
    run_cli(main)
