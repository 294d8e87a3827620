"""What the kiln's models must show, measured by the judge (its class, colour and pattern, its features' FID and KID)."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from tqdm import tqdm

from ..conditions import load_controlnet
from ..images import to_pil, to_tensor
from ..kiln import autoencoder, controlnet, judge
from ..kiln.data import Views, load_views
from ..kiln.world import POTTERY, SHAPES
from ..null_text import NullTextUNet
from ..pipeline import InDomainPipeline
from ..terms import Control
from .measures import edge_f_score, fid, kid
from .speed import sampling_ratio

logger = logging.getLogger(__name__)
PRIOR_PROMPTS = ("a glossy blue vase", "a matte red bowl", "a green teapot", "a yellow cup", "a purple plate", "an orange jar",
                 "a black bottle", "a pink chair", "a matte green mushroom", "a glossy red ball")
POTTERY_PROMPTS = tuple(f"a {name}" for name in POTTERY)
SAMPLINGS = {  # what a call in a domain may be given, beside the preset's weights
    "all terms at all steps": {"guidance_interval": (0.0, 1.0), "guidance_every": 1},
    "guidance in its interval": {"guidance_every": 1},
    "all terms at every 2nd step": {"guidance_every": 2},
    "all terms at every 3rd step": {"guidance_every": 3},
    "15 steps": {"guidance_every": 1, "num_inference_steps": 15},
    "15 steps, all terms at every 2nd": {"guidance_every": 2, "num_inference_steps": 15},
    "10 steps": {"guidance_every": 1, "num_inference_steps": 10},
}
IMITATIONS = tuple(f"a white {name} {blue}" for name in POTTERY for blue in ("striped with blue", "with blue dots"))


def generate(pipe: InDomainPipeline, prompts: list[str | None], num_inference_steps: int = 15, batch_size: int = 50, seed: int = 0, quiet: bool = False,
             controls: Callable[[slice], Sequence[Control]] = lambda rows: (), guidance_every: int = 1, **scales) -> torch.Tensor:
    """One image a prompt, image i from seed + i: (N, 3, H, W) in [-1, 1]. Prompts are all texts or all None. controls: those of a slice."""
    pipe.set_progress_bar_config(disable=True)
    images = []
    for i in tqdm(range(0, len(prompts), batch_size), "sampling", disable=quiet):
        chunk = prompts[i : i + batch_size]
        generators = [torch.Generator().manual_seed(seed + i + k) for k in range(len(chunk))]
        text = {"prompt": chunk} if chunk[0] is not None else {"prompt": None, "num_images_per_prompt": len(chunk)}
        given = {"controls": controls(slice(i, i + len(chunk))), "generator": generators, "num_inference_steps": num_inference_steps, "output_type": "pt"}
        images.append(pipe(**text, **given, guidance_every=guidance_every, **scales).images * 2 - 1)
    return torch.cat(images).float().cpu()


def spread(prompts, count: int) -> list[str]:
    return [prompts[i % len(prompts)] for i in range(count)]


def share(read: list[str], asked: list[str]) -> float:
    return sum(a == b for a, b in zip(read, asked)) / len(asked)


def asked_class(prompts) -> list[str]:
    return [next(w for w in reversed(p.split()) if w in SHAPES) for p in prompts]


@torch.inference_mode()
def fold_error(unet: UNet2DConditionModel) -> float:
    """Largest difference of the null-text UNet from its prior under a one-token context."""
    generator, size = torch.Generator().manual_seed(0), unet.config.sample_size
    feature = torch.randn(1, 1, unet.config.cross_attention_dim, generator=generator)
    z, t = torch.randn(8, unet.config.in_channels, size, size, generator=generator), torch.linspace(0, 999, 8).long()
    return float((NullTextUNet.from_prior(unet, feature)(z, t).sample - unet(z, t, feature.expand(8, -1, -1)).sample).abs().max())


def fold_errors() -> dict[str, float]:
    """On the kiln's prior, and on a tiny UNet of Stable Diffusion's kind with random weights."""
    torch.manual_seed(0)
    tiny = UNet2DConditionModel(sample_size=16, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, attention_head_dim=4,
                                norm_num_groups=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")).eval()
    return {"kiln": fold_error(InDomainPipeline.from_pretrained("kiln").unet), "tiny random": fold_error(tiny)}


def parity(steps: int = 20) -> dict[str, float]:
    """Largest differences in pixels of [0, 1]: from diffusers' StableDiffusionPipeline, and of an image alone from itself in a batch."""
    ours = InDomainPipeline.from_pretrained("kiln")
    theirs = StableDiffusionPipeline(**{k: v for k, v in ours.components.items() if k in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")},
                                     safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    for pipe in (ours, theirs):
        pipe.set_progress_bar_config(disable=True)

    def images(pipe, prompts, **scale):
        generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
        return pipe(prompts, generator=generators, num_inference_steps=steps, output_type="pt", **scale).images

    batch = images(ours, list(PRIOR_PROMPTS[:4]), control_scale=7.5)
    alone = images(ours, list(PRIOR_PROMPTS[:1]), control_scale=7.5)
    return {"diffusers": float((batch - images(theirs, list(PRIOR_PROMPTS[:4]), guidance_scale=7.5)).abs().max()),
            "batch": float((batch[:1] - alone).abs().max())}


def autoencoder_psnr(data: Path) -> dict[str, float]:
    """dB on held-out views of both worlds."""
    vae = InDomainPipeline.from_pretrained("kiln").vae
    return {world: autoencoder.psnr(vae, load_views(data / world, "test"), torch.device("cpu")) for world in ("base", "porcelain")}


def judge_accuracy(data: Path) -> dict[str, dict[str, float]]:
    """The judge's own, on held-out views of both worlds."""
    return {world: judge.accuracy(judge.Judge.load(), load_views(data / world, "test")) for world in ("base", "porcelain")}


def prior_alignment(seeds: int = 20, quiet: bool = False) -> dict[str, float]:
    """Share of the prior's images that show the asked class and colour."""
    prompts = [p for p in PRIOR_PROMPTS for _ in range(seeds)]
    verdict = judge.read(judge.Judge.load(), generate(InDomainPipeline.from_pretrained("kiln"), prompts, quiet=quiet))
    colours = [next(w for w in p.split() if w in judge.COLOURS) for p in prompts]
    return {"class": share(verdict.classes, asked_class(prompts)), "colour": share(verdict.colours, colours)}


def domain_fidelity(data: Path, domain: str = "porcelain", count: int = 2000, quiet: bool = False) -> dict[str, float]:
    """kiln-FID against the domain's renders: unconditional, prompted, and of the prior asked for an imitation of the domain."""
    critic, real = judge.Judge.load(), views_tensor(load_views(data / domain))
    ours, prior = InDomainPipeline.from_pretrained("kiln", domain=domain), InDomainPipeline.from_pretrained("kiln")
    prompts = spread(POTTERY_PROMPTS, count)
    prompted = generate(ours, prompts, quiet=quiet)
    scores = {
        "fid_prior": fid(critic, real, generate(prior, spread(IMITATIONS, count), quiet=quiet)),
        "fid_unconditional": fid(critic, real, generate(ours, [None] * count, quiet=quiet)),
        "fid_prompted": fid(critic, real, prompted),
        "class_prompted": share(judge.read(critic, prompted).classes, asked_class(prompts)),
    }
    return scores | {f"{k}_ratio": scores[k] / scores["fid_prior"] for k in ("fid_unconditional", "fid_prompted")}


def sampling_costs(data: Path, domain: str = "porcelain", count: int = 1000, quiet: bool = False) -> dict[str, dict[str, float]]:
    """For each of SAMPLINGS the cost of an image over that of plain classifier-free guidance in the preset's steps, and what it is worth: kiln-FID
    and the share that shows the asked class, of `count` images from the same seeds."""
    critic, real = judge.Judge.load(), views_tensor(load_views(data / domain))
    pipe, prompts = InDomainPipeline.from_pretrained("kiln", domain=domain), spread(POTTERY_PROMPTS, count)
    result = {}
    for name, settings in SAMPLINGS.items():
        images = generate(pipe, prompts, quiet=quiet, **{"num_inference_steps": pipe.config.num_inference_steps} | settings)
        result[name] = {"cost": sampling_ratio(pipe, settings, batch=4, repeats=5, quiet=quiet), "fid": fid(critic, real, images),
                        "class": share(judge.read(critic, images).classes, asked_class(prompts))}
    return result


def edge_agreement(pipe: InDomainPipeline, net: ControlNetModel, views: Views, quiet: bool = False, **settings) -> dict[str, float]:
    """Mean F-score of the edges of images against those of the views that they are to follow, with the ControlNet and without it."""
    asked = controlnet.edge_maps(map(Image.fromarray, views.images))
    prompts = [r["caption"] or f"a {r['class']}" for r in views.records]
    result = {}
    for name, scale in (("with", 1.0), ("without", 0.0)):
        controls = lambda rows: [pipe.control(net, controlnet.as_picture(asked[rows]), scale)]
        found = controlnet.edge_maps(to_pil(generate(pipe, prompts, controls=controls, quiet=quiet, **settings)))
        result[name] = float(np.mean([edge_f_score(a.numpy(), b.numpy()) for a, b in zip(found, asked)]))
    return result


def control_agreement(data: Path, domain: str = "porcelain", quiet: bool = False) -> dict[str, dict[str, float]]:
    """The prior along the edges of held-out base views, the domain along those of its own held-out views."""
    result = {}
    for name, world, given in (("prior", "base", None), (domain, domain, domain)):
        pipe = InDomainPipeline.from_pretrained("kiln", domain=given)
        views = load_views(data / world, "test").where(lambda r: r["photo"])
        result[name] = edge_agreement(pipe, load_controlnet("kiln", pipe.unet), views, quiet)
    return result


def views_tensor(views: Views) -> torch.Tensor:
    return torch.cat([judge.to_tensor(torch.from_numpy(views.images[i : i + 256])) for i in range(0, len(views.images), 256)])


def turntable_views(folder: Path, stage: str) -> torch.Tensor:
    """A run's pictures of its field after a stage, all around it: (N, 3, 128, 128) in [-1, 1]."""
    files = sorted((folder / stage / "views").glob("*.png"))
    return torch.stack([to_tensor(Image.open(f).convert("RGB").resize((128, 128), Image.Resampling.LANCZOS)) for f in files])


def run_quality(folder: Path, data: Path, domain: str = "porcelain") -> dict[str, object]:
    """A text-to-3D run by its turntable views: the class in each, and KID to the domain's renders after each stage."""
    critic, real = judge.Judge.load(), views_tensor(load_views(data / domain))
    result = {}
    for stage in ("init", "refine"):
        views = turntable_views(folder, stage)
        result[f"{stage}_kid"], result[f"{stage}_classes"] = kid(critic, real, views), judge.read(critic, views).classes
    return result
