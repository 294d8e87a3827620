"""What the 2D tables share: contenders trained on one budget, their images in parts, and the figures of each task, all kept as cells."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..checkpoints import fingerprint
from ..conditions import load_controlnet
from ..devices import is_fast_in_bf16
from ..errors import UserError
from ..images import contact_sheet, to_pil
from ..kiln.controlnet import as_picture, edge_maps
from ..kiln.loop import digest
from ..presets import BASELINE, find_preset
from ..sample import load
from ..training.data import Pictures
from ..training.domain import find_process, prior_fingerprint
from . import features
from .cells import Cell, Cells
from .contenders import Contender, Customised, InDomain, describe, stamp, train
from .measures import edge_f_score, find_extractor
from .readers import CLIP, ClipReader, JudgeReader
from .worlds import World

logger = logging.getLogger(__name__)
TASKS = ("unconditional", "text", "spatial")
SHOWN = 10  # images of each task that the report shows
THUMBNAIL = (160, 160)  # the largest that they are there


@dataclass(frozen=True)
class Counts:
    """How much of what.

    steps, batch_size, ema_decay: of every method's training, see `train_domain`. images: unconditional ones. per_prompt: of each
    text. edges: of held-out pictures. part: images in one cell. resamples: of the bootstrap. curve: shares of the training after which Fig. 2's
    curves have points, each of curve_per_prompt images a text. inference_steps: the sampler's, the preset's by default.
    """

    steps: int = 2750
    batch_size: int = 16
    ema_decay: float = 0.999
    images: int = 2000
    per_prompt: int = 100
    edges: int = 200
    part: int = 125
    resamples: int = 200
    curve: tuple[float, ...] = (1 / 16, 1 / 4, 1 / 2, 1.0)
    curve_per_prompt: int = 30
    inference_steps: int | None = None
    seed: int = 0

    def scaled(self, scale: float) -> "Counts":
        """With so many times the training and the images."""
        return replace(self, **{name: max(2, round(getattr(self, name) * scale)) for name in ("steps", "images", "per_prompt", "edges", "curve_per_prompt")})


def shown_of(count: int) -> range:
    """Which of so many images a report shows."""
    return range(0, count, max(1, count // SHOWN))[:SHOWN]


def save_strip(pictures: Sequence[Image.Image], folder: Path) -> None:
    """Side by side, as a report shows them."""
    contact_sheet(pictures, columns=len(pictures)).save(folder / "strip.png")


QUICK = Counts(steps=60, batch_size=8, images=60, per_prompt=3, edges=12, part=60, resamples=50, curve=(0.5, 1.0), curve_per_prompt=2, inference_steps=8)


class Study:
    """The prior, what reads images, and the cells of one folder. extractor, reader: in place of the preset's. Raises UserError.

    less_memory: of the trainings, accumulation and gradient_checkpointing, which change their results by rounding only.
    """

    def __init__(self, preset: str = "kiln", counts: Counts = Counts(), out: Path = Path("outputs/evaluation"), controlnet: str | None = None,
                 clip: str = CLIP, device: torch.device | str | None = None, quiet: bool = False, extractor: nn.Module | None = None,
                 find_reader: Callable[[Sequence[str]], Callable] | None = None, less_memory: Mapping[str, int | bool] | None = None):
        self.preset, self.out, self.quiet, self.clip, self.less_memory = find_preset(preset), out, quiet, clip, less_memory or {}
        _, self.device = find_process(device)
        self.prior = load(self.preset.name, device=self.device)
        self.prior.set_progress_bar_config(disable=True)
        self.counts = replace(counts, inference_steps=counts.inference_steps or self.prior.config.num_inference_steps)
        self.extractor = (extractor or find_extractor(self.preset.judge)).to(self.device)
        self.find_reader = find_reader or self.own_reader
        self.cells = Cells(out / "cells", quiet)
        self.controlnet, self.lacks_control = self.find_control(controlnet)

    def own_reader(self, prompts: Sequence[str]) -> Callable:
        return ClipReader(self.clip, prompts, self.device) if self.preset.judge is None else JudgeReader(self.extractor, prompts)

    def find_control(self, name: str | None) -> tuple[nn.Module | None, str]:
        """The ControlNet that reads edges, or why there is none: the preset's own may not have been trained yet. Raises UserError for a named one."""
        try:
            return load_controlnet(name or self.preset.name, self.prior.unet), ""
        except UserError as error:
            if name:
                raise
            logger.warning("spatial guidance is left out: %s", error)
            return None, str(error)

    @cached_property
    def prior_weights(self) -> str:
        return prior_fingerprint(self.prior, self.prior.unet, self.prior.vae, self.prior.text_encoder)

    @cached_property
    def extractor_weights(self) -> str:
        return fingerprint(self.extractor)

    @cached_property
    def controlnet_weights(self) -> str:
        return fingerprint(self.controlnet)

    @property
    def tasks(self) -> tuple[str, ...]:
        return TASKS if self.controlnet else TASKS[:2]

    def settings(self, worlds: Iterable[World], trained: bool = True) -> dict:
        """For a report's head: everything that is counted; trained: of trainings too."""
        counted = {}
        for world in worlds:
            pictures = self.cells.read(self.reference(world)) or {"train": "…", "held_out": "…"}
            counted |= {f"pictures of {world.name}": "{train} to learn from and to compare with, {held_out} held out".format(**pictures),
                        f"prompts of {world.name}": [f"a photo of {prompt}" for prompt in world.prompts],
                        f"negative prompt of {world.name}": world.negative_prompt or "none"}
        counts = asdict(self.counts) | {"images_seen_in_training": self.counts.steps * self.counts.batch_size}
        of_trainings = ("steps", "batch_size", "ema_decay", "curve", "curve_per_prompt", "images_seen_in_training")
        counts = {key.replace("_", " "): value for key, value in counts.items() if trained or key not in of_trainings}
        return {"preset": self.preset.name, "features": type(self.extractor).__name__, **counts,
                "spatial guidance": self.lacks_control or "ControlNet"} | counted

    def train(self, world: World, methods: Sequence[str]) -> dict[str, dict[int, Contender]]:
        """method -> steps -> contender, the last of them the whole training's. All processes work on one training together."""
        c = self.counts
        settings = {"batch_size": c.batch_size, "ema_decay": c.ema_decay, "seed": c.seed, "mixed_precision": "bf16" if is_fast_in_bf16(self.device) else "no"}
        budget = {"world": world.digest, "prior": self.prior_weights, "steps": c.steps} | settings
        folder, result = self.out / "models" / f"{world.name}-{digest(budget)[:8]}", {}
        for method in methods:
            keep_at = sorted({max(1, round(c.steps * share)) for share in c.curve}) if method in ("fine-tuning", "ours") else []
            folders = train(method, world.name, world.train, folder, c.steps, keep_at, **settings, **self.less_memory,
                            preset=self.preset.name, device=self.device, quiet=self.quiet)
            cells = {step: Cell(f"{world.name} {method} model {step}", budget | {"step": step, "files": stamp(path)},
                                lambda _, path=path: describe(method, path)) for step, path in sorted(folders.items())}
            self.cells.make_all(list(cells.values()))
            kind = InDomain if method == "ours" else Customised
            common = {"negative_prompt": world.negative_prompt}
            result[method] = {step: kind(method, str(folders[step]), steps=step, **common, **self.cells.make(cell)) for step, cell in cells.items()}
        return result

    def prior_contender(self, world: World) -> Customised:
        """The prior as it is, asked for the domain by its name."""
        return Customised("prior", self.preset.name, self.prior_weights, 0, 0, f"a photo of {world.name}", "a photo of {prompt}")

    def checkpoint(self, world: World, name: str) -> Customised:
        """One that others customised, by a preset's name, its folder or Hub id; asked in the words of its record, or else plainly. Raises UserError."""
        if (Path(name) / BASELINE).is_file():
            said = describe(name, Path(name))
        else:
            model = load(name, device=self.device, vae=self.prior.vae)
            said = {"weights": prior_fingerprint(model, model.unet, model.text_encoder), "parameters": 0, "prompt": "", "phrase": "a photo of {prompt}"}
        return Customised(name, name, steps=0, negative_prompt=world.negative_prompt, **said)

    def reference(self, world: World) -> Cell:
        """Features of the training pictures and of those held out."""

        def make(folder: Path) -> dict:
            counted = {}
            for split, path in (("train", world.train), ("held_out", world.held_out)):
                found = features.extract(self.extractor, Pictures(path, self.prior.resolution).batches(32), self.device)
                np.save(folder / f"{split}.npy", found.numpy())
                counted[split] = len(found)
            return counted

        return Cell(f"{world.name} reference", {"world": world.digest, "extractor": self.extractor_weights, "resolution": self.prior.resolution}, make)

    def reference_features(self, world: World) -> tuple[torch.Tensor, torch.Tensor]:
        """(pictures, features) of those to learn from, and of those held out."""
        folder = self.cells.folder(self.reference(world))
        return tuple(torch.from_numpy(np.load(folder / f"{split}.npy")) for split in ("train", "held_out"))

    def held_out(self, world: World) -> Cell:
        """What the domain's own pictures, which no method has seen, have for figures, as many as there are unconditional images or else all of them."""

        def make(folder: Path) -> dict:
            train, held_out = self.reference_features(world)
            shown = shown_of(len(held_out))
            pictures = to_pil(torch.stack([x for i, x in enumerate(Pictures(world.held_out, self.prior.resolution)) if i in shown]))
            for picture in pictures:
                picture.thumbnail(THUMBNAIL)
            save_strip(pictures, folder)
            some = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(self.counts.seed))[: self.counts.images]
            return features.fidelity(train, held_out[some], held_out, self.counts.resamples, self.device)

        depends = {"reference": self.reference(world).key, **{key: getattr(self.counts, key) for key in ("images", "resamples", "seed")}}
        return Cell(f"{world.name} held out", depends, make)

    @lru_cache(maxsize=2)  # noqa: B019 (a study lives as long as the program)
    def edges(self, world: World) -> torch.Tensor:
        """Of all held-out pictures, (N, H, W) bool."""
        return torch.cat([edge_maps(to_pil(x)) for x in Pictures(world.held_out, self.prior.resolution).batches(32)])

    @lru_cache(maxsize=2)  # noqa: B019
    def reader(self, prompts: tuple[str, ...]) -> Callable:
        """`(images, prompts) -> what is read in each`. Raises UserError where it cannot be had, or cannot read all of these."""
        return self.find_reader(prompts)

    @lru_cache(maxsize=1)  # noqa: B019
    def sampler(self, contender: Contender):
        return contender.sampler(self.prior, self.preset.name)

    def parts(self, world: World, contender: Contender, task: str, per_prompt: int | None = None) -> list[Cell]:
        """A contender's images of a task, a cell for every so many: their features, and what is read in each of them."""
        per_prompt = per_prompt or self.counts.per_prompt
        prompts = [prompt for prompt in world.prompts for _ in range(per_prompt)] if task == "text" else None
        count = {"unconditional": self.counts.images, "text": len(prompts or ()), "spatial": self.counts.edges}[task]
        shown = range(0, count, per_prompt)[:SHOWN] if prompts else shown_of(count)
        config = self.prior.config
        depends = {"contender": contender.identity, "prior": self.prior_weights, "extractor": self.extractor_weights, "seed": self.counts.seed,
                   "steps": self.counts.inference_steps, "shown": list(shown),
                   "guidance": {key: config[key] for key in config if key.endswith("_scale") or key.startswith("guidance_")}}
        if task == "text":
            depends["reader"] = "judge" if self.preset.judge else self.clip
        if task == "spatial":
            depends |= {"controlnet": self.controlnet_weights, "world": world.digest}

        def make(folder: Path, rows: range) -> dict:
            asked = [prompts[i] for i in rows] if prompts else None
            edges = self.edges(world)[[i % len(self.edges(world)) for i in rows]] if task == "spatial" else None
            images = self.sample(contender, rows, asked, edges)
            np.save(folder / "features.npy", features.extract(self.extractor, images.split(32), self.device).numpy())
            for i, image in zip(rows, to_pil(images)):
                if i in shown:
                    image.thumbnail(THUMBNAIL)
                    image.save(folder / f"{i:06d}.png")
            if asked:
                return self.reader(world.prompts)(images, asked)
            if edges is not None:
                found = edge_maps(to_pil(images))
                return {"discrepancy": [1 - edge_f_score(a.numpy(), b.numpy()) for a, b in zip(found, edges)]}
            return {}

        return [Cell(f"{world.name} {contender.name} {task} {rows.start}", depends | {"rows": [rows.start, rows.stop],
                     "prompts": [prompts[i] for i in rows] if prompts else None}, lambda folder, rows=rows: make(folder, rows))
                for rows in (range(i, min(i + self.counts.part, count)) for i in range(0, count, self.counts.part))]

    def sample(self, contender: Contender, rows: range, asked: Sequence[str] | None, edges: torch.Tensor | None, at_once: int = 25) -> torch.Tensor:
        """Image i from seed + i, of what is asked for, such as "a vase", as the contender says it: (rows, 3, H, W) in [-1, 1], on the CPU."""
        images, sampler = [], self.sampler(contender)
        for i in range(0, len(rows), at_once):
            seeds = [self.counts.seed + row for row in rows[i : i + at_once]]
            texts = asked[i : i + at_once] if asked else None
            controls = [] if edges is None else [self.prior.control(self.controlnet, as_picture(edges[i : i + at_once]))]
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            made = sampler(texts, len(seeds), controls, generator=generators, num_inference_steps=self.counts.inference_steps)
            images.append(made.float().cpu() * 2 - 1)
        return torch.cat(images)

    def strip_of_edges(self, world: World) -> Cell:
        """What the images shown of the spatial task were to follow."""

        def make(folder: Path) -> dict:
            edges = self.edges(world)[[i % len(self.edges(world)) for i in shown_of(self.counts.edges)]]
            save_strip(to_pil(as_picture(edges) * 2 - 1), folder)
            return {}

        return Cell(f"{world.name} edges", {"world": world.digest, "edges": self.counts.edges, "resolution": self.prior.resolution}, make)

    def figures(self, world: World, contender: Contender, task: str, per_prompt: int | None = None) -> Cell:
        """What Table 1 says of a contender in a task, from its parts. Keeps features, what was read of each image, and a strip of images."""
        parts, reference = self.parts(world, contender, task, per_prompt), self.reference(world)

        def make(folder: Path) -> dict:
            fake = torch.from_numpy(np.concatenate([np.load(self.cells.folder(part) / "features.npy") for part in parts]))
            train, held_out = self.reference_features(world)
            read = [self.cells.read(part) for part in parts]
            each = {key: torch.tensor([value for one in read for value in one[key]]) for key in read[0]}
            np.savez(folder / "each.npz", distance=features.nearest(fake, held_out)[:, 0].numpy(), **{key: x.numpy() for key, x in each.items()})
            shown = sorted((file for part in parts for file in self.cells.folder(part).glob("*.png")), key=lambda file: file.name)
            save_strip([Image.open(file) for file in shown], folder)
            if task == "unconditional":
                return features.fidelity(train, fake, held_out, self.counts.resamples, self.device)
            means = {key: features.mean_with_interval(x) for key, x in each.items()}
            return means | {"images": len(fake), "fid": features.fid_with_interval(train, fake, self.counts.resamples, self.device)}

        depends = {"parts": [part.key for part in parts], "reference": reference.key, "resamples": self.counts.resamples}
        return Cell(f"{world.name} {contender.name} {task}", depends, make)

    def measure(self, world: World, asked: Sequence[tuple[Contender, str, int | None]], on_figures: Callable[[], None]) -> None:
        """All parts and figures of these contenders, tasks and images a prompt, contender by contender, shared among processes."""
        self.cells.make_all([self.reference(world), *([self.strip_of_edges(world)] if self.controlnet else [])])
        self.cells.make_all([self.held_out(world)])
        for _, same in groupby(asked, key=lambda one: one[0].name):
            same = list(same)
            self.cells.make_all([part for one in same for part in self.parts(world, *one)])
            self.cells.make_all([self.figures(world, *one) for one in same])
            on_figures()
