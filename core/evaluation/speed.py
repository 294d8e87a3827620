"""What a step and what an image costs: of domain and text against plain classifier-free guidance; learning a domain against fine-tuning."""

import time
from collections.abc import Callable
from statistics import median

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..devices import default_dtype
from ..guidance import MultiGuidance
from ..null_text import NullTextUNet
from ..pipeline import InDomainPipeline
from ..presets import PRESETS
from ..terms import Term
from ..training.fit import denoising_gradients, find_precision, new_optimizer
from ..training.text_feature import denoising_loss


def kiln_prior() -> tuple[UNet2DConditionModel, int]:
    """The kiln's UNet, and how many tokens a prompt has."""
    pipe = InDomainPipeline.from_pretrained("kiln")
    return pipe.unet, pipe.tokenizer.model_max_length


def random_prior() -> tuple[UNet2DConditionModel, int]:
    """Stable Diffusion 1.5's UNet, a third as wide: 109.8 M parameters, random; and how many tokens a prompt has."""
    return UNet2DConditionModel(sample_size=64, block_out_channels=(112, 224, 448, 448), cross_attention_dim=768, norm_num_groups=16), 77


PRIORS = {"kiln": kiln_prior, "random-100M": random_prior}


@torch.no_grad()
def random_sd15(device: torch.device) -> InDomainPipeline:
    """A prior of Stable Diffusion 1.5's sizes for 512 px, random, in the precision that suits a device; the tokenizer is the kiln's."""
    with torch.device("meta"):  # the models' own way to begin takes minutes
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        blocks = dict(down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2)
        vae = AutoencoderKL(**blocks, block_out_channels=(128, 256, 512, 512), sample_size=512)
    for model in (unet, vae):
        model.to_empty(device=device)
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.02) if parameter.ndim > 1 else parameter.fill_(name.endswith("weight"))
    clip = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, hidden_act="quick_gelu")
    tokenizer = CLIPTokenizer.from_pretrained(f"{PRESETS['kiln'].prior}/tokenizer", model_max_length=77)
    scheduler = DPMSolverMultistepScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    pipe = InDomainPipeline(vae.eval(), CLIPTextModel(clip).eval(), tokenizer, unet.eval(), scheduler)
    return pipe.to(device, default_dtype(device))


@torch.inference_mode()
def step_ratio(unet: UNet2DConditionModel, tokens: int, device: torch.device, batch: int, repeats: int, quiet: bool = False) -> dict[str, float]:
    """Median over paired runs of (a step of domain and text) / (a step of text), and the median seconds of each. tokens: of a prompt."""
    unet = unet.to(device, default_dtype(device)).eval()
    size, width = unet.config.sample_size, unet.config.cross_attention_dim
    z_t, t = torch.randn(batch, unet.config.in_channels, size, size).to(unet.device, unet.dtype), torch.tensor(500, device=device)
    empty, text = torch.randn(2, batch, tokens, width).to(z_t)
    domain = NullTextUNet.from_prior(unet, text[:1, :1])
    rule = MultiGuidance(Term(unet, empty), [Term(domain), Term(unet, text)])

    def plain() -> torch.Tensor:
        eps_0, eps_c = unet(torch.cat([z_t] * 2), t, encoder_hidden_states=torch.cat([empty, text])).sample.chunk(2)
        return eps_0 + 7.0 * (eps_c - eps_0)

    seconds = paired({"text": plain, "domain_and_text": lambda: rule(z_t, t)}, device, repeats, quiet)
    return {"ratio": ratio(seconds["domain_and_text"], seconds["text"])} | {f"seconds_{name}": median(spent) for name, spent in seconds.items()}


def sampling_ratio(pipe: InDomainPipeline, settings: dict, batch: int, repeats: int, quiet: bool = False) -> float:
    """Median over paired runs of (latents of a prompt in the domain, sampled with `settings`) / (latents by plain classifier-free guidance, in
    the pipeline's own number of steps)."""
    pipe.set_progress_bar_config(disable=True)
    plain = {"domain_scale": 0.0, "control_scale": 7.0, "guidance_interval": (0.0, 1.0), "guidance_every": 1}
    sample = lambda given: lambda: pipe("a vase", num_images_per_prompt=batch, output_type="latent", **given)
    seconds = paired({"domain_and_text": sample(settings), "text": sample(plain)}, pipe.device, repeats, quiet)
    return ratio(seconds["domain_and_text"], seconds["text"])


def image_cost(pipe: InDomainPipeline, batch: int, repeats: int, quiet: bool = False) -> dict[str, float | None]:
    """Median seconds per image, and on CUDA the peak memory in GiB, of ours (domain and text) and of diffusers' StableDiffusionPipeline.

    Both over one prior, in as many steps of the same solver. pipe: without a domain; it is given one, folded.
    """
    parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    theirs = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    for each in (pipe, theirs):
        each.set_progress_bar_config(disable=True)
    sample = lambda each: lambda: each("a vase", num_images_per_prompt=batch, num_inference_steps=pipe.config.num_inference_steps)
    memory = {"diffusers": peak_memory(sample(theirs), pipe.device)}  # before the domain's weights are there
    pipe.register_modules(domain_unet=NullTextUNet.from_prior(pipe.unet, pipe.encode_prompt(["a photo"])[:, :1]))
    memory["ours"] = peak_memory(sample(pipe), pipe.device)
    seconds = paired({"diffusers": sample(theirs), "ours": sample(pipe)}, pipe.device, repeats, quiet)
    return ({"ratio": ratio(seconds["ours"], seconds["diffusers"])}
            | {f"seconds_per_image_{name}": median(spent) / batch for name, spent in seconds.items()}
            | {f"peak_gib_{name}": peak for name, peak in memory.items()})


def peak_memory(step: Callable[[], object], device: torch.device) -> float | None:
    """The most memory in GiB that there was in use during a step, weights and all; None off CUDA, which alone counts it."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return torch.cuda.max_memory_allocated(device) / 2**30


def training_ratio(pipe: InDomainPipeline, device: torch.device, batch: int, repeats: int, quiet: bool = False) -> dict[str, float]:
    """Median over paired runs of (our images per second) / (those of diffusers' text-to-image fine-tuning of the same prior), and of each.

    Ours learns from cached latents, without text. Theirs is a step of examples/text_to_image/train_text_to_image.py with --use_ema: it encodes
    pictures and captions anew. In fp32, and without the reading of pictures, of which theirs does more.
    """
    pipe.to(device)
    scheduler, generator = DDPMScheduler.from_config(pipe.scheduler.config), torch.Generator().manual_seed(0)
    pixels = torch.rand(batch, 3, pipe.resolution, pipe.resolution, generator=generator).to(device) * 2 - 1
    tokens = pipe.tokenizer(["a photo"] * batch, padding="max_length", return_tensors="pt").input_ids.to(device)
    domain = NullTextUNet.from_prior(pipe.unet, pipe.encode_prompt([""])[:, :1])
    latents = torch.randn(pipe.latent_shape(4 * batch), generator=generator)
    full = find_precision("no", device)

    def fine_tuning_loss() -> None:
        with torch.no_grad():
            clean = pipe.vae.encode(pixels).latent_dist.sample() * pipe.vae.config.scaling_factor
            text = pipe.text_encoder(tokens)[0]
        denoising_loss(lambda z_t, t: pipe.unet(z_t, t, text).sample, scheduler, clean, generator).backward()
        torch.nn.utils.clip_grad_norm_(pipe.unet.parameters(), 1.0)

    ours = trained(domain, lambda: denoising_gradients(domain, scheduler, latents, batch, 1, *full, seed=0, step=0), *new_optimizer(domain, 1e-5, 0.995))
    theirs = trained(pipe.unet, fine_tuning_loss, torch.optim.AdamW(pipe.unet.parameters(), 1e-5), EMAModel(pipe.unet.parameters()))
    seconds = paired({"diffusers": theirs, "ours": ours}, device, repeats, quiet)
    return {"ratio": ratio(seconds["diffusers"], seconds["ours"])} | {f"images_per_second_{name}": batch / median(spent) for name, spent in seconds.items()}


def trained(unet: UNet2DConditionModel, gradients: Callable[[], object], optimizer: torch.optim.Optimizer, ema: EMAModel) -> Callable[[], None]:
    """A whole step of training, with the optimizer and the moving average that both sides have."""
    unet.requires_grad_(True).train()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        gradients()
        optimizer.step()
        ema.step(unet.parameters())

    return step


def paired(steps: dict[str, Callable], device: torch.device, repeats: int, quiet: bool) -> dict[str, list[float]]:
    """Seconds of each of two steps, run in turn, so that the machine's pace is the same for both."""
    seconds = {name: [] for name in steps}
    for step in steps.values():  # the first calls choose kernels and take memory
        seconds_of(step, device)
    for i in tqdm(range(repeats), "pairs", disable=quiet):
        for name in sorted(steps, reverse=i % 2):  # each goes first in turn
            seconds[name].append(seconds_of(steps[name], device))
    return seconds


def ratio(above: list[float], below: list[float]) -> float:
    return median(a / b for a, b in zip(above, below, strict=True))


def seconds_of(step: Callable[[], object], device: torch.device) -> float:
    begun = time.perf_counter()
    step()
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return time.perf_counter() - begun
