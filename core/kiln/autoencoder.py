"""The kiln's autoencoder: diffusers' `AutoencoderKL`, 128 px -> (4, 32, 32), or with f=8 and 16 channels (16, 16, 16)."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from tqdm import tqdm

from ..images import contact_sheet, to_pil
from .data import Views, on_white
from .loop import fit, make_fast

FACTOR = 4  # f: pixels to a latent, along a side; at 8 small UNets made shapes that wobble and patterns that are stains
WIDTHS = {8: (16, 32, 64, 128), 4: (16, 48, 96)}  # by f, of stages from full size down
LATENT_CHANNELS = 4  # as many numbers as 16 at f=8, by which porcelain had 29.4 dB; by these it has 32.6. Its lines are what is hard
KL_WEIGHT = 1e-5  # per latent dimension; 1e-2 ruins it
BATCH = {"base": 3, "porcelain": 3}  # whole views of a world a step, of others 1: porcelain's fine lines are what is hard
FINISH = {"porcelain": 3}  # and while the decoder learns alone, as they are what it still blurs
WHITENING = 0.5  # 0 leaves latents as they are, 1 has them white
FULL_SIZE = 0.7  # the share of training after which whole 128 px images take the place of crops


def new_autoencoder(factor: int = FACTOR, latent_channels: int = LATENT_CHANNELS) -> AutoencoderKL:
    widths = WIDTHS[factor]
    vae = AutoencoderKL(
        sample_size=128, latent_channels=latent_channels, block_out_channels=widths, layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * len(widths), up_block_types=("UpDecoderBlock2D",) * len(widths),
        mid_block_add_attention=factor == 8,  # among 32 x 32 places it costs a third of what the encoder's convolutions do
    )
    with torch.no_grad():  # a posterior of width 1, the default start, drowns what the encoder has to say
        vae.quant_conv.weight[latent_channels:].zero_()
        vae.quant_conv.bias[latent_channels:].fill_(-6)
    return vae


def batch(images: torch.Tensor, whole: bool, size: int) -> torch.Tensor:
    """Random views on white or (half of them) random backgrounds, flipped at random: (B, 3, 64 or 128, 64 or 128).

    Without `whole`, one half is 64 px crops (detail) and the other whole images at 64 px (shape): four times as many.
    """
    device = images.device
    rgba = images[torch.randint(len(images), (size if whole else 4 * size,), device=device)].permute(0, 3, 1, 2).float() / 255
    background = torch.where(torch.rand(len(rgba), 1, 1, 1) < 0.5, torch.rand(len(rgba), 3, 1, 1), 1.0).to(device)
    x = (rgba[:, :3] * rgba[:, 3:] + background * (1 - rgba[:, 3:])) * 2 - 1
    x = torch.where(torch.rand(len(x), 1, 1, 1, device=device) < 0.5, x.flip(-1), x)
    if whole:
        return x
    half = len(x) // 2
    corners = torch.randint(0, 65, (half, 2)).tolist()
    crops = torch.stack([img[:, i : i + 64, j : j + 64] for img, (i, j) in zip(x[:half], corners)])
    return torch.cat([crops, F.interpolate(x[half:], scale_factor=0.5, mode="area")])


def gradients(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def losses(vae: AutoencoderKL, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """MSE with a little L1 and gradient loss: L1 alone on white backgrounds learns no colour."""
    posterior = vae.encode(x).latent_dist
    y = vae.decode(posterior.sample()).sample
    mse = F.mse_loss(y, x)
    edges = sum(F.l1_loss(a, b) for a, b in zip(gradients(y), gradients(x)))
    kl = posterior.kl().sum() / posterior.mean.numel()
    return {"loss": mse + 0.05 * F.l1_loss(y, x) + 0.1 * edges + KL_WEIGHT * kl, "mse": mse.detach(), "kl": kl.detach()}


def train(worlds: dict[str, Views], folder: Path, device: torch.device, steps: int, factor: int = FACTOR, latent_channels: int = LATENT_CHANNELS,
          times: int = 1, made_from: str = "", quiet: bool = False) -> AutoencoderKL:
    """Views of all worlds, by name: the autoencoder is a camera, not a model of any.

    times: as many views a step as BATCH says. made_from: tells the views from others.
    """
    torch.manual_seed(0)
    vae = new_autoencoder(factor, latent_channels).to(device)
    make_fast(device, steps, vae.encoder, vae.decoder)
    images = {world: torch.from_numpy(views.images).to(device) for world, views in worlds.items()}

    def loss(step):
        return losses(vae, mixed(images, step >= FULL_SIZE * steps, BATCH, times))

    test = np.concatenate([views.images[np.linspace(0, len(views.images) - 1, 3).astype(int)] for views in worlds.values()])

    def sample(model, step):
        x = on_white(test, device)
        y = model.decode(model.encode(x).latent_dist.mode()).sample
        contact_sheet([*to_pil(x), *to_pil(y)], columns=len(test)).save(folder / f"sample-{step:06d}.png")

    return fit(vae, loss, steps, 1.5e-3, folder, made_from=f"{made_from} {times}", sample=sample, sample_every=500, quiet=quiet)


def finish(vae: AutoencoderKL, worlds: dict[str, Views], folder: Path, device: torch.device, steps: int, times: int = 1, made_from: str = "",
           quiet: bool = False) -> AutoencoderKL:
    """The decoder alone learns on, latents unchanged."""
    images = {world: torch.from_numpy(views.images).to(device) for world, views in worlds.items()}
    vae.train().requires_grad_(False)
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(True)
    make_fast(device, steps, vae.encoder, vae.decoder)

    def loss(step):
        return losses(vae, mixed(images, True, FINISH, times))

    return fit(vae, loss, steps, 7e-4, folder, made_from=f"{made_from} {times}", quiet=quiet)


def mixed(images: dict[str, torch.Tensor], whole: bool, sizes: dict[str, int], times: int) -> torch.Tensor:
    """A `batch` of each world, of `times` as many views as `sizes` says, 1 where it does not."""
    parts = [batch(x, whole, times * sizes.get(world, 1)) for world, x in images.items()]
    return torch.cat(parts).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def standardise(vae: AutoencoderKL, images: np.ndarray, device: torch.device) -> None:
    """Have scaled latents of mean 0 in each channel, by the 1x1 convolutions about them, of deviation 1 in all, and of directions more alike.

    A mean would be what noise hides last: pure noise, from which samples begin, has none. One direction, mostly how bright a place is, has four
    fifths of the variance (of 16 at f=8), and those that tell patterns under a hundredth each, which a loss hardly sees: each is divided by its deviation
    to the power of WHITENING. Rounded, so that it is the same on any machine.
    """
    channels = vae.config.latent_channels
    latents = (encode_all(vae, images, device).float() / vae.config.scaling_factor).transpose(0, 1).flatten(1)
    variances, directions = torch.linalg.eigh(torch.cov(latents).double())
    mean = latents.mean(1).to(device).round(decimals=3)
    forth = (directions * (variances / variances.mean()) ** (-WHITENING / 2) @ directions.T).round(decimals=3)
    forth, back = (x.float().to(device) for x in (forth, forth.inverse()))
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:channels] = torch.einsum("ij,jkhw->ikhw", forth, quant.weight[:channels])
    quant.bias[:channels] = forth @ (quant.bias[:channels] - mean)
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight.copy_(torch.einsum("ijhw,jk->ikhw", post.weight, back))
    vae.register_to_config(scaling_factor=round(float(vae.config.scaling_factor / encode_all(vae, images, device).float().std()), 4))


@torch.inference_mode()
def psnr(vae: AutoencoderKL, views: Views, device: torch.device) -> float:
    """Mean PSNR in dB over whole views on white."""
    values = []
    for i in range(0, len(views.images), 32):
        x = on_white(views.images[i : i + 32], device)
        y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        values.append(-10 * torch.log10((((x - y) / 2) ** 2).mean((1, 2, 3))))
    return float(torch.cat(values).mean())


@torch.inference_mode()
def encode_all(vae: AutoencoderKL, images: np.ndarray, device: torch.device, quiet: bool = True) -> torch.Tensor:
    """RGBA views on white -> scaled latents (N, C, h, w) in fp16 on the CPU, the posterior's mode."""
    latents = []
    size = 512 if torch.device(device).type == "cuda" else 16  # 64 leave a CPU's cache: a third slower
    for i in tqdm(range(0, len(images), size), "encoding", disable=quiet):
        x = on_white(images[i : i + size], device)
        latents.append((vae.encode(x).latent_dist.mode() * vae.config.scaling_factor).half().cpu())
    return torch.cat(latents)
