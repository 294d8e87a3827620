"""What is compared: the prior, checkpoints that other methods made of it, and ours, trained on the same pictures for as long, and how each makes images."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from ..errors import UserError
from ..null_text import NullTextUNet
from ..pipeline import InDomainPipeline
from ..presets import BASELINE
from ..sample import load
from ..terms import Control
from ..training.domain import FEATURE_STEPS, train_domain

TITLES = {"prior": "Prior", "textual-inversion": "Textual Inversion", "custom-diffusion": "Custom Diffusion", "oft": "OFT",
          "fine-tuning": "Fine-tuning", "lora": "Fine-tuning + LoRA", "ours": "Ours"}  # the rows of Table 1, below the prior
Sampler = Callable[..., torch.Tensor]  # (texts such as "a vase" or None, how many, controls, **settings of the pipeline's call) -> (B, 3, H, W) in [0, 1]


@dataclass(frozen=True)
class Contender:
    """folder: its model's. weights: what tells them from others. parameters: how many were trained. steps: for how many.

    negative_prompt: in eps_0 beside a text, what all of the domain's pictures show.
    """

    name: str
    folder: str
    weights: str
    parameters: int
    steps: int
    negative_prompt: str = field(default="", kw_only=True)

    @property
    def identity(self) -> dict:
        """All that its images follow from, wherever its folder is."""
        return {key: value for key, value in asdict(self).items() if key not in ("name", "folder", "parameters", "steps")}


@dataclass(frozen=True)
class Customised(Contender):
    """The prior itself, or a checkpoint that was made of it. prompt: what it says for anything of the domain. phrase: how it says a text."""

    prompt: str
    phrase: str
    rectify: bool = False

    def sampler(self, prior: InDomainPipeline, preset: str) -> Sampler:
        """Classifier-free guidance as the checkpoint's users have it, with eps_0 its own, or the prior's (`rectify`, Sec. 4.5).

        Weights and interval are the preset's: w_d without a text, w0 with one or with a control. Over the kiln ours has the preset's w_d and w_c then,
        which add up to more; where they add up to w0 is a point of its curve over w_d : w_c.
        """
        model, config = load(self.folder, device=prior.device, vae=prior.vae), prior.config

        def sample(texts: Sequence[str] | None, batch: int, controls: Sequence[Control], **settings) -> torch.Tensor:
            said = [self.prompt] * batch if texts is None else [self.phrase.replace("{prompt}", text) for text in texts]
            scale = config.unconditional_scale if texts is None and not controls else config.guidance_scale
            negative = "" if texts is None else self.negative_prompt
            term = model.term(said, scale, negative, controls, compose_prompt=False)
            return prior(None, negative_prompt=negative, num_images_per_prompt=batch, terms=[term], rectify=self.rectify,
                         guidance_interval=tuple(config.guidance_interval), output_type="pt", **settings).images

        return sample


@dataclass(frozen=True)
class InDomain(Contender):
    """Ours: the prior and a null-text UNet. domain_scale, control_scale: w_d and w_c, the preset's by default."""

    domain_scale: float | None = None
    control_scale: float | None = None

    def sampler(self, prior: InDomainPipeline, preset: str) -> Sampler:
        """The domain's term, and the prior's with the text or the control, which then has no text."""
        pipe = load(preset, self.folder, prior.device)
        pipe.set_progress_bar_config(disable=True)
        scales = {} if self.domain_scale is None else {"domain_scale": self.domain_scale, "control_scale": self.control_scale}

        def sample(texts: Sequence[str] | None, batch: int, controls: Sequence[Control], **settings) -> torch.Tensor:
            if texts is None:
                weights = scales if controls else {}
                return pipe(None, num_images_per_prompt=batch, controls=controls, output_type="pt", **weights, **settings).images
            said = [f"a photo of {text}" for text in texts]
            return pipe(said, negative_prompt=self.negative_prompt, controls=controls, output_type="pt", **scales, **settings).images

        return sample


def train(method: str, name: str, data: Path, folder: Path, steps: int, keep_at: Sequence[int], **settings) -> dict[int, Path]:
    """steps -> the model's folder after so many batches in all, of the last and of `keep_at`. Goes on where it was; `accelerate launch` shares the work.

    settings: of the training, the same for all methods: preset, batch_size, ema_decay, mixed_precision, seed, device, quiet.
    """
    common = settings | dict(work=folder / f"{method}.work", latents=folder / "latents")
    out = {step: folder / f"{method}-step-{step:06d}" for step in keep_at if step != steps} | {steps: folder / method}
    if method != "ours":
        from ..training.baselines import train_baseline

        if not all((path / BASELINE).exists() for path in out.values()):
            train_baseline(method, name, data, out=out[steps], steps=steps, keep_at=[step for step in out if step != steps], **common)
        return out
    feature_steps = min(FEATURE_STEPS, min(out) // 2)  # our text feature's own steps come out of the same budget
    for step, path in sorted(out.items()):  # a longer training goes on where a shorter one in the same folder ended
        if not (path / "domain.json").exists():
            train_domain(name, data, out=path, steps=step - feature_steps, feature_steps=feature_steps, **common)
    return out


def describe(method: str, folder: Path) -> dict:
    """What a trained model's folder says: weights, parameters and, of a checkpoint, how it is spoken to. Raises UserError where it lacks that."""
    if method == "ours":
        unet = NullTextUNet.from_pretrained(folder / "unet")
        return {"weights": digest_files(folder), "parameters": sum(p.numel() for p in unet.parameters())}
    try:
        record = json.loads((folder / BASELINE).read_text())
        return {"weights": digest_files(folder), "parameters": record["parameters"], "prompt": record["prompt"], "phrase": record["phrase"]}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"'{folder}' holds no baseline: its baseline.json is missing or lacks {error}; delete it and {method}.work to train it anew") from error


def model_files(folder: Path) -> list[Path]:
    """The weights and vocabularies in a folder."""
    return sorted(path for path in folder.rglob("*") if path.suffix == ".safetensors" or path.parent.name == "tokenizer")


def stamp(folder: Path) -> list[tuple]:
    """What tells the files of a model from those of one trained anew, without reading them."""
    return [(str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns) for file in model_files(folder)]


def digest_files(folder: Path) -> str:
    """A short hash of a model's files, read part by part."""
    digest = hashlib.sha256()
    for file in model_files(folder):
        digest.update(str(file.relative_to(folder)).encode())
        with open(file, "rb") as stream:
            while part := stream.read(1 << 24):
                digest.update(part)
    return digest.hexdigest()[:16]
