"""Data sets of the kiln: objects rendered from several cameras, in resumable shards, with a held-out split.

An object is decided by (world, index) alone. Every twentieth object is held out: no model is trained on it.
"""

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..errors import UserError
from . import glazes, renderer, shapes
from .world import POTTERY, SHAPES, build

WORLDS = {"base": 1, "porcelain": 2}  # -> the seed's first word
SHARD = 24  # objects; a killed run loses one shard a worker
HELD_OUT_EVERY = 20


@dataclass
class Views:
    """Images of many objects: `images` (N, H, W, 4) uint8 straight alpha, one record a view."""

    images: np.ndarray
    records: list[dict]

    def where(self, keep) -> "Views":
        index = [i for i, r in enumerate(self.records) if keep(r)]
        return Views(self.images[index], [self.records[i] for i in index])


def class_of(world: str, index: int) -> str:
    """An object's class. Those held out and those learned from go through the classes in turn, each by themselves, so that neither misses one."""
    held_out_before, among = divmod(index, HELD_OUT_EVERY)
    turn = index - held_out_before - 1 if among else held_out_before
    classes = tuple(SHAPES if world == "base" else POTTERY)
    return classes[turn % len(classes)]


def make_object(world: str, index: int) -> tuple[shapes.Form, glazes.Surface, np.random.Generator]:
    """Form and surface of one object, the ground truth behind its views, and the generator of what else there is to decide."""
    rng = np.random.default_rng([WORLDS[world], index])
    form = build(class_of(world, index), rng)
    surface = (glazes.captioned if world == "base" else glazes.porcelain)(form, rng)
    return form, surface, rng


def cameras(rng: np.random.Generator, photo: int, wide: int) -> list[renderer.View]:
    """`photo` views as people take them (10 to 30 degrees up), then `wide` ones for Zero-1-to-3."""
    ranges = [(10, 30)] * photo + [(-10, 65)] * wide
    return [renderer.View(*map(float, (rng.uniform(*r), rng.uniform(0, 360), rng.uniform(3.0, 3.4)))) for r in ranges]


def render_shard(folder: Path, world: str, photo: int, wide: int, shard: int) -> None:
    images, records = [], []
    for index in range(shard * SHARD, (shard + 1) * SHARD):
        form, surface, rng = make_object(world, index)
        views = cameras(rng, photo, wide)
        images.append(renderer.render(form.parts, surface, views))
        for k, view in enumerate(views):
            records.append({"object": index, "class": form.name, "caption": surface.caption, **surface.labels, "photo": k < photo,
                            "elevation_deg": view.elevation_deg, "azimuth_deg": view.azimuth_deg, "distance": view.distance})
    target = folder / f"shard-{shard:04d}"
    partial_file = target.with_suffix(".partial")
    with open(partial_file, "wb") as f:
        np.save(f, np.concatenate(images))
    target.with_suffix(".json").write_text(json.dumps(records))
    os.replace(partial_file, target.with_suffix(".npy"))


def render_world(folder: Path, world: str, objects: int, photo: int, wide: int, workers: int | None = None, quiet: bool = False) -> None:
    """Render what is still missing of `objects` objects into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    todo = [s for s in range(-(-objects // SHARD)) if not (folder / f"shard-{s:04d}.npy").exists()]
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
        jobs = pool.map(partial(render_shard, folder, world, photo, wide), todo)
        for _ in tqdm(jobs, f"rendering {world}", total=len(todo), unit="shard", disable=quiet):
            pass


def load_views(folder: Path, split: str = "train") -> Views:
    """All rendered views of a split ("train" or "test")."""
    images, records = [], []
    for file in sorted(folder.glob("shard-*.npy")):
        rows = json.loads(file.with_suffix(".json").read_text())
        keep = [(r["object"] % HELD_OUT_EVERY == 0) == (split == "test") for r in rows]
        images.append(np.load(file)[keep])
        records += [r for r, k in zip(rows, keep) if k]
    if not images:
        raise UserError(f"{folder} holds no rendered views: run `python scripts/fire_kiln.py data` first")
    return Views(np.concatenate(images), records)


def write_pictures(images: np.ndarray, folder: Path) -> None:
    """Views (N, H, W, 4) on white as a user would have pictures, a folder of PNG files, whole or not there."""
    partial_folder = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    for i, rgba in enumerate(images):
        Image.fromarray(np.uint8((composite(rgba) + 1) * 127.5 + 0.5)).save(partial_folder / f"{i:05d}.png")
    partial_folder.rename(folder)


def composite(rgba: np.ndarray, background=1.0) -> np.ndarray:
    """RGBA uint8 over a background in [0, 1] (scalar or broadcastable RGB) -> float32 RGB in [-1, 1]."""
    rgba = rgba.astype(np.float32) / 255
    alpha = rgba[..., 3:]
    return (rgba[..., :3] * alpha + background * (1 - alpha)) * 2 - 1
