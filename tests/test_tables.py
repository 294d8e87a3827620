"""Tables and reports: every figure once, whatever stops it and however many share the work, and a report that needs nothing else."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from diffusers import StableDiffusionPipeline
from PIL import Image

from core.devices import is_fast_in_bf16
from core.errors import UserError
from core.evaluation import contenders, features, readers, study, tables, worlds
from core.evaluation.cells import Cell, Cells
from core.evaluation.report import Column, Curves, Grid, Models, Report, Section, Table
from core.null_text import NullTextUNet
from core.presets import find_preset
from core.training.data import Pictures

from .conftest import tiny_controlnet, tiny_pipeline
from .test_fire import made_up_views
from .test_text_to_3d import evaluate

ROOT = Path(__file__).parent.parent
TINY = study.Counts(steps=4, batch_size=4, images=6, per_prompt=2, edges=3, part=4, resamples=4, curve=(0.5, 1.0), curve_per_prompt=1, inference_steps=2)


class Mean(torch.nn.Module):
    """A tiny extractor."""

    num_features = 3

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x.mean((2, 3)) * self.weight


def redness(prompts):
    return lambda images, asked: {"alignment": (images[:, 0].mean((1, 2)) > images[:, 2].mean((1, 2))).float().tolist()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(42):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def tiny(tiny_sd, pictures, tmp_path_factory):
    """A study of a random prior, and its world."""
    out = tmp_path_factory.mktemp("evaluation")
    tiny_controlnet(tiny_pipeline().unet).save_pretrained(out / "controlnet")
    (out / "prompts.txt").write_text("a vase\na bowl\n\n")
    found = study.Study(str(tiny_sd), TINY, out, str(out / "controlnet"), device="cpu", quiet=True, extractor=Mean(), find_reader=redness)
    return found, tables.find_study_worlds(found, ["clay"], pictures, prompts=out / "prompts.txt")


@pytest.fixture(scope="module")
def made(tiny):
    """Table 1 of it, whole."""
    found, its_worlds = tiny
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.training.domain.save_samples", lambda *_: None)  # the training's own sheets take long
        page = tables.table1(found, its_worlds, "python scripts/evaluate.py table1")
    return json.loads((page.parent / "report.json").read_text())


def test_all_methods_are_trained_in_the_precision_that_is_fast_there(tiny, made):
    found, _ = tiny
    records = [json.loads(file.read_text())["training"] for name in ("baseline", "domain") for file in found.out.glob(f"models/*/*/{name}.json")]
    assert {record["mixed_precision"] for record in records} == {"bf16" if is_fast_in_bf16("cpu") else "no"} and len(records) >= 6


def test_all_methods_have_seen_as_many_pictures_ours_with_those_of_its_text_feature(tiny, made):
    records = [json.loads(file.read_text())["training"] for file in tiny[0].out.glob("models/*/ours*/domain.json")]
    assert sorted((record["feature_steps"], record["steps"]) for record in records) == [(1, 1), (1, 3)]
    assert (TINY.steps, TINY.curve) == (4, (0.5, 1.0))


def test_less_memory_is_no_other_training(tiny, made, monkeypatch):
    found, (world,) = tiny
    asked = []
    monkeypatch.setattr(study, "train", lambda method, name, data, folder, *_, **settings: asked.append((folder, settings)) or {})
    found.train(world, ["lora"])
    replace_study(found, {"accumulation": 2, "gradient_checkpointing": True}).train(world, ["lora"])
    (folder, whole), (same, in_parts) = asked
    assert folder == same and in_parts == whole | {"accumulation": 2, "gradient_checkpointing": True}


def test_a_model_trained_anew_is_described_anew(tiny, made, monkeypatch):
    found, (world,) = tiny
    described, describe = [], study.describe
    monkeypatch.setattr(study, "describe", lambda method, folder: described.append(method) or describe(method, folder))
    found.train(world, ("lora",))
    assert described == []
    weights = next(next(found.out.glob("models/*/lora")).rglob("*.safetensors"))
    os.utime(weights, ns=(0, weights.stat().st_mtime_ns + 1))
    found.train(world, ("lora",))
    assert described == ["lora"]


def blocks(report, kind):
    return {block["title"]: block for section in report["sections"] for block in section["blocks"] if block["kind"] == kind}


def test_table_1_has_every_method_and_figure(made):
    assert made["status"] == ""
    assert made["settings"]["pictures of clay"] == "39 to learn from and to compare with, 3 held out"
    rows = blocks(made, "table")["Quantitative comparison"]["rows"]
    assert [row["method"] for row in rows] == ["Held-out pictures", *contenders.TITLES.values()]
    measured = [key for key in rows[1] if key.startswith("clay ")]
    assert set(measured) == {f"clay {key}" for key in ("images", "fid", "kid", "density", "coverage", "copied", "ratio", "text_fid", "alignment", "win",
                                                      "discrepancy", "spatial_fid")}
    assert all(row[key] is not None for row in rows for key in measured)
    assert sum(row["clay win"] for row in rows[2:]) == pytest.approx(1)
    for title in ("Unconditional", "Text-guided", "Spatial-guided"):
        assert list(contenders.TITLES.values()) == [name for name in blocks(made, "grid")[title]["strips"] if name not in ("Edges", "Held-out pictures")]
    time, ratios = blocks(made, "curves").values()
    assert {name: len(points) for name, points in time["series"].items()} == {"Fine-tuning": 2, "Ours": 2}
    assert [point[2] for point in time["series"]["Ours"]] == ["8", "16"]  # images seen
    assert len(ratios["series"]["w_d + w_c = w0"]) == len(tables.RATIOS)


def test_held_out_pictures_have_a_row_of_what_can_be_reached(made, tiny):
    found, (world,) = tiny
    row = blocks(made, "table")["All measures"]["rows"][0]
    train, held_out = (features.extract(Mean(), Pictures(path, found.prior.resolution).batches(8)) for path in (world.train, world.held_out))
    assert row["unranked"] and row["images"] == len(held_out) == 3
    assert row["fid"][0] == pytest.approx(features.fid(train, held_out)) and row["ratio"] == pytest.approx(1)
    assert row["alignment"] == row["discrepancy"] == "–"
    assert "Held-out pictures" in blocks(made, "grid")["Unconditional"]["strips"] and "Held-out pictures" not in blocks(made, "grid")["Text-guided"]["strips"]


def test_the_trained_parameters_are_those_that_were_trained(made, tiny):
    rows = {row["method"]: row["parameters"] for row in blocks(made, "table")["Quantitative comparison"]["rows"]}
    unet = tiny[0].prior.unet
    assert rows["Prior"] == 0 and rows["Textual Inversion"] == unet.config.cross_attention_dim
    assert rows["Fine-tuning"] == unet.num_parameters()
    assert rows["Ours"] == NullTextUNet.from_prior(unet, torch.zeros(1, 1, 24)).num_parameters()
    assert 0 < rows["Fine-tuning + LoRA"] < rows["Fine-tuning"]


def test_what_is_there_is_not_computed_again_and_rectification_takes_it_over(made, tiny, monkeypatch):
    found, its_worlds = tiny
    sampled, sample = [], study.Study.sample
    monkeypatch.setattr(study.Study, "sample", lambda self, one, *rest, **more: sampled.append(one.name) or sample(self, one, *rest, **more))
    again = replace_study(found)
    tables.table1(again, its_worlds)
    assert sampled == []
    page = tables.rectification(again, its_worlds)
    assert {name.removesuffix(" rectified") for name in sampled} == set(tables.BASELINES) and all(name.endswith(" rectified") for name in sampled)
    rows = blocks(json.loads((page.parent / "report.json").read_text()), "table")["Without and with rectification"]["rows"]
    assert all(row[key] is not None for row in rows for key in ("fid own", "fid prior", "alignment own", "alignment prior"))
    assert any(row["fid own"] != row["fid prior"] for row in rows)


def test_checkpoints_of_others_are_rectified_in_place_of_those_trained_here(made, tiny, monkeypatch):
    found, (world,) = replace_study(tiny[0]), tiny[1]
    found.out = found.out.parent / "others"
    monkeypatch.setattr(study, "train", lambda *_, **__: pytest.fail("a training"))
    ours, theirs = str(next(tiny[0].out.glob("models/*/fine-tuning"))), str(found.preset.prior)
    page = tables.rectification(found, [replace(world, checkpoints=(ours, theirs), negative_prompt="mud")])
    report = json.loads((page.parent / "report.json").read_text())
    whole = found.settings([replace(world, checkpoints=(ours, theirs))])  # as for Table 1, which trains all the same
    assert whole.keys() - report["settings"].keys() == {"steps", "batch size", "ema decay", "curve", "curve per prompt", "images seen in training"}
    first, second = blocks(report, "table")["Without and with rectification"]["rows"]
    assert (first["method"], second["method"]) == (ours, theirs)
    assert first["fid own"] != first["fid prior"] and second["fid own"] == second["fid prior"]  # its eps_0 is the prior's
    spoken = [found.checkpoint(replace(world, negative_prompt="mud"), name) for name in (ours, theirs)]
    assert [(one.phrase, one.negative_prompt) for one in spoken] == [("a photo of {prompt}, clay", "mud"), ("a photo of {prompt}", "mud")]


def test_what_the_command_line_has_rectified_and_how(pictures, tmp_path, monkeypatch):
    """All that ships over the kiln, its customised prior in its own style; or what was given, in a user's."""
    for name in ("animal", "face", "porcelain", "toon"):
        made_up_views(tmp_path / "data" / name, name)
    (tmp_path / "prompts.txt").write_text("a vase\na bowl\n")
    asked = []
    monkeypatch.setattr(study.Study, "reader", lambda self, prompts: None)
    monkeypatch.setattr(tables, "rectification", lambda study, worlds, command: asked.append((study.less_memory, worlds)) or command)

    def rectified(*given):
        evaluate(monkeypatch, tmp_path, "rectification", "--out", tmp_path / "out", "--device", "cpu", "--quiet", *given)
        return [(world.name, world.checkpoints) for world in asked[-1][1]]

    mine = ("--domain", "toon", "--data", pictures, "--prompts", tmp_path / "prompts.txt")
    assert rectified() == [("animal", ()), ("face", ()), ("porcelain", ()), ("toon", ("kiln-toon",))]
    assert rectified("--domain", "porcelain", "--accumulation", 4) == [("porcelain", ())]
    assert [less_memory["accumulation"] for less_memory, _ in asked] == [1, 4]
    assert rectified(*mine) == [("toon", ())] and rectified(*mine, "--customised", "kiln-toon") == [("toon", ("kiln-toon",))]
    with pytest.raises(UserError, match="unknown preset 'kiln-tone': did you mean 'kiln-toon'"):
        rectified("--customised", "kiln-tone")
    with pytest.raises(UserError, match="--batch-size has no effect on rectification: .*ask for table1"):
        rectified("--customised", "kiln-toon", "--batch-size", 4)


def replace_study(found, less_memory=None, **counts):
    """The same study anew, with other counts."""
    return study.Study(found.preset.name, replace(TINY, **counts), found.out, str(found.out / "controlnet"), device="cpu", quiet=True,
                       extractor=Mean(), find_reader=redness, less_memory=less_memory)


def test_a_study_of_another_scale_trains_and_samples_in_proportion():
    counts = study.Counts().scaled(0.5)
    assert (counts.steps, counts.images, counts.per_prompt, counts.edges, counts.curve_per_prompt) == (1375, 1000, 50, 100, 15)
    assert counts.batch_size == study.Counts().batch_size and study.Counts().scaled(1e-9).per_prompt == 2


def test_figures_of_another_count_model_or_extractor_are_other_cells(tiny):
    found, (world,) = tiny
    one = found.prior_contender(world)
    same, more = (replace_study(found, **counts).figures(world, one, "unconditional").key for counts in ({}, {"images": 7}))
    key = found.figures(world, one, "unconditional").key
    assert key == same != more
    assert key != found.figures(world, replace(one, weights="others"), "unconditional").key
    assert key == found.figures(world, replace(one, folder="moved"), "unconditional").key
    other = replace_study(found)
    with torch.no_grad():
        other.extractor.weight += 1
    assert key != other.figures(world, one, "unconditional").key
    of_noise = replace_study(found)
    of_noise.prior.scheduler = type(found.prior.scheduler).from_config(found.prior.scheduler.config, beta_end=0.05)
    assert key != of_noise.figures(world, one, "unconditional").key


def test_weights_of_ours_hold_for_texts_and_edges_and_not_where_there_is_neither(tiny, made):
    found, (world,) = tiny
    ours = tables.last(found.train(world, ("ours",))["ours"])
    other, edges = replace(ours, domain_scale=9.0, control_scale=1.0), found.edges(world)[:2]
    for texts, along in ((["a vase", "a bowl"], None), (None, edges), (None, None)):
        images = [found.sample(one, range(2), texts, along) for one in (ours, other)]
        assert torch.equal(*images) == (texts is None and along is None)


def test_methods_are_sampled_with_the_same_noise_and_as_their_users_have_them(tiny):
    """The prior's text-guided images are StableDiffusionPipeline's, of the same seed and scale."""
    found, (world,) = tiny
    images = found.sample(found.prior_contender(world), range(3), ["a vase"] * 3, None, at_once=2)
    theirs = tiny_pipeline()
    theirs.scheduler = found.prior.scheduler
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    expected = theirs(["a photo of a vase"] * 3, guidance_scale=found.prior.config.guidance_scale, num_inference_steps=2, generator=generators,
                      output_type="pt").images
    assert torch.allclose(images / 2 + 0.5, expected, atol=1e-4)


def test_every_trained_method_has_the_negative_prompt_of_a_domain_beside_a_text_alone(tiny):
    found, (world,) = tiny
    negated = replace(world, negative_prompt="a head")
    methods = found.train(negated, ("fine-tuning", "ours"))
    assert found.prior_contender(negated).negative_prompt == ""
    for one in map(tables.last, methods.values()):
        assert one.identity["negative_prompt"] == "a head"
        bare = replace(one, negative_prompt="")
        with_text, without = ([found.sample(c, range(2), texts, None) for c in (one, bare)] for texts in (["a vase"] * 2, None))
        assert not torch.equal(*with_text) and torch.equal(*without)
    theirs = StableDiffusionPipeline.from_pretrained(tables.last(methods["fine-tuning"]).folder, vae=found.prior.vae, safety_checker=None)
    theirs.scheduler = found.prior.scheduler
    images = found.sample(tables.last(methods["fine-tuning"]), range(2), ["a vase"] * 2, None)
    expected = theirs([f"a photo of a vase, {world.name}"] * 2, negative_prompt=["a head"] * 2,
                      guidance_scale=found.prior.config.guidance_scale, num_inference_steps=2, output_type="pt",
                      generator=[torch.Generator().manual_seed(i) for i in range(2)]).images
    assert torch.allclose(images / 2 + 0.5, expected, atol=1e-4)


def test_a_cell_is_computed_once_and_again_when_what_it_depends_on_changes(tmp_path):
    cells, made = Cells(tmp_path, quiet=True), []

    def make(folder):
        made.append(folder)
        (folder / "note.txt").write_text("kept")
        return {"value": len(made)}

    def cell(**depends):
        return Cell("a figure", depends, make)

    assert [cells.make(cell(seed=0)) for _ in range(2)] == [{"value": 1}] * 2
    assert cells.make(cell(seed=1)) == {"value": 2} and cells.make(cell(seed=0)) == {"value": 1}
    assert (cells.folder(cell(seed=0)) / "note.txt").read_text() == "kept"


def test_two_commands_at_one_cell_leave_it_whole(tmp_path):
    """The second begins it while the first is at work, and is done first."""
    cells = Cells(tmp_path, quiet=True)

    def make(folder):
        (folder / "features.npy").write_text("whole")
        return {"value": 1}

    def slowly(folder):
        figures = make(folder)
        cells.make(Cell("a", {}, make))
        return figures

    cells.make(Cell("a", {}, slowly))
    folder = cells.folder(Cell("a", {}, None))
    assert (folder / "features.npy").read_text() == "whole" and list(tmp_path.iterdir()) == [folder]


def test_what_fails_leaves_no_cell(tmp_path):
    cells = Cells(tmp_path, quiet=True)
    with pytest.raises(ZeroDivisionError):
        cells.make(Cell("a", {}, lambda folder: {"value": 1 / 0}))
    assert cells.read(Cell("a", {}, None)) is None and cells.make(Cell("a", {}, lambda folder: {"value": 1})) == {"value": 1}


SQUARES = """
import sys, time
from pathlib import Path
from accelerate import PartialState
from core.errors import run_cli
from core.evaluation.cells import Cell, Cells
PartialState(cpu=True)
root, wait = Path(sys.argv[1]), float(sys.argv[2])
def square(i, folder):
    with open(root / "log.txt", "a") as log:
        log.write(f"{i}\\n")
    time.sleep(wait * (i == 2))
    return {"value": i * i}
every = [Cell(f"square {i}", {"i": i}, lambda folder, i=i: square(i, folder)) for i in range(6)]
def main():
    cells = Cells(root, quiet=True)
    cells.make_all(every)
    whole = Cell("sum", {"of": [cell.key for cell in every]}, lambda _: {"value": sum(cells.read(cell)["value"] for cell in every)})
    cells.make_all([whole])
    sys.stdout.write(f"{PartialState().process_index} of {PartialState().num_processes}: {cells.read(whole)['value']}\\n")  # in one piece
run_cli(main)
"""


def squares(root, wait="0", launch=()):
    return subprocess.Popen([sys.executable, *launch, str(root / "squares.py"), str(root), wait], cwd=ROOT, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})


def test_a_stopped_table_says_how_to_go_on_and_computes_nothing_twice(tmp_path):
    (tmp_path / "squares.py").write_text(SQUARES)
    log = tmp_path / "log.txt"
    run = squares(tmp_path, "600")
    while not log.exists() or len(log.read_text().splitlines()) < 3:
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=300)
    assert run.returncode == 130 and "run the same command again to go on" in said and str(tmp_path) in said and "Traceback" not in said
    assert squares(tmp_path).wait(300) == 0
    assert sorted(log.read_text().split()) == ["0", "1", "2", "2", "3", "4", "5"]  # the one under way alone


def test_two_processes_share_the_cells_and_both_know_them_all(tmp_path):
    (tmp_path / "squares.py").write_text(SQUARES)
    launch = "-m accelerate.commands.launch --multi_gpu --num_machines 1 --num_processes 2 --mixed_precision no --dynamo_backend no"
    run = squares(tmp_path, launch=launch.split())
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    assert sorted((tmp_path / "log.txt").read_text().split()) == list("012345")
    assert sorted(said.splitlines()) == ["0 of 2: 55", "1 of 2: 55"]


def test_a_missing_controlnet_of_the_preset_leaves_its_task_out_and_a_missing_named_one_is_an_error(tiny, caplog):
    found, _ = tiny
    without = study.Study(found.preset.name, TINY, found.out, device="cpu", quiet=True, extractor=Mean(), find_reader=redness)
    assert without.tasks == ("unconditional", "text") and "spatial guidance is left out" in caplog.text
    assert without.settings([])["spatial guidance"] == without.lacks_control != ""
    with pytest.raises(UserError, match="nowhere"):
        study.Study(found.preset.name, TINY, found.out, str(found.out / "nowhere"), device="cpu", quiet=True, extractor=Mean(), find_reader=redness)


def test_the_negative_prompt_is_the_kilns_own_where_none_is_given(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("core.kiln.fire.CACHE", tmp_path)
    (prompts := tmp_path / "prompts.txt").write_text("a head\na hat\n")
    for name in ("face", "porcelain"):
        made_up_views(tmp_path / "data" / name, name)

    def said(preset, name, data=None, **given):
        return worlds.find_worlds(find_preset(preset), [name], data, None, prompts, tmp_path / "work", **given)[0].negative_prompt

    assert [said("kiln", "face"), said("kiln", "porcelain"), said("kiln", "face", negative_prompt="")] == ["a head", "", ""]
    assert [said("sd15", "clay", pictures), said("sd15", "clay", pictures, negative_prompt="a pot")] == ["", "a pot"]


def test_worlds_of_folders_hold_pictures_out_and_say_what_is_missing(pictures, tmp_path):
    sd15, prompts = find_preset("sd15"), tmp_path / "prompts.txt"
    prompts.write_text("a vase\na bowl\n")
    (world,) = worlds.find_worlds(sd15, ["clay"], pictures, None, prompts, tmp_path / "data")
    train, held_out = ({file.resolve() for file in folder.iterdir()} for folder in (world.train, world.held_out))
    assert len(held_out) == 3 and not train & held_out and train | held_out == set(pictures.resolve().iterdir())
    (tmp_path / "one").mkdir()
    shutil.copy(next(pictures.iterdir()), tmp_path / "one" / "a.png")
    with pytest.raises(UserError, match="'clay' is no world of the kiln's: give its pictures with --data"):
        worlds.find_worlds(find_preset("kiln"), ["clay"], None, None, prompts, tmp_path / "data")
    with pytest.raises(UserError, match="--held-out has no effect without --data: leave it out"):
        worlds.find_worlds(find_preset("kiln"), ["clay"], None, pictures, prompts, tmp_path / "data")
    for given, said in ((([], None, None, prompts), "--data FOLDER"), (([], pictures, None, prompts), "one --domain"),
                        ((["clay"], pictures, None, None), "--prompts FILE"), ((["clay"], tmp_path / "no", None, prompts), "no such folder"),
                        ((["clay"], world.held_out, None, prompts), "--held-out"), ((["clay"], pictures, tmp_path / "one", prompts), "fewer than 2"),
                        ((["clay"], pictures, None, tmp_path / "no.txt"), "no.txt")):
        with pytest.raises(UserError, match=said):
            worlds.find_worlds(sd15, *given, tmp_path / "data")


def test_nothing_that_is_held_out_is_learned_from_and_captions_beside_pictures_are_none(pictures, tmp_path):
    sd15, prompts = find_preset("sd15"), tmp_path / "prompts.txt"
    prompts.write_text("a vase\na bowl\n")
    data = shutil.copytree(pictures, tmp_path / "data")
    for picture in list(data.iterdir()):
        picture.with_suffix(".json").write_text("{}")
    (world,) = worlds.find_worlds(sd15, ["clay"], data, None, prompts, tmp_path / "work")
    assert {link.suffix for folder in (world.train, world.held_out) for link in folder.iterdir()} == {".png"}
    test = shutil.copytree(pictures, data / "test")
    for held_out in (test, data):
        with pytest.raises(UserError, match=r"are in .*data too, such as .*: hold out pictures that are in no other folder"):
            worlds.find_worlds(sd15, ["clay"], data, held_out, prompts, tmp_path / "work")
    apart = test.rename(tmp_path / "apart")
    assert worlds.find_worlds(sd15, ["clay"], data, apart, prompts, tmp_path / "work")[0].held_out == apart
    for picture in apart.iterdir():
        picture.write_bytes(b"no picture")
    with pytest.raises(UserError, match="apart holds no usable image"):
        worlds.find_worlds(sd15, ["clay"], data, apart, prompts, tmp_path / "work")


def test_pictures_are_laid_out_anew_where_their_folder_has_moved(pictures, tmp_path):
    (prompts := tmp_path / "prompts.txt").write_text("a vase\na bowl\n")
    data = shutil.copytree(pictures, tmp_path / "first")
    find = lambda data: worlds.find_worlds(find_preset("sd15"), ["clay"], data, None, prompts, tmp_path / "work")[0]
    before, after = find(data), find(data.rename(tmp_path / "second"))
    assert before == after and len(list((tmp_path / "work").iterdir())) == 1
    assert {file.resolve() for folder in (after.train, after.held_out) for file in folder.iterdir()} == set((tmp_path / "second").iterdir())


def test_attribute_prompts_ask_for_the_domains_own_things_first_and_for_colours_where_they_vary():
    plain = [{"class": name, "colour": "white", "caption": f"a {name}"} for name in ("vase", "cup")]
    vocabulary = {"class": ("vase", "bottle", "bowl", "plate", "jar", "cup", "teapot", "ball", "cube", "cone"), "colour": ("red", "orange", "white", "blue")}
    asked = worlds.attribute_prompts(plain, vocabulary)
    assert len(set(asked)) == 10 and asked[:2] == ("a vase", "a cup")
    assert worlds.attribute_prompts([record | {"colour": colour} for record in plain for colour in ("red", "orange", "blue")], vocabulary, 3) == (
        "a red vase", "an orange cup", "a blue bottle")
    coated = [{"class": "vase", "colour": colour, "caption": None} for colour in ("red", "orange", "blue")]
    assert worlds.attribute_prompts(coated, vocabulary)[0] == "a vase", "no caption told which of its colours is meant"


def test_a_domain_of_heads_is_asked_for_what_they_wear_and_show():
    vocabulary = {"class": ("vase", "head"), "colour": ("red",), "hat": ("no hat", "hat"), "glasses": ("glasses", "no glasses"),
                  "beard": ("beard", "no beard"), "expression": ("smiling", "surprised", "neutral")}
    asked = [readers.asked(vocabulary, prompt) for prompt in worlds.attribute_prompts([{"class": "head", "caption": None}], vocabulary)]
    assert len(asked) == 10 and all(each["class"] == "head" and len(each) > 1 for each in asked)
    assert {value for each in asked for value in each.values()} == {"head", "hat", "glasses", "beard", "smiling", "surprised"}


def test_best_and_second_best_respect_the_direction_and_references_stay_out():
    columns = [Column("low", "", "low"), Column("high", "", "high", ".0%"), Column("none", "")]
    rows = [dict(low=0.5, high=0.99, none=1.0, unranked=True), dict(low=(3.0, 2.0, 4.0), high=0.5, none=1.0), dict(low=1.0, high=0.501, none=2.0),
            dict(low=2.0, high=None, none=3.0), dict(low="–", high=0.4, none=4.0)]
    table = Table("t", columns, rows)
    assert [row["low"] for row in table.ranks()] == [0, 0, 1, 2, 0]
    assert [row["high"] for row in table.ranks()] == [0, 1, 1, 0, 2]  # equal as they are printed
    assert all(row["none"] == 0 for row in table.ranks())
    lines = table.markdown().splitlines()
    assert "3.00 [2.00, 4.00]" in lines[3] and "**1.00**" in lines[4] and "<u>2.00</u>" in lines[5] and "…" in lines[5] and "–" in lines[6]


def test_kids_of_either_features_are_told_apart_and_have_no_exponent():
    kid = next(column for column in tables.MEASURES if column.key == "kid")
    assert [kid.show(value) for value in (0.003118, 0.05, 0.0, 29.71, 509.2, 1234.5, -0.0000123)] == [
        "0.00312", "0.0500", "0.00", "29.7", "509", "1230", "-0.0000123"]
    assert kid.ranks([{"kid": value} for value in (0.0041, 0.00312, 0.003118, 1234.5)]) == [2, 1, 1, 0]


def test_the_report_refers_to_nothing_outside_itself_and_holds_what_it_was_given(tmp_path):
    Image.new("RGB", (64, 32), "red").save(tmp_path / "strip.png")
    trimesh.creation.icosphere(subdivisions=1).export(tmp_path / "ball.glb")
    hostile = "<script>alert(1)</script>"
    given = [Table(hostile, [Column("a", "A <b>", "low")], [{"a": 1.0}]), Grid("g", {hostile: tmp_path / "strip.png"}, ["x", "y"]),
             Curves("c", "x", "y", {"one": [(1, 2, "p"), (3, 5)], "single": [(2, 2)], "none": []}), Models("m", {"ball": tmp_path / "ball.glb"})]
    page = Report("title", "python x.py --a 'b'", {"count": 3}, [Section("s", given, "text")], "1 of 2").write(tmp_path / "out")
    html = page.read_text()
    assert not re.findall(r'(?:src|href|srcset|action|poster|data)\s*=\s*["\'](?!data:)', re.sub(r"<script>.*</script>", "", html, flags=re.DOTALL))
    assert not re.findall(r"@import|url\((?!data:)", re.sub(r"<script>.*</script>", "", html, flags=re.DOTALL)) and not re.findall(r"<link[^>]+http", html)
    assert hostile not in html and "&lt;script&gt;" in html and html.count("data:image/png;base64,") == 1
    assert html.count('<circle') == 3 and "nan" not in re.search(r"<svg.*</svg>", html, re.DOTALL)[0]
    assert html.count("THREE.GLTFLoader()") == 1 and html.count("data-glb=") == 1  # three.js once, however many models there are
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert blocks(data, "grid")["g"]["strips"][hostile] == "../strip.png" and data["status"] == "1 of 2"
    assert "![" in (tmp_path / "out" / "report.md").read_text()
