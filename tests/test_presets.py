"""Names lead to models, and a wrong one to a line that helps."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image
from safetensors import SafetensorError

from core import InDomainPipeline
from core.checkpoints import save_atomically
from core.devices import find_device
from core.errors import EXIT_INTERRUPTED, EXIT_USER, UserError, run_cli
from core.loading import LOAD_OPTIONS
from core.presets import PRESETS, WEIGHTS, Preset, find_preset, wanted
from core.progress import hide_loading_bars

from .conftest import tiny_controlnet, tiny_scheduler, tiny_unet


def test_a_known_preset_and_an_unknown_one():
    assert find_preset("sd15").prior == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    with pytest.raises(UserError, match="did you mean 'kiln'.*kiln, sd15"):
        find_preset("kilm")


def test_a_folder_or_hub_id_stands_in_for_the_prior(tmp_path):
    assert find_preset(tmp_path).prior == str(tmp_path)
    assert find_preset("Lykon/DreamShaper") == Preset(**vars(PRESETS["sd15"]) | {"name": "Lykon/DreamShaper", "prior": "Lykon/DreamShaper"})


def test_a_prior_customised_here_is_what_it_was_trained_over_with_another_prior(tmp_path):
    for prior, base in (("kiln", "kiln"), ("someones", "sd15"), (None, "sd15")):
        (tmp_path / "baseline.json").write_text(json.dumps({"method": "lora"} | ({"prior": prior} if prior else {})))
        assert find_preset(tmp_path) == replace(PRESETS[base], name=str(tmp_path), prior=str(tmp_path))


def test_how_to_reach_the_hub_holds_for_the_first_request_too(monkeypatch):
    asked = []

    def load_config(name, **how):
        asked.append(how)
        raise OSError("no network")

    monkeypatch.setattr(InDomainPipeline, "load_config", load_config)
    how = dict(token="hf_x", cache_dir="/there", local_files_only=True, revision="fp16")
    with pytest.raises(UserError, match="me/private"):
        InDomainPipeline.from_pretrained("me/private", **how)
    assert asked == [how]


def test_models_that_cannot_be_had_are_named_with_the_way_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="unet, vae.*stable-diffusion-v1-5/stable-diffusion-v1-5.*hf download") as error:
        InDomainPipeline.from_pretrained(pretrained_model_name_or_path="sd15", cache_dir=tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no usable model folder"):
        InDomainPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("wrong, meant", [("domian", "domain"), ("guidance_scal", "guidance_scale"), ("local_file_only", "local_files_only"), ("vea", "vae")])
def test_an_argument_that_loading_does_not_know_is_said_with_the_nearest(tiny_sd, wrong, meant):
    with pytest.raises(UserError, match=f"^there is no argument '{wrong}': did you mean '{meant}'.$"):
        InDomainPipeline.from_pretrained(tiny_sd, **{wrong: "porcelain"})


def test_what_diffusers_says_that_loading_takes_is_known():
    docs = DiffusionPipeline.from_pretrained.__doc__ + InDomainPipeline.from_single_file.__doc__
    documented = set(re.findall(r"^ {12}(\w+) ?\(.*\*optional\*", docs, re.M)) - {"kwargs", "pretrained_model_name_or_path", "pretrained_model_link_or_path"}
    assert len(documented) > 15 and documented <= set(LOAD_OPTIONS)


def test_what_users_of_diffusers_leave_out_may_be_left_out_here(tiny_sd):
    assert InDomainPipeline.from_pretrained(tiny_sd, safety_checker=None, requires_safety_checker=False).unet.config.in_channels == 4


@pytest.mark.parametrize("changes, said", [
    (dict(addition_embed_type="text", addition_embed_type_num_heads=4), r"a condition besides text \(addition_embed_type\)"),
    (dict(in_channels=9), "takes 9 channels, not the latents' 4"), (dict(cross_attention_dim=32), "width 32, .* 24 wide"),
    ("sample", "it predicts 'sample'"),
])
def test_priors_that_the_rule_cannot_work_with_are_refused(tiny_sd, changes, said):
    parts = {"scheduler": tiny_scheduler(prediction_type=changes)} if changes == "sample" else {"unet": tiny_unet(**changes)}
    with pytest.raises(UserError, match=f"'{tiny_sd}' cannot be a prior: .*{said}"):
        InDomainPipeline.from_pretrained(tiny_sd, **parts)


def test_an_unfired_kiln_is_said_to_be_one(monkeypatch):
    monkeypatch.setitem(PRESETS, "kiln", Preset(**vars(PRESETS["kiln"]) | {"prior": str(WEIGHTS / "nowhere")}))
    with pytest.raises(UserError, match="fire_kiln"):
        InDomainPipeline.from_pretrained("kiln")


def test_a_preset_lends_its_own_controlnet_by_its_name(tiny_sd, tmp_path, monkeypatch):
    pipe = InDomainPipeline.from_pretrained(tiny_sd)
    net = tiny_controlnet(pipe.unet)
    net.save_pretrained(tmp_path)
    monkeypatch.setitem(PRESETS, "kiln", replace(PRESETS["kiln"], controlnet=str(tmp_path)))
    lent = pipe.control("kiln", Image.new("RGB", (16, 16))).network
    assert all(map(torch.equal, lent.parameters(), net.parameters()))


@pytest.mark.parametrize("given, said", [(None, "the preset 'kiln' has no ControlNet of its own"),
                                         (str(WEIGHTS / "nowhere"), "the kiln lacks a ControlNet in .*nowhere: run .*fire_kiln")])
def test_a_preset_without_a_controlnet_is_said_to_be_one(given, said, tiny_sd, monkeypatch):
    monkeypatch.setitem(PRESETS, "kiln", replace(PRESETS["kiln"], controlnet=given))
    with pytest.raises(UserError, match=said) as error:
        InDomainPipeline.from_pretrained(tiny_sd).control("kiln", Image.new("RGB", (16, 16)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"])
def test_weights_that_are_cut_short_are_said_to_be_unusable(tiny_sd, tmp_path, part):
    folder = shutil.copytree(tiny_sd, tmp_path / "sd")
    file = folder / f"{part}.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="no usable model folder"):
        InDomainPipeline.from_pretrained(folder)


@pytest.mark.parametrize("error", [SafetensorError("cut short"), HfHubHTTPError.__bases__[0]("no route to host")])
def test_what_a_download_stumbles_over_is_one_line(error):
    with pytest.raises(UserError, match=f"{error}.*hf download"), wanted("someone/model", "a unet"):
        raise error


@pytest.mark.parametrize("name", ["foo", "", "cuda:99"])
def test_a_device_that_is_not_there_is_said_with_those_that_are(name):
    with pytest.raises(UserError, match=f"no device '{name}'; known: .*cpu"):
        find_device(name)
    assert find_device("cpu") == torch.device("cpu") and find_device(None).type in ("cuda", "mps", "cpu")


def test_quiet_loading_shows_no_bar(tiny_sd, capfd):
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    hide_loading_bars()
    InDomainPipeline.from_pretrained(tiny_sd)
    quiet = capfd.readouterr().err
    diffusers_logging.enable_progress_bar()
    transformers_logging.enable_progress_bar()
    InDomainPipeline.from_pretrained(tiny_sd)
    assert "Loading" not in quiet and "Loading" in capfd.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
@pytest.mark.parametrize("size", [1, 10**6])
def test_a_checkpoint_on_a_full_disk_is_said_so_and_the_one_before_is_kept(size, tmp_path):
    save_atomically(1, tmp_path / "checkpoint.pt")
    (tmp_path / "checkpoint.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        save_atomically(torch.zeros(size), tmp_path / "checkpoint.pt")
    assert torch.load(tmp_path / "checkpoint.pt") == 1


@pytest.mark.parametrize("error, code, said", [
    (FileNotFoundError(2, "No such file or directory", "gone/x"), EXIT_USER, "gone/x"), (OSError(36, "File name too long", "xxx"), EXIT_USER, "too long"),
    (SafetensorError("I/O error: No space left on device (os error 28)"), EXIT_USER, "disk is full"),
    (UserError("the prompt is empty"), EXIT_USER, "error: the prompt is empty"), (KeyboardInterrupt("stopped at 3"), EXIT_INTERRUPTED, "stopped at 3"),
    (OSError(28, "No space left on device"), EXIT_USER, "disk is full"), (PermissionError(13, "Permission denied", "/root/x"), EXIT_USER, "/root/x"),
    (FileExistsError(17, "File exists", "out"), EXIT_USER, "--out"),
    (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee"), EXIT_USER, "out of memory: compute less"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), EXIT_USER, "out of memory"), (MemoryError(), EXIT_USER, "out of memory"),
])
def test_command_lines_end_in_one_line_and_a_code(error, code, said, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run_cli(main)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == code and len(lines) == 1 and said in lines[0]
