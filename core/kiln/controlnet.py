"""The kiln's ControlNet: the prior's encoder once more, taught to draw along a picture's edges (Zhang et al. 2023)."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import nn

from ..checkpoints import fingerprint
from ..conditions import canny
from ..training.text_feature import denoising_loss
from .clip import tokenize
from .loop import digest, fit, generator, make_fast

BATCH = 16
NO_TEXT = 0.5  # share of captions left out, as in the paper: what a shape is has to be read off its edges too


def from_prior(unet: UNet2DConditionModel) -> ControlNetModel:
    """The prior's encoder, with half of the usual channels where pictures come in: three widths bring 128 px down to 32 x 32, four to 16 x 16."""
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 64, 128)[: (128 // unet.config.sample_size).bit_length()])
    for conv in (net.controlnet_cond_embedding.conv_in, *net.controlnet_cond_embedding.blocks):
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # by torch's own start thin edges fade to nothing in so many layers
        nn.init.zeros_(conv.bias)
    return net


def edge_maps(pictures: Iterable[Image.Image]) -> torch.Tensor:
    """`canny`'s edges of pictures of one size, transparency on white as in a user's picture: (N, H, W) bool."""
    return torch.from_numpy(np.stack([np.asarray(canny(picture))[..., 0] > 0 for picture in pictures]))


def as_picture(edges: torch.Tensor) -> torch.Tensor:
    """Edges (B, H, W) as a ControlNet reads them: (B, 3, H, W), 0 or 1."""
    return edges[:, None].float().expand(-1, 3, -1, -1)


def train(latents: torch.Tensor, edges: torch.Tensor, captions: list[str], prior: StableDiffusionPipeline, folder: Path,
          device: torch.device, steps: int, batch_size: int = BATCH, sample: Callable[[nn.Module, int], None] | None = None,
          quiet: bool = False) -> ControlNetModel:
    """The prior's own loss on `latents` (N, C, h, w) with their captions and edges (N, 128, 128); all of the prior stays as it is.

    sample: as in `fit`.
    """
    torch.manual_seed(0)
    unet, text_encoder = (part.to(device).eval().requires_grad_(False) for part in (prior.unet, prior.text_encoder))
    net = from_prior(unet).to(device)
    make_fast(device, steps, unet, net)
    scheduler = DDPMScheduler.from_config(prior.scheduler.config)
    ids, empty = tokenize(prior.tokenizer, captions), tokenize(prior.tokenizer, [""])
    made_from = digest(latents, edges, ids, batch_size, fingerprint(unet, text_encoder))
    latents, edges, ids, empty = (x.to(device) for x in (latents, edges, ids, empty))

    def loss(step):
        index = torch.randint(len(latents), (batch_size,), device=device)
        tokens = torch.where(torch.rand(batch_size, 1, device=device) < NO_TEXT, empty, ids[index])
        context, picture = text_encoder(tokens).last_hidden_state, as_picture(edges[index])

        def predict(z_t, t):
            z_t = z_t.contiguous(memory_format=torch.channels_last)
            down, mid = net(z_t, t, context, picture, return_dict=False)
            return unet(z_t, t, context, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample

        return {"loss": denoising_loss(predict, scheduler, latents[index].float(), generator(device))}

    return fit(net, loss, steps, 5e-4, folder, made_from=made_from, recorded=True, sample=sample, quiet=quiet)
