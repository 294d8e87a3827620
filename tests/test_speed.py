"""The benchmark compares steps that ran side by side."""

import pytest
import torch

from core import InDomainPipeline
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
    result = speed.step_ratio(tiny_unet(), torch.device("cpu"), batch=1, repeats=4, quiet=True)
    assert result["ratio"] == 1.5 and calls[3:] == ["<lambda>", "plain", "plain", "<lambda>"] * 2


def test_the_ratio_of_trainings_is_of_whole_steps_that_train(tiny_sd, monkeypatch):
    pipe = InDomainPipeline.from_pretrained(tiny_sd)
    trained, calls = speed.trained, []

    def watched(unet, gradients):
        step = trained(unet, gradients)
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
