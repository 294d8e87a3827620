"""Firing the kiln: the stages from nothing to the weights that ship with the package."""

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from ..checkpoints import fingerprint, save_atomically, write_atomically
from ..devices import find_device
from . import autoencoder, clip, controlnet, judge, prior, zero123
from .data import Views, load_views, render_world, write_pictures
from .loop import digest

logger = logging.getLogger(__name__)
WEIGHTS = Path(__file__).parent / "weights"
CACHE = Path(os.environ.get("INGEN3D_CACHE", Path.home() / ".cache" / "ingen3d")) / "kiln"
STAGES = ("data", "autoencoder", "clip", "prior", "porcelain", "zero123", "controlnet", "judge")
OBJECTS = {"base": (1008, 3, 2), "porcelain": (384, 6, 0)}  # objects, photo views, wide views
STEPS = {"autoencoder": 2900, "decoder": 1900, "clip": 250, "prior": 4400, "porcelain": 2750, "zero123": 2800, "controlnet": 1500,
         "judge": 1500}


def has_changed(mark: Path, made_from: str) -> bool:
    """Whether what a file marks was made from something else, or not at all."""
    return not mark.exists() or mark.read_text() != made_from


class Kiln:
    """A stage reads what earlier stages left in `cache` and `weights`, trains, and writes its part of `weights`."""

    def __init__(self, cache: Path = CACHE, device: str | None = None, scale: float = 1.0, quiet: bool = False, weights: Path = WEIGHTS):
        self.cache, self.weights, self.quiet = cache, weights, quiet
        self.device = find_device(device)
        self.steps = {k: max(2, round(v * scale)) for k, v in STEPS.items()}

    def views(self, world: str, split: str = "train"):
        return load_views(self.cache / "data" / world, split)

    def data(self) -> None:
        for world, (objects, photo, wide) in OBJECTS.items():
            render_world(self.cache / "data" / world, world, objects, photo, wide, quiet=self.quiet)
        self.porcelain_folder()

    def porcelain_folder(self) -> Path:
        """The porcelain domain as a user would have it: a folder of PNG files, no captions."""
        folder, images = self.cache / "porcelain-images", self.views("porcelain").images
        mark, made_from = folder.with_suffix(".txt"), digest(images)
        if not folder.exists() or has_changed(mark, made_from):
            shutil.rmtree(folder, ignore_errors=True)
            write_pictures(images, folder)
            write_atomically(made_from, mark)
        return folder

    def autoencoder(self) -> None:
        views = self.views("base"), self.views("porcelain")
        vae = autoencoder.train(*views, self.cache / "autoencoder", self.device, self.steps["autoencoder"], self.quiet)
        vae = autoencoder.finish(vae, *views, self.cache / "decoder", self.device, self.steps["decoder"], self.quiet)
        vae = vae.to(memory_format=torch.contiguous_format)
        sample = np.concatenate([self.views(w).images[::7][:300] for w in OBJECTS])
        spread = autoencoder.encode_all(vae, sample, self.device).std()
        vae.register_to_config(scaling_factor=round(float(vae.config.scaling_factor / spread), 4))  # the same on any machine
        vae.to(torch.float16).save_pretrained(self.weights / "prior" / "vae")
        vae.float()
        for world in OBJECTS:
            logger.info("autoencoder: %.2f dB on held-out %s views", autoencoder.psnr(vae, self.views(world, "test"), self.device), world)

    def load_vae(self) -> AutoencoderKL:
        return AutoencoderKL.from_pretrained(self.weights / "prior" / "vae", torch_dtype=torch.float32).to(self.device).eval()

    def clip(self) -> None:
        model, tokenizer = clip.train(self.views("base"), self.cache / "clip", self.device, self.steps["clip"], self.quiet)
        model.half().save_pretrained(self.weights / "clip")
        tokenizer.save_pretrained(self.weights / "clip")
        clip.new_processor().save_pretrained(self.weights / "clip")

    def latents(self) -> torch.Tensor:
        """Cached latents of all base views, then of their mirror images: (2 N, C, 16, 16)."""
        file, images, vae = self.cache / "latents.pt", self.views("base").images, self.load_vae()
        made_from = digest(images, fingerprint(vae), vae.config.scaling_factor)
        kept = torch.load(file, weights_only=True) if file.exists() else {}
        if not isinstance(kept, dict) or kept.get("made_from") != made_from:
            both = [autoencoder.encode_all(vae, x, self.device).cpu() for x in (images, images[:, :, ::-1])]
            kept = {"latents": torch.cat(both), "made_from": made_from}
            save_atomically(kept, file)
        return kept["latents"]

    def photos(self) -> tuple[Views, torch.Tensor]:
        """The N base views that people might take, and the latents of these and then of their mirror images: (2 N, C, 16, 16)."""
        views = self.views("base")
        photo = torch.tensor([r["photo"] for r in views.records] * 2)
        return views.where(lambda r: r["photo"]), self.latents()[photo]

    def prior(self) -> None:
        views, latents = self.photos()
        captions = [r["caption"] for r in views.records] * 2
        tokenizer = CLIPTokenizer.from_pretrained(self.weights / "clip")
        text_encoder = CLIPTextModel.from_pretrained(self.weights / "clip", torch_dtype=torch.float32)
        modules = prior.train(latents, captions, text_encoder, tokenizer, self.cache / "prior", self.device,
                              self.steps["prior"], quiet=self.quiet)
        unet = modules["unet"].to(memory_format=torch.contiguous_format)
        pipe = StableDiffusionPipeline(self.load_vae(), modules["text_encoder"], tokenizer, unet, prior.new_scheduler(),
                                       safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        pipe.to(torch.float16).save_pretrained(self.weights / "prior")
        tokenizer.backend_tokenizer.model.save(str(self.weights / "prior" / "tokenizer"))  # as the transformers that threestudio pins reads it

    def porcelain(self) -> None:
        """`scripts/train_domain.py` itself, on a folder of pictures; begun on others, or over another prior, it starts anew."""
        from ..training.domain import train_domain

        preset = "kiln" if self.weights.resolve() == WEIGHTS.resolve() else str(self.weights / "prior")
        work, pictures = self.cache / "porcelain", self.porcelain_folder()
        unet = UNet2DConditionModel.from_pretrained(self.weights / "prior" / "unet", torch_dtype=torch.float32)
        made_from = digest(pictures.with_suffix(".txt").read_text(), fingerprint(unet, self.load_vae()), preset, str(pictures.resolve()))
        mark = work.with_suffix(".txt")
        if has_changed(mark, made_from):
            shutil.rmtree(work, ignore_errors=True)  # before the mark says otherwise: killed in between, it starts anew again
            write_atomically(made_from, mark)
        train_domain("porcelain", pictures, preset=preset, prior="kiln", out=self.weights / "domains" / "porcelain",
                     work=work, steps=self.steps["porcelain"], learning_rate=3e-4, snr_gamma=prior.MAX_SNR, ema_decay=0.999,
                     batch_size=16, dtype=torch.float16, licence="apache-2.0", device=self.device, quiet=self.quiet)

    def zero123(self) -> None:
        records, folder = self.views("base").records, self.weights / "zero123"
        vision = CLIPVisionModelWithProjection.from_pretrained(self.weights / "clip", torch_dtype=torch.float32).to(self.device).eval()
        embeds = zero123.embed_images(vision, clip.small(self.views("base").images), self.device).cpu()
        vae = self.load_vae()
        pipe = StableDiffusionPipeline.from_pretrained(self.weights / "prior", torch_dtype=torch.float32, safety_checker=None)
        modules = zero123.train(self.latents()[: len(records)], embeds, records, pipe.unet, vae.config.scaling_factor,
                                self.cache / "zero123", self.device, self.steps["zero123"], made_from=fingerprint(vision), quiet=self.quiet)
        modules["unet"].to(torch.float16, memory_format=torch.contiguous_format).save_pretrained(folder / "unet")
        zero123.save_projection(modules["cc_projection"], folder / "cc_projection")
        vision.half().save_pretrained(folder / "image_encoder")
        clip.new_processor().save_pretrained(folder / "feature_extractor")
        prior.new_scheduler().save_pretrained(folder / "scheduler")

    def controlnet(self) -> None:
        views, latents = self.photos()
        edges = controlnet.edge_maps(map(Image.fromarray, views.images))
        pipe = StableDiffusionPipeline.from_pretrained(self.weights / "prior", torch_dtype=torch.float32, safety_checker=None)
        net = controlnet.train(latents, torch.cat([edges, edges.flip(-1)]), [r["caption"] for r in views.records] * 2, pipe,
                               self.cache / "controlnet", self.device, self.steps["controlnet"], quiet=self.quiet)
        net.to(torch.float16, memory_format=torch.contiguous_format).save_pretrained(self.weights / "controlnet")

    def judge(self) -> None:
        worlds = [self.views(w) for w in OBJECTS]
        model = judge.train(worlds, self.cache / "judge", self.device, self.steps["judge"], self.quiet).cpu()
        model.save(self.weights / "judge" / "model.safetensors")
        scores = {w: judge.accuracy(model, self.views(w, "test")) for w in OBJECTS}
        (self.weights / "judge" / "accuracy.json").write_text(json.dumps(scores, indent=2))
        logger.info("judge: %s", scores)
