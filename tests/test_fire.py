"""Every stage of the firing, two steps long, on made-up views: what it writes is what the pipelines load."""

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from core.conditions import canny
from core.domains import find_domain
from core.errors import UserError
from core.evaluation import kiln as evaluation
from core.kiln import autoencoder, budget, data, fire, heads, records
from core.kiln.judge import Judge
from core.pipeline import InDomainPipeline
from core.presets import PRESETS
from core.training import domain as domain_module
from ingen3d.cameras import Cameras
from ingen3d.depth import DepthEstimator
from ingen3d.zero123 import Zero123


def made_up_views(folder, world, objects=data.HELD_OUT_EVERY + 1):
    """One shard without a renderer: coloured discs, a little to the left."""
    step = 128 // data.WORLDS[world].resolution
    y, x = np.mgrid[:128:step, :128:step]
    disc = ((x - 56) ** 2 + (y - 64) ** 2 < 50**2)[..., None]
    described, images = [], []
    for index in range(objects):
        form, surface, rng = data.make_object(world, index)
        for k, view in enumerate(data.cameras(rng, 1, 1)):
            images.append(np.concatenate([disc * rng.integers(0, 255, 3), disc * 255], -1).astype(np.uint8))
            described.append(data.describe(index, form, surface, view, k < 1))
    folder.mkdir(parents=True)
    data.save_shard(folder / "shard-0000", np.stack(images), described, data.origin(world, 1, 1, objects, 0))


def repaint(folder, change):
    """The same shard with other pictures."""
    (picture, shard), = data.read_shards(folder).items()
    data.save_shard(picture.with_suffix(""), change(data.decode(picture, shard)), shard["views"], shard["made_by"])


def copied(folder, into):
    """As shutil.copytree; checkpoints, nearly all of it and never written to in place, as links: copies of them fill gigabytes."""
    return shutil.copytree(folder, into, copy_function=lambda file, copy: (os.link if file.endswith("checkpoint.pt") else shutil.copy2)(file, copy))


@pytest.fixture(scope="module")
def kiln(tmp_path_factory):
    root = tmp_path_factory.mktemp("kiln")
    for world in fire.OBJECTS:
        made_up_views(root / "cache" / "data" / world, world)
    kiln = fire.Kiln(root / "cache", "cpu", scale=1e-6, quiet=True, weights=root / "weights")
    run_all(kiln)
    return kiln


def run_all(kiln):
    """All stages but for the data's, and but for two domains that are fired as porcelain is."""
    for stage in fire.STAGES:
        if stage not in ("data", "face", "animal"):
            kiln.run(stage)


def test_the_fired_prior_and_domain_are_an_in_domain_pipeline(kiln):
    pipe = InDomainPipeline.from_pretrained(str(kiln.weights / "prior"), domain=str(kiln.weights / "domains" / "porcelain"))
    images = pipe("a vase", num_inference_steps=2, output_type="pt", generator=torch.Generator().manual_seed(0)).images
    assert images.shape == (1, 3, 128, 128) and images.isfinite().all()
    assert pipe.encode_images(images * 2 - 1).shape == (1, autoencoder.LATENT_CHANNELS, 32, 32)


def test_a_world_that_is_rendered_in_part_is_said_to_be(kiln, caplog):
    kiln.check_order("toon")
    assert "29 shards of toon are not rendered: when they are, toon starts anew" in caplog.text, "of 720 objects there are 21"


def test_all_models_together_are_as_small_as_a_package_should_be(kiln):
    sizes = kiln.sizes()
    assert sizes["all"] + (len(fire.DOMAINS) - 1) * sizes["domains/porcelain"] <= 96


def test_what_a_budget_buys_is_measured_once_for_each_architecture_and_share(kiln, monkeypatch):
    measured = []

    def generate(pipe, prompts, quiet, **settings):
        measured.append(pipe.scheduler.config.prediction_type)
        used = dict(pipe.config) | settings
        assert all(used[key] == getattr(PRESETS["kiln"], key) for key in ("guidance_scale", "num_inference_steps")), "as what ships is sampled"
        return torch.zeros(len(prompts), 3, 128, 128)

    monkeypatch.setattr(budget, "VARIANTS", {"autoencoder": {"8": fire.Recipe(factor=8, latent_channels=8)},
                                             "prior": {"eps": fire.Recipe(prediction_type="epsilon", layers=2)}})
    monkeypatch.setattr(budget, "autoencoder_psnr", lambda renders, vae: measured.append(vae.config.latent_channels) or {"base": 30.0})
    monkeypatch.setattr(budget, "SEEDS", 1)
    monkeypatch.setattr(evaluation, "generate", generate)
    monkeypatch.setattr(Judge, "load", lambda load=Judge.load: load(kiln.weights / "judge" / "model.safetensors"))
    rows = [list(budget.compare(kiln, shares=(1e-6,))) for _ in range(2)]
    assert rows[0] == rows[1] and measured == [8, "epsilon"]
    assert [row["steps"] for row in rows[0]] == [2, 2] and rows[0][1]["MiB"] > kiln.sizes()["prior/unet"]
    assert "| 8 | 2 |" in budget.as_markdown(rows[0]) and budget.as_markdown(rows[0]).count("\n\n") == 1


def test_the_fired_domain_is_the_kilns_wherever_it_was_fired(kiln):
    fired = kiln.weights / "domains" / "porcelain"
    assert find_domain(fired).prior == find_domain(fired).training["prior"] == "kiln"
    assert 'from_pretrained("kiln"' in (fired / "README.md").read_text()


def test_faces_ship_with_the_words_and_the_arc_that_they_are_fired_with():
    face, fired = find_domain("face"), fire.DOMAIN["face"]
    assert face.negative_prompt == fired["negative_prompt"] == "a head"
    assert face.arc_deg == fired["arc_deg"] < heads.SEEN_FROM[1] - heads.SEEN_FROM[0] and find_domain("animal").arc_deg == 360


@pytest.fixture
def refired(kiln, tmp_path, monkeypatch):
    """A copy of the fired kiln, and the pictures that porcelain encodes when it is fired once more."""
    encoded = []

    def encode(pipe, pictures, file, *_):
        encoded.append(pictures.source)
        torch.zeros(32, pipe.unet.config.in_channels, 32, 32).numpy().tofile(file)

    monkeypatch.setattr(domain_module, "encode", encode)
    monkeypatch.setattr(domain_module, "optimise_text_feature", lambda unet, scheduler, latents, starts, *_, **__: next(iter(starts.values())))
    monkeypatch.setattr(domain_module, "fit", lambda *_, **__: [1.0])
    for name in ("cache", "weights"):
        copied(getattr(kiln, name), tmp_path / name)
    copy = fire.Kiln(tmp_path / "cache", "cpu", scale=1e-6, quiet=True, weights=tmp_path / "weights")
    copy.run("porcelain")
    encoded.clear()
    return copy, encoded


def nudge(file):
    """Change the weights in a file."""
    weights = load_file(file)
    save_file({key: value * 1.01 if value.is_floating_point() else value for key, value in weights.items()}, file)


@pytest.mark.parametrize("part", ["vae", "unet"])
def test_porcelain_starts_anew_over_a_prior_fired_anew(part, refired):
    kiln, encoded = refired
    kiln.run("porcelain")
    assert not encoded, "what it was made from is the same"
    nudge(kiln.weights / "prior" / part / "diffusion_pytorch_model.safetensors")
    kiln.run("porcelain")
    assert len(encoded) == 1


def test_porcelain_starts_anew_on_views_rendered_anew(refired):
    kiln, encoded = refired
    repaint(kiln.cache / "data" / "porcelain", lambda images: images[:, ::-1])
    kiln.run("porcelain")
    assert len(encoded) == 1


def test_porcelain_starts_anew_for_other_steps(refired):
    kiln, encoded = refired
    kiln.steps["porcelain"] += 1
    kiln.run("porcelain")
    assert len(encoded) == 1


def test_porcelain_starts_anew_with_weights_elsewhere(refired):
    kiln, encoded = refired
    kiln.weights = kiln.weights.rename(kiln.weights.with_name("moved"))
    kiln.run("porcelain")
    assert len(encoded) == 1


@pytest.mark.parametrize("what, folders", [("autoencoder", ["autoencoder", "decoder"]), ("clip", ["clip", "tokenizer"]), ("judge", ["judge"])])
@pytest.mark.parametrize("key", ["steps", "code"])
def test_a_stage_of_other_steps_or_recipe_does_not_go_on_from_what_was_trained(what, folders, key, untouched, tmp_path, monkeypatch):
    kiln, ran = untouched
    for name in ("cache", "weights"):
        copied(getattr(kiln, name), tmp_path / name)
    other = fire.Kiln(tmp_path / "cache", "cpu", scale=1e-6, quiet=True, weights=tmp_path / "weights")
    assert all((other.cache / folder).is_dir() for folder in folders)
    depends = fire.Kiln.depends
    monkeypatch.setattr(fire.Kiln, "depends", lambda self, stage: depends(self, stage) | {key: "another"})
    other.run(what)
    assert ran == [what] and not any((other.cache / folder).exists() for folder in folders) and (other.cache / "data").exists()


def test_a_kiln_killed_before_porcelain_starts_anew_still_starts_anew(refired, monkeypatch):
    kiln, encoded = refired
    nudge(kiln.weights / "prior" / "vae" / "diffusion_pytorch_model.safetensors")

    def killed(*_, **__):
        raise SystemError

    with monkeypatch.context() as patch, pytest.raises(SystemError):
        patch.setattr(shutil, "rmtree", killed)
        kiln.run("porcelain")
    kiln.run("porcelain")
    assert len(encoded) == 1


def test_the_packages_own_weights_are_the_kiln_by_a_relative_path_too(refired, monkeypatch):
    kiln, presets = refired[0], []
    monkeypatch.setattr(domain_module, "train_domain", lambda *_, preset, **__: presets.append(preset))
    monkeypatch.setattr(fire, "WEIGHTS", kiln.weights)
    monkeypatch.chdir(kiln.weights.parent)
    kiln.weights = Path("weights")
    kiln.run("porcelain")
    assert presets == ["kiln"]


def test_the_fired_controlnet_is_one_for_the_fired_prior_and_has_something_to_say(kiln):
    pipe = InDomainPipeline.from_pretrained(str(kiln.weights / "prior"))
    edges = canny(Image.fromarray(kiln.views("base").images[0]))

    def draw(scale):
        controls = [pipe.control(kiln.weights / "controlnet", edges, scale)]
        settings = dict(num_inference_steps=2, output_type="latent", generator=torch.Generator().manual_seed(0))
        return pipe("a vase", controls=controls, **settings).images

    assert draw(1.0).shape == (1, autoencoder.LATENT_CHANNELS, 32, 32) and not torch.equal(draw(1.0), draw(0.0))


def test_latents_may_be_coarser_with_more_channels(kiln, tmp_path):
    coarse = fire.Kiln(tmp_path / "cache", "cpu", scale=1e-6, quiet=True, weights=tmp_path / "weights", data=kiln.renders, recipe=fire.Recipe(8, 16))
    for stage in ("autoencoder", "clip", "prior", "porcelain", "zero123", "controlnet"):
        coarse.run(stage)
    pipe = InDomainPipeline.from_pretrained(str(coarse.weights / "prior"), domain=str(coarse.weights / "domains" / "porcelain"))
    assert Zero123.from_pretrained(coarse.weights / "zero123", vae=pipe.vae).unet.config.in_channels == 32
    edges = pipe.control(coarse.weights / "controlnet", canny(Image.fromarray(kiln.views("base").images[0])))
    latents = pipe("a vase", controls=[edges], num_inference_steps=2, output_type="latent", generator=torch.Generator().manual_seed(0)).images
    assert latents.shape == (1, 16, 16, 16) and latents.isfinite().all() and pipe.decode_latents(latents).shape == (1, 3, 128, 128)


def test_mirror_images_have_their_own_edges(kiln, monkeypatch):
    class Enough(Exception):
        pass

    def learn(latents, edges, captions, *_, **__):
        half = len(images)
        assert len(latents) == len(edges) == 2 * half and captions[:half] == captions[half:]
        for pictures, part in zip(data.and_mirrored(images), (slice(half), slice(half, None))):
            assert torch.allclose(latents[part].float(), autoencoder.encode_all(vae, pictures, "cpu").float(), atol=1e-2)
            shown = fire.controlnet.edge_maps(Image.fromarray(np.ascontiguousarray(picture)) for picture in pictures)
            wrong, wrong_way_round = ((each != shown).float().mean() for each in (edges[part], edges[part].flip(-1)))
            assert wrong < 0.2 * wrong_way_round
        raise Enough

    images, vae = kiln.views("base").where(lambda r: r["photo"]).images, kiln.load_vae()
    monkeypatch.setattr(fire.controlnet, "train", learn)
    with pytest.raises(Enough):
        kiln.controlnet()


def test_the_fired_zero123_is_one_for_ingen3d(kiln):
    zero123 = Zero123.from_pretrained(kiln.weights / "zero123", vae=kiln.load_vae())
    reference = Cameras.at(20.0, 0.0, 3.2, 40.0, "cpu")
    condition = zero123.condition(torch.zeros(1, 3, 128, 128), reference)
    eps = zero123.noise_predictor(condition, reference, 3.0)(torch.randn_like(condition.latents), torch.tensor([500]))
    assert eps.shape == condition.latents.shape == (1, autoencoder.LATENT_CHANNELS, 32, 32) and eps.isfinite().all()
    assert zero123.scheduler.config.prediction_type == kiln.load_prior().scheduler.config.prediction_type == kiln.recipe.prediction_type


def test_the_fired_depth_estimator_is_one_for_ingen3d(kiln):
    found = DepthEstimator.from_pretrained(kiln.weights / "depth").nearness(torch.rand(2, 3, 128, 128) * 2 - 1)
    assert found.shape == (2, 128, 128) and found.isfinite().all() and 0 <= found.min() <= found.max() <= 1


def test_the_fired_judge_reads_what_its_views_were_labelled_with(kiln):
    judge = Judge.load(kiln.weights / "judge" / "model.safetensors")
    assert judge(torch.zeros(2, 3, 128, 128)).shape == (2, judge.num_features)
    assert set(judge.vocabulary["class"]) == {r["class"] for world in data.PICTURES for r in kiln.views(world).records}
    assert judge.vocabulary.keys() >= {"class", "colour", "pattern"}


def test_the_fired_customised_prior_shares_all_but_its_unet(kiln, monkeypatch):
    toon = replace(PRESETS["kiln-toon"], prior=str(kiln.weights / "prior"), unet=str(kiln.weights / "toon"))
    monkeypatch.setitem(PRESETS, "kiln-toon", toon)
    prior, custom = InDomainPipeline.from_pretrained(toon.prior), InDomainPipeline.from_pretrained("kiln-toon")
    both = zip(prior.unet.parameters(), custom.unet.parameters())
    assert any(not torch.equal(a, b) for a, b in both) and not custom.unet.training
    assert all(map(torch.equal, prior.text_encoder.parameters(), custom.text_encoder.parameters()))
    term = custom.term("a red vase", scale=3.0)
    assert prior(None, terms=[term], num_inference_steps=1, output_type="latent").images.isfinite().all()
    assert [p.name for p in (kiln.weights / "toon").iterdir()] == ["unet"]


@pytest.fixture
def untouched(kiln, monkeypatch):
    """The fired kiln, and the stages that it runs, which cost nothing and leave everything as it is."""
    ran = []
    for stage in fire.STAGES:
        monkeypatch.setattr(fire.Kiln, stage, lambda self, stage=stage: ran.append(stage), raising=False)
    monkeypatch.setattr(fire.Kiln, "domain", lambda self, name: ran.append(name))
    yield fire.Kiln(kiln.cache, "cpu", scale=1e-6, quiet=True, weights=kiln.weights), ran


def test_what_is_finished_is_passed_over_and_no_more(untouched, tmp_path, monkeypatch):
    kiln, ran = untouched
    run_all(kiln)
    assert ran == []
    for name in ("cache", "weights"):
        copied(getattr(kiln, name), tmp_path / name)
    other = fire.Kiln(tmp_path / "cache", "cpu", scale=1e-6, quiet=True, weights=tmp_path / "weights")
    (tmp_path / "weights" / "controlnet" / "diffusion_pytorch_model.safetensors").unlink()
    other.steps["zero123"] += 1
    repaint(tmp_path / "cache" / "data" / "toon", lambda images: images[:, ::-1])
    run_all(other)
    assert set(ran) == {"autoencoder", "toon", "zero123", "controlnet", "judge", "porcelain"}  # porcelain: its prior lies elsewhere
    ran.clear()
    nudge(tmp_path / "weights" / "clip" / "model.safetensors")
    run_all(other)
    assert {"clip", "prior", "zero123"} <= set(ran) and "judge" not in ran


@pytest.mark.parametrize("stage, missing, first", [("zero123", "clip", "clip"), ("prior", "prior/vae", "autoencoder"), ("face", "prior/unet", "prior")])
def test_a_stage_before_its_turn_says_which_comes_first(untouched, tmp_path, stage, missing, first):
    kiln, ran = untouched
    copied(kiln.weights, tmp_path / "weights")
    shutil.rmtree(tmp_path / "weights" / missing)
    with pytest.raises(UserError, match=f"{stage} needs {missing}, .*fire_kiln.py {first}` first"):
        fire.Kiln(kiln.cache, "cpu", scale=1e-6, quiet=True, weights=tmp_path / "weights").run(stage)
    assert ran == []


def test_a_stages_time_adds_up_over_kills_and_begins_anew_with_other_data(untouched, tmp_path, monkeypatch):
    kiln, _ = untouched
    copied(kiln.cache, tmp_path / "cache")
    other, file = fire.Kiln(tmp_path / "cache", "cpu", scale=1e-6, quiet=True, weights=tmp_path / "weights"), tmp_path / "cache" / "stages" / "clip.json"
    (machine, before), = json.loads(file.read_text())["seconds"].items()
    monkeypatch.setattr(records, "MINUTE", 0.05)

    def killed(self):
        time.sleep(0.3)
        copy.append(json.loads(file.read_text()))  # what a power cut would leave
        raise SystemError

    copy = []
    monkeypatch.setattr(fire.Kiln, "clip", killed)
    with pytest.raises(SystemError):
        other.run("clip")
    assert before + 0.1 < copy[0]["seconds"][machine] < before + 0.6 and copy[0]["made"] is None
    repaint(tmp_path / "cache" / "data" / "base", lambda images: images[:, ::-1])
    with pytest.raises(SystemError):
        other.run("clip")
    assert copy[1]["seconds"][machine] < before


@pytest.mark.parametrize("stage", ["data", "clip"])
def test_a_stage_that_is_not_finished_starts_again_whatever_is_left_of_it(untouched, tmp_path, monkeypatch, stage):
    kiln, _ = untouched
    copied(kiln.cache, tmp_path / "cache")
    copied(kiln.weights, tmp_path / "weights")
    (tmp_path / "weights" / "clip" / "config.json").write_text("{")  # as a kill while it was written leaves it
    for shard in (tmp_path / "cache" / "data").rglob("shard-*.json"):
        shard.write_text("[]")  # as the renders of an older version are
    file = tmp_path / "cache" / "stages" / "clip.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"made": None}))
    monkeypatch.setattr(fire.Kiln, "depends", lambda self, stage: {"inputs": "new", "steps": None, "code": ""})

    def begun(self):
        raise SystemError

    monkeypatch.setattr(fire.Kiln, stage, begun)
    with pytest.raises(SystemError):
        fire.Kiln(tmp_path / "cache", "cpu", scale=1e-6, quiet=True, weights=tmp_path / "weights").run(stage)


def test_losses_curves_and_samples_are_written_as_it_goes(kiln):
    for stage in ("autoencoder", "prior", "toon", "zero123", "depth", "controlnet"):
        assert (kiln.cache / stage / "loss.csv").read_text().startswith("step,loss") and (kiln.cache / stage / "loss.svg").exists()
        assert len(list((kiln.cache / stage).glob("sample-*.png"))) == 1, stage
    ElementTree.parse(kiln.cache / "prior" / "loss.svg")


def test_sizes_are_those_of_all_that_ships(kiln):
    sizes = kiln.sizes()
    files = [f.stat().st_size for f in kiln.weights.rglob("*.safetensors")]
    assert sizes["all"] == pytest.approx(sum(files) / 2**20, abs=0.1) and {"toon", "prior/vae", "judge"} <= sizes.keys()


def test_no_configuration_says_where_the_firing_was(kiln):
    configurations = list(kiln.weights.rglob("config.json"))
    assert len(configurations) >= 9 and not [file for file in configurations if json.loads(file.read_text()).get("_name_or_path")]


def test_weights_are_half_precision_safetensors(kiln):
    files = list(kiln.weights.rglob("*.safetensors"))
    assert len(files) >= 9 and not list(kiln.weights.rglob("*.bin"))
    assert all(v.dtype in (torch.float16, torch.int64) for f in files if "text_feature" not in f.name for v in load_file(f).values())
