"""Firing the kiln: the stages from nothing to the weights that ship with the package."""

import inspect
import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline
from PIL import Image
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from ..checkpoints import cached, fingerprint, save_atomically, write_atomically
from ..devices import find_device, is_fast_in_bf16
from ..errors import UserError
from ..images import contact_sheet, to_pil
from ..pipeline import InDomainPipeline
from ..sampling import new_sampler
from . import autoencoder, clip, controlnet, depth, judge, prior, zero123
from .data import DOMAINS, PICTURES, Views, and_mirrored, choose, identity, load_records, load_views, on_white, origin, render_world, unrendered, write_pictures
from .loop import digest
from .records import Record, digest_files, forget_places, has_changed

logger = logging.getLogger(__name__)
WEIGHTS = Path(__file__).parent / "weights"
CACHE = Path(os.environ.get("INGEN3D_CACHE", Path.home() / ".cache" / "ingen3d")) / "kiln"
OBJECTS = dict.fromkeys(DOMAINS, (1200, 3, 0)) | {"toon": (720, 3, 0), "base": (20160, 2, 1), "around": (1920, 0, 12)}  # objects, photo views, wide views
STEPS = {"autoencoder": 5000, "decoder": 3000, "clip": 600, "prior": 28000, "porcelain": 13000, "face": 1000, "animal": 1000,
         "toon": 1000, "zero123": 13500, "depth": 6000, "controlnet": 1000, "judge": 5000}
DOMAIN = dict.fromkeys(DOMAINS, {"learning_rate": 5e-4, "lr_scheduler": "cosine", "ema_decay": 0.999})  # how domains are learned
DOMAIN["face"] = DOMAIN["face"] | {
    "negative_prompt": "a head",  # else a hat is lost beside what tells heads from all else
    "arc_deg": 80.0,  # farther than 40 degrees from a picture's own view it would make a second face
}
GPU_BATCH = 16  # times as many views a step on a GPU, which fewer leave idle; 4 times for domains, whose pictures are few
SHOWN = 8  # images on a sample sheet, or pairs


@dataclass(frozen=True)
class Recipe:
    """What a kiln may be fired by, and `budget` compares; the defaults are what ships. factor: the autoencoder's f, 4 or 8, at which 16
    channels make as many numbers as 4 at 4. layers: of a block of the UNet."""

    factor: int = autoencoder.FACTOR
    latent_channels: int = autoencoder.LATENT_CHANNELS
    layers: int = 1
    prediction_type: str = "v_prediction"


@dataclass(frozen=True)
class Stage:
    """What a stage depends on, views of worlds, folders of weights and code; and the folders of weights that it writes."""

    worlds: Sequence[str] = ()
    models: Sequence[str] = ()
    code: Sequence[ModuleType] = ()
    writes: Sequence[str] = ()


STAGES = {
    "data": Stage(),
    "autoencoder": Stage(PICTURES, (), (autoencoder,), ("prior/vae",)),
    "clip": Stage(("base",), (), (clip,), ("clip",)),
    "prior": Stage(("base",), ("prior/vae", "clip"), (prior,), ("prior/unet", "prior/text_encoder", "prior/tokenizer", "prior/scheduler")),
    **{name: Stage((name,), ("prior",), (), (f"domains/{name}",)) for name in DOMAINS},
    "toon": Stage(("toon",), ("prior",), (prior,), ("toon",)),
    "zero123": Stage(("base",), ("prior", "clip"), (prior, zero123), ("zero123",)),
    "depth": Stage(("around",), (), (depth,), ("depth",)),
    "controlnet": Stage(("base",), ("prior",), (prior, controlnet), ("controlnet",)),
    "judge": Stage(PICTURES, (), (judge,), ("judge",)),
}


class Kiln:
    """A stage reads what earlier stages left in `data`, `cache` and `weights`, trains, and writes its part of `weights`. data: CACHE/data by default."""

    def __init__(self, cache: Path = CACHE, device: str | None = None, scale: float = 1.0, quiet: bool = False, weights: Path = WEIGHTS,
                 data: Path | None = None, recipe: Recipe = Recipe()):
        self.cache, self.weights, self.quiet, self.renders, self.recipe = cache, weights, quiet, data or cache / "data", recipe
        self.device, self.scale = find_device(device), scale
        self.steps = {k: max(2, round(v * scale)) for k, v in STEPS.items()}
        self.times = GPU_BATCH if self.device.type == "cuda" else 1

    def run(self, stage: str) -> None:
        """One of STAGES, unless it is finished: what it has left is there, and it was made from what there is now.

        CACHE/stages/STAGE.json says that, and the seconds that the stage took, by device. Raises UserError where another must come first.
        """
        self.check_order(stage)
        record, now = self.record(stage), self.depends(stage)
        if record.is_finished(now, partial(self.made, stage)):
            logger.info("%s is finished", stage)
            return
        if stage != "data" and not record.is_of(now):
            for folder in (stage, *{"autoencoder": ["decoder"], "clip": ["tokenizer"]}.get(stage, [])):
                shutil.rmtree(self.cache / folder, ignore_errors=True)  # before the record says otherwise: killed in between, it starts anew again
        record.begin(now)
        fire = partial(self.domain, stage) if stage in DOMAINS else getattr(self, stage)
        machine = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else f"{os.cpu_count()} CPU cores"
        with record.clock(machine):
            fire()
            forget_places(self.weights)
            record.finish(self.made(stage))
        logger.info("%s took %.0f s in all", stage, record.seconds)

    def record(self, stage: str) -> Record:
        return Record(self.cache / "stages" / f"{stage}.json")

    def check_order(self, stage: str) -> None:
        """Raises UserError where a model that a stage starts from has not been made; warns of worlds that are rendered in part."""
        for world in STAGES[stage].worlds:
            if lacking := unrendered(self.renders / world, OBJECTS[world][0]):
                logger.warning("%d shards of %s are not rendered: when they are, %s starts anew", lacking, world, stage)
        for model in STAGES[stage].models:
            for name, earlier in STAGES.items():
                missing = [part for part in earlier.writes if Path(part).is_relative_to(model) and not (self.weights / part).is_dir()]
                if missing:
                    raise UserError(f"{stage} needs {missing[0]}, which is not in {self.weights}: run `python scripts/fire_kiln.py {name}` first")

    def depends(self, stage: str) -> dict:
        """What tells a run of a stage from others. inputs: its data, models and architecture; steps; code: the source of its recipe."""
        if stage == "data":
            return {"inputs": digest({w: [origin(w, photo, wide, n, 0), n] for w, (n, photo, wide) in OBJECTS.items()}), "steps": None, "code": ""}
        needs = STAGES[stage]
        views, models = [identity(self.renders / world) for world in needs.worlds], digest_files([self.weights / name for name in needs.models])
        place = [vars(self.recipe)] if stage in ("autoencoder", "prior") else []
        if stage in DOMAINS:
            place = [self.preset(), self.precision(), self.domain_batch(), DOMAIN[stage]]
        steps = [v for k, v in self.steps.items() if k == stage or (stage, k) == ("autoencoder", "decoder")]
        return {"inputs": digest(views, models, place), "steps": steps, "code": digest([inspect.getsource(module) for module in needs.code])}

    def made(self, stage: str) -> str:
        """What tells a stage's results from others; "" where they are missing."""
        if stage == "data":
            return digest({w: identity(folder) if any((folder := self.renders / w).glob("shard-*.json")) else "" for w in OBJECTS})
        return digest_files([self.weights / name for name in STAGES[stage].writes])

    def sizes(self) -> dict[str, float]:
        """MiB of each model, and of all together."""
        parts = {name for stage in STAGES.values() for name in stage.writes}
        sizes = {name: sum(file.stat().st_size for file in (self.weights / name).rglob("*.safetensors")) / 2**20 for name in sorted(parts)}
        return {name: round(size, 1) for name, size in (sizes | {"all": sum(sizes.values())}).items() if size}

    def views(self, *worlds: str, split: str = "train") -> Views:
        return load_views([self.renders / world for world in worlds], split)

    def data(self) -> None:
        for world, (objects, photo, wide) in OBJECTS.items():
            render_world(self.renders / world, world, objects, photo, wide, quiet=self.quiet)

    def pictures(self, world: str) -> Path:
        """A domain as a user would have it: a folder of PNG files, no captions."""
        folder, made_from = self.cache / f"{world}-images", identity(self.renders / world)
        mark = folder.with_suffix(".txt")
        if not folder.exists() or has_changed(mark, made_from):
            shutil.rmtree(folder, ignore_errors=True)
            write_pictures(self.views(world).images, folder)
            write_atomically(made_from, mark)
        return folder

    def autoencoder(self) -> None:
        worlds = {world: self.views(world) for world in PICTURES}
        settings = dict(times=self.times, made_from=digest([identity(self.renders / world) for world in PICTURES]), quiet=self.quiet)
        vae = autoencoder.train(worlds, self.cache / "autoencoder", self.device, self.steps["autoencoder"], self.recipe.factor,
                                self.recipe.latent_channels, **settings)
        vae = autoencoder.finish(vae, worlds, self.cache / "decoder", self.device, self.steps["decoder"], **settings)
        vae = vae.to(memory_format=torch.contiguous_format)
        autoencoder.standardise(vae, np.concatenate([views.images[::7][:300] for views in worlds.values()]), self.device)
        vae.to(torch.float16).save_pretrained(self.weights / "prior" / "vae")

    def load_vae(self) -> AutoencoderKL:
        return AutoencoderKL.from_pretrained(self.weights / "prior" / "vae", torch_dtype=torch.float32).to(self.device).eval()

    def load_prior(self) -> StableDiffusionPipeline:
        pipe = StableDiffusionPipeline.from_pretrained(self.weights / "prior", torch_dtype=torch.float32, safety_checker=None)
        return pipe.to(self.device)

    def tokenizer(self) -> CLIPTokenizer:
        """Learned of the captions once and kept: another time words of equal counts may get other numbers."""
        folder, made_from = self.cache / "tokenizer", identity(self.renders / "base")
        mark = folder / "made_from.txt"
        if has_changed(mark, made_from):
            clip.new_tokenizer([r["caption"] for r in load_records(self.renders / "base")]).save_pretrained(folder)
            write_atomically(made_from, mark)
        return CLIPTokenizer.from_pretrained(folder)

    def clip(self) -> None:
        tokenizer = self.tokenizer()
        model = clip.train(self.views("base"), tokenizer, self.cache / "clip", self.device, self.steps["clip"], identity(self.renders / "base"), self.quiet)
        model.half().save_pretrained(self.weights / "clip")
        tokenizer.save_pretrained(self.weights / "clip")
        clip.new_processor().save_pretrained(self.weights / "clip")

    def latents(self, world: str) -> torch.Tensor:
        """Cached latents of all of a world's views, and of their mirror images: (2, N, C, h, w) fp16."""
        file, vae = self.cache / f"{world}-latents.pt", self.load_vae()
        made_from = digest(identity(self.renders / world), fingerprint(vae), vae.config.scaling_factor, "and mirrored")
        kept = torch.load(file, weights_only=True) if file.exists() else {}
        if kept.get("made_from") != made_from:
            both = [autoencoder.encode_all(vae, images, self.device, self.quiet) for images in and_mirrored(self.views(world).images)]
            kept = {"latents": torch.stack(both), "made_from": made_from}
            save_atomically(kept, file)
        return kept["latents"]

    def photos(self, world: str) -> tuple[list[int], list[str], torch.Tensor]:
        """Those of a world's views that people might take: which they are (N,), and captions and latents (2 N, C, h, w) of them and their mirror images."""
        records = load_records(self.renders / world)
        rows = [i for i, r in enumerate(records) if r["photo"]]
        return rows, 2 * [records[i]["caption"] for i in rows], self.latents(world)[:, rows].flatten(0, 1)

    def sheet(self, name: str, captions: Sequence[str], tokenizer: CLIPTokenizer, scheduler: DDPMScheduler):
        """For `fit`: pictures of a prior in training, of captions from all over the world."""
        vae, prompts = self.load_vae(), [captions[i] for i in choose(len(captions), SHOWN)]

        def sample(modules: nn.ModuleDict, step: int) -> None:
            self.draw(name, step, InDomainPipeline(vae, modules["text_encoder"], tokenizer, modules["unet"], new_sampler(scheduler)), prompts)

        return sample

    def draw(self, name: str, step: int, pipe: InDomainPipeline, prompts: list[str], above: Sequence[Image.Image] = (), **settings) -> None:
        """A sample sheet into a stage's folder: images of prompts, one below each of the pictures `above`."""
        pipe.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
        images = pipe(prompts, generator=generators, num_inference_steps=10, guidance_scale=4.0, **settings).images
        contact_sheet([*above, *images], columns=len(prompts)).save(self.cache / name / f"sample-{step:06d}.png")

    def prior(self) -> None:
        _, captions, latents = self.photos("base")
        tokenizer = CLIPTokenizer.from_pretrained(self.weights / "clip")
        text_encoder = CLIPTextModel.from_pretrained(self.weights / "clip", torch_dtype=torch.float32)
        torch.manual_seed(0)
        unet, scheduler = prior.new_unet(self.recipe.factor, self.recipe.latent_channels, self.recipe.layers), prior.new_scheduler(self.recipe.prediction_type)
        modules = prior.train(latents, captions, text_encoder, tokenizer, self.cache / "prior", self.device, self.steps["prior"], unet, scheduler,
                              batch_size=prior.BATCH * self.times, sample=self.sheet("prior", captions, tokenizer, scheduler), quiet=self.quiet)
        unet = modules["unet"].to(memory_format=torch.contiguous_format)
        pipe = StableDiffusionPipeline(self.load_vae(), modules["text_encoder"], tokenizer, unet, scheduler,
                                       safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        pipe.to(torch.float16).save_pretrained(self.weights / "prior")
        tokenizer.backend_tokenizer.model.save(str(self.weights / "prior" / "tokenizer"))  # as the transformers that threestudio pins reads it

    def toon(self) -> None:
        """The prior's UNet fine-tuned on another style; all else of the customised prior is the prior's."""
        _, captions, latents = self.photos("toon")
        pipe = self.load_prior()
        modules = prior.train(latents, captions, pipe.text_encoder.requires_grad_(False), pipe.tokenizer, self.cache / "toon", self.device,
                              self.steps["toon"], pipe.unet, pipe.scheduler, 3e-4, prior.BATCH * self.times,
                              sample=self.sheet("toon", captions, pipe.tokenizer, pipe.scheduler), quiet=self.quiet)
        modules["unet"].to(torch.float16, memory_format=torch.contiguous_format).save_pretrained(self.weights / "toon" / "unet")

    def preset(self) -> str:
        """What domains are trained over: by this name they go on where they were."""
        return "kiln" if self.weights.resolve() == WEIGHTS.resolve() else str(self.weights / "prior")

    def precision(self) -> str:
        return "bf16" if is_fast_in_bf16(self.device) else "no"

    def domain_batch(self) -> int:
        return 16 * min(self.times, 4)

    def domain(self, name: str) -> None:
        """`scripts/train_domain.py` itself, on a folder of pictures."""
        from ..training.domain import FEATURE_STEPS, train_domain

        train_domain(name, self.pictures(name), preset=self.preset(), prior="kiln", out=self.weights / "domains" / name, work=self.cache / name,
                     steps=self.steps[name], feature_steps=min(FEATURE_STEPS, self.steps[name]), sample_every=max(250, self.steps[name] // 8),
                     batch_size=self.domain_batch(), lr_warmup_steps=min(100, self.steps[name] // 10), **DOMAIN[name],
                     dtype=torch.float16, mixed_precision=self.precision(), licence="apache-2.0", device=self.device, quiet=self.quiet)

    def zero123(self) -> None:
        records, folder, vae = load_records(self.renders / "base"), self.weights / "zero123", self.load_vae()
        latents, pipe = self.latents("base").flatten(0, 1), self.load_prior()
        vision = CLIPVisionModelWithProjection.from_pretrained(self.weights / "clip", torch_dtype=torch.float32).to(self.device).eval()
        images = self.views("base").images
        embeds = torch.cat([zero123.embed_images(vision, each, self.device) for each in and_mirrored(images)])
        reference, target = zero123.pairs(records)
        shown = (reference != target).nonzero()[:, 0]
        reference, target = (rows[shown[choose(len(shown), SHOWN)]] for rows in (reference, target))
        given = to_pil(on_white(images[torch.cat([reference, target])]))
        pose = zero123.pose_of(records, target, reference).to(self.device)

        def sample(modules: nn.ModuleDict, step: int) -> None:
            """Reference views, the targets, and these as they are seen by the model."""
            z, seen_as = latents[reference].to(self.device).float(), embeds[reference].to(self.device)
            z = zero123.novel_views(modules, pipe.scheduler, z, seen_as, pose, vae.config.scaling_factor)
            seen = to_pil(vae.decode(z / vae.config.scaling_factor).sample)
            contact_sheet([*given, *seen], columns=len(seen)).save(self.cache / "zero123" / f"sample-{step:06d}.png")

        del images
        records += zero123.mirrored(records)
        modules = zero123.train(latents, embeds, records, pipe.unet, pipe.scheduler, vae.config.scaling_factor, self.cache / "zero123", self.device,
                                self.steps["zero123"], zero123.BATCH * self.times, made_from=fingerprint(vision), sample=sample, quiet=self.quiet)
        modules["unet"].to(torch.float16, memory_format=torch.contiguous_format).save_pretrained(folder / "unet")
        zero123.save_projection(modules["cc_projection"], folder / "cc_projection")
        vision.half().save_pretrained(folder / "image_encoder")
        clip.new_processor().save_pretrained(folder / "feature_extractor")
        pipe.scheduler.save_pretrained(folder / "scheduler")

    def depth(self) -> None:
        views, folder, made_from = self.views("around"), self.cache / "depth", identity(self.renders / "around")
        folder.mkdir(parents=True, exist_ok=True)  # which goes when the stage starts anew, and the distances with it
        kept = cached(folder / "distances.safetensors", lambda: {"distances": depth.distances("around", views.records, self.quiet)})
        distances, shown = kept["distances"], choose(len(views.records), SHOWN)
        pictures, true = on_white(views.images[shown], self.device), distances[shown].float()

        def sample(model: nn.Module, step: int) -> None:
            """Views, how near their points are, and how near they are by the model."""
            found = model(pictures).predicted_depth.float().cpu() * (true > 0)
            maps = torch.cat([depth.inverse(true) * (true > 0), found])[:, None].expand(-1, 3, -1, -1)
            contact_sheet([*to_pil(pictures), *to_pil(maps * 2 - 1)], columns=SHOWN).save(folder / f"sample-{step:06d}.png")

        model = depth.train(views, distances, folder, self.device, self.steps["depth"], made_from, depth.BATCH * self.times, sample=sample, quiet=self.quiet)
        model.to(torch.float16, memory_format=torch.contiguous_format).save_pretrained(self.weights / "depth")
        depth.new_processor().save_pretrained(self.weights / "depth")

    def controlnet(self) -> None:
        rows, captions, latents = self.photos("base")
        images = self.views("base").images
        edges = controlnet.edge_maps(Image.fromarray(images[i]) for i in rows)
        edges = torch.cat([edges, edges.flip(-1)])
        del images
        pipe, shown = self.load_prior(), choose(len(rows), SHOWN)
        pictures = controlnet.as_picture(edges[shown])

        def sample(net: nn.Module, step: int) -> None:
            """Edges, and the prior's pictures along them."""
            drawer = InDomainPipeline(pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.unet, new_sampler(pipe.scheduler))
            self.draw("controlnet", step, drawer, [captions[i] for i in shown], to_pil(pictures * 2 - 1), controls=[drawer.control(net, pictures)])

        net = controlnet.train(latents, edges, captions, pipe, self.cache / "controlnet", self.device, self.steps["controlnet"],
                               controlnet.BATCH * self.times, sample=sample, quiet=self.quiet)
        net.to(torch.float16, memory_format=torch.contiguous_format).save_pretrained(self.weights / "controlnet")

    def judge(self) -> None:
        made_from = digest([identity(self.renders / world) for world in PICTURES])
        model = judge.train(self.views(*PICTURES), self.cache / "judge", self.device, self.steps["judge"], made_from, judge.BATCH * self.times, self.quiet)
        model = model.cpu().to(memory_format=torch.contiguous_format)
        model.save(self.weights / "judge" / "model.safetensors")
        scores = {world: judge.accuracy(model, self.views(world, split="test")) for world in PICTURES}
        write_atomically(json.dumps(scores, indent=2), self.weights / "judge" / "accuracy.json")
        logger.info("judge: %s", scores)
