"""Data sets of the kiln: objects rendered from several cameras, in resumable shards, with a held-out split.

An object is decided by (world, index) alone. Every twentieth object is held out: no model is trained on it.
A shard is a lossless WebP sheet of views (7 kB each) and, written after it, a JSON file that says what they show and what made them.
"""

import hashlib
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..checkpoints import write_atomically
from ..errors import UserError
from ..images import to_pil
from ..interrupts import kept_in
from . import glazes, looks, porcelain, renderer, shapes
from .animals import ANIMALS
from .pottery import POTTERY
from .toon import toon
from .world import CLASSES, build

SHARD = 24  # objects; a killed run loses one shard a worker
HELD_OUT_EVERY = 20


@dataclass(frozen=True)
class World:
    """What there is to see. seed: the first word of its objects' seeds. surface: `(form, rng) -> Surface`. finish: as `renderer.render` takes it.

    resolution: px of a view's side. version: to be raised when its objects, cameras or renderings change, so that views of before and after are never mixed.
    """

    seed: int
    classes: tuple[str, ...]
    surface: Callable[[shapes.Form, np.random.Generator], glazes.Surface]
    finish: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None
    resolution: int = renderer.RESOLUTION
    version: int = 2


def any_look(form: shapes.Form, rng: np.random.Generator) -> glazes.Surface:
    """A captioned surface, or that of a domain which the object is of."""
    own = [WORLDS[name].surface for name in DOMAINS if form.name in WORLDS[name].classes]
    return [glazes.captioned, *own][rng.integers(1 + len(own))](form, rng)


WORLDS = {
    "base": World(1, tuple(CLASSES), glazes.captioned),
    "porcelain": World(2, tuple(POTTERY), porcelain.porcelain),
    "face": World(4, ("head",), looks.face),
    "animal": World(5, tuple(ANIMALS), looks.animal),
    "toon": World(3, tuple(CLASSES), glazes.captioned, toon),
    "around": World(6, tuple(CLASSES) + tuple(POTTERY), any_look, resolution=64),  # hollow things twice: of these one sees how deep they are
}
DOMAINS = tuple(name for name in WORLDS if name not in ("base", "toon", "around"))  # without captions
PICTURES = ("base", *DOMAINS, "toon")  # at full size, which models draw and the judge reads


@dataclass
class Views:
    """Images of many objects: `images` (N, H, W, 4) uint8 straight alpha, one record a view."""

    images: np.ndarray
    records: list[dict]

    def where(self, keep: Callable[[dict], bool]) -> "Views":
        """A copy of some, for small sets."""
        index = [i for i, r in enumerate(self.records) if keep(r)]
        return Views(self.images[index], [self.records[i] for i in index])

    def some(self, count: int) -> "Views":
        """At most so many."""
        index = choose(len(self.records), count)
        return Views(self.images[index], [self.records[i] for i in index])


def choose(total: int, count: int) -> list[int]:
    """At most `count` of so many: the same ones each time, and of any class, as even steps through classes that come in turn are not."""
    return sorted(np.random.default_rng(0).permutation(total)[:count].tolist())


def class_of(world: str, index: int) -> str:
    """An object's class. Those held out and those learned from go through the classes in turn, each by themselves, so that neither misses one."""
    held_out_before, among = divmod(index, HELD_OUT_EVERY)
    turn = index - held_out_before - 1 if among else held_out_before
    return WORLDS[world].classes[turn % len(WORLDS[world].classes)]


def make_form(world: str, index: int) -> tuple[shapes.Form, np.random.Generator]:
    """Form of one object, and the generator of what else there is to decide."""
    rng = np.random.default_rng([WORLDS[world].seed, index])
    return build(class_of(world, index), rng), rng


def make_object(world: str, index: int) -> tuple[shapes.Form, glazes.Surface, np.random.Generator]:
    """Form and surface of one object, the ground truth behind its views, and the generator of what else there is to decide."""
    form, rng = make_form(world, index)
    return form, WORLDS[world].surface(form, rng), rng


def cameras(rng: np.random.Generator, photo: int, wide: int, seen_from: tuple[float, float] = (0.0, 360.0)) -> list[renderer.View]:
    """`photo` views as people take them (10 to 30 degrees up, from azimuths `seen_from`), then `wide` ones from all around for Zero-1-to-3."""
    ranges = [((10, 30), seen_from)] * photo + [((-10, 65), (0, 360))] * wide
    return [renderer.View(*map(float, (rng.uniform(*up), rng.uniform(*around) % 360, rng.uniform(3.0, 3.4)))) for up, around in ranges]


def describe(index: int, form: shapes.Form, surface: glazes.Surface, view: renderer.View, photo: bool) -> dict:
    """A view's record: its object, what is true of it, and its camera in degrees and world units."""
    return {"object": index, "class": form.name, "caption": surface.caption, **form.attributes, **surface.labels, "photo": photo, **vars(view)}


def render_shard(folder: Path, world: str, photo: int, wide: int, objects: int, shard: int) -> None:
    images, records, made_by = [], [], origin(world, photo, wide, objects, shard)
    for index in range(*made_by["objects"]):
        form, surface, rng = make_object(world, index)
        views = cameras(rng, photo, wide, form.seen_from)
        images.append(renderer.render(form.parts, surface, views, WORLDS[world].resolution, finish=WORLDS[world].finish))
        records += [describe(index, form, surface, view, k < photo) for k, view in enumerate(views)]
    save_shard(folder / f"shard-{shard:04d}", np.concatenate(images), records, made_by)


def origin(world: str, photo: int, wide: int, objects: int, shard: int) -> dict:
    """What decides a shard's views."""
    first = shard * SHARD
    return {"world": world, "version": WORLDS[world].version, "objects": [first, min(first + SHARD, objects)], "photo": photo, "wide": wide}


def save_shard(target: Path, images: np.ndarray, records: list[dict], made_by: dict) -> None:
    """TARGET.webp and then TARGET.json, without which there is no shard."""
    partial_file, picture = target.with_suffix(".partial"), target.with_suffix(".webp")
    Image.fromarray(to_sheet(images)).save(partial_file, "WEBP", lossless=True, exact=True, quality=50, method=2)
    partial_file.replace(picture)
    content = hashlib.sha256(picture.read_bytes()).hexdigest()[:16]  # so that what the views are is known without opening them
    write_atomically(json.dumps({"made_by": made_by, "picture": content, "views": records}), target.with_suffix(".json"))


def to_sheet(images: np.ndarray) -> np.ndarray:
    """Images (N, H, W, 4) row by row in an almost square grid."""
    n, h, w, c = images.shape
    columns = math.ceil(math.sqrt(n))
    grid = np.zeros((-(-n // columns) * columns, h, w, c), images.dtype)
    grid[:n] = images
    return grid.reshape(-1, columns, h, w, c).swapaxes(1, 2).reshape(-1, columns * w, c)


def from_sheet(sheet: np.ndarray, n: int) -> np.ndarray:
    """The n images of `to_sheet`."""
    columns = math.ceil(math.sqrt(n))
    h, w = sheet.shape[0] // -(-n // columns), sheet.shape[1] // columns
    return sheet.reshape(-1, h, columns, w, 4).swapaxes(1, 2).reshape(-1, h, w, 4)[:n]


def render_world(folder: Path, world: str, objects: int, photo: int, wide: int, workers: int | None = None, quiet: bool = False) -> None:
    """Render what is still missing of `objects` objects into `folder`; what was rendered otherwise, or of another version, is rendered anew."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = range(-(-objects // SHARD))
    there = {picture.stem: shard["made_by"] for picture, shard in find_shards(folder).items()}
    names = {f"shard-{s:04d}" for s in shards}
    for stray in (file for file in folder.glob("shard-*") if file.stem not in names):
        stray.unlink()
    todo = [s for s in shards if there.get(f"shard-{s:04d}") != origin(world, photo, wide, objects, s)]
    if todo:
        renderer.check_renderer()
    with kept_in(folder), ProcessPoolExecutor(workers or os.cpu_count(), initializer=start_worker) as pool:
        jobs = pool.map(partial(render_shard, folder, world, photo, wide, objects), todo)
        for _ in tqdm(jobs, f"rendering {world}", total=len(todo), unit="shard", disable=quiet):
            pass


def start_worker() -> None:
    """One core each; and Ctrl-C is the parent's affair: Mitsuba would end a picture half done, as if it were whole."""
    os.setsid()
    threading.Thread(target=leave_with, args=(os.getppid(),), daemon=True).start()
    renderer.load_mitsuba(threads=1)


def leave_with(parent: int) -> None:
    """End this process when its parent has been killed, which could not tell it to."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def find_shards(folder: Path) -> dict[Path, dict]:
    """The records of all shards, of whatever version, by picture."""
    found = {file.with_suffix(".webp"): json.loads(file.read_text()) for file in sorted(folder.glob("shard-*.json"))}
    return {picture: shard for picture, shard in found.items() if picture.exists() and isinstance(shard, dict)}  # lists: from before there were versions


def unrendered(folder: Path, objects: int) -> int:
    """How many shards of so many objects are not there."""
    return max(0, -(-objects // SHARD) - len(find_shards(folder)))


def read_shards(folder: Path) -> dict[Path, dict]:
    """`find_shards`. Raises UserError where there is none, or one of another version of the world than the code's."""
    shards = find_shards(folder)
    if not shards:
        raise UserError(f"{folder} holds no rendered views: run `python scripts/fire_kiln.py data` first")
    for picture, shard in shards.items():
        world, version = (shard["made_by"][key] for key in ("world", "version"))
        if world not in WORLDS or version != WORLDS[world].version:
            raise UserError(f"{picture} shows version {version} of the world '{world}', not today's: run `python scripts/fire_kiln.py data` to render it anew")
    return shards


def identity(folder: Path) -> str:
    """Tells a folder's views from others without opening them: a short hash. Raises UserError as `read_shards`."""
    return hashlib.sha256(json.dumps(list(read_shards(folder).values())).encode()).hexdigest()[:16]


def is_of(split: str, record: dict) -> bool:
    return (record["object"] % HELD_OUT_EVERY == 0) == (split == "test")


def load_records(folder: Path, split: str = "train") -> list[dict]:
    """What `load_views` gives, without images."""
    return [r for shard in read_shards(folder).values() for r in shard["views"] if is_of(split, r)]


def load_views(folders: Path | Iterable[Path], split: str = "train") -> Views:
    """All rendered views of a split ("train" or "test") in one folder or in several, one after the other. Raises UserError as `read_shards`."""
    shards = {k: v for folder in ([folders] if isinstance(folders, Path) else folders) for k, v in read_shards(folder).items()}
    kept = {picture: [i for i, r in enumerate(shard["views"]) if is_of(split, r)] for picture, shard in shards.items()}
    ends = dict(zip(kept, np.cumsum([len(rows) for rows in kept.values()]).tolist()))
    first = next(iter(shards))
    images = np.empty((ends[next(reversed(ends))], *decode(first, shards[first]).shape[1:]), np.uint8)

    def fill(picture: Path) -> None:
        images[ends[picture] - len(kept[picture]) : ends[picture]] = decode(picture, shards[picture])[kept[picture]]

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the decoder lets other threads work
        list(pool.map(fill, kept))
    return Views(images, [shards[picture]["views"][i] for picture, rows in kept.items() for i in rows])


def decode(picture: Path, shard: dict) -> np.ndarray:
    with Image.open(picture) as sheet:
        return from_sheet(np.asarray(sheet.convert("RGBA")), len(shard["views"]))


def and_mirrored(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W, ...) as they are, and flipped left to right: the world's swirls are of one hand, and then of both."""
    return images, np.flip(images, 2)


def write_pictures(images: np.ndarray, folder: Path) -> None:
    """Views (N, H, W, 4) on white as a user would have pictures, a folder of PNG files, whole or not there."""
    partial_folder = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    for i, rgba in enumerate(images):
        to_pil(on_white(rgba[None]))[0].save(partial_folder / f"{i:05d}.png")
    partial_folder.rename(folder)


def on_white(rgba: np.ndarray | torch.Tensor, device: torch.device | None = None) -> torch.Tensor:
    """RGBA views (N, H, W, 4) uint8 -> (N, 3, H, W) in [-1, 1], on a device, by default where they are."""
    if isinstance(rgba, np.ndarray):
        rgba = torch.from_numpy(np.ascontiguousarray(rgba))  # torch takes no negative strides, as mirror images have
    x = rgba.to(device=device).permute(0, 3, 1, 2).contiguous().float() / 255  # contiguous: see `judge.train`
    return (x[:, :3] * x[:, 3:] + 1 - x[:, 3:]) * 2 - 1
