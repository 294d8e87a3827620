"""With one prior and no domain, images equal those of diffusers' own pipelines at the same seed, to 1e-5."""

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)

from core import InDomainPipeline
from core.images import to_pil

from .conftest import tiny_controlnet, tiny_pipeline

BATCH = dict(prompt=["a blue vase", "a jar"], num_images_per_prompt=2, num_inference_steps=5, output_type="pt")


@pytest.fixture(scope="module", params=["epsilon", "v_prediction", "zero_snr"])
def folder(request, tmp_path_factory):
    """A prior that predicts eps or v, or v down to a terminal SNR of zero."""
    folder, zero = tmp_path_factory.mktemp(request.param), request.param == "zero_snr"
    tiny_pipeline(prediction_type="v_prediction" if zero else request.param, rescale_betas_zero_snr=zero).save_pretrained(folder)
    return folder


@pytest.fixture(params=[(DDIMScheduler, "leading"), (DPMSolverMultistepScheduler, "leading"), (EulerDiscreteScheduler, "linspace")])
def pipes(request, folder):
    """Ours, and a maker of theirs with the same models."""
    kind, spacing = request.param
    if "zero_snr" in folder.name:
        spacing = "trailing"  # from the terminal step on
    new_scheduler = lambda: kind.from_pretrained(folder, subfolder="scheduler", timestep_spacing=spacing)
    ours = InDomainPipeline.from_pretrained(folder, scheduler=new_scheduler())
    ours.set_progress_bar_config(disable=True)

    def theirs(kind, **more):
        parts = {name: getattr(ours, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
        pipe = kind(**parts, **more, scheduler=new_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return ours, theirs


def assert_same(ours, theirs, changed: dict | None = None, **call):
    """Both pipelines called alike at one seed, or `seeds`, one for each image; `changed` is what only ours is told."""
    seeds = call.pop("seeds", None)
    new_generator = lambda: [torch.Generator().manual_seed(seed) for seed in seeds] if seeds else torch.Generator().manual_seed(3)
    expected = theirs(**BATCH | call, generator=new_generator()).images
    given = {key: value for key, value in (call | (changed or {})).items() if value is not ...}
    got = ours(**BATCH | given, generator=new_generator()).images
    assert expected.std() > 0.01 and (got - expected).abs().max() <= 1e-5


def picture():
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("negative", [None, ["red", "white"]])
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_text(pipes, negative, rescale):
    ours, theirs = pipes
    assert_same(ours, theirs(StableDiffusionPipeline), dict(guidance_scale=None, control_scale=7.5),
                negative_prompt=negative, guidance_scale=7.5, guidance_rescale=rescale)


def test_a_generator_for_each_image(pipes):
    ours, theirs = pipes
    assert_same(ours, theirs(StableDiffusionPipeline), dict(guidance_scale=None, control_scale=7.5), seeds=[5, 3, 5, 8], guidance_scale=7.5)


@pytest.mark.parametrize("image, seeds", [(picture(), None), (to_pil(picture() * 2 - 1)[0], None), (to_pil(picture() * 2 - 1)[0], [5, 3, 5, 8])])
def test_image_to_image(pipes, image, seeds):
    ours, theirs = pipes
    assert_same(ours, theirs(StableDiffusionImg2ImgPipeline), dict(guidance_scale=None, control_scale=5.0), seeds=seeds,
                image=image, strength=0.6, guidance_scale=5.0, negative_prompt=["red", "red"])


def test_a_masked_image_to_image(pipes):
    ours, theirs = pipes
    mask = (torch.arange(16) >= 8).float().expand(1, 1, 16, 16)
    assert_same(ours, theirs(StableDiffusionInpaintPipeline), dict(guidance_scale=None, control_scale=5.0, height=..., width=...),
                image=picture(), mask_image=mask, strength=0.7, guidance_scale=5.0, height=16, width=16)


@pytest.mark.parametrize("several", [False, True])
def test_controlnet(pipes, several):
    ours, theirs = pipes
    nets = [tiny_controlnet(ours.unet, seed) for seed in range(1 + several)]
    names = ("controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end")
    values = [(0.8, 0.0, 0.7), (1.3, 0.3, 1.0)][: len(nets)]
    listed = {name: list(column) if several else column[0] for name, column in zip(names, zip(*values))}
    controls = [ours.control(net, picture(), *value) for net, value in zip(nets, values)]
    pipe = theirs(StableDiffusionControlNetPipeline, controlnet=nets if several else nets[0])
    ours_only = {name: ... for name in names} | dict(image=..., guidance_scale=None, control_scale=7.5, controls=controls, rectify=False)
    assert_same(ours, pipe, ours_only, image=[picture()] * 2 if several else picture(), guidance_scale=7.5, negative_prompt=["red", "red"], **listed)


def test_a_saved_controlnet_is_found_by_its_folder(pipes, tmp_path):
    ours, _ = pipes
    net = tiny_controlnet(ours.unet)
    net.save_pretrained(tmp_path)
    loaded = ours.control(tmp_path, picture()).network
    assert isinstance(loaded, ControlNetModel) and all(torch.equal(a, b) for a, b in zip(loaded.parameters(), net.parameters()))
