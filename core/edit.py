"""Edit a picture in a domain: a function, and `python -m core.edit --image my.png --prompt "a vase with leaves" --strength 0.5`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from .command_line import new_parser, run
from .errors import UserError, run_cli
from .images import fit, load_image
from .pipeline import InDomainPipeline
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
    height: int | None = None,
    width: int | None = None,
    **settings,
) -> list[Image.Image]:
    """A picture (or its file) made over: encoded, given noise up to `strength`, denoised with the rule (SDEdit, Meng et al. 2022).

    prompt None asks for the domain alone. strength: 0 keeps the picture, 1 makes it anew. mask: of the image's size, white where to edit;
    the rest, its transparent parts too, keeps the image's own pixels, at the result's size. height, width: of the result; by default it
    keeps the image's proportions and its shorter side is the prior's resolution. Where they ask for others, the image's centre is taken.
    controls, custom, settings: as in `sample`. Raises UserError.
    """
    image, mask = (load_image(given) if isinstance(given, str | Path) else given for given in (image, mask))
    if mask is not None and mask.size != image.size:
        raise UserError("the mask is {} x {} px and the image {} x {}: give them one size".format(*mask.size, *image.size))
    pipe = load(preset, domain, device)
    size = new_size(image.size, (width, height), pipe)
    image, mask = fit(image, size), mask and fit(mask, size, "black")  # where a mask is transparent nothing was painted
    more = conditions(pipe, size, controls, custom)
    edited = mask and mask.convert("L").point(lambda value: 255 * (value > 127))  # as the pipeline reads it

    def finish(made: Image.Image) -> Image.Image:
        """With the image's own pixels where they are to be kept, which its latents do not hold."""
        return image.copy() if strength == 0 else made if mask is None else Image.composite(made, image, edited)

    return sample_with(pipe, prompt, image=image, strength=strength, mask_image=mask, finish=finish, **more, **settings)


def new_size(size: tuple[int, int], given: tuple[int | None, int | None], pipe: InDomainPipeline) -> tuple[int, int]:
    """(width, height) for a picture of `size`: as given, else by its proportions, the shorter side at the prior's resolution."""
    pipe.latent_shape(1, *reversed(given))  # refuses what is no multiple of the latents'
    scale = next((new / old for new, old in zip(given, size) if new), pipe.resolution / min(size))
    factor = pipe.vae_scale_factor
    return tuple(new or max(round(old * scale / factor), 1) * factor for new, old in zip(given, size))


def main() -> None:
    parser = new_parser("core.edit", "Edit a picture in a domain.", 1, "outputs/edits")
    parser.add_argument("--image", required=True, help="the picture to edit")
    parser.add_argument("--mask", help="a picture of its size, white where to edit; all of it by default")
    parser.add_argument("--strength", type=float, default=0.5, help="0 keeps the picture, 1 makes it anew (default: 0.5)")
    run(edit, parser)


if __name__ == "__main__":
    run_cli(main)
