"""The methods that the paper compares its own to: where each starts, what it changes, and that its folder is any pipeline's."""

import json
import logging
import math
import re
import shutil
import signal
import sys

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

from core import InDomainPipeline
from core.errors import UserError
from core.training import baselines as baselines_module
from core.training.baselines import train_baseline
from core.training.fit import denoising_gradients
from core.training.methods import METHODS, TOKEN, Baseline, choose_trained

from .conftest import tiny_unet

SHORT = dict(steps=4, batch_size=4, learning_rate=1e-2, ema_decay=0.0, device="cpu", quiet=True)
NAME = "q"  # one token of the tiny tokenizer's: [V] starts as this very one
Z, T = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([20, 700])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module", params=METHODS)
def trained(request, tiny_sd, pictures, tmp_path_factory):
    """A method and the folder that it wrote."""
    needs_peft(request.param)
    folder = tmp_path_factory.mktemp("baselines")
    return request.param, train_baseline(request.param, NAME, pictures, tiny_sd, folder / request.param, keep_at=[2], **SHORT)


def needs_peft(method):
    if METHODS[method].adapter:
        pytest.importorskip("peft")


def tensors(folder):
    return {f"{part}.{key}": value for part, file in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "model"))
            for key, value in load_file(folder / part / f"{file}.safetensors").items()}


def stir(baseline, spread=0.1):
    """Stand in for a training."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in baseline.parameters():
            parameter += spread * torch.randn_like(parameter)
    return baseline


@pytest.mark.parametrize("method", METHODS)
def test_every_method_starts_as_the_prior(method, tiny_sd):
    needs_peft(method)
    prior, pipe = InDomainPipeline.from_pretrained(tiny_sd), InDomainPipeline.from_pretrained(tiny_sd)
    baseline = Baseline(pipe, METHODS[method], NAME)
    has_token = METHODS[method].has_token
    assert baseline.prompt == (f"a photo of {TOKEN} {NAME}" if has_token else f"a photo of {NAME}")
    said = baseline.prompt.replace(TOKEN, NAME)
    with torch.no_grad():
        expected = prior.unet(Z, T, prior.encode_prompt([said]).expand(2, -1, -1)).sample
        assert torch.allclose(baseline(Z, T).sample, expected, atol=1e-6)
        assert torch.allclose(baseline.plain_unet()(Z, T, prior.encode_prompt([said]).expand(2, -1, -1)).sample, expected, atol=1e-6)
    how = dict(num_inference_steps=2, output_type="pt", generator=torch.Generator().manual_seed(0))
    image = pipe(baseline.prompt, **how).images
    how["generator"].manual_seed(0)
    assert torch.allclose(image, prior(said, **how).images, atol=1e-5)


def test_the_token_starts_as_the_mean_of_the_names_own(tiny_sd):
    pipe = InDomainPipeline.from_pretrained(tiny_sd)
    rows = pipe.text_encoder.get_input_embeddings().weight[pipe.tokenizer("bowl", add_special_tokens=False).input_ids]
    assert len(rows) == 4 and torch.allclose(Baseline(pipe, METHODS["textual-inversion"], "bowl").token, rows.mean(0))


CHANGED = {"textual-inversion": "-", "custom-diffusion": r"attn2\.to_[kv]", "oft": r"\.attn.*weight", "lora": r"\.attn.*weight", "fine-tuning": ""}


def test_what_a_method_names_changes_and_all_else_is_the_priors_bit_for_bit(trained, tiny_sd):
    method, folder = trained
    prior, now = tensors(tiny_sd), tensors(folder)
    assert prior.keys() == now.keys() and not list(folder.rglob("*.bin")) and not list(folder.rglob("*.pt"))
    if METHODS[method].has_token:
        words = next(key for key in now if key.endswith("token_embedding.weight"))
        before, after = prior.pop(words), now.pop(words)
        assert torch.equal(before, after[:-1]) and len(after) == len(before) + 1 and not (after[-1] == before).all(1).any()
    changed = {key for key in prior if not torch.equal(prior[key], now[key])}
    assert changed == {key for key in prior if key.startswith("unet.") and re.search(CHANGED[method], key)}


def test_the_folder_is_both_pipelines_and_gives_the_same_images(trained, tiny_sd):
    method, folder = trained
    record = json.loads((folder / "baseline.json").read_text())
    ours, theirs = InDomainPipeline.from_pretrained(folder), StableDiffusionPipeline.from_pretrained(folder)
    assert theirs.scheduler.config == StableDiffusionPipeline.from_pretrained(tiny_sd).scheduler.config
    theirs.scheduler = ours.scheduler
    theirs.set_progress_bar_config(disable=True)
    prompt = record["phrase"].replace("{prompt}", "a vase")
    assert (TOKEN in prompt) == (TOKEN in record["prompt"]) == METHODS[method].has_token
    for said in (record["prompt"], prompt):
        a, b = (pipe(said, num_inference_steps=3, output_type="pt", generator=torch.Generator().manual_seed(0), **scale).images
                for pipe, scale in ((ours, dict(control_scale=3.0)), (theirs, dict(guidance_scale=3.0))))
        assert torch.allclose(a, b, atol=1e-5)


def test_the_record_counts_what_is_trained_and_seen(trained):
    method, folder = trained
    record = json.loads((folder / "baseline.json").read_text())
    text, widths = 24, (16, 32, 16, 16)  # of its attention blocks
    inputs = [[w] * 6 + [text] * 2 for w in widths]  # of q, k, v, out in attn1, q, out, k, v in attn2: each of `w` outputs
    rotations = [4 * math.comb(i // 4, 2) for block in inputs for i in block]  # 4 skew-symmetric matrices each
    counts = {"textual-inversion": text, "custom-diffusion": 2 * text * sum(widths) + text, "oft": sum(rotations),
              "lora": sum(i + w for block, w in zip(inputs, widths) for i in block), "fine-tuning": tiny_unet().num_parameters()}
    assert record["parameters"] == counts[method] and record["images_seen"] == 16 and record["training"]["steps"] == 4


def test_sizes_are_table_1s_for_stable_diffusion_1_5():
    pytest.importorskip("peft")
    counts = {}
    for name, method in METHODS.items():
        with torch.device("meta"):
            unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
            choose_trained(unet, method, 0)
        counts[name] = sum(p.numel() for p in unet.parameters() if p.requires_grad) + 768 * method.has_token
    assert counts == {"textual-inversion": 768, "custom-diffusion": 19_170_048, "oft": 11_602_368, "lora": 199_296, "fine-tuning": 859_520_964}


@pytest.mark.parametrize("method", ["oft", "lora"])
def test_merged_weights_predict_what_the_adapters_did(method, tiny_sd):
    pytest.importorskip("peft")
    baseline = Baseline(InDomainPipeline.from_pretrained(tiny_sd), METHODS[method], NAME)
    with torch.no_grad():
        before = baseline(Z, T).sample
        after = stir(baseline)(Z, T).sample
        merged = baseline.plain_unet()
        assert torch.allclose(merged(Z, T, baseline.text.expand(2, -1, -1)).sample, after, atol=1e-5)
        assert (after - before).abs().max() > 1e-3 and torch.equal(baseline(Z, T).sample, after)
    assert type(merged) is UNet2DConditionModel and merged.state_dict().keys() == tiny_unet().state_dict().keys()


def test_oft_rotates_neurons_and_keeps_their_norms_and_angles(tiny_sd):
    pytest.importorskip("peft")
    prior = InDomainPipeline.from_pretrained(tiny_sd).unet.state_dict()
    now = stir(Baseline(InDomainPipeline.from_pretrained(tiny_sd), METHODS["oft"], NAME)).plain_unet().state_dict()
    turned = [key for key in prior if not torch.equal(prior[key], now[key])]
    assert len(turned) == 4 * 8
    for key in turned:  # a neuron is a row, (out, in)
        assert torch.allclose(now[key] @ now[key].T, prior[key] @ prior[key].T, atol=1e-5) and (now[key] - prior[key]).abs().max() > 1e-2


@pytest.mark.parametrize("method", ["custom-diffusion", "lora"])
def test_a_stopped_run_resumes_to_the_same_weights_bit_for_bit(method, tiny_sd, pictures, tmp_path, monkeypatch):
    needs_peft(method)
    how = SHORT | dict(ema_decay=0.9, keep_at=[3])
    whole = train_baseline(method, NAME, pictures, tiny_sd, tmp_path / "whole", **how)

    def interrupted(*args, **kwargs):
        if args[-1] == 1:
            signal.raise_signal(signal.SIGINT)
        return denoising_gradients(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(baselines_module, "denoising_gradients", interrupted)
        with pytest.raises(KeyboardInterrupt, match=f"{method} stopped after step 2 of 4.*run the same command again"):
            train_baseline(method, NAME, pictures, tiny_sd, tmp_path / "stopped", **how)
    assert not (tmp_path / "stopped").exists()
    torch.manual_seed(77)
    resumed = train_baseline(method, NAME, pictures, tiny_sd, tmp_path / "stopped", **how)
    for step in ("", "-step-000003"):
        a, b = (tensors(folder.with_name(folder.name + step)) for folder in (whole, resumed))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_checkpoint_holds_what_is_trained_alone(trained):
    method, folder = trained
    state = torch.load(folder.with_name(f"{method}.work") / "checkpoint.pt", weights_only=True)
    assert sum(value.numel() for value in state["unet"].values()) == json.loads((folder / "baseline.json").read_text())["parameters"]


def test_what_is_kept_on_the_way_is_what_a_shorter_run_ends_in(trained, tiny_sd, pictures, tmp_path):
    method, folder = trained
    kept = folder.with_name(f"{method}-step-000002")
    short = train_baseline(method, NAME, pictures, tiny_sd, tmp_path / method, **SHORT | {"steps": 2})
    a, b = tensors(kept), tensors(short)
    assert all(torch.equal(a[key], b[key]) for key in a) and not all(torch.equal(a[key], value) for key, value in tensors(folder).items())
    assert json.loads((kept / "baseline.json").read_text())["images_seen"] == 8


def test_a_step_to_be_kept_that_is_gone_is_said(tiny_sd, pictures, tmp_path, caplog):
    train_baseline("fine-tuning", NAME, pictures, tiny_sd, tmp_path / "b", **SHORT | {"steps": 2})
    with caplog.at_level(logging.WARNING):
        train_baseline("fine-tuning", NAME, pictures, tiny_sd, tmp_path / "b", keep_at=[1, 3], **SHORT)
    assert f"b-step-000001 was not kept: the run had gone beyond step 1; delete {tmp_path / 'b.work'} to start anew" in caplog.text
    assert "b-step-000003" not in caplog.text and (tmp_path / "b-step-000003").is_dir()


def test_methods_and_domains_share_latents_of_the_same_pictures_alone(tiny_sd, pictures, tmp_path, monkeypatch):
    from core.training.domain import train_domain

    how = dict(latents=tmp_path / "latents", steps=1, batch_size=2, device="cpu", quiet=True)
    train_domain("clay", pictures, tiny_sd, tmp_path / "clay", feature_steps=0, **how)
    (kept,) = (tmp_path / "latents").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr("core.training.domain.encode", None)
        for resume in (True, False):
            train_baseline("fine-tuning", NAME, pictures, tiny_sd, tmp_path / "b", resume=resume, **how)
    assert not (tmp_path / "b.work" / "latents.f32").exists() and kept.stat().st_size == 10 * 4 * 8 * 8 * 4
    (tmp_path / "others").mkdir()
    Image.open(pictures / "0.png").save(tmp_path / "others" / "0.png")
    train_baseline("fine-tuning", NAME, tmp_path / "others", tiny_sd, tmp_path / "c", **how)
    assert len(list((tmp_path / "latents").iterdir())) == 2


@pytest.mark.parametrize("method", ["textual-inversion", "lora"])
def test_half_precision_is_written_and_does_not_reach_the_training(method, tiny_sd, pictures, tmp_path):
    needs_peft(method)
    half = train_baseline(method, NAME, pictures, tiny_sd, tmp_path / "half", dtype=torch.float16, keep_at=[1], **SHORT | {"steps": 2})
    whole = train_baseline(method, NAME, pictures, tiny_sd, tmp_path / "whole", **SHORT | {"steps": 2})
    a, b = tensors(half), tensors(whole)
    assert {value.dtype for value in a.values() if value.is_floating_point()} == {torch.float16}
    assert all(torch.equal(a[key], b[key].to(a[key].dtype)) for key in a)


def test_a_customised_prior_is_sampled_at_the_steps_of_its_prior(tiny_sd, pictures, tmp_path):
    """PNDM, Stable Diffusion 1.5's own, spaces them otherwise by default than DPM-Solver++ does; its configuration says nothing."""
    prior = shutil.copytree(tiny_sd, tmp_path / "prior")
    said = {"_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_start": 0.00085, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
            "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None, "clip_sample": False}
    (prior / "scheduler" / "scheduler_config.json").write_text(json.dumps(said))
    index = json.loads((prior / "model_index.json").read_text())
    (prior / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", "PNDMScheduler"]}))
    tuned = train_baseline("fine-tuning", NAME, pictures, prior, tmp_path / "tuned", **SHORT | {"steps": 1})
    ours, theirs = (InDomainPipeline.from_pretrained(folder).scheduler for folder in (tuned, prior))
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(10)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    assert StableDiffusionPipeline.from_pretrained(tuned, safety_checker=None).scheduler.config.prediction_type == "epsilon"


@pytest.mark.parametrize("wrong, said", [
    (dict(method="lore"), "unknown method 'lore': did you mean 'lora'"), (dict(method="dreambooth"), "known: textual-inversion, custom-diffusion"),
    (dict(steps=0), "steps is 0"), (dict(keep_at=[5]), "keep_at has step 5, and the training steps 1 to 4"), (dict(keep_at=[0]), "keep_at has step 0"),
    (dict(learning_rate=-1.0), "learning_rate is -1.0"), (dict(name="a/b"), "no name for a domain"), (dict(out="letters"), "letters is .* no baseline"),
    (dict(out="kept", keep_at=[2]), "kept-step-000002 is .* no baseline"),
])
def test_what_is_wrong_is_said_before_any_work(wrong, said, tiny_sd, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(InDomainPipeline, "from_pretrained", None)
    for folder in ("letters", "kept-step-000002"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match=said):
        train_baseline(**dict(method="lora", name=NAME, data=pictures, preset=tiny_sd, out="b") | SHORT | wrong)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept-step-000002", "letters"]


def test_without_peft_its_absence_is_said_and_the_other_methods_need_none(tiny_sd, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("diffusers.pipelines.pipeline_loading_utils.is_peft_available", lambda: False)  # which is asked for once, at the first import
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"need peft: pip install 'ingen3d\[baselines\]'"):
        train_baseline("lora", NAME, pictures, tiny_sd, tmp_path / "b", **SHORT)
    assert not list(tmp_path.iterdir())
    train_baseline("textual-inversion", NAME, pictures, tiny_sd, tmp_path / "b", **SHORT | {"steps": 1})
