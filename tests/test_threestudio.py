"""The extension inside threestudio: what needs a checkout runs where THREESTUDIO_ROOT names one, on the CPU, CUDA's part played by doubles."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from core.domains import find_domain
from core.errors import UserError
from core.null_text import NullTextUNet
from core.presets import find_preset
from ingen3d import text_to_3d, threestudio_engine
from ingen3d.cameras import Cameras
from ingen3d.settings import load_settings
from ingen3d.threestudio_field import ThreestudioField
from ingen3d.zero123 import Zero123

from .conftest import tiny_pipeline, tiny_unet

REPO = Path(__file__).resolve().parent.parent
CONFIGS = REPO / "configs" / "threestudio"
PHRASE = "{prompt}, porcelain"
VIEWS = dict(elevation=torch.tensor([10.0, 70.0]), azimuth=torch.tensor([20.0, -100.0]), camera_distances=torch.tensor([3.0, 3.4]))


@pytest.fixture(scope="session")
def threestudio():
    if "THREESTUDIO_ROOT" not in os.environ:
        pytest.skip("THREESTUDIO_ROOT names no threestudio checkout")
    from .threestudio_doubles import import_threestudio

    module = import_threestudio(os.environ["THREESTUDIO_ROOT"])
    import ingen3d.threestudio  # noqa: F401

    return module


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # threestudio writes where it is called


@pytest.fixture(scope="session")
def sd64(tmp_path_factory) -> Path:
    """A tiny prior with the latents, 64 x 64, that threestudio's own guidance is written for."""
    pipe, folder = tiny_pipeline(), tmp_path_factory.mktemp("sd64")
    torch.manual_seed(0)
    pipe.unet = tiny_unet(sample_size=64)
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def domain(tmp_path_factory, tiny_sd) -> Path:
    """A domain of `tiny_sd`."""
    from diffusers import UNet2DConditionModel

    folder = tmp_path_factory.mktemp("domain")
    prior = UNet2DConditionModel.from_pretrained(tiny_sd, subfolder="unet")
    NullTextUNet.from_prior(prior, torch.randn(1, 1, 24, generator=torch.Generator().manual_seed(5))).save_pretrained(folder / "unet", safe_serialization=True)
    (folder / "domain.json").write_text(json.dumps(dict(name="ware", phrase=PHRASE, negative_prompt="a pot", prior=str(tiny_sd), resolution=16)))
    return folder


@pytest.fixture
def prompts(threestudio):
    """threestudio's own prompt processor's output for a model."""

    def make(model, kind="stable-diffusion-prompt-processor", **cfg):
        if kind != "in-domain-prompt-processor":  # theirs does not cut what is too long for a tiny text encoder
            cfg |= dict(spawn=False, prompt_side="vase left", prompt_front="vase fore", prompt_back="vase rear", prompt_overhead="vase top")
        cfg = dict(pretrained_model_name_or_path=str(model), prompt="a vase") | cfg
        return threestudio.find(kind)(cfg)()

    return make


@pytest.fixture
def guidance(threestudio):
    def make(model, kind="multi-guidance-sds-guidance", **cfg):
        return threestudio.find(kind)(OmegaConf.create(dict(pretrained_model_name_or_path=str(model), half_precision_weights=False) | cfg))

    return make


def gradient(guidance, prompt_utils, latents, views, **kwargs) -> tuple[torch.Tensor, dict]:
    """Of its loss on the latents (B, h, w, 4); every guidance draws timesteps and noise from the same stream."""
    latents = latents.clone().requires_grad_()
    torch.manual_seed(7)
    out = guidance(latents, prompt_utils, **views, rgb_as_latents=True, **kwargs)
    out["loss_sds"].backward()
    return latents.grad, out


def test_the_package_needs_no_threestudio_and_the_extension_no_native_engine():
    code = "import sys, ingen3d, ingen3d.distillation, ingen3d.zero123; assert not {'threestudio', 'trimesh', 'nerfacc'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)


@pytest.mark.parametrize("weighting", ["sds", "uniform", "fantasia3d"])
def test_without_a_domain_the_gradient_is_stable_diffusion_guidances(guidance, prompts, sd64, weighting):
    theirs = guidance(sd64, "stable-diffusion-guidance", guidance_scale=100.0, weighting_strategy=weighting, grad_clip=2.0)
    ours = guidance(sd64, control_scale=101.0, weighting_strategy=weighting, grad_clip=2.0)
    for one in (theirs, ours):
        one.update_step(0, 0)
    latents, prompt_utils = torch.randn(2, 64, 64, 4), prompts(sd64, negative_prompt="red")
    (expected, theirs), (got, ours) = (gradient(one, prompt_utils, latents, VIEWS) for one in (theirs, ours))
    assert ours.keys() == theirs.keys() and (ours["min_step"], ours["max_step"]) == (theirs["min_step"], theirs["max_step"]) == (20, 980)
    assert expected.abs().max() > 0.1 and torch.allclose(got, expected, atol=1e-4 * expected.abs().max().item())
    assert torch.allclose(ours["loss_sds"], theirs["loss_sds"], rtol=1e-4) and torch.allclose(ours["grad_norm"], theirs["grad_norm"], rtol=1e-4)


@pytest.mark.parametrize("azimuth", [20.0, 130.0])
def test_with_perp_neg_the_gradient_is_stable_diffusion_guidances(guidance, prompts, sd64, azimuth):
    theirs, ours = guidance(sd64, "stable-diffusion-guidance", guidance_scale=100.0), guidance(sd64, control_scale=100.0)
    view = dict(elevation=torch.tensor([10.0]), azimuth=torch.tensor([azimuth]), camera_distances=torch.tensor([3.0]))
    latents, with_perp_neg, without = torch.randn(1, 64, 64, 4), prompts(sd64, use_perp_neg=True), prompts(sd64)
    expected, got = (gradient(one, with_perp_neg, latents, view)[0] for one in (theirs, ours))
    assert torch.allclose(got, expected, atol=1e-4 * expected.abs().max().item())
    assert torch.equal(gradient(guidance(sd64, control_scale=100.0, use_perp_neg=True), without, latents, view)[0], got), "turned on here or there"
    with pytest.raises(UserError, match="needs view_dependent_prompting"):
        gradient(guidance(sd64, view_dependent_prompting=False), with_perp_neg, latents, view)
    plain = gradient(ours, without, latents, view)[0]
    assert (got - plain).abs().max() > 0.01 * expected.abs().max(), "the avoided contexts say something"


def test_a_view_does_not_depend_on_its_batch_with_perp_neg(guidance, prompts, tiny_sd, domain):
    guidance, prompt_utils = guidance(tiny_sd, domain_model=str(domain)), prompts(tiny_sd, use_perp_neg=True)
    cameras, z_t, t = Cameras.at(VIEWS["elevation"], VIEWS["azimuth"], VIEWS["camera_distances"], 40), torch.randn(2, 4, 8, 8), torch.tensor([300, 500])
    with torch.no_grad():
        together = guidance.predictor(prompt_utils, cameras)(z_t, t)
        alone = [guidance.predictor(prompt_utils, cameras[i])(z_t[i : i + 1], t[i : i + 1]) for i in range(2)]
    assert torch.allclose(torch.cat(alone), together, atol=1e-5)


def test_pictures_are_encoded_as_stable_diffusion_guidance_encodes_them(guidance, tiny_sd):
    images, both = torch.rand(1, 3, 16, 16), (guidance(tiny_sd, "stable-diffusion-guidance"), guidance(tiny_sd))
    latents = [torch.manual_seed(3) and one.encode_images(images) for one in both]
    assert torch.equal(*latents)


def test_schedules_are_followed_as_stable_diffusion_guidance_follows_them(guidance, tiny_sd):
    cfg = dict(min_step_percent=[0, 0.4, 0.2, 200], max_step_percent=[50, 0.98, 0.5, 150], grad_clip=[0, 2.0, 8.0, 1000])
    both = guidance(tiny_sd, "stable-diffusion-guidance", **cfg), guidance(tiny_sd, **cfg)
    for step in (0, 77, 500):
        theirs, ours = ([one.update_step(0, step), one.min_step, one.max_step, one.grad_clip_val] for one in both)
        assert ours == theirs


def test_a_domain_has_its_say_and_its_words(guidance, prompts, tiny_sd, domain):
    prompt_utils = prompts(tiny_sd, "in-domain-prompt-processor", domain_model=str(domain))
    assert prompt_utils.prompt == "a vase, porcelain" and prompt_utils.prompts_vd[1] == "a vase, porcelain, front view"
    negative = {given: prompts(tiny_sd, "in-domain-prompt-processor", negative_prompt=given).uncond_text_embeddings for given in ("", "a pot", "red")}
    assert torch.equal(prompt_utils.uncond_text_embeddings, negative["a pot"]) and not torch.equal(negative["a pot"], negative[""])
    other = prompts(tiny_sd, "in-domain-prompt-processor", domain_model=str(domain), negative_prompt="red")
    assert torch.equal(other.uncond_text_embeddings, negative["red"])
    latents = torch.randn(2, 8, 8, 4)
    with_domain, without = guidance(tiny_sd, domain_model=str(domain)), guidance(tiny_sd)
    got, plain = (gradient(one, prompt_utils, latents, VIEWS)[0] for one in (with_domain, without))
    assert got.isfinite().all() and not torch.allclose(got, plain, atol=1e-3)
    weights = with_domain.predictor(prompt_utils, Cameras.at(10, 20, 3, 40))
    weights(torch.randn(1, 4, 8, 8), torch.tensor([300]))
    assert weights.weights.shape == (2, 1) and abs(weights.weights.sum().item() - 7.0) < 3.5, "w0 is shared by Sec. 3.4"


def test_a_domain_of_another_prior_and_an_unknown_weighting_are_one_clear_line(guidance, sd64, tiny_sd, domain):
    with pytest.raises(UserError, match="domain 'ware' was trained on"):
        guidance(sd64, domain_model=str(domain))
    with pytest.raises(UserError, match="'uniforn': did you mean 'uniform'"):
        guidance(tiny_sd, weighting_strategy="uniforn")


def test_guidance_eval_shows_what_stable_diffusion_guidance_shows(guidance, prompts, tiny_sd, domain):
    ours, latents = guidance(tiny_sd, domain_model=str(domain), max_items_eval=1), torch.randn(2, 8, 8, 4)
    shown = gradient(ours, prompts(tiny_sd), latents, VIEWS, guidance_eval=True)[1]["eval"]
    assert shown["bs"] == 1 and len(shown["texts"]) == len(shown["noise_levels"]) == 1 and shown["texts"][0].endswith("e10.0\na20.0\nc3.00")
    for name in ("imgs_noisy", "imgs_1step", "imgs_1orig", "imgs_final"):
        assert shown[name].shape == (1, 16, 16, 3) and 0 <= shown[name].min() and shown[name].max() <= 1


def test_zero123s_condition_is_that_of_zero123_guidance(guidance, threestudio, tiny_zero123, reference):
    camera = dict(cond_elevation_deg=5.0, cond_azimuth_deg=30.0, cond_camera_distance=3.8)
    ours = guidance(tiny_zero123, "zero123-diffusers-guidance", cond_image_path=str(reference), **camera)
    theirs = SimpleNamespace(cfg=ours.cfg, device=ours.device, model=SimpleNamespace(cc_projection=ours.model.cc_projection))
    theirs.c_crossattn, theirs.c_concat = ours.condition.embedding[:, None], ours.condition.latents
    expected = threestudio.find("zero123-guidance").get_cond(theirs, **VIEWS)
    rule = ours.predictor(None, Cameras.at(VIEWS["elevation"], VIEWS["azimuth"], VIEWS["camera_distances"], 20))
    assert torch.allclose(torch.cat([rule.uncond.context, rule.terms[0].context]), expected["c_crossattn"][0], atol=1e-5)
    assert torch.equal(torch.cat([term.concat.expand(2, -1, -1, -1) for term in (rule.uncond, *rule.terms)]), expected["c_concat"][0])
    got, out = gradient(ours, None, torch.randn(2, 8, 8, 4), VIEWS)
    assert got.isfinite().all() and got.abs().max() > 0 and out["grad_norm"] > 0


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_picture_without_a_transparent_background_is_refused(guidance, threestudio, tiny_zero123, tmp_path, mode):
    from PIL import Image

    Image.new(mode, (32, 32), "red").save(tmp_path / "whole.png")
    with pytest.raises(UserError, match="whole.png has no transparent background"):
        guidance(tiny_zero123, "zero123-diffusers-guidance", cond_image_path=str(tmp_path / "whole.png"))


def test_a_zero123_of_a_preset_without_a_vae_takes_the_priors(tiny_zero123, tiny_sd, tmp_path):
    for part in tiny_zero123.iterdir():
        if part.name != "vae":
            (tmp_path / part.name).symlink_to(part)
    borrowed = Zero123.from_pretrained(tmp_path, vae=str(tiny_sd)).vae
    assert borrowed.config.scaling_factor == 0.18215 and not any(p.requires_grad for p in borrowed.parameters())


@pytest.fixture
def reference(tmp_path) -> Path:
    """A red disc on nothing."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGBA", (32, 32))
    ImageDraw.Draw(picture).ellipse((8, 8, 24, 24), fill=(200, 30, 30, 255))
    picture.save(tmp_path / "disc_rgba.png")
    return tmp_path / "disc_rgba.png"


@pytest.fixture
def launch(threestudio, monkeypatch, tmp_path):
    """threestudio's own launch.py, for few and small steps on the CPU; gives the trial's folder."""
    import launch
    import pytorch_lightning

    trainer = pytorch_lightning.Trainer
    forced = dict(accelerator="cpu", devices=1, precision=32)
    monkeypatch.setattr(pytorch_lightning, "Trainer", lambda **kwargs: trainer(**kwargs | forced))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (tmp_path / "custom").mkdir()
    (tmp_path / "custom" / "ingen3d.py").write_text("import ingen3d.threestudio\n")
    common = dict(gpu="0", typecheck=False, verbose=False, gradio=False, train=False, validate=False, test=False, export=False)
    small = ["trainer.max_steps=2", "trainer.val_check_interval=2", "system.guidance.half_precision_weights=false"]
    small += [f"system.geometry.pos_encoding_config.{key}" for key in ("n_levels=6", "log2_hashmap_size=13", "base_resolution=8", "per_level_scale=1.5")]

    def run(config: str, *overrides: str, folder: Path = CONFIGS, export: Path | None = None) -> Path:
        if export is not None:
            launch.main(SimpleNamespace(**common | dict(export=True, config=str(export / "configs" / "parsed.yaml"))), [*overrides])
            return export
        launch.main(SimpleNamespace(**common | dict(train=True, config=str(folder / f"{config}.yaml"))), [*small, *overrides])
        (trial,) = (tmp_path / "outputs" / config).iterdir()
        assert (trial / "ckpts" / "last.ckpt").is_file()
        rows = list(csv.DictReader(open(next(trial.glob("csv_logs/*/metrics.csv")))))
        losses = [float(row[key]) for row in rows for key in row if key.startswith("train/loss") and row[key]]
        assert losses and all(torch.tensor(losses).isfinite())
        return trial

    return run


SMALL_VIEWS = ["data.width=16", "data.height=16", "data.eval_width=8", "data.eval_height=8", "data.n_test_views=2", "data.n_val_views=1"]


def test_the_first_stage_trains_and_the_second_starts_from_its_checkpoint(launch, tiny_zero123, tiny_sd, domain, reference):
    views = ["height=16", "width=16", "batch_size=2", "resolution_milestones=[]", "eval_height=8", "eval_width=8", "n_test_views=2", "n_val_views=1"]
    first = launch(
        "zero123-init", f"data.image_path={reference}", "data.height=16", "data.width=16", "data.resolution_milestones=[]",
        *(f"data.random_camera.{view}" for view in views),
        f"system.guidance.pretrained_model_name_or_path={tiny_zero123}", "system.freq.guidance_eval=1",
    )  # fmt: skip
    assert (first / "save" / "it0-train.png").is_file(), "guidance_eval's pictures"
    second = launch(
        "multi-guidance-refine", *SMALL_VIEWS, "system.prompt_processor.prompt=a vase",
        f"system.guidance.pretrained_model_name_or_path={tiny_sd}", f"system.guidance.domain_model={domain}",
        f"system.weights={first.parent}/disc_rgba.png@LAST/ckpts/last.ckpt", "system.optimizer.args.lr=0",
    )  # fmt: skip
    before, after = (torch.load(trial / "ckpts" / "last.ckpt", weights_only=False)["state_dict"] for trial in (first, second))
    learned = [key for key in after if key.startswith("geometry.") and key in before]
    assert any("encoding" in key for key in learned) and any("feature_network" in key for key in learned)
    assert all(torch.equal(before[key], after[key]) for key in learned), "with no learning rate it stays where the first stage left it"
    mesh = ["system.exporter.fmt=obj", "system.exporter.save_uv=false", "system.geometry.isosurface_resolution=24", "system.geometry.isosurface_threshold=1.0"]
    launch("multi-guidance-refine", f"resume={second}/ckpts/last.ckpt", *mesh, export=second)
    assert list(second.glob("save/*-export/model.obj"))


def test_the_baseline_trains_and_its_checkpoint_is_read_as_threestudio_reads_it(launch, threestudio, tiny_sd):
    baseline = launch(
        "dreamfusion-baseline", *SMALL_VIEWS, "system.prompt_processor.prompt=a vase",
        f"system.guidance.pretrained_model_name_or_path={tiny_sd}", "system.geometry.pos_encoding_config.start_level=4",
    )  # fmt: skip
    assert list(baseline.glob("save/*.mp4"))
    last = baseline / "ckpts" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["state_dict"]["geometry.encoding.encoding.encoding.params"].uniform_(-1, 1)  # two steps leave next to nothing there
    torch.save(checkpoint, last)

    system = OmegaConf.load(baseline / "configs" / "parsed.yaml").system
    theirs, material = threestudio.find(system.geometry_type)(system.geometry), threestudio.find(system.material_type)(system.material)
    theirs.load_state_dict({key[9:]: value for key, value in checkpoint["state_dict"].items() if key.startswith("geometry.")})
    theirs.do_update_step(0, checkpoint["global_step"])
    ours, x = ThreestudioField.from_checkpoint(last), 0.9 * torch.rand(500, 3) - 0.45
    with torch.no_grad():
        density, colour = ours(x)
        expected = theirs(ours.unit * x)
        assert torch.allclose(density, ours.unit * expected["density"][:, 0], rtol=1e-4, atol=1e-5) and density.std() > 0.1
        assert torch.allclose(colour, material.export(expected["features"])["albedo"], atol=1e-5) and colour.std() > 1e-3


def test_a_configuration_of_threestudios_own_runs_with_the_rule_in_the_place_of_its_guidance(launch, tiny_sd, domain):
    launch(
        "dreamfusion-sd", *SMALL_VIEWS, "system.guidance_type=multi-guidance-sds-guidance", f"system.guidance.domain_model={domain}",
        "system.prompt_processor_type=in-domain-prompt-processor", "system.prompt_processor.prompt=a vase",
        *(f"system.{part}.pretrained_model_name_or_path={tiny_sd}" for part in ("guidance", "prompt_processor")),
        folder=Path(os.environ["THREESTUDIO_ROOT"]) / "configs",
    )  # fmt: skip


KILN = {
    "zero123-init": ["data.default_fovy_deg=40", "data.default_camera_distance=3.2", "data.default_elevation_deg=20"],
    "multi-guidance-refine": ["data.eval_fovy_deg=40", "data.eval_camera_distance=3.2", "data.eval_elevation_deg=20",
                              "system.weights=null", "system.guidance.domain_model=porcelain"],
    "dreamfusion-baseline": ["data.eval_fovy_deg=40", "data.eval_camera_distance=3.2", "data.fovy_range=[40,40]",
                             "data.camera_distance_range=[3.0,3.4]", "data.center_perturb=0"],
}  # fmt: skip


@pytest.mark.parametrize("config", KILN)
def test_the_kilns_models_run_in_threestudio(launch, kiln_weights, reference, config):
    """With the overrides that the configuration's head names."""
    head = " ".join(line.strip("# \\\n") for line in open(CONFIGS / f"{config}.yaml") if line.startswith("#")).replace('"', "")
    assert all(override in head for override in KILN[config] if override.startswith("data."))
    if config == "zero123-init":
        small = ["data.height=16", "data.width=16", "data.resolution_milestones=[]", "data.random_camera.resolution_milestones=[]",
                 "data.random_camera.batch_size=2", "data.random_camera.n_test_views=1", *(f"data.random_camera.{view}" for view in ENGINE_VIEWS),
                 f"data.image_path={reference}"]  # fmt: skip
    else:
        small = [*SMALL_VIEWS, "system.prompt_processor.prompt=a vase"]
    trial = launch(config, "system.guidance.pretrained_model_name_or_path=kiln", *KILN[config], *small)
    assert torch.load(trial / "ckpts" / "last.ckpt", weights_only=True)["global_step"] == 2


ENGINE_VIEWS = ["height=16", "width=16", "eval_height=8", "eval_width=8", "n_val_views=1"]
ENGINE_SMALL = ["system.guidance.half_precision_weights=false", "system.geometry.pos_encoding_config.n_levels=4"]
IN_THE_CHILD = """
from tests.threestudio_doubles import import_threestudio
import pytorch_lightning
trainer, forced = pytorch_lightning.Trainer, dict(accelerator="cpu", devices=1, precision=32)
pytorch_lightning.Trainer = lambda **kwargs: trainer(**kwargs | forced)
import_threestudio({root!r})
"""


@pytest.mark.slow
def test_the_engine_ends_with_a_run_folder_like_the_native_ones(threestudio, kiln_weights, tmp_path, monkeypatch, reference, capfd):
    """Both launches are threestudio's own, in processes of their own, where Python's sitecustomize puts the doubles in CUDA's place."""
    root, stage_config = os.environ["THREESTUDIO_ROOT"], threestudio_engine.stage_config
    (tmp_path / "child").mkdir()
    (tmp_path / "child" / "sitecustomize.py").write_text(IN_THE_CHILD.format(root=root))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "child"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def small(stage, *args):
        views = ["data.resolution_milestones=[]", "data.height=16", "data.width=16", "data.random_camera.resolution_milestones=[]",
                 "data.random_camera.batch_size=2", *(f"data.random_camera.{view}" for view in ENGINE_VIEWS)]  # fmt: skip
        views = views if stage == "init" else [f"data.{view}" for view in ENGINE_VIEWS]
        return OmegaConf.merge(stage_config(stage, *args), OmegaConf.from_dotlist(views + ENGINE_SMALL))

    monkeypatch.setattr(threestudio_engine, "stage_config", small)
    settings = {"paint": {"pictures": 2}, "mesh": {"resolution": 32, "threshold": 1.0, "texture_size": 64},
                "turntable": {"views": 2, "frames": 2, "size": 32, "samples": 32}}
    make = lambda: text_to_3d("a vase", image=reference, steps=2, device="cpu", out=tmp_path / "out", overrides=settings, engine="threestudio",
                              threestudio_root=root)  # fmt: skip
    run = make()
    for file in ("image.png", "init/views.png", "refine/views.png", "paint/001.png", "paint/views.png", "mesh.glb", "mesh.obj",
                 "mesh.ply", "turntable.mp4", "run.json"):  # fmt: skip
        assert (run.folder / file).is_file(), file
    first, second = (torch.load(run.folder / stage / "threestudio" / "ckpts" / "last.ckpt", weights_only=True)["state_dict"] for stage in ("init", "refine"))
    moved = (first["geometry.density_network.layers.0.weight"] - second["geometry.density_network.layers.0.weight"]).abs().max()
    assert 0 < moved < 0.05, "refined for two steps from where the first stage ended"
    record = json.loads((run.folder / "run.json").read_text())
    assert record["engine"] == "threestudio" and record["prompt"] == "a vase" and {"init_reference_psnr", "mesh_faces"} <= record["metrics"].keys()
    assert {"zero123_sds", "ref_rgb", "ref_mask"} <= record["stages"]["init"]["losses"].keys() and record["stages"]["refine"]["losses"]["sds"] > 0
    prompt = OmegaConf.load(run.folder / "refine" / "threestudio" / "configs" / "parsed.yaml").system.prompt_processor
    assert prompt.prompt == "a vase" and prompt.domain_model.endswith("porcelain")
    said = capfd.readouterr().err
    assert "max_steps=2" in said and "a vase" in said, "the progress of both is shown"
    before = (run.folder / "refine" / "threestudio.log").stat().st_mtime
    assert make().folder == run.folder and (run.folder / "refine" / "threestudio.log").stat().st_mtime == before, "what is finished is kept"


def test_a_launch_that_fails_ends_in_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(threestudio_engine, "START", "print('Loading ...'); import igloo")
    with pytest.raises(UserError, match="exit code 1: .*No module named 'igloo'; all it said is in '.*threestudio.log'"):
        threestudio_engine.launch(OmegaConf.create(), tmp_path, tmp_path, seed=0, quiet=True, device=torch.device("cuda"))


def test_a_launch_sees_the_gpu_that_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(threestudio_engine, "START", "import os; raise SystemExit('sees ' + os.environ['CUDA_VISIBLE_DEVICES'])")
    for ours, device, seen in ((None, "cuda", "0"), (None, "cuda:1", "1"), ("4,6", "cuda:1", "6"), ("4,6", "cuda", "4")):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if ours:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ours)
        with pytest.raises(UserError, match=f"sees {seen};"):
            threestudio_engine.launch(OmegaConf.create(), tmp_path, tmp_path, seed=0, quiet=True, device=torch.device(device))


def test_a_training_that_has_ended_is_not_done_again(tmp_path):
    last = tmp_path / "threestudio" / "ckpts" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    assert threestudio_engine.launch(OmegaConf.create(), tmp_path, tmp_path, seed=0, quiet=True, device=torch.device("cpu")) == last and last.is_file()
    assert threestudio_engine.last_losses(tmp_path / "threestudio") == {}


def test_a_launch_finds_models_that_were_named_from_where_it_does_not_run(tiny_sd, domain, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_sd.parent)
    found = find_preset(tiny_sd.name), find_domain(domain.name).folder
    config = threestudio_engine.stage_config("refine", *found, "a vase: red", load_settings("sd15"), steps=None)
    assert config.system.guidance.pretrained_model_name_or_path == str(tiny_sd) and config.system.guidance.domain_model == str(domain)
    assert (config.data.eval_fovy_deg, config.data.eval_camera_distance, config.data.eval_elevation_deg) == (20.0, 3.8, 5.0)
    assert OmegaConf.create(OmegaConf.to_yaml(config)).system.prompt_processor.prompt == "a vase: red"
    monkeypatch.chdir(tmp_path)
    Path("blob").touch()
    Path("prior.safetensors").symlink_to("blob")  # as the Hub's cache has it: where the link leads no suffix tells what it is
    config = threestudio_engine.stage_config("refine", find_preset("prior.safetensors"), None, "a vase", load_settings("sd15"), steps=None)
    assert config.system.guidance.pretrained_model_name_or_path == str(tmp_path / "prior.safetensors")


def test_refinement_has_the_settings_own_guidance_scale_and_not_that_of_pictures():
    settings, preset = load_settings("kiln"), find_preset("kiln")
    config = threestudio_engine.stage_config("refine", preset, None, "a vase", settings, steps=None)
    assert config.system.guidance.guidance_scale == settings.refine.guidance_scale != preset.guidance_scale


def test_what_the_engine_lacks_is_one_clear_line(tmp_path, monkeypatch):
    make = lambda **kwargs: text_to_3d("a vase", out=tmp_path, engine="threestudio", **kwargs)
    with pytest.raises(UserError, match="--threestudio-root DIR"):
        make()
    with pytest.raises(UserError, match="no threestudio in"):
        make(threestudio_root=tmp_path)
    (tmp_path / "threestudio").mkdir()
    (tmp_path / "launch.py").touch()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="needs an NVIDIA GPU"):
        make(threestudio_root=tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(threestudio_engine, "NEEDED", ("torch", "tinycudann_of_mine"))
    with pytest.raises(UserError, match="^tinycudann_of_mine is not installed"):
        make(threestudio_root=tmp_path)
    monkeypatch.setattr(threestudio_engine, "NEEDED", ())
    with pytest.raises(UserError, match="'refine' has no effect on threestudio"):
        make(threestudio_root=tmp_path, overrides=["refine.steps=3"])
    with pytest.raises(UserError, match="camera.reference_azimuth_deg is 30: with threestudio the front is at 0"):
        make(threestudio_root=tmp_path, overrides=["camera.reference_azimuth_deg=30"], device="cpu")
    (tmp_path / "prior.safetensors").touch()
    with pytest.raises(UserError, match="prior.safetensors' is one file, and threestudio's guidance takes a folder"):
        make(threestudio_root=tmp_path, preset=str(tmp_path / "prior.safetensors"), domain=None, device="cpu")
    assert {path.name for path in tmp_path.iterdir()} == {"threestudio", "launch.py", "prior.safetensors"}, "found out before anything is made"


def test_it_can_be_linked_into_custom(threestudio, tmp_path):
    import launch

    (tmp_path / "threestudio-ingen3d").symlink_to(REPO / "ingen3d" / "threestudio")
    assert launch.load_custom_module(str(tmp_path / "threestudio-ingen3d")), "registered once, however it is found"


def test_a_link_that_would_hide_threestudio_says_so():
    file = REPO / "ingen3d" / "threestudio" / "__init__.py"
    with pytest.raises(ImportError, match="call the link custom/threestudio-ingen3d"):
        exec(compile(file.read_text(), str(file), "exec"), {"__name__": "threestudio"})
