"""The whole chain with small stand-in models: a painter for the pipeline, an oracle for the scores."""

import json
import os
import runpy
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from safetensors.torch import save_file

import ingen3d.optimise as optimise_module
from core.errors import UserError
from core.presets import find_preset
from core.results import alone_in
from ingen3d import pipeline, reference, stages, text_to_3d
from ingen3d.cameras import Cameras
from ingen3d.field import TriPlaneField
from ingen3d.foreground import foreground, frame
from ingen3d.models import Models
from ingen3d.render import OccupancyGrid, render
from ingen3d.run_folder import RunFolder, choose_folder, models_fingerprint
from ingen3d.settings import load_settings
from tests.test_field_render import picture_of_ball
from tests.test_fire import made_up_views

ROOT = Path(__file__).parent.parent
SMALL = {
    "field": {"resolution": 32, "features": 4, "levels": 2, "hidden": 16},
    "init": {"steps": 40, "lr_planes": 0.05, "render_size": 16, "samples": 24},
    "refine": {"steps": 8, "render_size": 16, "samples": 24},
    "paint": {"pictures": 0},
    "mesh": {"resolution": 48, "faces": 2500, "texture_size": 256},
    "turntable": {"views": 2, "frames": 3, "size": 32, "samples": 32},
}
ALPHAS = torch.linspace(0.999, 0.005, 1000)


def towards(target: torch.Tensor):
    """The noise predictor of a world in which only `target` exists."""

    def predict(z_t, t):
        alpha = ALPHAS[t].view(-1, 1, 1, 1)
        return (z_t - alpha.sqrt() * target) / (1 - alpha).sqrt()

    return predict


def ball_image(cameras, size: int) -> torch.Tensor:
    return picture_of_ball(cameras, size, 0.6)[0].permute(0, 3, 1, 2) * 2 - 1


def nearness_of_ball(size: int) -> torch.Tensor:
    """(1, size, size), the same from everywhere."""
    rgb, mask = picture_of_ball(Cameras.at(0, 0, 3.2, 40), size, 0.6)  # coloured by its normal, whose x is towards the camera
    return torch.where(mask, 1 / (3.2 - 0.6 * (2 * rgb[..., 0] - 1)), 0.0)


class FakeModels:
    """Stage models whose latents are 16-pixel pictures; the object is a coloured ball, in blue after refinement."""

    preset = SimpleNamespace(config="kiln", resolution=64, zero123_resolution=32, guidance_scale=5.0, num_inference_steps=4)
    fingerprint, arc_deg = "first", 360.0

    def __init__(self):
        def shrink(images):
            return torch.nn.functional.interpolate(images, (16, 16), mode="area")

        scheduler = SimpleNamespace(alphas_cumprod=ALPHAS)
        self.zero123 = SimpleNamespace(
            condition=lambda image, camera: None,
            encode_images=shrink,
            scheduler=scheduler,
            sample=lambda condition, cameras, *_: ball_image(cameras, 32),
            noise_predictor=lambda condition, cameras, guidance_scale: towards(shrink(ball_image(cameras, 64))),
        )
        self.depth = SimpleNamespace(nearness=lambda images: nearness_of_ball(images.shape[-1]).expand(len(images), -1, -1), scale=1.0)
        self.pipe = SimpleNamespace(encode_images=shrink, scheduler=scheduler, resolution=64, compose=lambda prompt: prompt, negative_of=lambda prompt: "")
        self.pipe.noise_predictor = lambda prompt, negative_prompt=None, **guidance: towards(
            torch.tensor([-1.0, -1.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
        )

    def make_room(self, name):
        """On a CPU nothing has to go."""


@pytest.fixture
def picture(tmp_path):
    rgb = (ball_image(Cameras.at(20, 0, 3.2, 40), 64)[0].permute(1, 2, 0) + 1) * 127.5
    path = tmp_path / "ball.png"
    Image.fromarray(rgb.round().byte().numpy()).save(path)
    return path


def make(picture, out, **kwargs):
    return text_to_3d(
        "a ball",
        image=picture,
        out=out,
        quiet=True,
        overrides=SMALL | kwargs.pop("overrides", {}),
        models=kwargs.pop("models", None) or FakeModels(),
        device="cpu",
        **kwargs,
    )


def test_refinements_guidance_goes_from_its_first_to_its_last_value(picture, tmp_path):
    models, used = FakeModels(), []
    towards_blue = models.pipe.noise_predictor("")

    def rule(z_t, t):
        used.append(rule.guidance_scale)
        return towards_blue(z_t, t)

    models.pipe.noise_predictor = lambda *args, **guidance: rule
    guided = {"guidance_scale": 8.0, "guidance_end": 4.0, "steps": 4}
    make(picture, tmp_path, models=models, overrides={"refine": SMALL["refine"] | guided})
    assert used == [8.0, 7.0, 6.0, 5.0]


def test_refinement_holds_the_first_fields_silhouettes(picture, tmp_path):
    """Its rule wants blue everywhere: without being held the object spreads."""

    def growth(hold: float) -> float:
        run = make(picture, tmp_path / str(hold), overrides={"refine": SMALL["refine"] | {"steps": 40, "sds": 2.0, "hold": hold}})
        covered = {stage: (np.asarray(Image.open(run.folder / stage / "views.png")) < 250).any(-1).mean() for stage in ("init", "refine")}
        return covered["refine"] - covered["init"]

    free, held = growth(0.0), growth(2000.0)
    assert free > 0.05 and abs(held) < 0.5 * free


def test_the_rule_sees_the_domains_arc_alone_and_what_lies_off_it_stays_as_the_first_field_has_it(picture, tmp_path):
    """A rule that wants blue everywhere."""

    def refined(arc_deg: float) -> tuple[set[str], float]:
        """What the rule was asked for, and how much the back has changed."""
        models, asked = FakeModels(), set()
        models.arc_deg, rule = arc_deg, models.pipe.noise_predictor
        models.pipe.compose = "{}, of clay".format
        models.pipe.noise_predictor = lambda prompt, negative, **guidance: asked.add(prompt) or rule(prompt, negative, **guidance)
        settings = SMALL["refine"] | {"steps": 40, "sds": 0.5, "view_dependent_prompt": True}
        run = make(picture, tmp_path / str(arc_deg), models=models, overrides={"refine": settings})
        first, then = (np.asarray(Image.open(run.folder / stage / "views" / "001.png"), float) for stage in ("init", "refine"))
        return asked, np.abs(then - first).mean()

    (everywhere, free), (here, held) = refined(360.0), refined(80.0)
    assert here == {"a ball, of clay, front view"} and everywhere == {f"a ball, of clay, {side} view" for side in ("front", "side", "back")}
    assert held < 0.5 * free


@pytest.mark.parametrize("overrides, engine, arc_deg", [
    ({}, "native", 80.0), ({"refine": {"arc_deg": 360.0}}, "native", 360.0), ({"refine": {"arc_deg": 90.0}}, "native", 90.0),
    ({"init": {"steps": 0}}, "native", 360.0), ({"refine": {"rgb": 0.0, "mask": 0.0}}, "native", 360.0), ({}, "threestudio", 360.0),
])
def test_a_domains_arc_is_taken_where_something_holds_the_rest_and_else_that_is_said(overrides, engine, arc_deg, caplog):
    settings = load_settings("kiln", overrides)
    pipeline.choose_arc(settings, 80.0, engine)
    assert settings.refine.arc_deg == arc_deg
    assert ("the domain knows 80 degrees" in caplog.text) == (arc_deg == 360 and "arc_deg" not in overrides.get("refine", {}))


def test_a_guidance_scale_holds_throughout_or_goes_to_another():
    assert load_settings("kiln", ["refine.guidance_scale=9"]).refine.guidance_at(1.0) == 9.0
    assert load_settings("kiln", {"refine": {"guidance_scale": 9.0, "guidance_end": 3.0}}).refine.guidance_at(0.5) == 6.0


def test_a_run_leaves_a_textured_mesh_a_turntable_and_a_record(picture, tmp_path):
    run = make(picture, tmp_path / "out")
    assert run.folder == tmp_path / "out" / "porcelain" / "a-ball-0"
    mesh = trimesh.load(run.mesh, force="mesh")
    assert mesh.visual.material.baseColorTexture.size == (256, 256)
    assert run.metrics["mesh_components"] == 1 and run.metrics["mesh_watertight"] and run.metrics["mesh_texture_size"] == 256
    assert run.metrics["init_reference_iou"] > 0.7
    record = json.loads((run.folder / "run.json").read_text())
    assert record["settings"]["init"]["steps"] == 40 and record["seed"] == 0 and "torch" in record["versions"]
    assert {"image.png", "init", "refine", "mesh.glb", "mesh.obj", "mesh.ply"} <= {p.name for p in run.folder.iterdir()}
    assert list(run.folder.glob("turntable.*")) and not list(run.folder.glob("*.partial"))


def test_finished_stages_are_reused_and_only_what_changed_is_made_again(picture, tmp_path):
    run = make(picture, tmp_path)

    def time_of(name):
        return (run.folder / name).stat().st_mtime_ns

    before = {name: time_of(name) for name in ("image.png", "init/field.safetensors", "refine/field.safetensors", "mesh.glb")}
    make(picture, tmp_path)
    assert before == {name: time_of(name) for name in before}
    make(picture, tmp_path, overrides={"refine": SMALL["refine"] | {"sds": 0.05}})
    changed = {name for name in before if before[name] != time_of(name)}
    assert changed == {"refine/field.safetensors", "mesh.glb"}


def test_other_views_cost_no_optimisation(picture, tmp_path):
    run = make(picture, tmp_path)
    before = {stage: (run.folder / stage / "field.safetensors").stat().st_mtime_ns for stage in ("init", "refine")}
    make(picture, tmp_path, overrides={"turntable": SMALL["turntable"] | {"views": 3, "size": 16}})
    for stage, time in before.items():
        assert {Image.open(file).size for file in (run.folder / stage / "views").iterdir()} == {(16, 16)}
        assert len(list((run.folder / stage / "views").iterdir())) == 3 and Image.open(run.folder / stage / "views.png").size == (48, 16)
        assert (run.folder / stage / "field.safetensors").stat().st_mtime_ns == time
    assert list(json.loads((run.folder / "run.json").read_text())["stages"]) == ["image", "init", "init/views", "refine", "refine/views", "mesh"]


def evaluate(monkeypatch, data, *given):
    monkeypatch.setattr("sys.argv", ["evaluate.py", *map(str, given)])
    monkeypatch.setattr("core.kiln.fire.CACHE", data)
    runpy.run_path(Path(__file__).parent.parent / "scripts" / "evaluate.py")["main"]()


@pytest.mark.parametrize("given, said", [
    (("prior", "fold", "--scale", 0.1), "--scale has no effect on prior, fold"), (("table3d", "--held-out", "x"), "--held-out has no effect on table3d"),
    (("fold", "--folder", "x"), "--folder has no effect on fold: leave it out, or ask for run"), (("domain", "--seeds", 5), "--seeds has no effect on domain"),
    (("rectification", "--images", 9), "--images has no effect on rectification"), (("table3d", "--steps", 9), "--steps has no effect on table3d"),
    (("table1", "--customised", "x"), "--customised has no effect on table1: .*ask for rectification"),
    (("rectification", "--controlnet", "x"), "--controlnet has no effect on rectification: .*ask for table1"), (("table1", "--steps", 0), "--steps is 0"),
    (("prior", "--domain", "face"), "--domain has no effect on prior"), (("autoencoder", "--images", 9), "--images has no effect on autoencoder"),
])
def test_what_only_some_measures_take_is_an_error_without_one(given, said, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=said):
        evaluate(monkeypatch, tmp_path, *given)


def test_figures_of_several_domains_are_said_one_by_one(kiln_weights, tmp_path, monkeypatch, capsys):
    said = []

    def fidelity(data, name, count, quiet):
        said.append(capsys.readouterr().out)
        return {"data": data == tmp_path / "data", "images": count, "quiet": quiet}

    (tmp_path / "data").mkdir()
    monkeypatch.setattr("core.evaluation.kiln.domain_fidelity", fidelity)
    evaluate(monkeypatch, tmp_path, "domain", "--domain", "face", "--domain", "animal", "--images", 7, "--quiet")
    found = {"data": True, "images": 7, "quiet": True}
    assert [json.loads(line) for line in (said[1], capsys.readouterr().out)] == [{"domain": {name: found}} for name in ("face", "animal")]


def test_a_run_is_judged_by_its_own_domain(kiln_weights, picture, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torchmetrics")
    made_up_views(tmp_path / "data" / "porcelain", "porcelain")
    folder = make(picture, tmp_path).folder
    evaluate(monkeypatch, tmp_path, "run", "--folder", folder)
    measured = json.loads(capsys.readouterr().out)["run"]
    assert len(measured["refine_classes"]) == 2 and measured["init_kid"] != measured["refine_kid"] and measured["texture_size"] == 256
    trimesh.creation.box().export(folder / "mesh.glb")
    with pytest.raises(UserError, match="mesh.glb' has no texture"):
        evaluate(monkeypatch, tmp_path, "run", "--folder", folder)
    record = json.loads((folder / "run.json").read_text())
    for change, message in (({"domain": None}, "without a domain"), ({"domain": "faces"}, "'faces' is no world of the kiln"), ({"metrics": ...}, "again")):
        (folder / "run.json").write_text(json.dumps({k: v for k, v in (record | change).items() if v is not ...}))
        with pytest.raises(UserError, match=message):
            evaluate(monkeypatch, tmp_path, "run", "--folder", folder)
    (folder / "mesh.glb").unlink()
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="did not come from a prompt to a mesh"):
        evaluate(monkeypatch, tmp_path, "run", "--folder", folder)


@pytest.mark.parametrize(
    "given, message",
    [
        ("prior --seeds 0", "--seeds is 0"),
        ("domain --images 1", "--images is 1"),
        ("table1 --scale 0", "--scale is 0"),
        ("domain --domain porcelan", "did you mean 'porcelain'"),
        ("run", "no run folder"),
    ],
)
def test_what_cannot_be_measured_is_one_clear_line(given, message, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=message):
        evaluate(monkeypatch, tmp_path, *given.split())


def test_a_domain_trained_anew_is_used(picture, tmp_path):
    first, models = make(picture, tmp_path), FakeModels()
    before = (first.folder / "init" / "field.safetensors").stat().st_mtime_ns
    models.fingerprint = "second"
    again = make(picture, tmp_path, models=models)
    assert again.folder == first.folder and (again.folder / "init" / "field.safetensors").stat().st_mtime_ns > before


def test_models_of_other_domains_have_other_fingerprints_and_another_priors_domain_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "domain.json").write_text(json.dumps(dict(name="mine", phrase="{prompt}", prior="kiln", resolution=128, arc_deg=90.0)))
        save_file({"x": torch.full((9,), float(name == "a"))}, tmp_path / name / "unet" / "model.safetensors")
    prints = [Models("kiln", folder, "cpu").fingerprint for folder in (tmp_path / "a", tmp_path / "b", tmp_path / "a", None)]
    assert prints[0] == prints[2] and len(set(prints)) == 3
    assert [Models("kiln", domain, "cpu").arc_deg for domain in (tmp_path / "a", "porcelain", None)] == [90.0, 360.0, 360.0]
    with pytest.raises(UserError, match="'mine' was trained on the prior of --preset kiln, not on sd15's"):
        text_to_3d("a vase", domain=tmp_path / "a", preset="sd15", out=tmp_path, device="cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kilns_own_models_go_from_a_prompt_to_a_mesh(kiln_weights, tmp_path, monkeypatch, dtype):
    """In half precision, as on a GPU, too: then scores are still taken in full precision."""
    seen, real = [], stages.sds
    monkeypatch.setattr(stages, "sds", lambda latents, *args: seen.append(latents.dtype) or real(latents, *args))
    monkeypatch.setattr("ingen3d.models.default_dtype", lambda device: dtype)
    overrides = SMALL | {"image": {"num_inference_steps": 8}, "mesh": {"resolution": 32, "texture_size": 64}}
    models = Models("kiln", "porcelain", "cpu")
    run = text_to_3d("a vase", models=models, steps=2, out=tmp_path, overrides=overrides, device="cpu", quiet=True)
    assert run.metrics["mesh_faces"] > 100 and (run.folder / "source.png").is_file() and 0.02 < run.metrics["image_foreground"] < 0.9
    assert seen == [torch.float32] * 4 and {module.dtype for module in (models.pipe.unet, models.pipe.vae, models.pipe.domain_unet)} == {dtype}


def test_the_view_that_a_prompt_names_is_counted_from_the_reference():
    views = [stages.view_phrase(Cameras.at(20, azimuth, 3.2, 40), 90.0) for azimuth in (80, 180, 280, 359)]
    assert views == [", front view", ", side view", ", back view", ", side view"]


def test_a_model_is_known_by_its_weights_and_a_hub_id_by_its_name(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "unet").mkdir(parents=True)
        save_file({"x": torch.zeros(200_000)}, tmp_path / name / "unet" / "model.safetensors")
    same = models_fingerprint(tmp_path / "a") == models_fingerprint(tmp_path / "b")
    save_file({"x": torch.ones(200_000)}, tmp_path / "b" / "unet" / "model.safetensors")
    assert same and models_fingerprint(tmp_path / "a") != models_fingerprint(tmp_path / "b")
    assert models_fingerprint("owner/a") != models_fingerprint("owner/b")
    before = models_fingerprint(tmp_path / "a")
    torch.save({"x": torch.ones(9)}, tmp_path / "a" / "unet" / "diffusion_pytorch_model.bin")  # all that zero123-xl has
    assert models_fingerprint(tmp_path / "a") != before
    file, prints = tmp_path / "prior.safetensors", []
    for value in range(2):
        save_file({"x": torch.full((200_000,), float(value))}, file)
        prints += [models_fingerprint(file), models_fingerprint(shutil.copy(file, tmp_path / "copy.safetensors"))]
    assert prints[0] == prints[1] != prints[2] == prints[3], "a file too is known by its weights"


def test_runs_from_other_pictures_or_presets_do_not_share_a_folder(tmp_path):
    mine, other = ({"prompt": "a ball", "preset": "kiln", "image_sha256": x} for x in ("1", "2"))
    path = tmp_path / "a-ball-0"
    for made_from in (mine, other):
        run = RunFolder(choose_folder(path, made_from))
        run.describe(**made_from)
        run.begin("image", "mark")
        run.end("image", "mark", as_folder=False)
    assert choose_folder(path, mine) == path and path.exists()
    assert choose_folder(path, other).name.startswith("a-ball-0-") and choose_folder(path, other).exists()


def test_a_folder_is_one_processs_at_a_time(picture, tmp_path):
    folder = make(picture, tmp_path).folder
    with alone_in(folder), pytest.raises(UserError, match="another process is at work in '.*a-ball-0': wait for it, or give another --out"):
        make(picture, tmp_path)
    assert make(picture, tmp_path).folder == folder


def test_a_sampled_picture_is_framed_where_its_prior_draws_objects_anywhere(tmp_path):
    pixels, _ = disc((250, 250, 250), (40, 60, 200), size=64, radius=8, centre=(50, 50))
    models = FakeModels()
    models.pipe = lambda prompt, **kwargs: SimpleNamespace(images=[Image.fromarray(pixels)])
    for fill, rows in ((None, 15), (0.75, 48)):
        alpha = image_stage(tmp_path / str(fill), models=models, sampled_fill=fill).mask > 0.5
        assert alpha.any(1).sum() == pytest.approx(rows, abs=2)
    assert load_settings("sd15").image.sampled_fill and load_settings("kiln").image.sampled_fill is None


def test_a_run_that_failed_at_once_does_not_take_the_folder(picture, tmp_path):
    Image.new("RGBA", (64, 64)).save(tmp_path / "empty.png")
    with pytest.raises(UserError, match="transparent"):
        make(tmp_path / "empty.png", tmp_path)
    run = make(picture, tmp_path)
    assert run.folder.name == "a-ball-0" and not list(run.folder.glob("*.partial"))


@pytest.mark.parametrize("record", ["[1]", "3", '{"stages": ', '{"stages": []}', '{"stages": null}', '{"stages": {"image": 3}}'])
def test_a_run_json_that_is_none_is_begun_anew(tmp_path, record):
    (tmp_path / "run.json").write_text(record)
    assert choose_folder(tmp_path, {"prompt": "a ball"}) == tmp_path and RunFolder(tmp_path).record == {"stages": {}}


@pytest.mark.parametrize("module, name", [(os, "replace"), (shutil, "rmtree"), (Path, "replace"), (Path, "unlink"), (Path, "write_text")])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", range(2))
def test_a_run_killed_while_a_stage_ends_has_no_stage_on_record_that_its_files_are_not_of(tmp_path, monkeypatch, module, name, after, call):
    """Killed before or after the n-th change of a file: then all is finished as asked, or what is on record is of the old settings."""
    run = RunFolder(tmp_path)
    for stage in ("init", "refine"):
        (run.begin(stage, "old") / "field").write_text("old")
        run.end(stage, "old", as_folder=True)
    partial, real, calls = run.begin("init", "new"), getattr(module, name), []
    (partial / "field").write_text("new")
    (partial / "checkpoint.pt").write_text("new")

    def killed(*args, **kwargs):
        calls.append(1)
        if len(calls) == call + 1 and not after:
            raise SystemError
        result = real(*args, **kwargs)
        if len(calls) == call + 1:
            raise SystemError
        return result

    with monkeypatch.context() as patch, pytest.raises(SystemError):
        patch.setattr(module, name, killed)
        run.end("init", "new", as_folder=True)
    run = RunFolder(tmp_path)
    for mark in ("old", "new"):
        assert not run.finished("init", mark) or (tmp_path / "init" / "field").read_text() == mark
    assert not (run.finished("init", "new") and "refine" in run.record["stages"]), "what was made from the old stage is forgotten with it"
    if not run.finished("init", "new"):
        assert {"field", "checkpoint.pt"} <= {file.name for file in run.begin("init", "new").iterdir()}, "the work is kept"


def test_a_stage_takes_those_made_from_it_off_the_record_and_no_others(tmp_path):
    run = RunFolder(tmp_path)
    for stage in ("init", "refine", "image"):  # a run from guidance alone, to which a picture came later
        run.begin(stage, "mark")
        run.end(stage, "mark", as_folder=stage != "image")
    assert list(run.record["stages"]) == ["init", "refine", "image"]
    run.begin("init", "from the picture")
    run.end("init", "from the picture", as_folder=True)
    assert set(run.record["stages"]) == {"image", "init"}
    run.forget("image")
    assert run.record["stages"] == {}


@pytest.mark.parametrize("device, stays", [("cpu", True), ("cuda", False), ("mps", False)])
def test_a_model_that_is_done_with_leaves_a_gpu(device, stays):
    models = Models("kiln", None, "cpu")
    models.device, models.zero123 = torch.device(device), object()
    models.make_room("zero123")
    assert ("zero123" in vars(models)) == stays


def test_a_mark_cut_short_does_not_cost_the_work(tmp_path, monkeypatch):
    (RunFolder(tmp_path).begin("init", "mark") / "checkpoint.pt").write_text("")

    def cut(path, text):
        path.open("w").close()
        raise SystemError

    with monkeypatch.context() as patch, pytest.raises(SystemError):
        patch.setattr(Path, "write_text", cut)
        RunFolder(tmp_path).begin("init", "mark")
    assert (RunFolder(tmp_path).begin("init", "mark") / "checkpoint.pt").exists()


def test_a_run_stopped_amid_other_settings_shows_no_metrics(picture, tmp_path, monkeypatch):
    run = make(picture, tmp_path)
    monkeypatch.setattr(pipeline, "refine", lambda *args: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        make(picture, tmp_path, overrides={"refine": SMALL["refine"] | {"sds": 0.05}})
    assert "metrics" not in json.loads((run.folder / "run.json").read_text())


@pytest.mark.parametrize("stage", ["init", "refine"])
def test_a_stage_that_fails_at_its_views_keeps_its_optimisation(picture, tmp_path, monkeypatch, stage):
    real, steps = torch.optim.Adam.step, []
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self, *args: steps.append(1) or real(self, *args))

    def fail(field, grid, s, camera, n, *args):
        if n == SMALL["turntable"]["views"] and len(steps) == {"init": 40, "refine": 48}[stage]:
            raise OSError(28, "No space left on device")
        return turntable(field, grid, s, camera, n, *args)

    turntable = pipeline.turntable
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(pipeline, "turntable", fail)
        make(picture, tmp_path)
    make(picture, tmp_path)
    assert len(steps) == 48, "no step is done twice"


def test_the_seconds_of_an_interrupted_stage_add_up(tmp_path):
    partial = RunFolder(tmp_path).begin("init", "mark")
    (partial / "checkpoint.pt").write_text("")
    started = (partial / "fingerprint").stat().st_mtime
    os.utime(partial / "checkpoint.pt", (started + 90, started + 90))
    RunFolder(tmp_path).begin("init", "mark")
    os.utime(partial / "checkpoint.pt", (started, started))  # killed before another checkpoint: nothing is added, nothing lost
    run = RunFolder(tmp_path)
    run.begin("init", "mark")
    run.end("init", "mark", as_folder=True)
    assert 90 <= run.record["stages"]["init"]["seconds"] < 100


def test_a_large_picture_is_shrunk_before_its_object_is_sought(monkeypatch):
    sizes = []
    monkeypatch.setattr(reference, "foreground", lambda image: sizes.append(image.size) or foreground(image))
    image = Image.fromarray(disc((250, 250, 250), (40, 60, 200), size=64)[0]).resize((3000, 2000))
    rgba = reference.framed(image, 64, fill=0.75)
    assert sizes == [(1024, 683)] and image.size == (3000, 2000) and rgba.shape == (64, 64, 4)


def image_stage(out, picture=None, models=None, **settings):
    settings = load_settings("kiln", {"image": settings})
    return pipeline.image_stage(RunFolder(out), models or FakeModels(), settings, picture, "a ball", 0, "cpu", {})[0]


def test_an_object_that_fills_its_picture_stays_whole(tmp_path):
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[5:35, 5:35] = 40, 60, 200, 255
    pixels[15:25, 15:25, :3] = 250  # of two colours
    reference = image_stage(tmp_path, Image.fromarray(pixels), fill=1.0)
    assert reference.mask.shape == (64, 64) and reference.mask.min() > 0.5


def test_a_sampled_picture_without_an_object_is_kept_and_the_advice_is_for_it(tmp_path):
    models, grey = FakeModels(), Image.new("RGB", (64, 64), (90, 90, 90))
    models.pipe = lambda prompt, **kwargs: SimpleNamespace(images=[grey])
    with pytest.raises(UserError, match="source.png': try another --seed, a prompt such as 'a ball on a white background', or --image"):
        image_stage(tmp_path, models=models)
    assert Image.open(tmp_path / "image.partial" / "source.png").getpixel((0, 0)) == (90, 90, 90)


def test_what_was_made_of_another_object_is_off_the_record_where_now_there_is_none(picture, tmp_path):
    """A table would take its figures for this one's."""

    class Painter(SimpleNamespace):
        def __call__(self, prompt, **kwargs):
            return SimpleNamespace(images=[self.drawn])

    def draw(drawn, fingerprint):
        models = FakeModels()
        models.pipe, models.fingerprint = Painter(**vars(models.pipe), drawn=drawn), fingerprint
        return make(None, tmp_path, models=models).folder

    folder = draw(Image.open(picture), "first")
    with pytest.raises(pipeline.NoObject, match="no object stands out") as error:
        draw(Image.new("RGB", (64, 64), (90, 90, 90)), "trained anew")
    assert error.value.folder == folder and not RunFolder(folder).record["stages"]


@pytest.mark.parametrize("kill_at", [3, 20])
def test_a_run_stopped_by_ctrl_c_ends_as_one_that_was_not(picture, tmp_path, monkeypatch, kill_at):
    whole = make(picture, tmp_path / "whole")
    real, calls = torch.optim.Adam.step, []

    def step(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == kill_at:
            signal.raise_signal(signal.SIGINT)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    with pytest.raises(KeyboardInterrupt, match="again"):
        make(picture, tmp_path / "stopped")
    assert len(calls) == kill_at, "the step that was running is finished, and none begun"
    stopped = make(picture, tmp_path / "stopped")
    assert len(calls) == 48, "no step is done twice"
    assert stopped.mesh.read_bytes() == whole.mesh.read_bytes()


def test_a_run_killed_between_checkpoints_ends_as_one_that_was_not(picture, tmp_path, monkeypatch):
    whole = make(picture, tmp_path / "whole")
    monkeypatch.setattr(optimise_module, "CHECKPOINT_SECONDS", 0.0)
    real, calls = torch.optim.Adam.step, []

    def step(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 44:  # in refinement
            raise SystemError("power cut")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    with pytest.raises(SystemError):
        make(picture, tmp_path / "killed")
    assert make(picture, tmp_path / "killed").mesh.read_bytes() == whole.mesh.read_bytes()


def test_another_seed_gives_another_object(picture, tmp_path):
    assert make(picture, tmp_path).mesh.read_bytes() != make(picture, tmp_path, seed=1).mesh.read_bytes()


@pytest.mark.parametrize(
    "given, overrides, message",
    [
        ({}, {"init": {"steps": 0}, "refine": {"rgb": 0.0, "mask": 0.0}}, "the picture has no effect"),
        ({}, {"init": {"steps": 0}, "refine": {"arc_deg": 90.0}}, "refine.arc_deg is 90, but nothing holds the rest"),
        ({}, {"refine": {"arc_deg": 90.0, "rgb": 0.0, "mask": 0.0}}, "refine.arc_deg is 90, but nothing holds the rest"),
        ({"domain": None}, {"refine": {"domain_scale": 3.0}}, "refine.domain_scale is 3 but there is no domain"),
        ({}, {"paint": {"pictures": 4, "strength": 0.03}}, "paint.strength is 0.03, which takes none of 4 steps"),
    ],
)
def test_settings_that_what_is_given_contradicts_are_refused_at_once(given, overrides, message, picture, tmp_path):
    with pytest.raises(UserError, match=message):
        make(picture, tmp_path, overrides=overrides, **given)


def test_a_picture_that_keeps_its_framing_is_square_and_stays_as_it_is():
    image = Image.fromarray(disc((250, 250, 250), (40, 60, 200))[0])
    assert np.array_equal(reference.framed(image, 32, None), foreground(image))
    with pytest.raises(UserError, match="64 x 32 px"):
        reference.framed(image.crop((0, 0, 64, 32)), 32, None)


@pytest.mark.parametrize("prompt", ["", "  "])
def test_an_empty_prompt_is_refused(prompt, tmp_path):
    with pytest.raises(UserError, match="empty"):
        text_to_3d(prompt, out=tmp_path, models=FakeModels())


@pytest.mark.parametrize("seed", [-1, 2**62])
def test_a_seed_that_no_generator_takes_is_refused(seed, picture, tmp_path):
    with pytest.raises(UserError, match=f"the seed is {seed}: give 0 to"):
        make(picture, tmp_path, seed=seed)


@pytest.mark.parametrize("given", ["--image x.png", "--steps 3", "--seed 1", "--domain none", "--engine threestudio", "--threestudio-root x"])
def test_what_a_checkpoint_leaves_no_choice_in_is_refused(given, monkeypatch):
    monkeypatch.setattr("sys.argv", ["text_to_3d.py", "--from-checkpoint", "field.safetensors", *given.split()])
    script = runpy.run_path(Path(__file__).parent.parent / "scripts" / "text_to_3d.py")
    with pytest.raises(UserError, match=f"{given.split()[0]} has no effect with --from-checkpoint"):
        script["main"]()


def test_an_output_folder_that_cannot_be_written_is_named(picture, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to .*file"):
        make(picture, tmp_path / "file")


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"init": {"step": 3}}, "init.step'.*init.steps"),
        (["refine.sdss=1"], "refine.sds'"),
        (["init.steps=many"], "wrong value"),
        (["nothing"], "key=value"),
        (["init.steps=-3"], r"init.steps is -3: give at least 0"),
        (["init.steps=0", "refine.steps=0"], "both 0: there is nothing"),
        (["init.rectify=false"], "init.rectify'"),
        (["camera.distance_range=[3.4,3.0]"], r"camera.distance_range is .*3.4, 3.0.: give two numbers, the smaller one first"),
        (["camera.reference_distance=0.5"], "camera.reference_distance"),
        (["mesh.texture_size=0"], "mesh.texture_size is 0"),
        (["field.resolution=100"], "multiple of 8"),
        (["turntable.size=4096"], "turntable.size is 4096: give 16 to 2048"),
        (["camera.distance_range={a: 1}"], "wrong value"),
        (["camera.distance_range=[[1,2],3]"], "camera.distance_range is .*: give at least 1"),
        (["init.guidance_scale=null"], "init.guidance_scale is None: give a number"),
        (["init.rgb=.nan"], "init.rgb is nan"),
        (["refine.t_end=[0.5,20]"], "refine.t_end.*0 to 1"),
        (["init.steps=[1"], "wrong value"),
        (["init.steps=a: b: c"], "wrong value"),
        (["init.steps=${x}"], "wrong value"),
        (["init=3"], "'init' is a section"),
        ({"camera": None}, "'camera' is a section"),
        (["init.steps.x=3"], "wrong value"),
    ],
)
def test_wrong_settings_are_named_with_the_nearest_right_one(overrides, message):
    with pytest.raises(UserError, match=message):
        load_settings("kiln", overrides)


@pytest.mark.parametrize("preset", ["kiln", "sd15"])
def test_every_preset_has_settings_that_load(preset):
    assert load_settings(find_preset(preset).config, steps=7).refine.steps == 7


def test_a_prior_of_ones_own_has_the_cameras_of_stable_diffusion():
    assert load_settings(find_preset("Lykon/DreamShaper").config).camera == load_settings("sd15").camera != load_settings("kiln").camera


def disc(background, colour, size=64, radius=15, centre=(24, 36)):
    y, x = np.mgrid[:size, :size]
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
    return np.where(inside[..., None], colour, background).astype(np.uint8), inside


@pytest.mark.parametrize("gap", [0, 2])  # in the handle, as a pale glaze makes one
def test_the_mask_is_the_object_with_its_openings_and_without_specks(gap):
    pixels, inside = disc((250, 250, 250), (40, 60, 200), size=128, radius=30, centre=(48, 72))
    pixels[66:70, 44:48] = 250  # a highlight as bright as the background
    pixels[3, 120] = 0  # dust
    handle, ring = (disc((0, 0, 0), (1, 1, 1), 128, radius, (86, 72))[1] for radius in (16, 10))
    pixels[handle & ~inside], pixels[ring & ~inside] = (40, 60, 200), 250
    pixels[72 : 72 + gap, 96:104] = 250
    cup = (inside | handle) & ~(ring & ~inside)
    alpha = foreground(Image.fromarray(pixels))[..., 3] > 0.5
    assert (alpha != cup).sum() < 60 and not alpha[3, 120] and alpha[68, 46] and not alpha[72, 88]


def test_alpha_is_taken_where_the_picture_has_it_and_the_object_is_framed():
    pixels, inside = disc((0, 0, 0), (0, 0, 0))
    rgba = foreground(Image.fromarray(np.dstack([pixels, inside.astype(np.uint8) * 255])))
    framed = frame(rgba, 100, 0.8)[..., 3] > 0.5
    rows, columns = np.flatnonzero(framed.any(1)), np.flatnonzero(framed.any(0))
    assert abs(len(rows) - 80) <= 2 and abs(rows.mean() - 49.5) <= 1 and abs(columns.mean() - 49.5) <= 1


@pytest.mark.parametrize(
    "pixels, message", [(np.zeros((32, 32, 4), np.uint8), "transparent"), (np.full((32, 32, 3), 200, np.uint8), "no object")]
)
def test_pictures_without_an_object_are_refused(pixels, message):
    with pytest.raises(UserError, match=message):
        foreground(Image.fromarray(pixels))


def test_a_fields_file_is_for_all_who_may_read_the_run(picture, tmp_path):
    run = make(picture, tmp_path)
    assert {stat.S_IMODE((run.folder / file).stat().st_mode) for file in ("run.json", "init/field.safetensors")} == {0o666 & ~umask()}


def umask() -> int:
    os.umask(mask := os.umask(0))
    return mask


@pytest.mark.parametrize("weights", [{"init": {"depth": 300.0}}, {"refine": {"depth": 500.0}}, {}])
def test_depth_is_a_term_of_the_stages_that_give_it_weight(weights, picture, tmp_path):
    own = {"init": SMALL["init"] | {"depth": 0.0}, "refine": SMALL["refine"] | {"hold": 0.0, "depth": 0.0}}
    run = make(picture, tmp_path, overrides={stage: settings | weights.get(stage, {}) for stage, settings in own.items()})
    losses = {stage: json.loads((run.folder / "run.json").read_text())["stages"][stage]["losses"] for stage in ("init", "refine")}
    assert {"depth", "depth above"} & losses["init"].keys() == ({"depth", "depth above"} if "init" in weights else set())
    assert (run.folder / "init" / "above.png").exists() == ("init" in weights)
    assert ("hold" in losses["refine"]) == ("refine" in weights)


@pytest.mark.parametrize("weight", [0.0, 1000.0])
def test_a_first_fields_depth_is_held_as_its_silhouettes_are(weight, tmp_path):
    """A ball grows to the larger first one's depth, by that alone, seen from where it is held and not from where the score looks."""
    s = load_settings("kiln").refine
    s.steps, s.render_size, s.samples, s.sds, s.hold, s.depth, s.lr_planes = 40, 16, 32, 0.0, 0.0, weight, 0.05
    s.elevation_range, s.hold_elevation_range, s.distortion = (-30.0, -30.0), (70.0, 70.0), 0.0
    settings, generator = load_settings("kiln").camera, torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    fields = [(TriPlaneField(resolution=16, features=4, levels=1, blob_radius=radius), OccupancyGrid(16)) for radius in (0.7, 0.5)]

    def depth() -> float:
        with torch.no_grad():
            return render(*fields[1], Cameras.at(70, 0, 3.2, 40), 17, 17).depth[0, 8, 8].item()

    def score(images, cameras, *_):
        seen.update(cameras.elevation_deg.tolist())
        return 0 * images.sum()

    before, seen = depth(), set()
    stages.distil(*fields[1], [], score, s, settings, 16, generator, tmp_path / "c.pt", "test", True, fields[0])
    assert (depth() < before - 0.05) == (weight > 0) and seen == {-30.0}


def test_over_an_arc_the_first_fields_shape_is_held_all_around(monkeypatch, tmp_path):
    s = load_settings("kiln").refine
    s.steps, s.render_size, s.samples, s.sds, s.hold_elevation_range = 12, 16, 16, 0.0, (70.0, 70.0)
    fields = [(TriPlaneField(resolution=16, features=4, levels=1), OccupancyGrid(16)) for _ in range(2)]
    held, away, real = [], [], stages.render

    def watched(field, grid, cameras, *args, **kwargs):
        if field is fields[0][0]:
            (held if cameras.elevation_deg > 60 else away).append((cameras.azimuth_deg.item() + 180) % 360 - 180)
        return real(field, grid, cameras, *args, **kwargs)

    monkeypatch.setattr(stages, "render", watched)
    stages.distil(*fields[1], [], lambda images, *_: 0 * images.sum(), s, load_settings("kiln").camera, 16, torch.Generator().manual_seed(0),
                  tmp_path / "c.pt", "test", True, fields[0], 80.0)
    assert len(held) == len(away) == 12 and min(map(abs, away)) >= 40
    assert min(map(abs, held)) < 40 and max(map(abs, held)) > 120


@pytest.mark.parametrize("weight", [0.0, 40.0])
def test_distortion_makes_of_a_foggy_ball_a_solid_one(weight, tmp_path):
    s = load_settings("kiln").init
    s.steps, s.render_size, s.samples, s.batch, s.sds, s.opaque, s.sparsity, s.distortion = 60, 16, 48, 1, 0.0, 0.0, 0.0, weight
    torch.manual_seed(0)
    field, grid = TriPlaneField(resolution=16, features=4, levels=1, blob_density=0.5, blob_radius=0.9), OccupancyGrid(16)

    def spread() -> float:
        with torch.no_grad():
            seen = render(field, grid, Cameras.at(20, 0, 3.2, 40), 16, 16, 96, priors=True)
        return (seen.distortion.sum() / (seen.opacity**2).sum()).item()

    before, generator = spread(), torch.Generator().manual_seed(0)
    stages.distil(field, grid, [], lambda images, *_: 0 * images.sum(), s, load_settings("kiln").camera, 16, generator, tmp_path / "c.pt", "test", True)
    assert (spread() < 0.8 * before) == (weight > 0), f"{before:.3f}, then {spread():.3f}"


def test_vessels_are_made_hollow_over_the_kiln_and_without_a_run_over_stable_diffusion_nothing_is_asked_of_depth():
    kiln, sd15 = ([(stage.depth, stage.distortion) for stage in (s.init, s.refine)] for s in map(load_settings, ("kiln", "sd15")))
    assert min(map(min, kiln)) > 0 and sd15 == [(0, 0), (0, 0)]


def test_libraries_that_a_command_imports_late_stay_quiet(monkeypatch):
    code = """
from core.errors import run_cli

def main():
    from transformers.utils import logging
    logging.get_logger("transformers.x").warning("loud")

run_cli(main)
"""
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)  # which a command that ran in this process has left
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stderr == ""


def test_no_script_imports_what_takes_seconds_before_ctrl_c_is_one_line():
    code = """
import runpy, sys
for script in sys.argv[1:]:
    runpy.run_path(script)
print(sorted({"diffusers", "numpy", "torch"} & sys.modules.keys()))
"""
    scripts = sorted(map(str, (ROOT / "scripts").glob("*.py")))
    done = subprocess.run([sys.executable, "-c", code, *scripts], capture_output=True, text=True, check=True, cwd=ROOT)
    assert len(scripts) > 5 and done.stdout == "[]\n"
