"""A domain is found by name, folder or Hub id, is shared whole, and loads over the prior that it was trained on alone."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalTokenNotFoundError
from huggingface_hub.utils import filter_repo_objects

from core import InDomainPipeline, NullTextUNet, domains
from core.checkpoints import put_back
from core.domains import Domain, find_domain, save_domain, unet_fingerprint, user_domains
from core.errors import UserError

from .conftest import tiny_unet

RECORD = {"name": "clay", "phrase": "{prompt}", "prior": "kiln", "resolution": 16}


def make_domain(folder, unet=None, **facts) -> Domain:
    domain, feature = Domain(folder, **RECORD | facts), torch.zeros(1, 1, 24)
    save_domain(domain, NullTextUNet.from_prior(tiny_unet() if unet is None else unet, feature), feature)
    return domain


@pytest.fixture
def prior(tiny_sd):
    return InDomainPipeline.from_pretrained(tiny_sd).unet


def test_a_domain_by_name_and_by_folder_and_an_unknown_one():
    facts = dict(licence="cc-by-4.0", prior_unet="0123", training={"steps": 7})
    made = make_domain(user_domains() / "clay", **facts)
    assert find_domain("clay") == find_domain(user_domains() / "clay") == made and find_domain(None) is None
    with pytest.raises(UserError, match="did you mean 'clay'.*known:.*clay"):
        find_domain("clya")


def test_whoever_may_read_a_domains_words_may_read_its_weights(tmp_path):
    make_domain(tmp_path / "clay")
    assert len({file.stat().st_mode for file in (tmp_path / "clay").rglob("*") if file.is_file()}) == 1


def test_saving_a_domain_replaces_it_and_touches_nothing_beside_it(tmp_path, monkeypatch):
    for name in ("clay.old", "clay.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "domain.json").write_text("mine")
    make_domain(tmp_path / "clay")
    made = make_domain(tmp_path / "clay", phrase="{prompt} of clay")
    monkeypatch.setattr(NullTextUNet, "save_pretrained", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_domain(tmp_path / "clay")
    assert find_domain(tmp_path / "clay") == made
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clay", "clay.old", "clay.partial"]
    assert all((tmp_path / name / "domain.json").read_text() == "mine" for name in ("clay.old", "clay.partial"))


@pytest.mark.parametrize("renamed", [False, True])
def test_what_a_killed_save_left_is_cleared_up_and_what_it_had_put_aside_comes_back(tmp_path, renamed):
    made = make_domain(tmp_path / "clay")
    code = f"""
import os
from pathlib import Path
from core.checkpoints import replaced_whole
if {renamed}:
    rename = Path.rename
    Path.rename = lambda file, target: rename(file, target) and os._exit(9)
with replaced_whole(Path({str(tmp_path / 'clay')!r})) as new:
    (new / "half.txt").touch()
    {renamed} or os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    assert len(list(tmp_path.glob(".clay.*"))) == 1 and (tmp_path / "clay").exists() != renamed
    (anothers := tmp_path / next(tmp_path.glob(".clay.*")).name.replace(".clay.", ".clay.old.")).mkdir()
    put_back(tmp_path / "clay")
    assert find_domain(tmp_path / "clay") == made and {path.name for path in tmp_path.iterdir()} == {"clay", anothers.name}


@pytest.mark.parametrize("text, said", [("{", "no domain"), (json.dumps({"name": "x"}), "phrase"), (json.dumps(RECORD | {"phrase": "clay"}), "{prompt}"),
                                        (json.dumps(RECORD | {"phrase": None}), "phrase is None"),
                                        (json.dumps(RECORD | {"negative_prompt": None}), "negative_prompt is None in .*domain.json': give words")])
def test_a_folder_that_is_no_domain_is_said_to_be_none(tmp_path, text, said):
    (tmp_path / "domain.json").write_text(text)
    with pytest.raises(UserError, match=said):
        find_domain(tmp_path)


def test_a_domain_of_another_latent_space_is_refused(tiny_sd):
    make_domain(user_domains() / "clay", tiny_unet(sample_size=16))
    with pytest.raises(UserError, match="trained on another prior, 'kiln'.*size 16.*size 8"):
        InDomainPipeline.from_pretrained(tiny_sd, domain="clay")


def test_a_domain_of_other_weights_is_refused_and_its_own_prior_is_known_in_every_precision(tiny_sd, prior):
    make_domain(user_domains() / "clay", prior, prior_unet=unet_fingerprint(prior))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert InDomainPipeline.from_pretrained(tiny_sd, domain="clay", dtype=dtype).domain_unet.dtype == dtype
    torch.manual_seed(1)
    other = InDomainPipeline.from_pretrained(tiny_sd, unet=tiny_unet())
    with pytest.raises(UserError, match="trained on another prior, 'kiln'") as error:
        other.set_domain("clay")
    assert "\n" not in str(error.value) and other.domain_unet is None


def test_pickles_are_refused(tiny_sd, prior, tmp_path):
    make_domain(tmp_path / "clay", prior)
    weights = tmp_path / "clay" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save(prior.state_dict(), weights.with_suffix(".bin"))
    with pytest.raises(UserError, match="no unet/.*safetensors; pickles"):
        InDomainPipeline.from_pretrained(tiny_sd, domain=tmp_path / "clay")
    folder = shutil.copytree(tiny_sd, tmp_path / "sd")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(prior.state_dict(), folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors") as error:
        InDomainPipeline.from_pretrained(folder)
    assert "\n" not in str(error.value)


def test_what_is_pushed_to_the_hub_is_loaded_from_there_without_pickles(tiny_sd, prior, tmp_path, monkeypatch):
    hub, domain = tmp_path / "hub", make_domain(tmp_path / "clay", prior, licence="cc0-1.0", prior="someone/prior", phrase="{prompt} of clay")
    torch.save({}, tmp_path / "clay" / "unet" / "diffusion_pytorch_model.bin")

    def copy(source, target, allow_patterns):
        files = (str(file.relative_to(source)) for file in source.rglob("*") if file.is_file())
        for file in filter_repo_objects(files, allow_patterns=allow_patterns):
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / file, target / file)
        return str(target)

    made = []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **how: made.append((repo_id, how)) or type("Url", (), {"repo_id": repo_id}))
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, repo_id, folder_path, allow_patterns, **_: copy(folder_path, hub / repo_id, allow_patterns))
    asked = []
    download = lambda repo_id, allow_patterns, **how: asked.append(how) or copy(hub / repo_id, tmp_path / "cache", allow_patterns)
    monkeypatch.setattr(domains, "snapshot_download", download)
    domain.push_to_hub("me/clay", private=True)
    assert made == [("me/clay", {"private": True, "exist_ok": True})] and not list(hub.rglob("*.bin"))
    assert "license: cc0-1.0" in (hub / "me/clay/README.md").read_text() and "base_model: someone/prior" in (hub / "me/clay/README.md").read_text()
    pipe = InDomainPipeline.from_pretrained(tiny_sd, domain="me/clay")
    assert find_domain("me/clay") == replace(domain, folder=tmp_path / "cache") and pipe.compose("a bowl") == "a bowl of clay"
    how = dict(token="hf_mine", cache_dir=str(tmp_path / "hf"), local_files_only=True)
    InDomainPipeline.from_pretrained(tiny_sd, domain="me/clay", revision="main", **how)
    assert asked == [{}, {}, how]


def test_an_upload_that_fails_is_one_line(tmp_path, monkeypatch):
    def no_token(*_, **__):
        raise LocalTokenNotFoundError("no token")

    monkeypatch.setattr(HfApi, "create_repo", no_token)
    with pytest.raises(UserError, match="'clay' to 'me/clay'.*no token.*hf auth login"):
        make_domain(tmp_path / "clay").push_to_hub("me/clay")


@pytest.mark.parametrize("arc", [None, "80", -80, 0, True, 361])
def test_an_arc_that_is_none_is_said(arc, tmp_path):
    (tmp_path / "domain.json").write_text(json.dumps(RECORD | {"arc_deg": arc}))
    with pytest.raises(UserError, match="arc_deg is .* in .*domain.json.*: give 1 to 360"):
        find_domain(tmp_path)
