"""Edit a picture in a domain: a function, and `python -m core.edit --image my.png --prompt "a vase with leaves" --strength 0.5`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from .command_line import new_parser, run
from .errors import UserError, run_cli
from .images import load_image, on_white
from .sample import conditions, load, sample_with


def edit(
    image: Image.Image | str | Path,
    prompt: str | None,
    *,
    domain: str | Path | None = None,
    strength: float = 0.5,
    mask: Image.Image | str | Path | None = None,
    preset: str | Path = "kiln",
    device: torch.device | str | None = None,
    controls: Sequence[Mapping] = (),
    custom: Sequence[Mapping] = (),
    **settings,
) -> list[Image.Image]:
    """A picture (or its file) made over: encoded, given noise up to `strength`, denoised with the rule (SDEdit, Meng et al. 2022).

    prompt None asks for the domain alone. strength: 0 keeps the picture, 1 makes it anew. mask: of the image's size, white where to edit;
    the rest is restored at every step. The result keeps the image's proportions, its shorter side is the prior's resolution.
    controls, custom, settings: as in `sample`. Raises UserError.
    """
    image, mask = (load_image(given) if isinstance(given, str | Path) else given for given in (image, mask))
    if mask is not None and mask.size != image.size:
        raise UserError("the mask is {} x {} px and the image {} x {}: give them one size".format(*mask.size, *image.size))
    pipe = load(preset, domain, device)
    factor, shrink = pipe.vae_scale_factor, pipe.resolution / min(image.size)
    size = tuple(max(round(side * shrink / factor), 1) * factor for side in image.size)
    image, mask = (given and on_white(given).resize(size, Image.Resampling.LANCZOS) for given in (image, mask))
    more = conditions(pipe, size, controls, custom)
    return sample_with(pipe, prompt, image=image, strength=strength, mask_image=mask, **more, **settings)


def main() -> None:
    parser = new_parser("core.edit", "Edit a picture in a domain.", 1, "outputs/edits")
    parser.add_argument("--image", required=True, help="the picture to edit")
    parser.add_argument("--mask", help="a picture of its size, white where to edit; all of it by default")
    parser.add_argument("--strength", type=float, default=0.5, help="0 keeps the picture, 1 makes it anew (default: 0.5)")
    run(edit, parser)


if __name__ == "__main__":
    run_cli(main)
