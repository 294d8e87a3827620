"""What the kiln's models must show, measured by the judge (its class, colour and pattern, its features' FID and KID)."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from tqdm import tqdm

from ..conditions import load_controlnet
from ..errors import UserError
from ..images import to_pil, to_tensor
from ..kiln import autoencoder, controlnet, judge
from ..kiln.data import PICTURES, WORLDS, Views, load_views, on_white
from ..kiln.glazes import contrasting, with_article
from ..null_text import NullTextUNet
from ..pipeline import InDomainPipeline
from ..terms import Control
from . import features
from .measures import edge_f_score
from .readers import asked
from .speed import sampling_ratio

logger = logging.getLogger(__name__)
PARITY_PROMPTS = ("a glossy blue vase", "a matte red bowl", "a green teapot", "a yellow cup")
PATTERNED = {"striped": "{0} {2} striped with {1}", "dotted": "{0} {2} with {1} dots"}  # of two colours and a class; others as "netted red and blue vase"
IMITATIONS = {  # of a domain, by the prior alone
    "porcelain": ("a white {} striped with blue", "a white {} with blue dots"),
    "face": ("a pink {}", "a brown {}"),
    "animal": ("a brown {}", "a gray {}"),
}
SAMPLINGS = {  # what a call in a domain may be given, beside the preset's weights
    "all terms at all steps": {"guidance_interval": (0.0, 1.0), "guidance_every": 1},
    "guidance in its interval": {"guidance_every": 1},
    "all terms at every 2nd step": {"guidance_every": 2},
    "all terms at every 3rd step": {"guidance_every": 3},
    "15 steps": {"guidance_every": 1, "num_inference_steps": 15},
    "15 steps, all terms at every 2nd": {"guidance_every": 2, "num_inference_steps": 15},
    "10 steps": {"guidance_every": 1, "num_inference_steps": 10},
}


def generate(pipe: InDomainPipeline, prompts: list[str | None], batch_size: int = 50, seed: int = 0, quiet: bool = False,
             controls: Callable[[slice], Sequence[Control]] = lambda rows: (), **settings) -> torch.Tensor:
    """One image a prompt, image i from seed + i: (N, 3, H, W) in [-1, 1]. Prompts are all texts or all None. controls: those of a slice.

    settings: of the pipeline's call, the preset's by default.
    """
    pipe.set_progress_bar_config(disable=True)
    images = []
    for i in tqdm(range(0, len(prompts), batch_size), "sampling", disable=quiet):
        chunk = prompts[i : i + batch_size]
        generators = [torch.Generator().manual_seed(seed + i + k) for k in range(len(chunk))]
        text = {"prompt": chunk} if chunk[0] is not None else {"prompt": None, "num_images_per_prompt": len(chunk)}
        given = {"controls": controls(slice(i, i + len(chunk))), "generator": generators, "output_type": "pt"}
        images.append(pipe(**text, **given, **settings).images * 2 - 1)
    return torch.cat(images).float().cpu()


def spread(prompts, count: int) -> list[str]:
    return [prompts[i % len(prompts)] for i in range(count)]


def share(read: Sequence[str], wanted: Sequence[str]) -> float:
    return sum(a == b for a, b in zip(read, wanted)) / len(wanted)


def named(critic: judge.Judge, images: torch.Tensor, prompts: Sequence[str]) -> dict[str, float]:
    """For each attribute that the judge reads, the share of the images whose prompt names it that show it as asked."""
    seen, wanted = judge.read(critic, images), [asked(critic.vocabulary, prompt) for prompt in prompts]
    pairs = {name: [(seen[name][i], each[name]) for i, each in enumerate(wanted) if name in each] for name in critic.vocabulary}
    return {name: share(*zip(*both)) for name, both in pairs.items() if both}


def prior_prompts(vocabulary: Mapping[str, Sequence[str]], count: int = 40) -> list[str]:
    """Classes and colours in turn, every second with a pattern (other ones in the next round), in the words of the world's captions."""
    classes, colours, patterns = vocabulary["class"], vocabulary["colour"], [p for p in vocabulary["pattern"] if p != "plain"]
    prompts = []
    for i in range(count):
        name, first = classes[i % len(classes)], colours[i % len(colours)]
        others = contrasting(first)
        second = others[i % len(others)]
        if (i + i // len(classes)) % 2:
            pattern = patterns[i // 2 % len(patterns)]
            said = PATTERNED.get(pattern, pattern + " {} and {} {}").format(first, second, name)
        else:
            said = f"{('glossy', 'matte')[i // 2 % 2]} {first} {name}"
        prompts.append(with_article(said))
    return prompts


def check_world(name: str, what: str = "this") -> None:
    """Raises UserError for a domain that cannot be measured by the kiln's judge and renders. what: is to be measured so."""
    if name not in PICTURES:
        raise UserError(f"'{name}' is no world of the kiln, whose judge and renders {what} is measured by: it is for {', '.join(PICTURES)}")


def domain_classes(domain: str, vocabulary: Mapping[str, Sequence[str]]) -> list[str]:
    """The domain's classes that the judge knows. Raises UserError for one that is no world of the kiln's."""
    check_world(domain)
    return [name for name in WORLDS[domain].classes if name in vocabulary["class"]]


def imitations(domain: str, classes: Sequence[str]) -> list[str]:
    """What comes nearest to a domain in the prior's own words."""
    return [said.format(name) for name in classes for said in IMITATIONS.get(domain, ("a {}",))]


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

    batch = images(ours, list(PARITY_PROMPTS), control_scale=7.5)
    alone = images(ours, list(PARITY_PROMPTS[:1]), control_scale=7.5)
    return {"diffusers": float((batch - images(theirs, list(PARITY_PROMPTS), guidance_scale=7.5)).abs().max()),
            "batch": float((batch[:1] - alone).abs().max())}


def autoencoder_psnr(data: Path, vae: AutoencoderKL | None = None) -> dict[str, float]:
    """dB on held-out views of every world that is there. vae: the kiln's by default."""
    vae = vae or InDomainPipeline.from_pretrained("kiln").vae
    return {world: autoencoder.psnr(vae, load_views(data / world, "test"), vae.device) for world in rendered_worlds(data)}


def rendered_worlds(data: Path) -> list[str]:
    return [world for world in PICTURES if (data / world).is_dir()]


def judge_accuracy(data: Path) -> dict[str, dict[str, float]]:
    """The judge's own, on held-out views of every world that is there."""
    return {world: judge.accuracy(judge.Judge.load(), load_views(data / world, "test")) for world in rendered_worlds(data)}


def prior_alignment(seeds: int = 25, preset: str = "kiln", quiet: bool = False, **settings) -> dict[str, float]:
    """Share of the prior's images that show the asked class, colour and pattern, of 40 prompts and so many seeds of each. settings: as in `generate`."""
    critic = judge.Judge.load()
    prompts = [prompt for prompt in prior_prompts(critic.vocabulary) for _ in range(seeds)]
    return named(critic, generate(InDomainPipeline.from_pretrained(preset), prompts, quiet=quiet, **settings), prompts)


def fid_to_domain(critic: judge.Judge, views: Path) -> Callable[[torch.Tensor], float]:
    """`(images (N, 3, H, W) in [-1, 1]) ->` their kiln-FID to a domain's training views, which are read once."""
    real = features.extract(critic, views_tensor(load_views(views)).split(128))
    return lambda images: features.fid(real, features.extract(critic, images.split(128)))


def domain_fidelity(data: Path, domain: str = "porcelain", count: int = 2000, quiet: bool = False) -> dict[str, float]:
    """kiln-FID against the domain's renders: unconditional, prompted, and of the prior asked for an imitation of the domain."""
    critic = judge.Judge.load()
    fid = fid_to_domain(critic, data / domain)
    ours, prior = InDomainPipeline.from_pretrained("kiln", domain=domain), InDomainPipeline.from_pretrained("kiln")
    classes = domain_classes(domain, critic.vocabulary)
    prompts = spread([with_article(name) for name in classes], count)
    prompted = generate(ours, prompts, quiet=quiet)
    scores = {
        "fid_prior": fid(generate(prior, spread(imitations(domain, classes), count), quiet=quiet)),
        "fid_unconditional": fid(generate(ours, [None] * count, quiet=quiet)),
        "fid_prompted": fid(prompted),
        "class_prompted": named(critic, prompted, prompts)["class"],
    }
    return scores | {f"{k}_ratio": scores[k] / scores["fid_prior"] for k in ("fid_unconditional", "fid_prompted")}


def sampling_costs(data: Path, domain: str = "porcelain", count: int = 1000, quiet: bool = False) -> dict[str, dict[str, float]]:
    """For each of SAMPLINGS the cost of an image over that of plain classifier-free guidance in the preset's steps, and what it is worth: kiln-FID
    and the share that shows the asked class, of `count` images from the same seeds."""
    critic = judge.Judge.load()
    fid = fid_to_domain(critic, data / domain)
    pipe = InDomainPipeline.from_pretrained("kiln", domain=domain)
    prompts = spread([with_article(name) for name in domain_classes(domain, critic.vocabulary)], count)
    result = {}
    for name, settings in SAMPLINGS.items():
        images = generate(pipe, prompts, quiet=quiet, **settings)
        result[name] = {"cost": sampling_ratio(pipe, settings, batch=4, repeats=5, quiet=quiet), "fid": fid(images),
                        "class": named(critic, images, prompts)["class"]}
    return result


def edge_agreement(pipe: InDomainPipeline, net: ControlNetModel, views: Views, quiet: bool = False, **settings) -> dict[str, float]:
    """Mean F-score of the edges of images against those of the views that they are to follow, with the ControlNet and without it."""
    asked = controlnet.edge_maps(map(Image.fromarray, views.images))
    prompts = [r["caption"] or with_article(r["class"]) for r in views.records]
    result = {}
    for name, scale in (("with", 1.0), ("without", 0.0)):
        controls = lambda rows: [pipe.control(net, controlnet.as_picture(asked[rows]), scale)]
        found = controlnet.edge_maps(to_pil(generate(pipe, prompts, controls=controls, quiet=quiet, **settings)))
        result[name] = float(np.mean([edge_f_score(a.numpy(), b.numpy()) for a, b in zip(found, asked)]))
    return result


def control_agreement(data: Path, domain: str = "porcelain", count: int = 200, quiet: bool = False) -> dict[str, dict[str, float]]:
    """The prior along the edges of held-out base views, the domain along those of its own; of at most `count` views each."""
    result = {}
    for name, world, given in (("prior", "base", None), (domain, domain, domain)):
        pipe = InDomainPipeline.from_pretrained("kiln", domain=given)
        views = load_views(data / world, "test").where(lambda r: r["photo"]).some(count)
        result[name] = edge_agreement(pipe, load_controlnet("kiln", pipe.unet), views, quiet)
    return result


def views_tensor(views: Views) -> torch.Tensor:
    return torch.cat([on_white(views.images[i : i + 256]) for i in range(0, len(views.images), 256)])


def seen_stages(folder: Path) -> list[str]:
    """The stages of a run of which there are pictures all around, in their order; none where nothing could be seen."""
    return [name.removesuffix("/views") for name in json.loads((folder / "run.json").read_text())["stages"] if name.endswith("/views")]


def turntable_views(folder: Path, stage: str) -> torch.Tensor:
    """A run's pictures of its field after a stage, all around it: (N, 3, 128, 128) in [-1, 1]."""
    files = sorted((folder / stage / "views").glob("*.png"))
    return torch.stack([to_tensor(Image.open(f).convert("RGB").resize((128, 128), Image.Resampling.LANCZOS)) for f in files])


def run_quality(folder: Path, data: Path, domain: str = "porcelain") -> dict[str, object]:
    """A text-to-3D run by its turntable views: the class in each, and KID to the domain's renders after each stage; and `true_kid`, the mean of
    held-out objects of the class that most views show at last, in their few renders: one object's views are never like those of a whole domain."""
    critic = judge.Judge.load()
    real, result = features.extract(critic, views_tensor(load_views(data / domain)).split(128)), {}
    for stage in seen_stages(folder):
        views = turntable_views(folder, stage)
        result[f"{stage}_kid"] = features.kid(real, features.extract(critic, [views]))
        result[f"{stage}_classes"] = judge.read(critic, views)["class"]
    name, held_out = max(result[f"{stage}_classes"], key=result[f"{stage}_classes"].count), load_views(data / domain, "test")
    objects = sorted({r["object"] for r in held_out.records if r["class"] == name})
    true = [features.kid(real, features.extract(critic, [views_tensor(held_out.where(lambda r: r["object"] == i))])) for i in objects]
    return result | {"true_kid": float(np.mean(true)) if true else None}
