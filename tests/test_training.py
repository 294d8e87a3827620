"""Learning a domain: where it starts, that it learns, and that a killed run ends like one that was not."""

import logging
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from core import InDomainPipeline, NullTextUNet
from core.domains import find_domain, unet_fingerprint, user_domains
from core.errors import UserError
from core.training import domain as domain_module
from core.training.domain import train_domain
from core.training.text_feature import denoising_loss, optimise_text_feature

from .conftest import tiny_scheduler, tiny_unet

SHORT = dict(steps=6, batch_size=4, feature_steps=2, learning_rate=1e-3, sample_every=100, device="cpu", quiet=True)


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
    feature = optimise_text_feature(unet, scheduler, latents, {"start": start}, steps=30, batch_size=8, learning_rate=0.1, quiet=True)
    assert feature.shape == (1, 1, 24) and not feature.requires_grad
    assert loss(feature) < loss(start)
    assert all(torch.equal(v, before[k]) for k, v in unet.state_dict().items())


def test_the_better_starting_feature_is_taken():
    torch.manual_seed(0)
    unet, scheduler, latents = tiny_unet(), tiny_scheduler(), torch.randn(8, 4, 8, 8)
    starts = {str(i): 3 * torch.randn(1, 1, 24) for i in range(2)}
    taken = [optimise_text_feature(unet, scheduler, latents, dict(order), steps=0, quiet=True) for order in (starts.items(), reversed(starts.items()))]
    assert torch.equal(*taken)


def test_training_begins_at_the_fold_of_the_text_feature(tiny_sd, pictures, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(domain_module, "fit", lambda unet, *rest: begun.append(unet) or [1.0])
    out = train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT)
    feature, prior = load_file(out / "text_feature.safetensors")["text_feature"], InDomainPipeline.from_pretrained(tiny_sd).unet
    z, t = torch.randn(2, 4, 8, 8), torch.tensor([20, 700])
    with torch.no_grad():
        assert torch.allclose(begun[0](z, t).sample, prior(z, t, feature.expand(2, -1, -1)).sample, atol=1e-5)


def test_a_stopped_run_resumes_to_the_same_weights_bit_for_bit(tiny_sd, pictures, tmp_path, monkeypatch):
    whole = train_domain("clay", pictures, tiny_sd, tmp_path / "whole", **SHORT)

    def loss_then_interrupt(*args):
        loss_then_interrupt.calls += 1
        if loss_then_interrupt.calls == 3:
            signal.raise_signal(signal.SIGINT)
        return denoising_loss(*args)

    loss_then_interrupt.calls = 0
    with monkeypatch.context() as patch:
        patch.setattr(domain_module, "denoising_loss", loss_then_interrupt)
        with pytest.raises(KeyboardInterrupt, match="after step 3 of 6.*run the same command again"):
            train_domain("clay", pictures, tiny_sd, tmp_path / "stopped", **SHORT)
    assert not (tmp_path / "stopped").exists()
    resumed = train_domain("clay", pictures, tiny_sd, tmp_path / "stopped", **SHORT)
    a, b = weights(whole), weights(resumed)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert (tmp_path / "stopped.work" / "loss.csv").read_text() == (tmp_path / "whole.work" / "loss.csv").read_text()


def test_a_learned_domain_is_found_by_its_name_and_holds_the_moving_average(tiny_sd, pictures):
    out = train_domain("clay", pictures, tiny_sd, phrase="{prompt} of clay", licence="cc0-1.0", dtype=torch.float16, **SHORT)
    found = find_domain("clay")
    assert out == user_domains() / "clay" and found.phrase == "{prompt} of clay" and found.licence == "cc0-1.0"
    assert {v.dtype for v in weights(out).values()} == {torch.float16}
    pipe = InDomainPipeline.from_pretrained(tiny_sd, domain="clay")
    assert found.training["images"] == 5 and found.prior_unet == unet_fingerprint(pipe.unet)
    assert isinstance(pipe.domain_unet, NullTextUNet) and pipe.compose("a bowl") == "a bowl of clay"
    state = torch.load(out.with_name("clay.work") / "checkpoint.pt", weights_only=True)
    average = dict(zip((k for k, _ in pipe.domain_unet.named_parameters()), state["ema"]["shadow_params"], strict=True))
    last = state["unet"]
    assert all(torch.equal(v.half(), weights(out)[k]) for k, v in average.items())
    assert not all(torch.equal(v.half(), last[k].half()) for k, v in average.items())
    assert len(list(out.with_name("clay.work").glob("sample-*.png"))) == 1


def test_going_on_with_other_settings_is_refused_and_starting_anew_is_not(tiny_sd, pictures, tmp_path):
    train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT)
    with pytest.raises(UserError, match="batch_size 4, not 2"):
        train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT | {"batch_size": 2})
    train_domain("clay", pictures, tiny_sd, tmp_path / "clay", resume=False, **SHORT | {"batch_size": 2})


def test_going_on_over_other_weights_of_the_same_prior_is_refused(tiny_sd, pictures, tmp_path):
    prior = shutil.copytree(tiny_sd, tmp_path / "prior")
    train_domain("clay", pictures, prior, tmp_path / "clay", **SHORT)
    file = prior / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: v + (k == "conv_in.bias") for k, v in load_file(file).items()}, file)
    with pytest.raises(UserError, match="prior_weights.*--no-resume"):
        train_domain("clay", pictures, prior, tmp_path / "clay", **SHORT)


@pytest.mark.parametrize("stage", ["encode_folder", "optimise_text_feature"])
def test_ctrl_c_before_the_training_loop_says_how_to_go_on(stage, tiny_sd, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(domain_module, stage, lambda *_, **__: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="clay.work: run the same command again"):
        train_domain("clay", pictures, tiny_sd, tmp_path / "clay", **SHORT)


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


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_a_domains_name_never_reaches_beyond_its_own_folder(name, tiny_sd, tmp_path):
    with pytest.raises(UserError, match="no name for a domain"):
        train_domain(name, tmp_path, str(tiny_sd), quiet=True)


def test_a_folder_that_is_no_domain_is_never_replaced(tiny_sd, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="is no domain"):
        train_domain("mine", tmp_path, str(tiny_sd), out=tmp_path, quiet=True)
    assert (tmp_path / "letter.txt").read_text() == "dear"
