"""Pictures in and out: one user's image, tensors, and sheets of results."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps

from .errors import UserError


def open_image(path: Path | BinaryIO) -> Image.Image:
    """Decode whatever the file holds, see `normalised`. Raises OSError or ValueError."""
    with Image.open(path) as image:
        image.load()
        return normalised(image)


def normalised(image: Image.Image) -> Image.Image:
    """Any picture of PIL's, upright: RGB, or RGBA where it has transparency."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # grey of 16 bits, or a float's 0 to 1: PIL's own conversion only clips it at 255
        values = np.asarray(image, np.float32)
        white = 1 if image.mode == "F" and values.max() <= 1 else 65535 if image.mode.startswith("I;16") or values.max() > 255 else 255
        image = Image.fromarray(np.uint8(np.clip(255 * values / white, 0, 255).round()))
    transparent = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    return image.convert("RGBA" if transparent else "RGB")


def load_image(path: str | Path) -> Image.Image:
    """One user's image, RGB or RGBA. Raises UserError when it is missing or not an image."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no such image: {path}")
    try:
        return open_image(path)
    except Exception as error:  # decoders raise whatever they stumble over
        raise UserError(f"{path} is not a readable image ({reason(error)}): give a PNG, JPEG or WebP file") from error


def reason(error: Exception) -> str:
    """The first line of what an error says, or its name."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def laid_over(image: Image.Image, background: str) -> Image.Image:
    """RGB, with transparency laid over a colour."""
    image = normalised(image)
    if image.mode != "RGBA":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, background), image).convert("RGB")


def on_white(image: Image.Image) -> Image.Image:
    return laid_over(image, "white")


def fit(image: Image.Image, size: tuple[int, int], background: str = "white") -> Image.Image:
    """The centre of a picture, as much as fills (width, height): RGB, with transparency laid over a colour."""
    return ImageOps.fit(laid_over(image, background), size, Image.Resampling.LANCZOS)


def fit_square(image: Image.Image, resolution: int) -> Image.Image:
    """Shorter side to `resolution`, then the centre: (resolution, resolution) RGB."""
    return fit(image, (resolution, resolution))


def to_tensor(image: Image.Image) -> torch.Tensor:
    """RGB picture -> (3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1) / 127.5 - 1


def to_pil(images: torch.Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1] -> pictures."""
    pixels = ((images.float() / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(p) for p in pixels]


def contact_sheet(images: Iterable[Image.Image], columns: int | None = None) -> Image.Image:
    """All images of one size in a grid, row by row."""
    images: Sequence[Image.Image] = list(images)
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    width, height = images[0].size
    sheet = Image.new("RGB", (columns * width, math.ceil(len(images) / columns) * height), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    return sheet
