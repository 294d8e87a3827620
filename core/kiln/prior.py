"""The kiln's prior: a small Stable Diffusion, trained on captioned base views alone."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from ..training.text_feature import denoising_loss
from .autoencoder import FACTOR, LATENT_CHANNELS
from .clip import WIDTH, tokenize
from .loop import digest, fit, generator, make_fast

BATCH = 20
BLOCKS = {4: ((48, 96, 128, 112), (False, True, True, False)), 8: ((64, 128, 144), (True, True, False))}  # by f: widths down to 4 x 4, and which attend
NO_TEXT = 0.12  # share of captions left out, for the unconditional prediction


def new_unet(factor: int = FACTOR, latent_channels: int = LATENT_CHANNELS, layers: int = 1) -> UNet2DConditionModel:
    """Small enough for six of its kind to ship. factor: the autoencoder's f. layers: of a block."""
    widths, attends = BLOCKS[factor]
    return UNet2DConditionModel(
        sample_size=128 // factor, in_channels=latent_channels, out_channels=latent_channels, block_out_channels=widths, layers_per_block=layers,
        down_block_types=tuple("CrossAttnDownBlock2D" if each else "DownBlock2D" for each in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if each else "UpBlock2D" for each in attends[::-1]),
        cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=16,
    )


def new_scheduler(prediction_type: str) -> DDPMScheduler:
    """Stable Diffusion's noise schedule, but for its end: what noise leaves of a latent there, 7% of it, 2% here, tells where objects are and how bright.

    Samples, begun from noise alone and, by Stable Diffusion's timesteps, before that end, then get stained backgrounds (Lin et al. 2024).
    """
    return DDPMScheduler(beta_start=0.00085, beta_end=0.02, beta_schedule="scaled_linear", num_train_timesteps=1000, clip_sample=False, steps_offset=1,
                         timestep_spacing="trailing", prediction_type=prediction_type)


def train(latents: torch.Tensor, captions: list[str], text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, folder: Path,
          device: torch.device, steps: int, unet: UNet2DConditionModel, scheduler: DDPMScheduler, learning_rate: float = 8e-4,
          batch_size: int = BATCH, sample: Callable[[nn.Module, int], None] | None = None, quiet: bool = False) -> nn.ModuleDict:
    """Denoising loss on `latents` (N, C, h, w) with their captions; the text tower, begun as CLIP's, learns along where its weights may.

    All noise levels weigh alike. Min-SNR weighting leaves those below an SNR of 0.1, a third of all, 3% of the weight, and there it is decided what
    stands where.
    unet: new, or to learn on from. sample: as in `fit`. Returns {"unet", "text_encoder"}.
    """
    modules = nn.ModuleDict({"unet": unet.train(), "text_encoder": text_encoder}).to(device)
    make_fast(device, steps, unet, text_encoder)
    ids, empty = tokenize(tokenizer, captions), tokenize(tokenizer, [""])
    made_from = digest(latents, ids, batch_size, scheduler.config.prediction_type, scheduler.alphas_cumprod)
    latents, ids, empty = (x.to(device) for x in (latents, ids, empty))

    def loss(step):
        index = torch.randint(len(latents), (batch_size,), device=device)
        z, tokens = latents[index].float(), torch.where(torch.rand(batch_size, 1, device=device) < NO_TEXT, empty, ids[index])
        context = text_encoder(tokens).last_hidden_state
        predict = lambda z_t, t: unet(z_t.contiguous(memory_format=torch.channels_last), t, context).sample
        return {"loss": denoising_loss(predict, scheduler, z, generator(device))}

    return fit(modules, loss, steps, learning_rate, folder, made_from=made_from, recorded=True, sample=sample, quiet=quiet)
