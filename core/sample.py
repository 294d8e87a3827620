"""Sample images in a domain: a function, and `python -m core.sample --domain porcelain --prompt "a vase" --num-images 8`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from .command_line import new_parser, run
from .devices import default_dtype, find_device
from .errors import UserError, check_seed, run_cli
from .images import fit
from .pipeline import InDomainPipeline


def sample(
    prompt: str | None,
    *,
    domain: str | Path | None = None,
    preset: str | Path = "kiln",
    device: torch.device | str | None = None,
    controls: Sequence[Mapping] = (),
    custom: Sequence[Mapping] = (),
    height: int | None = None,
    width: int | None = None,
    **settings,
) -> list[Image.Image]:
    """Images of `prompt` (None: of anything) in `domain` (None: in the prior's own world).

    height, width: in pixels, the prior's own by default. controls, custom: ControlNets and customised checkpoints, as in `conditions`.
    settings: as in `sample_with`, such as num_images and seed.
    Steps and scales default to the preset's, as in InDomainPipeline. Raises UserError.
    """
    pipe = load(preset, domain, device)
    height, width = (side * pipe.vae_scale_factor for side in pipe.latent_shape(1, height, width)[-2:])
    return sample_with(pipe, prompt, **conditions(pipe, (width, height), controls, custom), height=height, width=width, **settings)


def load(preset: str | Path, domain: str | Path | None = None, device: torch.device | str | None = None, **parts) -> InDomainPipeline:
    """A pipeline on a device, the best there is by default, in the precision that suits it. parts: models to take and not to load."""
    device = find_device(device)
    return InDomainPipeline.from_pretrained(preset, domain=domain, dtype=default_dtype(device), **parts).to(device)


def conditions(pipe: InDomainPipeline, size: tuple[int, int], controls: Sequence[Mapping], custom: Sequence[Mapping]) -> dict:
    """What a pipeline's call takes as `controls` and `terms`, for images of `size` (width, height).

    controls: for each ControlNet the arguments of InDomainPipeline.control, and `extract`, such as `canny`, where it reads what is taken from
    the picture. Pictures are cut to the images' size first. custom: for each customised checkpoint dict(model, prompt, scale=None).
    """

    def control(image: Image.Image, extract: Callable[[Image.Image], Image.Image] = lambda picture: picture, **rest):
        return pipe.control(image=extract(fit(image, size)), **rest)

    def term(model: str | Path, prompt: str, scale: float | None = None):
        return load(model, device=pipe.device, vae=pipe.vae).term(prompt, scale)  # in the prior's latent space

    return {"controls": [control(**each) for each in controls], "terms": [term(**each) for each in custom]}


def sample_with(
    pipe: InDomainPipeline, prompt: str | None, num_images: int = 1, seed: int = 0, batch_size: int = 8, quiet: bool = False,
    keep: Callable[[int, Image.Image], None] = lambda seed, image: None, finish: Callable[[Image.Image], Image.Image] = lambda image: image,
    **settings,
) -> list[Image.Image]:
    """`sample` with a pipeline that is loaded already; `settings` are its call's.

    Image i is drawn from seed + i, whatever the batch size and the device. finish: what becomes of each image. keep: gets each and its seed
    as soon as its batch is done.
    """
    for name, value in (("the number of images", num_images), ("the batch size", batch_size)):
        if value < 1:
            raise UserError(f"{name} is {value}: give 1 or more")
    for each in (seed, seed + num_images - 1):
        check_seed(each)
    pipe.set_progress_bar_config(disable=True)
    images = []
    with tqdm(total=num_images, desc=prompt or "unconditional", unit="image", disable=quiet) as bar:
        for start in range(0, num_images, batch_size):
            seeds = range(seed + start, seed + min(start + batch_size, num_images))
            generators = [torch.Generator().manual_seed(s) for s in seeds]
            batch = [finish(image) for image in pipe(prompt, num_images_per_prompt=len(seeds), generator=generators, **settings).images]
            for s, image in zip(seeds, batch, strict=True):
                keep(s, image)
            images += batch
            bar.update(len(seeds))
    return images


def main() -> None:
    run(sample, new_parser("core.sample", "Sample images in a domain.", 4, "outputs/samples"))


if __name__ == "__main__":
    run_cli(main)
