"""Learning a domain: where it starts, that it learns, and that a killed run ends like one that was not."""

import errno
import inspect
import json
import logging
import os
import platform
import re
import runpy
import shutil
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.training_utils import EMAModel
from PIL import Image
from safetensors.torch import load_file, save_file

from core import InDomainPipeline, NullTextUNet
from core.domains import find_domain, unet_fingerprint, user_domains
from core.errors import UserError
from core.evaluation import worlds
from core.kiln import judge
from core.presets import PRESETS
from core.training import domain as domain_module
from core.training.best import KeepBest, find_fid_features
from core.training.data import Pictures, load_latents
from core.training.domain import open_work, train_domain
from core.training.fit import PRECISIONS, averaged, denoising_gradients, find_precision, min_snr_weight
from core.training.text_feature import add_noise, denoising_loss, draw, optimise_text_feature

from .conftest import tiny_scheduler, tiny_unet

ROOT = Path(__file__).parent.parent
SHORT = dict(steps=6, batch_size=4, feature_steps=2, learning_rate=1e-3, sample_every=100, device="cpu", quiet=True)
FULL = find_precision("no", torch.device("cpu"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


def weights(folder):
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def test_the_text_feature_lowers_the_loss_of_the_frozen_prior():
    torch.manual_seed(0)
    unet, scheduler, latents = tiny_unet(), tiny_scheduler(), torch.randn(8, 4, 8, 8)
    before = {k: v.clone() for k, v in unet.state_dict().items()}

    def loss(feature):
        def predict(z_t, t):
            return unet(z_t, t, feature.expand(len(z_t), -1, -1)).sample

        return denoising_loss(predict, scheduler, latents.repeat(8, 1, 1, 1), torch.Generator().manual_seed(9))

    start = torch.randn(1, 1, 24)
    feature = optimise_text_feature(unet, scheduler, latents, {"start": start}, *FULL, steps=30, batch_size=8, learning_rate=0.1, quiet=True)
    assert feature.shape == (1, 1, 24) and not feature.requires_grad
    assert loss(feature) < loss(start)
    assert all(torch.equal(v, before[k]) for k, v in unet.state_dict().items())


def test_the_better_starting_feature_is_taken():
    torch.manual_seed(0)
    unet, scheduler, latents = tiny_unet(), tiny_scheduler(), torch.randn(8, 4, 8, 8)
    starts = {str(i): 3 * torch.randn(1, 1, 24) for i in range(2)}
    orders = starts.items(), reversed(starts.items())
    taken = [optimise_text_feature(unet, scheduler, latents, dict(order), *FULL, steps=0, quiet=True) for order in orders]
    assert torch.equal(*taken)


def test_the_text_feature_is_the_same_in_however_many_parts_and_about_the_same_in_half_precision():
    torch.manual_seed(0)
    unet, scheduler, latents, start = tiny_unet(), tiny_scheduler(), torch.randn(8, 4, 8, 8), torch.randn(1, 1, 24)
    sizes, precisions = [], []
    unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    unet.conv_in.register_forward_hook(lambda *args: precisions.append(args[-1].dtype))

    def learn(parts, precision=FULL):
        sizes.clear()
        return optimise_text_feature(unet, scheduler, latents, {"start": start}, *precision, parts, steps=5, batch_size=7, quiet=True) - start

    whole = learn(1)
    assert set(sizes) == {7}
    for parts, most in ((3, 3), (20, 1)):
        assert torch.allclose(learn(parts), whole, rtol=1e-3, atol=1e-5) and max(sizes) == most
    precisions.clear()
    half = learn(1, half_precision("fp16", None))
    assert set(precisions) == {torch.float16} and half.dtype == torch.float32 and torch.cosine_similarity(half, whole, dim=-1) > 0.95


def test_training_begins_at_the_fold_of_the_text_feature(tiny_sd, pictures, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(domain_module, "fit", lambda unet, *_, **__: begun.append(unet) or [1.0])
    out = train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT)
    feature, prior = load_file(out / "text_feature.safetensors")["text_feature"], InDomainPipeline.from_pretrained(tiny_sd).unet
    z, t = torch.randn(2, 4, 8, 8), torch.tensor([20, 700])
    with torch.no_grad():
        assert torch.allclose(begun[0](z, t).sample, prior(z, t, feature.expand(2, -1, -1)).sample, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_gradients_are_those_of_the_loss_in_however_many_parts(prediction_type):
    torch.manual_seed(0)
    unet, latents = NullTextUNet.from_prior(tiny_unet(), torch.randn(1, 1, 24)), torch.randn(9, 4, 8, 8)
    scheduler = tiny_scheduler(prediction_type=prediction_type)
    generator = torch.Generator().manual_seed(2 * 1_000_003 + 4)
    whole = denoising_loss(lambda z_t, t: unet(z_t, t).sample, scheduler, draw(latents, 5, generator), generator)
    whole.backward()
    expected = {name: p.grad.clone() for name, p in unet.named_parameters() if p.grad is not None}
    for parts in (1, 2, 5):
        unet.zero_grad()
        assert denoising_gradients(unet, scheduler, latents, 5, parts, *FULL, seed=2, step=4) == pytest.approx(whole.item(), rel=1e-5)
        for name, parameter in unet.named_parameters():
            assert name not in expected or torch.allclose(parameter.grad, expected[name], rtol=1e-3, atol=1e-6)


def test_a_batchs_timesteps_are_spread_over_all_and_each_may_be_anyones():
    scheduler, generator = tiny_scheduler(), torch.Generator().manual_seed(0)
    drawn = torch.stack([add_noise(scheduler, torch.zeros(8, 1, 1, 1), generator)[1] for _ in range(2000)])
    gaps = drawn.sort(1).values.diff(dim=1)
    assert gaps.min() >= 124 and gaps.max() <= 126
    assert drawn[:, 3].float().mean().item() == pytest.approx(499.5, abs=20) and drawn[:, 3].min() < 10 and drawn[:, 3].max() > 989


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_weighs_what_both_predictions_say_of_the_clean_latents_alike(prediction_type):
    scheduler, t = tiny_scheduler(prediction_type=prediction_type), torch.arange(1000)
    alpha_bar = scheduler.alphas_cumprod
    of_clean = (alpha_bar / (1 - alpha_bar)).clamp(max=5)  # |x - x_theta|^2 is |eps - eps_theta|^2 / SNR, and |v - v_theta|^2 / (SNR + 1)
    in_clean = 1 / (alpha_bar if prediction_type == "epsilon" else 1) * (1 - alpha_bar)
    assert torch.allclose(min_snr_weight(scheduler, t, 5.0), of_clean * in_clean, rtol=1e-4)
    assert (min_snr_weight(scheduler, t, None) == 1).all()


@pytest.mark.parametrize("dtype, scale", [(torch.bfloat16, 1.0), (torch.float16, 1024.0)])
def test_in_half_precision_gradients_are_about_the_same_in_fp32_and_scaled(dtype, scale):
    torch.manual_seed(0)
    unet, latents = NullTextUNet.from_prior(tiny_unet(), torch.randn(1, 1, 24)), torch.randn(9, 4, 8, 8)

    def gradients(*precision):
        unet.zero_grad()
        loss = denoising_gradients(unet, tiny_scheduler(), latents, 5, 1, *precision, seed=0, step=0)
        return loss, torch.cat([p.grad.flatten() for p in unet.parameters() if p.grad is not None])

    loss, whole = gradients(*FULL)
    half_loss, half = gradients(torch.autocast("cpu", dtype), torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale != 1))
    assert half.dtype == torch.float32 and half_loss == pytest.approx(loss, rel=0.02) and half_loss != loss
    assert torch.cosine_similarity(half, whole, dim=0) > 0.999 and half.norm() / whole.norm() == pytest.approx(scale, rel=0.02)


def test_a_precision_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    with pytest.raises(UserError, match="'bf16' is slower on this CPU"):
        find_precision("bf16", torch.device("cpu"))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    autocast, scaler = find_precision("bf16", torch.device("cpu"))
    assert autocast.fast_dtype == torch.bfloat16 and not scaler.is_enabled()
    with pytest.raises(UserError, match="'fp16' is slower on this CPU"):
        find_precision("fp16", torch.device("cpu"))
    with pytest.raises(UserError, match="'fp8': give one of no, fp16, bf16"):
        find_precision("fp8", torch.device("cuda"))


@pytest.mark.parametrize("precision, processor", [("no", AttnProcessor2_0), ("bf16", AttnProcessor)])
def test_in_bf16_a_cpu_attends_by_plain_products(precision, processor, tiny_sd, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    seen = set()

    def look(unet, *args, **kwargs):
        seen.update(type(each.processor) for each in unet.modules() if hasattr(each, "set_processor"))
        return denoising_gradients(unet, *args, **kwargs)

    monkeypatch.setattr(domain_module, "denoising_gradients", look)
    train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT, mixed_precision=precision)
    assert seen == {processor}


def half_precision(name, device):
    """As on a GPU, with a scale that doubles at every step until it is too large for fp16."""
    return torch.autocast("cpu", PRECISIONS[name]), torch.amp.GradScaler("cpu", init_scale=2.0**14, growth_interval=1, enabled=name == "fp16")


@pytest.mark.parametrize("settings", [{}, dict(accumulation=3, gradient_checkpointing=True), dict(mixed_precision="fp16"), dict(mixed_precision="bf16"),
                                      dict(lr_scheduler="cosine", lr_warmup_steps=2)])
def test_a_stopped_run_resumes_to_the_same_weights_bit_for_bit(settings, tiny_sd, pictures, tmp_path, monkeypatch):
    how = SHORT | settings
    if "mixed_precision" in how:
        monkeypatch.setattr(domain_module, "find_precision", half_precision)
    whole = train_domain("clay", pictures, tiny_sd, tmp_path / "whole", **how)

    def interrupted(*args, **kwargs):
        if args[-1] == 2:
            signal.raise_signal(signal.SIGINT)
        return denoising_gradients(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(domain_module, "denoising_gradients", interrupted)
        with pytest.raises(KeyboardInterrupt, match="after step 3 of 6.*run the same command again"):
            train_domain("clay", pictures, tiny_sd, tmp_path / "stopped", **how)
    assert not (tmp_path / "stopped").exists()
    resumed = train_domain("clay", pictures, tiny_sd, tmp_path / "stopped", **how)
    a, b = weights(whole), weights(resumed)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert (tmp_path / "stopped.work" / "loss.csv").read_text() == (tmp_path / "whole.work" / "loss.csv").read_text()


@pytest.mark.parametrize("schedule, expected", [
    ("constant_with_warmup", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]), ("linear", [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]),
])
def test_the_learning_rate_follows_its_schedule(schedule, expected, tiny_sd, pictures, tmp_path, monkeypatch):
    rates, step = [], torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *a: rates.append(self.param_groups[0]["lr"]) or step(self, *a))
    train_domain("clay", pictures, tiny_sd, tmp_path / "clay", lr_scheduler=schedule, lr_warmup_steps=2, **SHORT | {"feature_steps": 0})
    assert np.allclose(rates, np.array(expected) * SHORT["learning_rate"])


def test_a_run_whose_rate_falls_goes_on_to_the_same_steps_alone(tiny_sd, pictures, tmp_path):
    train = lambda steps: train_domain("clay", pictures, tiny_sd, tmp_path / "clay", lr_scheduler="cosine", **SHORT | {"steps": steps})
    train(3)
    with pytest.raises(UserError, match="has lr_steps 3, not 6"):
        train(6)


def test_a_run_from_before_there_were_schedules_does_not_go_on_with_another(tiny_sd, pictures, tmp_path):
    train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT)
    file = tmp_path / "clay.work" / "settings.json"
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "lr_scheduler"}))
    with pytest.raises(UserError, match="has lr_scheduler constant, not cosine"):
        train_domain("clay", pictures, tiny_sd, tmp_path / "clay", lr_scheduler="cosine", **SHORT)


def test_a_run_that_dies_beyond_its_checkpoint_resumes_to_the_same_weights_and_tensorboard_has_each_step_once(tiny_sd, pictures, tmp_path, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    whole = train_domain("clay", pictures, tiny_sd, tmp_path / "whole", **SHORT)

    def fails(*args, **kwargs):
        if args[-1] == 1:
            signal.raise_signal(signal.SIGINT)  # a checkpoint after step 2
        if args[-1] == 4:
            raise RuntimeError("dies")
        return denoising_gradients(*args, **kwargs)

    train = lambda: train_domain("clay", pictures, tiny_sd, tmp_path / "died", tensorboard=True, **SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(domain_module, "denoising_gradients", fails)
        with pytest.raises(KeyboardInterrupt, match="after step 2"):
            train()
        with pytest.raises(RuntimeError, match="dies"):
            train()
    work = tmp_path / "died.work"
    assert len(torch.load(work / "checkpoint.pt", weights_only=True)["history"]) == 2
    resumed = train()
    assert all(torch.equal(a, b) for a, b in zip(parameters(whole), parameters(resumed), strict=True))
    assert (work / "loss.csv").read_text() == (tmp_path / "whole.work" / "loss.csv").read_text()
    written = events.EventAccumulator(str(work / "tensorboard")).Reload().Scalars("loss")
    assert np.allclose([(event.step, event.value) for event in written], np.loadtxt(work / "loss.csv", delimiter=",", skiprows=1))


def test_of_a_checkpoint_nothing_is_kept_beside_what_is_trained(tiny_sd, pictures, tmp_path, monkeypatch):
    train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT)
    load, loaded = torch.load, []

    def watched(*args, **kwargs):
        state = load(*args, **kwargs)
        loaded.extend(weakref.ref(tensor) for part in (state["unet"].values(), state["ema"]["shadow_params"]) for tensor in part)
        return state

    def gradients(*args, **kwargs):
        assert loaded and not any(ref() is not None for ref in loaded)
        return denoising_gradients(*args, **kwargs)

    monkeypatch.setattr(torch, "load", watched)
    monkeypatch.setattr(domain_module, "denoising_gradients", gradients)
    train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT | {"steps": 7})


def test_no_more_pictures_are_computed_at_once_than_a_part_of_the_batch_has(tiny_sd, pictures, tmp_path, monkeypatch):
    pytest.importorskip("torchmetrics")
    sizes, sheets = set(), []
    monkeypatch.setattr(domain_module, "find_fid_features", lambda _: Means())

    def watch(model, method):
        call = getattr(model, method)
        monkeypatch.setattr(model, method, lambda self, x, *args, **kwargs: sizes.add(len(x)) or call(self, x, *args, **kwargs))

    for model in (UNet2DConditionModel, NullTextUNet, Means):
        watch(model, "forward")
    watch(AutoencoderKL, "encode")
    watch(AutoencoderKL, "decode")
    for accumulation in (1, 2):
        sizes.clear()
        how = SHORT | dict(steps=1, feature_steps=1, accumulation=accumulation, fid_every=1, fid_images=3)
        out = train_domain("clay", pictures, tiny_sd, tmp_path / str(accumulation), **how)
        sheets.append(np.asarray(Image.open(next(out.with_name(f"{accumulation}.work").glob("sample-*.png"))), int))
        assert max(sizes) == 4 // accumulation
    assert np.abs(sheets[0] - sheets[1]).max() <= 2


class Means(torch.nn.Module):
    """Features that are quick to take: an image's mean colour."""

    num_features = 3

    def forward(self, x):
        return x.mean((2, 3))


def scripted(scores, seen):
    """In place of `fid_measure`: gives these FIDs, and keeps the weights that it is shown."""
    scores = iter(scores)
    return lambda *_: lambda unet: seen.append([p.detach().clone() for p in unet.parameters()]) or next(scores)


def parameters(folder):
    return list(NullTextUNet.from_pretrained(folder / "unet").parameters())


@pytest.mark.parametrize("patience, measured", [(None, 6), (2, 4)])
def test_the_weights_of_the_lowest_fid_are_kept_and_patience_ends_the_training(patience, measured, tiny_sd, pictures, tmp_path, monkeypatch):
    pytest.importorskip("torchmetrics")
    seen = []
    monkeypatch.setattr(domain_module, "find_fid_features", lambda _: Means())
    monkeypatch.setattr(domain_module, "fid_measure", scripted([3.0, 1.0, 2.0, 1.0, 1.5, 1.25], seen))
    for _ in range(2):  # called again, it has nothing more to do
        out = train_domain("clay", pictures, tiny_sd, tmp_path / "clay", fid_every=1, patience=patience, **SHORT)
        assert len(seen) == measured and all(torch.equal(a, b) for a, b in zip(parameters(out), seen[1], strict=True))
        record = find_domain(out).training
        assert (record["fid"], record["fid_step"], record["steps"]) == (1.0, 2, measured)
        assert len(np.loadtxt(tmp_path / "clay.work" / "loss.csv", delimiter=",", skiprows=1)) == measured


def test_a_training_cannot_end_before_the_step_that_it_is_at(tiny_sd, pictures, tmp_path):
    train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT)
    with pytest.raises(UserError, match="clay.work has taken 6 steps already: give at least as many"):
        train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT | {"steps": 5})


def test_fid_asked_for_when_no_step_is_left_is_said_not_to_be_measured(tiny_sd, pictures, tmp_path, monkeypatch, caplog):
    pytest.importorskip("torchmetrics")
    monkeypatch.setattr(domain_module, "find_fid_features", lambda _: Means())
    train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT)
    train_domain("clay", pictures, tiny_sd, tmp_path / "clay", fid_every=1, **SHORT)
    assert "FID was not measured" in caplog.text


def test_a_domain_that_takes_the_name_of_one_that_ships_is_said_to(tiny_sd, pictures, caplog):
    train_domain("porcelain", pictures, tiny_sd, **SHORT | {"steps": 1})
    assert "'porcelain' this domain is found from now on" in caplog.text
    assert "porcelain" in worlds.shipped("kiln"), "tables are of those that ship"


def test_a_fid_that_is_not_a_number_is_the_worst():
    scores, unet = [float("nan"), 5.0, float("nan"), 3.0, 4.0, float("nan")], tiny_unet()
    best = KeepBest(lambda _: scores[len(best.scores)], every=1, patience=2)
    for step in range(6):
        with torch.no_grad():
            unet.conv_in.bias.fill_(step)
        best.look(unet, step)
    assert best.best == (3, 3.0) and best.has_converged
    best.copy_to(unet)
    assert unet.conv_in.bias.unique().tolist() == [3]


def test_what_fails_under_the_moving_average_leaves_the_weights_in_place():
    unet = tiny_unet()
    ema = EMAModel(unet.parameters())
    with torch.no_grad():
        unet.conv_in.bias.fill_(2)
    with pytest.raises(RuntimeError), averaged(unet, ema):
        assert not (unet.conv_in.bias == 2).any()
        raise RuntimeError
    assert (unet.conv_in.bias == 2).all()


def test_a_stopped_run_with_fid_resumes_to_the_same_weights_and_they_have_the_fid_on_record(tiny_sd, pictures, tmp_path, monkeypatch):
    measures = pytest.importorskip("core.evaluation.measures", exc_type=ImportError)
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    how = SHORT | dict(steps=9, fid_every=2, fid_images=5, patience=2, seed=3)
    monkeypatch.setattr(domain_module, "find_fid_features", lambda _: Means())
    whole = train_domain("clay", pictures, tiny_sd, tmp_path / "whole", tensorboard=True, **how)
    for last in (2, 3):  # between measurements, and after one
        def interrupted(*args, last=last, **kwargs):
            if args[-1] == last:
                signal.raise_signal(signal.SIGINT)
            return denoising_gradients(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(domain_module, "denoising_gradients", interrupted)
            with pytest.raises(KeyboardInterrupt):
                train_domain("clay", pictures, tiny_sd, tmp_path / f"stopped-{last}", **how)
        resumed = train_domain("clay", pictures, tiny_sd, tmp_path / f"stopped-{last}", **how)
        assert all(torch.equal(a, b) for a, b in zip(parameters(whole), parameters(resumed), strict=True))
        for name in ("fid.csv", "loss.csv"):
            assert (tmp_path / f"stopped-{last}.work" / name).read_text() == (tmp_path / "whole.work" / name).read_text()

    listed = np.loadtxt(tmp_path / "whole.work" / "fid.csv", delimiter=",", skiprows=1)
    written = events.EventAccumulator(str(tmp_path / "whole.work" / "tensorboard")).Reload().Scalars("fid")
    assert np.allclose([(event.step, event.value) for event in written], listed)
    record, pipe = find_domain(whole).training, InDomainPipeline.from_pretrained(tiny_sd, domain=whole)
    generators = [torch.Generator().manual_seed(3 + i) for i in range(5)]
    images = pipe(None, num_images_per_prompt=5, generator=generators, output_type="pt").images * 2 - 1
    real = measures.real_statistics(Means(), [torch.stack(list(Pictures(pictures, 16)))])
    assert measures.fid_to(real, Means(), [images]) == pytest.approx(record["fid"], rel=1e-3)
    assert record["fid"] == pytest.approx(listed[:, 1].min())


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tiny_sd, pictures, tmp_path, monkeypatch):
    """Through the command line, with a batch that they cannot halve, and FID of quick features, which one measures for both."""
    pytest.importorskip("torchmetrics")
    how = dict(steps=4, batch_size=5, learning_rate=1e-3, fid_every=2, fid_images=3)
    monkeypatch.setattr(domain_module, "find_fid_features", lambda _: Means())
    train_domain("clay", pictures, tiny_sd, tmp_path / "one", device="cpu", quiet=True, **how)
    quick = tmp_path / "quick.py"
    quick.write_text("import runpy, torch\nfrom core.training import domain\n" + inspect.getsource(Means) + "domain.find_fid_features = lambda _: Means()\n"
                     f"runpy.run_path({str(ROOT / 'scripts' / 'train_domain.py')!r}, run_name='__main__')\n")
    launch = "-m accelerate.commands.launch --multi_gpu --num_machines 1 --num_processes 2 --mixed_precision no --dynamo_backend no"
    train = f"--domain clay --data {pictures} --preset {tiny_sd} --out {tmp_path}/two --device cpu --quiet".split()
    train += [text for key, value in how.items() for text in (f"--{key.replace('_', '-')}", str(value))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, *launch.split(), str(quick), *train], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("is in") == 1 and find_domain(tmp_path / "two").training["processes"] == 2
    for name, rows in (("loss.csv", 4), ("fid.csv", 2)):
        one, two = (np.loadtxt(tmp_path / f"{which}.work" / name, delimiter=",", skiprows=1) for which in ("one", "two"))
        assert len(one) == rows and np.allclose(one, two, rtol=1e-4 if name == "loss.csv" else 1e-2)
    one, two = (weights(tmp_path / which) for which in ("one", "two"))
    assert all((one[k] - two[k]).abs().mean() <= 1e-5 for k in one)  # the mean: AdamW makes whole steps of rounding where a gradient is almost 0


def test_fid_is_of_the_judges_features_for_the_kiln_and_of_inceptions_otherwise(tmp_path, monkeypatch):
    measures = pytest.importorskip("core.evaluation.measures", exc_type=ImportError)
    assert PRESETS["kiln"].judge == str(judge.WEIGHTS) and PRESETS["sd15"].judge is None
    judge.Judge({"class": ("vase", "bowl")}, widths=(4,)).save(tmp_path / "judge.safetensors")
    assert isinstance(find_fid_features(str(tmp_path / "judge.safetensors")), judge.Judge)
    with pytest.raises(UserError, match="no judge in"):
        find_fid_features(str(tmp_path / "none.safetensors"))
    monkeypatch.setattr(measures, "NoTrainInceptionV3", lambda name, features: torch.nn.Flatten())
    x = torch.tensor([-1.2, -1, 0, 1]).view(1, 1, 2, 2)
    assert find_fid_features(None)(x).tolist() == [[0, 0, 128, 255]]

    def without(error):
        def raises(*_):
            raise error

        monkeypatch.setattr(measures, "NoTrainInceptionV3", raises)

    without(ModuleNotFoundError("requires that `Torch-fidelity` is installed"))
    with pytest.raises(UserError, match=r"torch-fidelity: pip install 'ingen3d\[fid\]'"):
        find_fid_features(None)
    without(OSError("no network"))
    with pytest.raises(UserError, match="Inception.*no network"):
        find_fid_features(None)


def test_without_torchmetrics_its_absence_is_said(tiny_sd, pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "core.evaluation.measures", None)
    with pytest.raises(UserError, match=r"FID needs torchmetrics: pip install 'ingen3d\[fid\]'"):
        train_domain("clay", pictures, tiny_sd, tmp_path / "clay", fid_every=2, **SHORT)
    assert not (tmp_path / "clay.work").exists()


def test_fid_to_a_single_picture_is_refused(tiny_sd, tmp_path, monkeypatch):
    pytest.importorskip("torchmetrics")
    monkeypatch.setattr(domain_module, "find_fid_features", lambda _: Means())
    (tmp_path / "data").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "data" / "one.png")
    with pytest.raises(UserError, match="one picture"):
        train_domain("clay", tmp_path / "data", tiny_sd, tmp_path / "clay", fid_every=2, **SHORT)


def test_every_picture_and_its_mirror_image_are_encoded_once(tiny_sd, pictures, tmp_path, monkeypatch):
    train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT)
    latents = load_latents(tmp_path / "clay.work" / "latents.f32", 4, 8)
    images, pipe = torch.stack(list(Pictures(pictures, 16))), InDomainPipeline.from_pretrained(tiny_sd)
    assert torch.allclose(latents[::2], pipe.encode_images(images), atol=1e-5)
    assert torch.allclose(latents[1::2], pipe.encode_images(images.flip(-1)), atol=1e-5)
    monkeypatch.setattr(domain_module, "encode", None)
    train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT | {"steps": 7})


def test_partial_latents_of_killed_processes_are_removed_and_those_of_others_kept(tiny_sd, pictures, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    here, shared = platform.node(), tmp_path / "latents"
    train = lambda out: train_domain("clay", pictures, tiny_sd, tmp_path / out, latents=shared, **SHORT | {"steps": 1})
    train("one")
    (file,) = shared.iterdir()
    file.unlink()
    dead, alive, elsewhere, others = (shared / name for name in (
        f"{file.stem}.{process.pid}@{here}.partial", f"{file.stem}.{os.getppid()}@{here}.partial", f"{file.stem}.{process.pid}@not-{here}.partial",
        f"0.{process.pid}@{here}.partial"))
    for partial in (dead, alive, elsewhere, others):
        partial.touch()
    train("two")
    assert set(shared.iterdir()) == {file, alive, elsewhere, others}


def test_tensorboard_gets_every_loss(tiny_sd, pictures, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train_domain("clay", pictures, tiny_sd, tmp_path / "clay", tensorboard=True, **SHORT)
    written = events.EventAccumulator(str(tmp_path / "clay.work" / "tensorboard")).Reload().Scalars("loss")
    listed = np.loadtxt(tmp_path / "clay.work" / "loss.csv", delimiter=",", skiprows=1)
    assert np.allclose([(event.step, event.value) for event in written], listed)


def test_without_tensorboard_its_absence_is_said(tiny_sd, pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'ingen3d\[train\]'"):
        train_domain("clay", pictures, tiny_sd, tmp_path / "clay", tensorboard=True, **SHORT)


@pytest.mark.parametrize("wrong, said", [
    (dict(seed=2**32), "the seed is 4294967296: give 0 to 4294967295"), (dict(steps=0), "steps is 0"),
    (dict(accumulation=5), "batch_size is 4: give 5"), (dict(accumulation=0), "accumulation is 0"),
    (dict(fid_every=0), "fid_every is 0"), (dict(fid_images=1), "fid_images is 1: give 2"), (dict(patience=2), "give --fid-every too"),
    (dict(learning_rate=0.0), "learning_rate is 0.0: give more than 0"), (dict(learning_rate=float("nan")), "nan"),
    (dict(snr_gamma=-5.0), "snr_gamma is -5.0"), (dict(lr_warmup_steps=-1), "lr_warmup_steps is -1"),
    (dict(lr_scheduler="cosinus"), "give one of constant, .*cosine"),
    (dict(lr_warmup_steps=2), "a constant rate has none"), (dict(lr_scheduler="cosine", lr_warmup_steps=6), "lr_warmup_steps is 6 of 6 steps"),
    (dict(ema_decay=1.0), "ema_decay is 1.0.*less than 1"), (dict(sample_every=0), "sample_every is 0: give 1"),
    (dict(feature_steps=-1), "feature_steps is -1"), (dict(arc_deg=0.0), "arc_deg is 0.0: give 1 to 360"),
    (dict(out="."), "'.' is no folder that can be made anew"), (dict(out=".."), "choose another --out"),
])
def test_wrong_numbers_and_places_are_said_before_any_work(wrong, said, tiny_sd, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(InDomainPipeline, "from_pretrained", None)
    with pytest.raises(UserError, match=said):
        train_domain("clay", pictures, tiny_sd, **{"out": "clay"} | SHORT | wrong)
    assert not list(tmp_path.iterdir())


def test_a_learned_domain_is_found_by_its_name_and_holds_the_moving_average(tiny_sd, pictures):
    said = dict(phrase="{prompt} of clay", negative_prompt="a pot", arc_deg=90.0, licence="cc0-1.0")
    out = train_domain("clay", pictures, tiny_sd, dtype=torch.float16, **said, **SHORT)
    found = find_domain("clay")
    assert out == user_domains() / "clay" and said == {key: getattr(found, key) for key in said}
    assert {v.dtype for v in weights(out).values()} == {torch.float16}
    pipe = InDomainPipeline.from_pretrained(tiny_sd, domain="clay")
    assert found.training["images"] == 5 and found.prior_unet == unet_fingerprint(pipe.unet)
    assert isinstance(pipe.domain_unet, NullTextUNet) and pipe.compose("a bowl") == "a bowl of clay" and pipe.config.negative_prompt == "a pot"
    state = torch.load(out.with_name("clay.work") / "checkpoint.pt", weights_only=True)
    average = dict(zip((k for k, _ in pipe.domain_unet.named_parameters()), state["ema"]["shadow_params"], strict=True))
    last = state["unet"]
    assert all(torch.equal(v.half(), weights(out)[k]) for k, v in average.items())
    assert not all(torch.equal(v.half(), last[k].half()) for k, v in average.items())
    assert len(list(out.with_name("clay.work").glob("sample-*.png"))) == 1
    assert not pipe.set_domain(None).config.negative_prompt


def test_of_a_prior_in_a_folder_the_name_alone_is_published(tiny_sd, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_sd, tmp_path / "my" / "prior")
    for prior in ("my/prior", tmp_path / "my" / "prior"):  # the first looks like a Hub id
        out = train_domain("clay", pictures, prior, tmp_path / "clay", resume=False, **SHORT | {"steps": 1})
        assert find_domain(out).prior == find_domain(out).training["prior"] == "prior"
        assert "base_model" not in (out / "README.md").read_text()
        assert not any(path in (out / name).read_text() for name in ("domain.json", "README.md") for path in ("my/prior", str(tmp_path)))


def test_going_on_with_other_settings_is_refused_and_starting_anew_is_not(tiny_sd, pictures, tmp_path):
    train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT)
    with pytest.raises(UserError, match="batch_size 4, not 2"):
        train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT | {"batch_size": 2})
    train_domain("clay", pictures, tiny_sd, tmp_path / "clay", resume=False, **SHORT | {"batch_size": 2})


def test_settings_are_written_whole_where_they_change_alone_and_broken_ones_are_said(tmp_path, monkeypatch):
    def full(file, text):
        file.open("w").close()
        raise OSError(errno.ENOSPC, "No space left on device")

    open_work(tmp_path, {"seed": 0}, resume=True)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        open_work(tmp_path, {"seed": 0}, resume=True)
        with pytest.raises(OSError):
            open_work(tmp_path, {"seed": 0, "new": 1}, resume=True)
    with pytest.raises(UserError, match="seed 0, not 1"):
        open_work(tmp_path, {"seed": 1}, resume=True)
    (tmp_path / "settings.json").write_text("")
    with pytest.raises(UserError, match="settings.json is broken.*delete it"):
        open_work(tmp_path, {"seed": 0}, resume=True)


@pytest.mark.parametrize("resume", [True, False])
def test_what_is_left_of_a_run_without_its_settings_starts_anew(resume, tmp_path):
    for name in ("checkpoint.pt", "latents.f32", "latents.7.partial", "text_feature.safetensors", "sample-000250.png", "letter.txt"):
        (tmp_path / name).touch()
    open_work(tmp_path, {"seed": 0}, resume)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["letter.txt", "settings.json"], "what no run has left stays"


@pytest.mark.parametrize("killed_at", range(3))
def test_starting_anew_that_was_killed_never_goes_on_under_other_settings(killed_at, tmp_path, monkeypatch):
    open_work(tmp_path, {"seed": 0}, resume=True)
    for name in ("checkpoint.pt", "latents.f32"):
        (tmp_path / name).touch()
    unlinked, unlink = [], Path.unlink

    def killed(file, *args, **kwargs):
        if len(unlinked) == killed_at:
            raise SystemError
        unlinked.append(file)
        unlink(file, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(SystemError):
        patch.setattr(Path, "unlink", killed)
        open_work(tmp_path, {"seed": 1}, resume=False)
    with pytest.raises(UserError, match="seed 0, not 1"):
        open_work(tmp_path, {"seed": 1}, resume=True)
    open_work(tmp_path, {"seed": 1}, resume=False)
    assert [file.name for file in tmp_path.iterdir()] == ["settings.json"]


def test_going_on_over_other_weights_of_the_same_prior_is_refused(tiny_sd, pictures, tmp_path):
    prior = shutil.copytree(tiny_sd, tmp_path / "prior")
    train_domain("clay", pictures, prior, tmp_path / "clay", **SHORT)
    file = prior / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: v + (k == "conv_in.bias") for k, v in load_file(file).items()}, file)
    with pytest.raises(UserError, match="prior_weights.*delete that folder to start anew"):
        train_domain("clay", pictures, prior, tmp_path / "clay", **SHORT)


@pytest.mark.parametrize("script, calls, given, said", [
    ("train_domain", "core.training.domain.train_domain", "--domain clay --data x", "--accumulation.*--gradient-checkpointing.*--batch-size and --no-resume"),
    ("train_baseline", "core.training.baselines.train_baseline", "--method lora --domain clay --data x", "--accumulation.*--batch-size and --no-resume"),
    ("evaluate", "core.evaluation.study.Study", "table1", "more --accumulation, or a smaller --batch-size, if it was training, or use another device$"),
    ("fire_kiln", "core.kiln.fire.Kiln", "prior", "compute less at once, or use another device$"),
])
def test_full_memory_says_what_needs_less_by_options_that_are_there(script, calls, given, said, monkeypatch, capsys):
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(calls, full)
    monkeypatch.setattr(sys, "argv", [script, *given.split()])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
    assert re.search(f"out of memory: .*{said}", capsys.readouterr().err.strip())


def test_ctrl_c_before_the_training_loop_says_how_to_go_on_and_what_starts_over(tiny_sd, pictures, tmp_path, monkeypatch):
    def stop(*_, **__):
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(InDomainPipeline, "encode_images", stop)
        with pytest.raises(KeyboardInterrupt, match="starts that over$"):
            train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT)
    assert [file.name for file in (tmp_path / "clay.work").iterdir()] == ["settings.json"]
    monkeypatch.setattr(domain_module, "optimise_text_feature", stop)
    with pytest.raises(KeyboardInterrupt, match="clay.work: run the same command again"):
        train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT)


def test_going_on_tells_of_pictures_encoded_earlier_and_whether_they_have_changed(tiny_sd, pictures, tmp_path, caplog):
    data, how = shutil.copytree(pictures, tmp_path / "data"), SHORT | {"steps": 1}

    def train(**more):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            train_domain("clay", data, tiny_sd, tmp_path / "clay", **how | more)
        return caplog.text

    assert "earlier" not in train()
    again = train()
    assert f"using 5 pictures encoded earlier; delete {tmp_path / 'clay.work'} to read them anew" in again and "changed" not in again
    (data / "0.png").unlink()
    again = train()
    assert "using 5 pictures" in again and f"{data} has changed" in again
    assert "earlier" not in train(resume=False) and find_domain(tmp_path / "clay").training["images"] == 4
    with pytest.raises(UserError, match="image_column None, not photo"):
        train(image_column="photo")


def test_a_bad_picture_is_named_and_the_run_goes_on_and_none_left_is_an_error(tiny_sd, pictures, tmp_path, caplog):
    data = tmp_path / "data"
    data.mkdir()
    (data / "broken.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(UserError, match="no usable image"):
        train_domain("clay", data, tiny_sd, tmp_path / "none", **SHORT)
    with pytest.raises(UserError, match="no device"):
        train_domain("clay", pictures, tiny_sd, tmp_path / "none", **SHORT | {"device": "foo"})
    assert not (tmp_path / "none.work").exists()
    Image.open(pictures / "0.png").save(data / "good.png")
    with caplog.at_level(logging.WARNING):
        train_domain("clay", data, tiny_sd, tmp_path / "some", **SHORT)
    assert "broken.png" in caplog.text


@pytest.mark.parametrize("unet, scheduler, said", [
    (dict(in_channels=9), {}, "'{}' cannot be a prior: its UNet takes 9 channels, not the latents' 4"),
    (dict(addition_embed_type="text"), {}, "'{}' cannot be a prior: .*condition besides text"),
    ({}, dict(prediction_type="sample"), "'{}' cannot be a prior: it predicts 'sample'"),
    (dict(out_channels=8), {}, "over '{}': its UNet gives 8 channels, where latents have 4"),
    (dict(sample_size=(8, 16)), {}, "over '{}': .*not square"),
    (dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, mid_block_type=None), {}, "over '{}': .*without text cross-attention"),
])
def test_a_prior_that_no_domain_can_be_learned_over_is_refused_before_pictures_are_encoded(unet, scheduler, said, tiny_sd, pictures, tmp_path):
    prior = shutil.copytree(tiny_sd, tmp_path / "prior")
    tiny_unet(**unet).save_pretrained(prior / "unet")
    tiny_scheduler(**scheduler).save_pretrained(prior / "scheduler")
    with pytest.raises(UserError, match=said.format(prior)):
        train_domain("clay", pictures, prior, tmp_path / "clay", **SHORT)
    assert not (tmp_path / "clay.work").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_a_domains_name_never_reaches_beyond_its_own_folder(name, tiny_sd, tmp_path):
    with pytest.raises(UserError, match="no name for a domain"):
        train_domain(name, tmp_path, str(tiny_sd), quiet=True)


def test_a_domain_is_not_called_what_stands_for_none(tiny_sd, tmp_path):
    with pytest.raises(UserError, match="'None' is what --domain takes for no domain"):
        train_domain("None", tmp_path, str(tiny_sd), quiet=True)


def test_a_training_that_diverges_ends_and_leaves_the_domain_that_is_there(tiny_sd, pictures, tmp_path):
    before = (train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT) / "domain.json").read_text()
    with pytest.raises(UserError, match="the loss is nan at step [23]: give a smaller learning rate"):
        train_domain("clay", pictures, tiny_sd, tmp_path / "clay", resume=False, **SHORT | {"learning_rate": 1e18})
    assert (tmp_path / "clay" / "domain.json").read_text() == before


def test_a_broken_checkpoint_is_said_to_be_one(tiny_sd, pictures, tmp_path):
    train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT)
    for content in (b"", (tmp_path / "clay.work" / "checkpoint.pt").read_bytes()[:2000]):
        (tmp_path / "clay.work" / "checkpoint.pt").write_bytes(content)
        with pytest.raises(UserError, match="checkpoint.pt is broken .*: delete it to start anew"):
            train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT)


def test_a_folder_that_is_no_domain_is_never_replaced(tiny_sd, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="is no domain"):
        train_domain("mine", tmp_path, str(tiny_sd), out=tmp_path, quiet=True)
    assert (tmp_path / "letter.txt").read_text() == "dear"
