"""The benchmark compares steps that ran side by side."""

import json
from collections import Counter

import pytest
import torch
from diffusers import UNet2DConditionModel

from core import InDomainPipeline, NullTextUNet
from core.evaluation import speed

from .conftest import tiny_unet


def test_the_ratio_is_of_paired_steps_whatever_the_machines_pace(monkeypatch):
    calls = []

    def seconds_of(step, device):
        assert step().shape == (1, 4, 8, 8)
        calls.append(step.__name__)
        pace = 2.0 ** (len(calls) // 2)  # slower from pair to pair, after one warm-up of each
        return pace * (1.0 if step.__name__ == "plain" else 1.5)

    monkeypatch.setattr(speed, "seconds_of", seconds_of)
    calls.append("before")
    result = speed.step_ratio(tiny_unet(), 16, torch.device("cpu"), batch=1, repeats=4, quiet=True)
    assert result["ratio"] == 1.5 and calls[3:] == ["<lambda>", "plain", "plain", "<lambda>"] * 2


def test_prompts_are_as_long_as_the_priors_tokenizer_has_them(kiln_weights):
    unet, seen = tiny_unet(), set()
    unet.register_forward_pre_hook(lambda _, args, given: seen.add(given["encoder_hidden_states"].shape[1]), with_kwargs=True)
    speed.step_ratio(unet, 5, torch.device("cpu"), batch=1, repeats=1, quiet=True)
    encoder = json.loads((kiln_weights / "prior" / "text_encoder" / "config.json").read_text())
    assert seen == {5} and speed.PRIORS["kiln"]()[1] == encoder["max_position_embeddings"]


def test_an_images_cost_is_of_as_many_steps_of_one_prior_with_a_domain_and_by_diffusers_without(tiny_sd, monkeypatch):
    pipe, forward, seen = InDomainPipeline.from_pretrained(tiny_sd, num_inference_steps=3), UNet2DConditionModel.forward, []
    monkeypatch.setattr(UNet2DConditionModel, "forward", lambda self, z, *rest, **more: seen.append((type(self), len(z))) or forward(self, z, *rest, **more))

    def seconds_of(step, device):
        seen.clear()
        assert len(step().images) == 2
        calls = Counter(seen)
        assert calls.pop((UNet2DConditionModel, 4)) == 3 and calls in ({}, {(NullTextUNet, 2): 3})
        return 3.0 if calls else 2.0

    monkeypatch.setattr(speed, "seconds_of", seconds_of)
    assert speed.image_cost(pipe, batch=2, repeats=2, quiet=True) == {
        "ratio": 1.5, "seconds_per_image_diffusers": 1.0, "seconds_per_image_ours": 1.5, "peak_gib_diffusers": None, "peak_gib_ours": None}


def test_the_ratio_of_trainings_is_of_whole_steps_that_train(tiny_sd, monkeypatch):
    pipe = InDomainPipeline.from_pretrained(tiny_sd)
    trained, calls = speed.trained, []

    def watched(unet, *rest):
        step = trained(unet, *rest)
        step.unet = unet
        return step

    def seconds_of(step, device):
        weights = step.unet.conv_in.weight.detach().clone()
        step()
        assert not torch.equal(weights, step.unet.conv_in.weight)
        calls.append(step.unet)
        return 3.0 if step.unet is pipe.unet else 2.0

    monkeypatch.setattr(speed, "trained", watched)
    monkeypatch.setattr(speed, "seconds_of", seconds_of)
    result = speed.training_ratio(pipe, torch.device("cpu"), batch=2, repeats=2, quiet=True)
    assert result == {"ratio": 1.5, "images_per_second_diffusers": pytest.approx(2 / 3), "images_per_second_ours": 1.0}
    assert calls.count(pipe.unet) == 3 and len(calls) == 6


def test_a_samplings_cost_is_over_classifier_free_guidance_at_all_steps_without_the_domain(tiny_sd, monkeypatch):
    pipe, evaluated = InDomainPipeline.from_pretrained(tiny_sd, num_inference_steps=4, guidance_every=2), []
    pipe.register_modules(domain_unet=NullTextUNet.from_prior(pipe.unet, torch.zeros(1, 1, 24)))
    for unet in (pipe.unet, pipe.domain_unet):
        unet.register_forward_pre_hook(lambda _, inputs: evaluated.append(len(inputs[0])))

    def count(step, device):
        evaluated.clear()
        step()
        return sum(evaluated)

    monkeypatch.setattr(speed, "seconds_of", count)
    cost = lambda **settings: speed.sampling_ratio(pipe, settings, batch=1, repeats=1, quiet=True)
    assert cost(guidance_every=1) == 12 / 8 and cost() == (6 + 2) / 8 and cost(num_inference_steps=2) == (3 + 1) / 8
