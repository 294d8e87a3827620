"""Zero-1-to-3 as a noise predictor: what an object looks like from another camera (Liu et al. 2023).

The folder layout is the diffusers one of `kxic/zero123-xl`: unet, vae, image_encoder, cc_projection, scheduler, feature_extractor.
A folder may leave out the vae, which is Stable Diffusion's: the prior's takes its place. safetensors are taken where there are any;
zero123-xl on the Hub has pickles alone (Neural_Gaffer's issue 12), which today's diffusers and transformers read with `weights_only=True`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from huggingface_hub import hf_hub_download
from transformers import CLIPVisionModelWithProjection

from core.errors import UserError
from core.guidance import MultiGuidance
from core.presets import wanted
from core.sampling import denoise
from core.zero123 import CCProjection, guided, relative_pose

from .cameras import Cameras

PARTS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "image_encoder": CLIPVisionModelWithProjection, "cc_projection": CCProjection}


@dataclass
class Condition:
    """What Zero-1-to-3 knows of the reference picture."""

    embedding: torch.Tensor  # (1, d_clip)
    latents: torch.Tensor  # (1, C, h, w), mode of the VAE's posterior, NOT scaled
    camera: Cameras


@dataclass
class Zero123:
    """The models of a Zero-1-to-3 folder and what is asked of them."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    image_encoder: CLIPVisionModelWithProjection
    cc_projection: CCProjection
    scheduler: DDIMScheduler
    clip_size: int
    clip_mean: torch.Tensor  # (1, 3, 1, 1)
    clip_std: torch.Tensor

    @classmethod
    def from_pretrained(cls, name: str | Path, device="cpu", dtype=torch.float32, vae: AutoencoderKL | str | None = None) -> "Zero123":
        """From a folder or a Hub id. vae: the prior's, or the prior's folder, where there is none. Raises UserError naming the part it lacks."""
        name = str(name)
        with wanted(name, "feature_extractor"):
            clip = json.loads(hub_file(name, "feature_extractor/preprocessor_config.json").read_text())  # its class is not needed: the image is a tensor
        models = {}
        for part, kind in PARTS.items():
            source = name
            if part == "vae" and Path(name).is_dir() and not (Path(name) / part).is_dir():
                if vae is None:
                    raise UserError(f"'{name}' has no vae/: give the prior's, Zero123.from_pretrained(name, vae=pipe.vae)")
                if isinstance(vae, AutoencoderKL):
                    models[part] = vae
                    continue
                source = vae
            with wanted(source, part):
                models[part] = kind.from_pretrained(source, subfolder=part, torch_dtype=dtype).to(device).eval()
        for model in models.values():
            model.requires_grad_(False)
        with wanted(name, "scheduler"):
            scheduler = DDIMScheduler.from_pretrained(name, subfolder="scheduler")
        mean, std = (torch.tensor(clip[key], device=device, dtype=dtype).view(1, 3, 1, 1) for key in ("image_mean", "image_std"))
        size = clip["size"]
        return cls(
            **models, scheduler=scheduler, clip_size=size["shortest_edge"] if isinstance(size, dict) else size, clip_mean=mean, clip_std=std
        )

    @torch.no_grad()
    def condition(self, image: torch.Tensor, camera: Cameras) -> Condition:
        """Look once at the reference picture (1, 3, H, W) in [-1, 1], taken by `camera` (a batch of one)."""
        small = F.interpolate(image.float(), (self.clip_size, self.clip_size), mode="bicubic", antialias=True, align_corners=False)
        embedding = self.image_encoder(((small.to(self.clip_mean) + 1) / 2 - self.clip_mean) / self.clip_std).image_embeds
        return Condition(embedding, self.vae.encode(image.to(self.clip_mean)).latent_dist.mode(), camera)

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] to scaled latents (B, C, h, w); differentiable."""
        return self.vae.encode(images.to(self.clip_mean)).latent_dist.mode() * self.vae.config.scaling_factor

    def noise_predictor(self, condition: Condition, cameras: Cameras, guidance_scale: float = 3.0) -> MultiGuidance:
        """The object of the reference picture, seen by B cameras: (z_t (B, C, h, w), t) -> eps; see `guided`."""
        batch = len(cameras)
        pose = relative_pose(cameras, condition.camera).to(condition.embedding)
        with torch.no_grad():
            token = self.cc_projection(torch.cat([condition.embedding.expand(batch, -1), pose], -1))[:, None]  # (B, 1, d)
        return guided(self.unet, self.scheduler, token, condition.latents, guidance_scale)

    @torch.no_grad()
    def sample(
        self, condition: Condition, cameras: Cameras, guidance_scale: float = 3.0, num_inference_steps: int = 50, generator=None
    ) -> torch.Tensor:
        """Pictures of the object from B cameras, (B, 3, H, W) in about [-1, 1]. generator: on the CPU."""
        shape = (len(cameras), *condition.latents.shape[1:])
        noise = torch.randn(shape, generator=generator).to(condition.latents)
        predict = self.noise_predictor(condition, cameras, guidance_scale).for_sampler(self.scheduler)
        latents = denoise(predict, self.scheduler, noise, num_inference_steps)
        return self.vae.decode(latents / self.vae.config.scaling_factor).sample


def hub_file(name: str, file: str) -> Path:
    """A file of a folder's or of the Hub's."""
    path = Path(name) / file
    if not Path(name).is_dir():
        return Path(hf_hub_download(name, file))
    if not path.is_file():
        raise OSError(f"no {file}")
    return path
