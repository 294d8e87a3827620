"""Customise a prior from images alone by a method that the paper compares its own to (Sec. 4.4).

python scripts/train_baseline.py --method lora --domain mine --data my/pictures
"""

import argparse
import os
from pathlib import Path

from core.errors import LESS_MEMORY_IN_TRAINING, run_cli


def main() -> None:
    import torch  # inside, as these take seconds, in which Ctrl-C is one line too
    from accelerate import PartialState

    from core.progress import hide_loading_bars
    from core.training.baselines import train_baseline
    from core.training.fit import PRECISIONS
    from core.training.methods import METHODS

    parser = argparse.ArgumentParser(description="Customise a prior from images alone by a method that the paper compares its own to.")
    parser.add_argument("--method", required=True, help=", ".join(METHODS))
    parser.add_argument("--domain", required=True, dest="name", help="the domain's name: the prior is trained on 'a photo of [V] NAME'")
    parser.add_argument("--data", required=True, help="a folder of images, or of tar files of them (WebDataset), or a Hugging Face dataset by name")
    parser.add_argument("--image-column", help="the dataset's column of images; by default its first one")
    parser.add_argument("--preset", default="kiln", help="the prior: kiln, sd15, a folder or a Hub id")
    parser.add_argument("--out", type=Path, help="the folder to write (default: outputs/baselines/DOMAIN/METHOD)")
    parser.add_argument("--latents", type=Path, help="a folder that keeps the encoded pictures, for several trainings on the same ones")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--keep-at", type=int, nargs="+", default=(), metavar="STEP", help="write the folder after these steps too, as OUT-step-STEP")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--accumulation", type=int, default=1, help="compute a batch in so many parts, for less memory")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    parser.add_argument("--mixed-precision", default=os.environ.get("ACCELERATE_MIXED_PRECISION", "no"), choices=PRECISIONS,
                        help="less memory and time; on a CPU bf16 alone, for less time, if it multiplies that; by default what `accelerate launch` was given")
    parser.add_argument("--learning-rate", type=float, help="the method's by default, as its authors have it for sd15")
    parser.add_argument("--snr-gamma", type=float, help="weigh noise levels by min-SNR, as diffusers' own training scripts do; 5 is usual")
    parser.add_argument("--ema-decay", type=float, default=0.995, help="of the moving average that is written; nearer to 1 for longer runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--half", action="store_const", const=torch.float16, default=torch.float32, dest="dtype", help="write fp16 weights")
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True, help="go on with a run that was stopped")
    parser.add_argument("--device", help="cuda, mps or cpu; the best there is by default")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = vars(parser.parse_args())
    if args["quiet"]:
        hide_loading_bars()
    out = train_baseline(**args)
    if PartialState().is_main_process:
        print(f"'{args['method']}' of '{args['name']}' is in {out}")


if __name__ == "__main__":
    run_cli(main, LESS_MEMORY_IN_TRAINING)
