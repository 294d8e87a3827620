"""Sample images in a domain: a function, and `python -m core.sample --domain porcelain --prompt "a vase" --num-images 8`."""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from .devices import default_dtype, find_device
from .errors import UserError, run_cli
from .images import contact_sheet
from .pipeline import InDomainPipeline
from .progress import hide_loading_bars


def sample(
    prompt: str | None,
    *,
    domain: str | Path | None = None,
    preset: str | Path = "kiln",
    num_images: int = 1,
    seed: int = 0,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    domain_scale: float | None = None,
    control_scale: float | None = None,
    negative_prompt: str | None = None,
    batch_size: int = 8,
    device: torch.device | str | None = None,
    quiet: bool = False,
    keep: Callable[[int, Image.Image], None] = lambda seed, image: None,
) -> list[Image.Image]:
    """Images of `prompt` (None: of anything) in `domain` (None: in the prior's own world).

    Image i is drawn from seed + i, whatever the batch size and the device. Steps and scales default to the preset's and to
    Sec. 3.4's first weights, as in InDomainPipeline. keep: gets each image and its seed as soon as its batch is done. Raises UserError.
    """
    device = find_device(device)
    pipe = InDomainPipeline.from_pretrained(preset, domain=domain, dtype=default_dtype(device)).to(device)
    scales = dict(guidance_scale=guidance_scale, domain_scale=domain_scale, control_scale=control_scale)
    return sample_with(pipe, prompt, num_images, seed, batch_size, quiet, keep, negative_prompt=negative_prompt,
                       num_inference_steps=num_inference_steps, **scales)


def sample_with(
    pipe: InDomainPipeline, prompt: str | None, num_images: int, seed: int = 0, batch_size: int = 8, quiet: bool = False,
    keep: Callable[[int, Image.Image], None] = lambda seed, image: None, **settings,
) -> list[Image.Image]:
    """`sample` with a pipeline that is loaded already; `settings` are its call's."""
    for name, value in (("the number of images", num_images), ("the batch size", batch_size)):
        if value < 1:
            raise UserError(f"{name} is {value}: give 1 or more")
    pipe.set_progress_bar_config(disable=True)
    images = []
    with tqdm(total=num_images, desc=prompt or "unconditional", unit="image", disable=quiet) as bar:
        for start in range(0, num_images, batch_size):
            seeds = range(seed + start, seed + min(start + batch_size, num_images))
            generators = [torch.Generator().manual_seed(s) for s in seeds]
            batch = pipe(prompt, num_images_per_prompt=len(seeds), generator=generators, **settings).images
            for s, image in zip(seeds, batch, strict=True):
                keep(s, image)
            images += batch
            bar.update(len(seeds))
    return images


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m core.sample", description="Sample images in a domain.")
    parser.add_argument("--prompt", help="what to make; without it, anything of the domain")
    parser.add_argument("--negative-prompt", help="what to keep away from")
    parser.add_argument("--domain", default="porcelain", help="a known domain, its folder or Hub id; 'none' for the prior alone")
    parser.add_argument("--preset", default="kiln", help="the models: kiln, sd15, a folder or a Hub id")
    parser.add_argument("--num-images", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="of the first image; the next ones count on")
    parser.add_argument("--steps", type=int, dest="num_inference_steps", help="of the sampler; the preset's by default")
    parser.add_argument("--guidance-scale", type=float, help="w0, shared by the domain and the prompt")
    parser.add_argument("--domain-scale", type=float, help="the domain's own weight w_d")
    parser.add_argument("--control-scale", type=float, help="the prompt's own weight w_c")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("outputs/samples"))
    parser.add_argument("--device", help="cuda, mps or cpu; the best there is by default")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = vars(parser.parse_args())
    out = args.pop("out")
    out.mkdir(parents=True, exist_ok=True)
    if args["domain"].lower() == "none":
        args["domain"] = None
    if args["quiet"]:
        hide_loading_bars()
    saved = []

    def keep(seed: int, image: Image.Image) -> None:
        image.save(out / f"{seed:05d}.png")
        saved.append(seed)

    try:
        images = sample(args.pop("prompt"), keep=keep, **args)
        contact_sheet(images).save(out / "sheet.png")
    except (KeyboardInterrupt, OSError) as stop:
        kept = f"{len(saved)} of {args['num_images']} images are in {out}"
        if isinstance(stop, KeyboardInterrupt):
            raise KeyboardInterrupt(f"stopped: {kept}") from None
        raise UserError(f"{stop.strerror}: {kept}; make room there, or choose another --out") from stop
    print(f"{len(images)} images and sheet.png in {out}")


if __name__ == "__main__":
    run_cli(main)
