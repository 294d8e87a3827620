"""What a domain is learned from: pictures in folders, tar files and Hugging Face datasets, read one at a time, and their latents, kept on disk."""

import hashlib
import logging
import os
import re
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import torch
from PIL import Image
from tqdm import tqdm

from ..checkpoints import abandoned, fingerprint, owner
from ..domains import public_name
from ..errors import UserError
from ..images import fit_square, open_image, reason, to_tensor
from ..pipeline import InDomainPipeline
from ..presets import hub_errors, nearest

logger = logging.getLogger(__name__)
MIN_SIDE = 32  # a picture smaller than this teaches a model nothing but blur


class Pictures:
    """Every usable picture of a source, read one at a time; unusable ones are named and skipped.

    source: a folder with pictures or tar files of them (WebDataset's shards) in it, one tar file, or the name of a Hugging Face dataset,
    which is streamed. column: the dataset's column of images, by default its first one.
    Iterating gives (3, resolution, resolution) float tensors in [-1, 1].
    """

    def __init__(self, source: str | Path, resolution: int, column: str | None = None):
        self.source = str(Path(source).resolve() if Path(source).exists() else source)
        self.resolution, self.column = resolution, column

    @property
    def name(self) -> str:
        """What may be told to others."""
        return public_name(self.source)

    def __iter__(self) -> Iterator[torch.Tensor]:
        used = 0
        for name, file in self.files():
            try:
                image = open_image(file)
                if min(image.size) < MIN_SIDE:
                    raise ValueError(f"{image.width} x {image.height} px is too small")
            except Exception as error:  # decoders raise whatever they stumble over
                logger.warning("skipped %s: %s", name, reason(error))
                continue
            used += 1
            yield to_tensor(fit_square(image, self.resolution))
        if not used:
            raise UserError(f"{self.source} holds no usable image: give a folder of PNG, JPEG or WebP files of at least {MIN_SIDE} px")

    def files(self) -> Iterator[tuple[str, Path | BinaryIO]]:
        """The name of every file and the file. Raises UserError for a source that is not there."""
        path = Path(self.source)
        if path.is_dir():
            return files_in(path)
        if path.is_file() and path.suffix == ".tar":
            return files_in_tar(path)
        if path.exists() or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", self.source):
            raise UserError(f"no such folder of images: {self.source}")
        return files_in_dataset(self.source, self.column)

    def changed_since(self, file: Path) -> bool:
        """Whether a file or folder that is read is newer than `file`; of a dataset on the Hub nobody knows."""
        path, then = Path(self.source), file.stat().st_mtime_ns
        parts = walk(path, set()) if path.is_dir() else [path] if path.exists() else []
        return any(part.stat().st_mtime_ns > then for part in parts)

    def batches(self, size: int, quiet: bool = True) -> Iterator[torch.Tensor]:
        """(<= size, 3, resolution, resolution)."""
        batch = []
        for image in tqdm(self, "reading images", unit="image", disable=quiet):
            batch.append(image)
            if len(batch) == size:
                yield torch.stack(batch)
                batch = []
        if batch:
            yield torch.stack(batch)


def walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """A folder and all folders and files below it, in the disk's own order, as they are listed: of hundreds of thousands in one none is held.

    seen: the folders that were walked through, to which those of this walk are added: however many links lead to one, it counts once.
    """
    here = folder.resolve()
    if here in seen:
        return
    seen.add(here)
    yield folder
    with os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if path.is_dir():
                yield from walk(path, seen)
            elif path.is_file():
                yield path


def files_in(folder: Path) -> Iterator[tuple[str, Path | BinaryIO]]:
    """Every file below a folder, and those in its tar files."""
    for path in walk(folder, set()):
        if path.is_file():
            yield from files_in_tar(path) if path.suffix == ".tar" else [(str(path), path)]


def files_in_tar(shard: Path) -> Iterator[tuple[str, BinaryIO]]:
    """The pictures of a tar file, as they come; captions and labels beside them are left alone."""
    try:
        with tarfile.open(shard, "r|") as files:
            for member in files:
                if member.isfile() and is_picture(member.name):
                    yield f"{shard}/{member.name}", BytesIO(files.extractfile(member).read())
    except (tarfile.TarError, OSError) as error:
        logger.warning("skipped %s from here on: %s", shard, reason(error))


def is_picture(name: str | Path) -> bool:
    """Whether a file is one by its name: captions and labels may lie beside pictures."""
    return Path(name).suffix.lower() in Image.registered_extensions()


def files_in_dataset(name: str, column: str | None) -> Iterator[tuple[str, BinaryIO]]:
    """The pictures in the training split of a Hugging Face dataset, streamed. They come as files, for `open_image` to read like all others."""
    try:
        import datasets
        import fsspec
    except ImportError as error:
        raise UserError(f"there is no folder '{name}', and Hugging Face datasets cannot be read: pip install 'ingen3d[datasets]'") from error
    try:
        rows = datasets.load_dataset(name, split="train", streaming=True)
        columns = [key for key, feature in (rows.features or {}).items() if isinstance(feature, datasets.Image)]
        if not columns or column not in (None, *columns):
            wrong = f" '{column}'{nearest(column, columns)}" if column else ""
            raise UserError(f"the dataset '{name}' has no column of images{wrong}; its columns: {', '.join(rows.features or ['unknown'])}")
        column = column or columns[0]
        for i, row in enumerate(rows.select_columns(column).cast_column(column, datasets.Image(decode=False))):
            picture = row[column] or {"bytes": b"", "path": None}  # a row without one is skipped, as what is no picture is
            if picture["bytes"] is None:
                with fsspec.open(picture["path"]) as file:
                    picture["bytes"] = file.read()
            yield f"{name}, row {i}", BytesIO(picture["bytes"])
    except (RuntimeError, datasets.exceptions.DatasetsError, *hub_errors()) as error:
        raise UserError(f"'{name}' is no folder here, and no dataset that can be read from the Hugging Face Hub ({reason(error)[:160]})") from error


def find_file(pipe: InDomainPipeline, pictures: Pictures, work: Path, shared: str | Path | None = None) -> Path:
    """Where the latents of pictures are: in a training's `work` folder, or in one that several share, under a name that tells them from all others."""
    if shared is None:
        return work / "latents.f32"
    what = repr((pictures.source, pictures.column, pictures.resolution, fingerprint(pipe.vae), pipe.vae.config.scaling_factor))
    return Path(shared) / f"{hashlib.sha256(what.encode()).hexdigest()[:16]}.f32"


@torch.no_grad()
def encode(pipe: InDomainPipeline, pictures: Pictures, file: Path, at_once: int, quiet: bool) -> None:
    """Write latents of every picture, each followed by its mirror image's, as bare fp32 numbers: all of them need not fit into memory."""
    file.parent.mkdir(parents=True, exist_ok=True)
    for partial in abandoned(file.parent, f"{file.stem}."):  # as much as all latents are, each
        partial.unlink(missing_ok=True)
    partial = file.with_suffix(f".{owner()}.partial")  # of several trainings that share the file each may be the first
    try:
        with open(partial, "wb") as stream:
            for x in pictures.batches(at_once, quiet):
                both = torch.stack([pipe.encode_images(x), pipe.encode_images(x.flip(-1))], 1)  # (B, 2, C, h, w)
                stream.write(both.float().cpu().numpy().tobytes())
        partial.replace(file)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped while pictures were encoded: the same command starts that over") from None
    finally:
        partial.unlink(missing_ok=True)


def load_latents(file: Path, channels: int, size: int) -> torch.Tensor:
    """What `encode` wrote: (2 N, C, h, w), read from the disk where and when it is used."""
    return torch.from_file(str(file), size=file.stat().st_size // 4).view(-1, channels, size, size)
