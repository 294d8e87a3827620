"""The benchmark compares steps that ran side by side."""

import torch

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
