"""The pipeline samples as diffusers does, and by the rule; images do not depend on their batch."""

import logging
import sys

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, StableDiffusionPipeline

from core import InDomainPipeline, NullTextUNet
from core import sample as sample_module
from core.errors import UserError

from .conftest import tiny_pipeline


def load(folder, **kwargs) -> InDomainPipeline:
    pipe = InDomainPipeline.from_pretrained(folder, **kwargs)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def prior(tiny_sd):
    return load(tiny_sd)


@pytest.fixture
def pipe(prior):
    torch.manual_seed(1)
    prior.register_modules(domain_unet=NullTextUNet.from_prior(prior.unet, 3 * torch.randn(1, 1, 24)))
    with torch.no_grad():
        for parameter in prior.domain_unet.parameters():
            parameter.mul_(1.1)
    return prior


def seeds(*numbers):
    return [torch.Generator().manual_seed(n) for n in numbers]


def draw(pipe, prompt, generator=None, **kwargs):
    kwargs = {"num_inference_steps": 4, "output_type": "pt", "generator": generator or seeds(0)} | kwargs
    return pipe(prompt, **kwargs).images


@pytest.mark.parametrize("scheduler", [DPMSolverMultistepScheduler, DDIMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize("negative", [None, "red"])
def test_without_a_domain_images_equal_stable_diffusion_pipelines(prior, tiny_sd, scheduler, negative):
    theirs = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    prior.scheduler = theirs.scheduler = scheduler.from_config(theirs.scheduler.config)
    common = dict(negative_prompt=negative, generator=torch.Generator().manual_seed(3), num_images_per_prompt=2)
    expected = draw(theirs, "a blue vase", guidance_scale=7.5, **common)
    common["generator"].manual_seed(3)
    got = draw(prior, "a blue vase", control_scale=7.5, **common)
    assert (got - expected).abs().max() <= 1e-5 and expected.std() > 0.01


def test_v_prediction_priors_sample_as_in_diffusers(tmp_path):
    theirs = tiny_pipeline(prediction_type="v_prediction")
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    theirs.scheduler = DPMSolverMultistepScheduler.from_config(ours.scheduler.config)
    assert (draw(ours, "a vase", control_scale=3.0) - draw(theirs, "a vase", guidance_scale=3.0)).abs().max() <= 1e-4


def test_an_image_does_not_depend_on_what_else_is_in_its_batch(pipe):
    together = draw(pipe, ["a vase", "a bowl", "a jar"], seeds(5, 6, 7), num_inference_steps=8)
    alone = draw(pipe, "a bowl", seeds(6), num_inference_steps=8)
    assert (together[1] - alone[0]).abs().max() <= 1e-4 and (together[0] - alone[0]).abs().max() > 1e-3


def test_unconditional_sampling_in_a_domain_is_the_null_text_unet_alone(pipe, prior):
    called = []
    pipe.unet.register_forward_hook(lambda *_: called.append(1))
    unconditional = draw(pipe, None)
    assert not called
    z_t, t = torch.randn(1, 4, 8, 8), torch.tensor(400)
    with torch.no_grad():
        assert torch.equal(pipe.noise_predictor(None)(z_t, t), pipe.domain_unet(z_t, t).sample)
    assert (unconditional - draw(pipe, None, domain_scale=2.0)).abs().max() > 1e-4 and called


def test_the_predictor_is_eq_3_over_prior_and_domain(pipe):
    z_t, t = torch.randn(2, 4, 8, 8), torch.tensor([100, 800])
    with torch.no_grad():
        eps_hat = pipe.noise_predictor("a vase", batch=2, domain_scale=3.0, control_scale=2.0)(z_t, t)
        read = lambda text: pipe.unet(z_t, t, pipe.encode_prompt([text] * 2)).sample
        eps_0, eps_c, eps_d = read(""), read("a vase"), pipe.domain_unet(z_t, t).sample
    assert torch.allclose(eps_hat, eps_0 + 3.0 * (eps_d - eps_0) + 2.0 * (eps_c - eps_0), atol=1e-5)


def test_the_domains_phrase_is_composed_into_the_prompt_and_said(pipe, caplog):
    pipe.register_to_config(phrase="a photo of {prompt}")
    with caplog.at_level(logging.INFO, logger="core"):
        composed = draw(pipe, "a vase")
    assert "a photo of a vase" in caplog.text
    assert torch.equal(composed, draw(pipe, "a photo of a vase", compose_prompt=False))
    assert not torch.equal(composed, draw(pipe, "a vase", compose_prompt=False))


def test_what_was_cut_off_a_long_prompt_is_said(prior, caplog):
    prior.encode_prompt(["a vase"])
    assert not caplog.text
    prior.encode_prompt(["aaaaaaaaaaaaaaaazz"])
    assert "zz" in caplog.text and "14 tokens" in caplog.text


def test_saved_and_loaded_pipelines_sample_alike(pipe, tmp_path):
    pipe.register_to_config(phrase="a photo of {prompt}", guidance_scale=4.0)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert isinstance(again.scheduler, DDIMScheduler) and again.config.guidance_scale == 4.0
    assert (draw(again, "a vase") - draw(pipe, "a vase")).abs().max() <= 1e-5


def test_images_encode_differentiably(prior):
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    latents = prior.encode_images(images)
    latents.square().sum().backward()
    assert latents.shape == (2, 4, 8, 8) and images.grad.abs().max() > 0


def test_the_callback_sees_and_may_change_the_latents(prior):
    seen = []

    def zero(pipe, step, t, tensors):
        seen.append(step)
        return {"latents": torch.zeros_like(tensors["latents"])}

    latents = draw(prior, "a vase", callback_on_step_end=zero, output_type="latent")
    assert seen == [0, 1, 2, 3] and not latents.any()


def test_a_call_leaves_no_state_in_the_scheduler(pipe):
    assert torch.equal(draw(pipe, "a vase"), draw(pipe, "a vase"))


@pytest.mark.parametrize("wrong, said", [
    (dict(prompt=" "), "empty"), (dict(prompt=["a", ""]), "None"), (dict(prompt="a", height=15), "multiple of 2"),
    (dict(prompt="a", num_inference_steps=0), "num_inference_steps is 0"), (dict(prompt=["a", "b"], negative_prompt=["c"]), "negative_prompt"),
])
def test_what_a_user_did_wrong_is_said(prior, wrong, said):
    with pytest.raises(UserError, match=said):
        prior(**wrong)


@pytest.mark.parametrize("domain", [None, "porcelain"])
def test_the_kiln_loads_and_folds_exactly(kiln_weights, domain):
    pipe = load("kiln", domain=domain)
    z_t, t, feature = torch.randn(2, 4, 16, 16), torch.tensor([50, 900]), torch.randn(1, 1, pipe.unet.config.cross_attention_dim)
    with torch.no_grad():
        difference = NullTextUNet.from_prior(pipe.unet, feature)(z_t, t).sample - pipe.unet(z_t, t, feature.expand(2, -1, -1)).sample
    assert difference.abs().max() <= 1e-5


@pytest.mark.parametrize("stop, raised", [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left on device"), UserError)])
def test_pictures_that_are_done_are_kept_when_sampling_is_stopped(stop, raised, tiny_sd, tmp_path, monkeypatch):
    calls, whole = [], InDomainPipeline.__call__

    def stopped(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise stop
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(InDomainPipeline, "__call__", stopped)
    command = f"sample --preset {tiny_sd} --domain none --num-images 5 --batch-size 2 --steps 1 --seed 7 --device cpu --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(raised, match="4 of 5 images are in"):
        sample_module.main()
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{seed:05d}.png" for seed in (7, 8, 9, 10)]
