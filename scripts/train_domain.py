"""Learn a domain from images, without captions.

python scripts/train_domain.py --domain mine --data my/pictures
accelerate launch --num_processes 2 scripts/train_domain.py --domain mine --data my/pictures
"""

import argparse
import os
from pathlib import Path

from core.errors import LESS_MEMORY_IN_TRAINING, run_cli


def main() -> None:
    import torch  # inside, as these take seconds, in which Ctrl-C is one line too
    from accelerate import PartialState

    from core.domains import find_domain
    from core.progress import hide_loading_bars
    from core.training.domain import train_domain
    from core.training.fit import LR_SCHEDULERS, PRECISIONS

    parser = argparse.ArgumentParser(description="Learn a domain from images, without captions.")
    parser.add_argument("--domain", required=True, dest="name", help="the domain's name, for --domain later on")
    parser.add_argument("--data", required=True, help="a folder of images, or of tar files of them (WebDataset), or a Hugging Face dataset by name")
    parser.add_argument("--image-column", help="the dataset's column of images; by default its first one")
    parser.add_argument("--preset", default="kiln", help="the prior: kiln, sd15, a folder or a Hub id")
    parser.add_argument("--out", type=Path, help="the domain's folder; by default where --domain NAME finds it")
    parser.add_argument("--latents", type=Path, help="a folder that keeps the encoded pictures, for several trainings on the same ones")
    parser.add_argument("--phrase", default="{prompt}", help="how prompts are said in this domain, such as 'a photo of {prompt}'")
    parser.add_argument("--negative-prompt", default="", help="what all its pictures show, such as 'a head', where that is one thing")
    parser.add_argument("--arc-deg", type=float, default=360.0,
                        help="for 3D: the arc about a picture's own view, half to either side, from which the domain may look, such as 80 "
                             "where all show faces (default: 360, all around)")
    parser.add_argument("--licence", default="other", help="of the domain's model, as the Hub names them, such as cc-by-4.0")
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="upload the domain to the Hugging Face Hub when it is learned")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--accumulation", type=int, default=1, help="compute a batch in so many parts, for less memory")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    parser.add_argument("--mixed-precision", default=os.environ.get("ACCELERATE_MIXED_PRECISION", "no"), choices=PRECISIONS,
                        help="less memory and time; on a CPU bf16 alone, for less time, if it multiplies that; by default what `accelerate launch` was given")
    parser.add_argument("--learning-rate", type=float, help="the preset's by default: the paper's 1e-5 for sd15")
    parser.add_argument("--lr-scheduler", default="constant", choices=LR_SCHEDULERS, help="how the learning rate changes, by diffusers' get_scheduler")
    parser.add_argument("--lr-warmup-steps", type=int, default=0, help="steps in which it rises, where it does not stay the same")
    parser.add_argument("--snr-gamma", type=float, help="weigh noise levels by min-SNR, as diffusers' own training scripts do; 5 is usual")
    parser.add_argument("--ema-decay", type=float, default=0.995, help="of the moving average that becomes the domain; nearer to 1 for longer runs")
    parser.add_argument("--fid-every", type=int, metavar="STEPS", help="measure FID at intervals, and keep the weights of the lowest; not by default")
    parser.add_argument("--fid-images", type=int, default=1000, help="on so many images (default: 1000)")
    parser.add_argument("--patience", type=int, metavar="N", help="end the training when N measurements in a row brought no lower FID")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--half", action="store_const", const=torch.float16, default=torch.float32, dest="dtype", help="write fp16 weights")
    parser.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True, help="go on with a run that was stopped")
    parser.add_argument("--device", help="cuda, mps or cpu; the best there is by default")
    parser.add_argument("--tensorboard", action="store_true", help="write losses and FID for TensorBoard too")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = vars(parser.parse_args())
    if args["quiet"]:
        hide_loading_bars()
    repo_id = args.pop("push_to_hub")
    out = train_domain(**args)
    if not PartialState().is_main_process:
        return
    print(f"domain '{args['name']}' is in {out}")
    if repo_id:
        print(f"and on {find_domain(out).push_to_hub(repo_id)}")


if __name__ == "__main__":
    run_cli(main, LESS_MEMORY_IN_TRAINING)
