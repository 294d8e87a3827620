"""Stage one of domain learning (Sec. 3.3): the text feature F^T, optimised alone by denoising loss."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from tqdm import tqdm

logger = logging.getLogger(__name__)


def add_noise(scheduler: DDPMScheduler, latents: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents z_t (B, C, h, w), their timesteps (B,), and what a network should say of them: eps, or v for a prior that predicts v.

    latents: clean and scaled, (B, C, h, w). generator: on the CPU for the same noise on every device, on a GPU for the speed. The timesteps of a
    batch are spread evenly over all of them from a random one on, which leaves the gradient its mean and less of its variance (Kingma et al. 2021,
    App. I.1).
    """
    place = generator.device
    noise = torch.randn(latents.shape, generator=generator, device=place).to(latents)
    shares = (torch.rand(1, generator=generator, device=place) + torch.arange(len(latents), device=place) / len(latents)) % 1
    t = (shares * scheduler.config.num_train_timesteps).long().to(latents.device)
    target = scheduler.get_velocity(latents, noise, t) if scheduler.config.prediction_type == "v_prediction" else noise
    return scheduler.add_noise(latents, noise, t), t, target


def denoising_loss(predict: Callable, scheduler: DDPMScheduler, latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """E |eps - eps_theta(z_t, t)|^2, or the same of v: a scalar. predict: the network's output for (z_t, t). The rest is as in `add_noise`."""
    z_t, t, target = add_noise(scheduler, latents, generator)
    return F.mse_loss(predict(z_t, t).float(), target.float())


def draw(latents: torch.Tensor, batch_size: int, generator: torch.Generator) -> torch.Tensor:
    """A random batch of the latents (N, C, h, w)."""
    return latents[torch.randint(len(latents), (batch_size,), generator=generator)]


def initial_features(pipe, name: str) -> dict[str, torch.Tensor]:
    """"a photo of <domain name>" reduced to one token (1, 1, d), in two ways: the mean of its content tokens, and the end token."""
    prompt = f"a photo of {name}"
    tokens = pipe.encode_prompt([prompt])
    ids = pipe.tokenizer(prompt, truncation=True, max_length=pipe.tokenizer.model_max_length).input_ids
    end = len(ids) - 1  # [start, content ..., end, padding ...]
    return {"mean of the content tokens": tokens[:, 1:end].mean(1, keepdim=True), "end token": tokens[:, end : end + 1]}


def optimise_text_feature(
    unet: UNet2DConditionModel,
    scheduler: DDPMScheduler,
    latents: torch.Tensor,
    init_contexts: Mapping[str, torch.Tensor],
    autocast: AbstractContextManager,
    scaler: torch.amp.GradScaler,
    parts: int = 1,
    steps: int = 100,
    batch_size: int = 32,
    learning_rate: float = 1e-2,
    seed: int = 0,
    quiet: bool = False,
) -> torch.Tensor:
    """F^T (1, 1, d) under which the frozen prior best denoises the domain's latents (N, C, h, w).

    init_contexts: names and starting points (1, 1, d); the one with the lower loss on a fixed batch is taken.
    autocast, scaler: of the forward pass and the loss. parts: of a batch, one after the other, for less memory to the same end.
    """
    batch_size = min(batch_size, len(latents))
    unet.requires_grad_(False)

    def losses_of(feature: torch.Tensor, latents: torch.Tensor, generator: torch.Generator) -> Iterator[torch.Tensor]:
        """The denoising loss of a batch in summands."""
        batch = add_noise(scheduler, latents.to(unet.device), generator)
        for z_t, t, target in zip(*(x.tensor_split(min(parts, batch_size)) for x in batch)):
            with autocast:
                prediction = unet(z_t, t, feature.expand(len(z_t), -1, -1)).sample
            yield F.mse_loss(prediction.float(), target.float(), reduction="sum") / latents.numel()

    @torch.no_grad()
    def fixed_loss(feature: torch.Tensor) -> float:
        generator = torch.Generator().manual_seed(seed)
        batches = [draw(latents, batch_size, generator) for _ in range(4)]
        return sum(loss.item() for z in batches for loss in losses_of(feature, z, generator)) / len(batches)

    losses = {name: fixed_loss(context) for name, context in init_contexts.items()}
    start = min(losses, key=losses.get)
    feature = init_contexts[start].detach().clone().requires_grad_(True)
    optimizer = torch.optim.AdamW([feature], learning_rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed + 1)
    for _ in tqdm(range(steps), "text feature", disable=quiet):
        optimizer.zero_grad()
        for loss in losses_of(feature, draw(latents, batch_size, generator), generator):
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    listed = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    logger.info("text feature: loss %s; from the %s to %.4f in %d steps", listed, start, fixed_loss(feature), steps)
    return feature.detach()
