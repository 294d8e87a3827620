"""The 3D table: measures against closed forms, true pots in the cameras' world, methods by the terms that they have, and the report of a small run."""

import json
from inspect import signature
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from scipy.ndimage import binary_dilation
from scipy.spatial import cKDTree
from torch import nn

from core.errors import UserError
from core.evaluation import features
from core.evaluation.kiln import views_tensor
from core.kiln import data, renderer
from core.kiln.data import load_views, make_object
from core.kiln.judge import Judge
from core.kiln.world import POTTERY
from core.null_text import NullTextUNet
from core.pipeline import InDomainPipeline
from ingen3d import evaluation, pots, stages
from ingen3d.cameras import Cameras
from ingen3d.field import TriPlaneField
from ingen3d.geometry import held_out, seen, shape_errors, true_mesh
from ingen3d.mesh import extract
from ingen3d.pipeline import NoObject
from ingen3d.pots import consistency, methods
from ingen3d.reference import Reference
from ingen3d.render import OccupancyGrid
from ingen3d.settings import load_settings
from tests.test_fire import made_up_views
from tests.test_text_to_3d import SMALL, FakeModels, disc, evaluate

CUP = held_out("cup", 2)[1]


@pytest.fixture(scope="module")
def cup():
    return true_mesh(make_object("porcelain", CUP)[0].parts)


def turned(mesh, degrees):
    return mesh.copy().apply_transform(trimesh.transformations.rotation_matrix(np.deg2rad(degrees), [0, 0, 1]))


@pytest.mark.parametrize("scale", [1.05, 1.2])
def test_concentric_spheres_are_as_far_apart_as_their_radii(scale):
    true = trimesh.creation.icosphere(4, radius=0.5)
    errors = shape_errors(trimesh.creation.icosphere(4, radius=0.5 * scale), true)
    assert errors["chamfer"] == pytest.approx(scale - 1, abs=0.004), "in bounding radii of the true one"
    assert (errors["f_score_0.02"], errors["f_score_0.1"]) == (0, scale < 1.1)


def test_a_part_too_much_costs_precision_alone():
    one, other = trimesh.creation.icosphere(4), trimesh.creation.icosphere(4).apply_translation([5, 0, 0])
    errors = shape_errors(trimesh.util.concatenate([one, other]), one)
    assert errors["f_score_0.1"] == pytest.approx(2 / 3, abs=0.02), "precision 1/2, recall 1"


def test_a_true_pot_is_itself_and_not_itself_turned(cup):
    assert shape_errors(cup, cup) == {"chamfer": 0, "f_score_0.02": 1, "f_score_0.1": 1}
    errors = shape_errors(turned(cup, 90), cup)
    assert errors["chamfer"] > 0.05 and errors["f_score_0.02"] < 0.5 and errors["f_score_0.1"] < 0.9


def test_what_nobody_sees_from_outside_does_not_count():
    outer, inner = trimesh.creation.icosphere(4), trimesh.creation.icosphere(4, radius=0.8)
    points = trimesh.sample.sample_surface(trimesh.util.concatenate([outer, inner]), 200_000, seed=0)[0]
    visible = np.linalg.norm(seen(points), axis=1)
    assert visible.min() > 0.95 and len(visible) > 0.99 * (np.linalg.norm(points, axis=1) > 0.9).sum()
    assert shape_errors(trimesh.util.concatenate([outer, inner]), outer)["chamfer"] < 0.005


@pytest.mark.parametrize("azimuth_deg", [0, 90])
def test_true_pots_lie_in_the_world_of_the_cameras_that_pictures_are_lifted_with(cup, azimuth_deg):
    """Their points, through our camera, cover what the renderer drew, the handle included, and nothing else."""
    pytest.importorskip("mitsuba")
    form, surface, _ = make_object("porcelain", CUP)
    alpha = renderer.render(form.parts, surface, [renderer.View(20.0, azimuth_deg, 3.2)], 64, 1)[0, ..., 3] > 127
    camera = Cameras.at(20, azimuth_deg, 3.2, renderer.FOV_DEG)
    points = torch.tensor(trimesh.sample.sample_surface(cup, 100_000, seed=0)[0], dtype=torch.float32)
    x, y, z = (torch.cat([points, torch.ones(len(points), 1)], 1) @ camera.c2w()[0].inverse().T)[:, :3].T
    tan = np.tan(np.deg2rad(renderer.FOV_DEG / 2))
    covered = np.zeros((64, 64), bool)
    covered[((1 - y / -z / tan) * 32).long(), ((x / -z / tan + 1) * 32).long()] = True
    assert (covered | ~alpha).all() and (binary_dilation(alpha, np.ones((3, 3))) | ~covered).all(), "a pixel that is touched at its edge may stay empty"
    assert alpha.mean() > 0.2 and (alpha & ~binary_dilation(covered[:, ::-1])).any(), "its mirror image would be told from it"


def test_the_mesh_of_a_field_of_the_true_pot_is_next_to_it(cup):
    """What a perfect lift would leave: the surface as a shell of 0.03, through the mesh room."""

    class Shell(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))
            self.tree = cKDTree(trimesh.sample.sample_surface(cup, 20_000, seed=1)[0])

        def pyramid_sum(self):
            return None

        def density(self, x, planes=None):
            distance = self.tree.query(x.numpy(), distance_upper_bound=0.2)[0].clip(max=0.2)
            return torch.tensor(10 * np.exp(100 * (0.03 - distance)), dtype=torch.float32)

    found = extract(Shell(), resolution=48)
    near, far = shape_errors(found, cup), shape_errors(turned(found, 90), cup)
    assert near["chamfer"] < 0.035 and near["f_score_0.1"] > 0.99 and far["chamfer"] > 2 * near["chamfer"]


def test_held_out_pots_are_of_their_class_and_none_was_learned_from():
    for name in POTTERY:
        indices = held_out(name, 3)
        assert len(set(indices)) == 3 and all(i % data.HELD_OUT_EVERY == 0 for i in indices)
        assert {make_object("porcelain", i)[0].name for i in indices} == {name}


def test_one_view_again_and_again_is_consistent_and_the_last_view_has_the_first_beside_it():
    view = torch.rand(1, 128)
    assert consistency(view.expand(24, -1)) == pytest.approx(1)
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert consistency(torch.stack([east, east, north])) == pytest.approx(1 / 3)


@pytest.fixture
def pipes(tiny_sd):
    prior, ours = InDomainPipeline.from_pretrained(str(tiny_sd)), InDomainPipeline.from_pretrained(str(tiny_sd))
    torch.manual_seed(0)
    unet = NullTextUNet.from_prior(ours.unet, torch.randn(1, 1, 24))
    ours.register_modules(domain_unet=unet)
    return {"prior": prior, "fine-tuned": prior, "domain": ours}


def rule_of(pipe, method, tmp_path):
    """What refinement asks for its score at its first step; None without refinement."""
    small = {"render_size": 8, "samples": 8} | ({"steps": 1} if method.overrides.get("refine", {}).get("steps") != 0 else {})
    overrides = dict(method.overrides) | {"field": SMALL["field"], "refine": dict(method.overrides.get("refine", {})) | small}
    settings = load_settings("kiln", overrides)
    settings.refine.arc_deg = 360.0
    rules, real = [], pipe.noise_predictor

    def record(*args, **kwargs):
        rules.append(real(*args, **kwargs))
        return rules[-1]

    pipe.noise_predictor = record
    field, grid = TriPlaneField(**vars(settings.field)), OccupancyGrid()
    reference = Reference(torch.rand(8, 8, 3), torch.ones(8, 8), Cameras.at(20, 0, 3.2, 40)) if settings.needs_reference else None
    stages.refine(field, grid, reference, pipe, "a vase", settings, 16, torch.Generator().manual_seed(0), tmp_path / "checkpoint.pt", True)
    return rules[0] if rules else None


EXPECTED = {  # the network of eps_0, those of the terms, and the guidance at the first step
    "sds-prior": ("unet", ["unet"], 101),
    "sds-fine-tuned": ("unet", ["unet"], 101),
    "ours": ("unet", ["domain_unet", "unet"], 7),
    "no-painting": ("unet", ["domain_unet", "unet"], 7),
    "no-rectification": ("domain_unet", ["domain_unet", "unet"], 7),
    "no-domain": ("unet", ["unet"], 7),
    "no-text": ("unet", ["domain_unet"], 7),
    "zero123": None,
}


@pytest.mark.parametrize("key", EXPECTED)
def test_each_method_refines_with_the_terms_that_it_claims(key, pipes, tmp_path):
    method = methods(load_settings("kiln"))[key]
    pipe = pipes[method.models]
    rule = rule_of(pipe, method, tmp_path)
    if EXPECTED[key] is None:
        assert rule is None, "Zero-1-to-3 alone has no rule"
        return
    uncond, terms, scale = EXPECTED[key]
    assert rule.uncond.network is getattr(pipe, uncond) and [term.network for term in rule.terms] == [getattr(pipe, name) for name in terms]
    assert rule.guidance_scale == scale and all(term.weight is None for term in rule.terms)
    for term in (rule.uncond, *rule.terms):
        text = "" if term is rule.uncond else "a vase"
        assert (term.context is None) if term.network is pipe.domain_unet else torch.equal(term.context, pipe.encode_prompt([text]))


def test_without_rectification_the_domains_term_vanishes(pipes):
    """eps_d + w_c (eps_c - eps_d), w_c Sec. 3.4's of two terms."""
    pipe, z_t, t = pipes["domain"], torch.randn(1, 4, 8, 8), torch.tensor(500)
    with torch.no_grad():
        eps_d, eps_c = pipe.domain_unet(z_t, t).sample, pipe.unet(z_t, t, pipe.encode_prompt(["a vase"])).sample
        found = pipe.noise_predictor("a vase", guidance_scale=8.0, rectify=False)(z_t, t)
        assert torch.allclose(found, eps_d + 4 * eps_d.norm() / eps_c.norm() * (eps_c - eps_d), atol=1e-4)
        control = pipe.noise_predictor("a vase", terms=[pipe.term("a jar")], rectify=False)
    assert control.uncond.network is pipe.unet, "a checkpoint that was given is the customised one"


def test_all_methods_have_the_same_number_of_steps():
    settings = load_settings("kiln", {"refine": {"csd": True}})
    for method in methods(settings).values():
        overrides = dict(method.overrides)
        own = load_settings("kiln", overrides | {"refine": {"csd": True} | dict(overrides.get("refine", {}))})
        assert own.init.steps + own.refine.steps == settings.init.steps + settings.refine.steps
        assert own.refine.csd == (method.models == "domain"), "DreamFusion's is SDS, whatever ours is"
        assert (own.refine.distortion > 0) == (method.models == "domain"), "and has no loss on distortion"


def test_ours_alone_is_painted_with_the_terms_that_are_left_and_no_lifted_picture_is(world):
    these = pots.Pots("kiln", "porcelain", {}, world / "runs", world / "tuned", torch.device("cpu"), True)
    paint = {key: load_settings("kiln", these.overrides(method, False)).paint for key, method in these.methods.items()}
    assert {key for key, s in paint.items() if s.pictures} == {"ours", "no-rectification", "no-domain", "no-text"}
    assert [(key, s.domain_scale, s.control_scale) for key, s in paint.items() if {s.domain_scale, s.control_scale} != {None}] == [
        ("no-domain", 0.0, None), ("no-text", None, 0.0)]
    assert not any(load_settings("kiln", these.overrides(method, True)).paint.pictures for method in these.methods.values())


def test_guidance_alone_is_over_the_rules_own_eps_0(pipes, tmp_path, monkeypatch):
    given, sds = {}, stages.sds
    for csd in (True, False):
        monkeypatch.setattr(stages, "sds", lambda *args, csd=csd: given.setdefault(csd, args) and sds(*args))
        (tmp_path / str(csd)).mkdir()
        rule_of(pipes["domain"], pots.Method("", {"refine": {"csd": csd}}), tmp_path / str(csd))
    z_t, t, pipe = torch.randn(1, 4, 8, 8), torch.tensor([500]), pipes["domain"]
    with torch.no_grad():
        assert torch.allclose(given[True][-1](z_t, t), pipe.unet(z_t, t, pipe.encode_prompt([""])).sample, atol=1e-5)
    assert given[False][-1] is None


def test_a_first_field_is_held_and_a_density_blob_is_not(pipes, tmp_path, monkeypatch):
    held, distil = [], stages.distil
    monkeypatch.setattr(stages, "distil", lambda *args: held.append(signature(distil).bind(*args).arguments["first"]) or distil(*args))
    for steps in (1, 0):
        (tmp_path / str(steps)).mkdir()
        rule_of(pipes["domain"], pots.Method("", {"init": {"steps": steps}, "refine": {"hold": 1.0}}), tmp_path / str(steps))
    assert held[0] is not None and held[1] is None


class Painter(FakeModels):
    """Samples a disc, with a domain alone."""

    def __init__(self, preset=None, domain=None, device=None, prior=None):
        super().__init__()
        self.fingerprint = f"{domain} {prior}"
        image = Image.fromarray(disc((250, 250, 250), (40, 60, 200), centre=(32, 32))[0])

        class Pipe(SimpleNamespace):
            def __call__(self, prompt, **kwargs):
                assert domain, "from scratch nothing is sampled"
                return SimpleNamespace(images=[image])

        self.pipe = Pipe(**vars(self.pipe))
        if not domain:
            del self.zero123  # nor is Zero-1-to-3 loaded


@pytest.fixture
def world(kiln_weights, tmp_path, monkeypatch):
    """The kiln with made-up renders and stand-in models; a fine-tuned prior's folder."""
    pytest.importorskip("torchmetrics")
    made_up_views(tmp_path / "data" / "porcelain", "porcelain")
    monkeypatch.setattr("core.kiln.fire.CACHE", tmp_path)
    monkeypatch.setattr(pots, "Models", Painter)
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "baseline.json").write_text(json.dumps({"phrase": "{prompt}, porcelain"}))
    return tmp_path


def test_variants_of_ours_go_on_from_its_picture_and_first_field(world, monkeypatch):
    tiny = {"init": SMALL["init"] | {"steps": 2}, "refine": SMALL["refine"] | {"steps": 1}, "turntable": {"views": 2, "frames": 1, "size": 16, "samples": 8}}
    small = SMALL | tiny | {"mesh": {"resolution": 24, "faces": 200, "texture_size": 16}}
    these = pots.Pots("kiln", "porcelain", small, world / "runs", world / "tuned", torch.device("cpu"), True)
    fields = {key: these.run("text", key, "vase", 0)[0] / "init" / "field.safetensors" for key in ("ours", "no-text", "zero123", "sds-prior")}
    assert fields["ours"].read_bytes() == fields["no-text"].read_bytes() != fields["zero123"].read_bytes()
    assert fields["ours"].stat().st_mtime_ns == fields["no-text"].stat().st_mtime_ns, "copied, not made again"
    assert not (fields["sds-prior"].parent.parent / "image.png").exists(), "from scratch there is no picture"
    picture = Image.new("RGBA", (40, 40))
    picture.paste((40, 60, 200, 255), (2, 2, 12, 12))
    lifted = Image.open(these.run("lift", "ours", "vase", 0, picture)[0] / "image.png")
    assert np.array_equal(np.asarray(lifted), np.asarray(picture)), "as the reference camera took it, not framed anew"


def test_what_is_stopped_early_has_all_methods_of_the_classes_that_it_came_to(world):
    these = pots.Pots("kiln", "porcelain", SMALL, world / "runs", world / "tuned", torch.device("cpu"), True)
    order = list(these.cells(["vase", "bottle"], range(2)))
    begun = [key for key, method in these.methods.items() if not method.varies]
    assert order[:8] == [("text", key, name, 0) for name in ("vase", "bottle") for key in begun]
    assert [(task, seed) for task, _, _, seed in order] == [("text", 0)] * 16 + [("text", 1)] * 16 + [("lift", 0)] * 10 + [("lift", 1)] * 10
    for task, seed in (("text", 0), ("lift", 1)):
        batches = [these.batch(each) for each in order if (each[0], each[3]) == (task, seed)]
        assert batches == sorted(batches) and len(set(batches)) == 2, "variants of ours after every one of ours"


def test_a_table_without_mitsuba_is_refused_before_a_prior_is_fine_tuned(monkeypatch):
    monkeypatch.setattr(renderer, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"rendering wants Mitsuba: pip install 'ingen3d\[kiln\]'"):
        evaluation.check_measurable("kiln", ())


@pytest.fixture
def table(world, monkeypatch):
    """A quick table of objects that cost nothing, and what was asked for."""
    made = []

    def make(prompt, domain, preset, image, seed, out, **kwargs):
        made.append(prompt)
        folder = out / (domain and "porcelain" or "open") / "it"
        (folder / "refine" / "views").mkdir(parents=True, exist_ok=True)
        for i in range(3):
            Image.new("RGB", (16, 16), (40 * len(made) % 255, 60 * i, 99)).save(folder / "refine" / "views" / f"{i}.png")
        for kind in ("glb", "ply"):
            trimesh.creation.icosphere(1).export(folder / f"mesh.{kind}")
        (folder / "run.json").write_text(json.dumps({"stages": {"init/views": {"seconds": 1.0}, "refine/views": {"seconds": 2.0}}}))
        if "striped" in prompt:
            error = NoObject("no mesh: the field is empty", "mesh")
            error.folder = folder
            raise error
        return SimpleNamespace(folder=folder)

    monkeypatch.setattr(pots, "text_to_3d", make)
    monkeypatch.setattr(renderer, "render", lambda parts, surface, views, *size: np.full((len(views), 128, 128, 4), 200, np.uint8))
    monkeypatch.setattr("ingen3d.geometry.SAMPLES", 2000)
    given = dict(domains=["porcelain"], fine_tuned={"porcelain": world / "tuned"}, overrides={"turntable": {"views": 3}})
    return SimpleNamespace(make=lambda: evaluation.table3d(out=world / "out", quick=True, device="cpu", quiet=True, **given), made=made)


def test_the_table_has_all_methods_counts_what_comes_to_nothing_and_is_made_once(table, world):
    report = table.make()
    asked = {f"a {name}": 11 for name in ("vase", "bottle")} | {f"a {name}, porcelain": 1 for name in ("vase", "bottle")}
    assert {prompt: table.made.count(prompt) for prompt in table.made} == asked | {f"a white {name} striped with blue": 1 for name in ("vase", "bottle")}
    record = json.loads(report.with_suffix(".json").read_text())
    text, lift = ({row["method"]: row for row in block["rows"]} for block in record["sections"][0]["blocks"] if block["kind"] == "table")
    titles = [method.title for method in methods(load_settings("kiln")).values()]
    assert list(text) == [*titles, "true pots, rendered"] and list(lift) == titles and record["status"] == ""
    assert all(row["count"] == 2 and len(row["kid"]) == len(row["consistency"]) == 3 for row in text.values())
    theirs = [torch.from_numpy(np.load(file)) for file in report.parent.parent.glob("cells/table3d-porcelain-text-ours-*/features.npy")]
    real = features.extract(Judge.load(), views_tensor(load_views(world / "data" / "porcelain")).split(128))
    assert len(theirs) == 2 and text["ours"]["kid_of_all"] == pytest.approx(features.kid(real, torch.cat(theirs)), rel=1e-3)
    assert text[titles[0]]["kid_of_all"] is not None, "of views that a run without a mesh has, too"
    assert text[titles[0]]["mesh"] == [0, 0, 0] and text["ours"]["mesh"] == [1, 1, 1]
    assert [title for title in titles if lift[title]["chamfer"] == "–"] == [*titles[:2], "ours without painting"] and len(lift["ours"]["chamfer"]) == 3
    table.made.clear()
    assert table.make() == report and not table.made and json.loads(report.with_suffix(".json").read_text()) == record


@pytest.mark.parametrize("given, said", [
    (("--preset", "sd15"), "the 3D table needs a judge"), (("--domain", "base"), "unknown domain 'base'"),
    (("--domain", "mine", "--data", "x", "--prompts", "y"), "'mine' is no world of the kiln, whose judge and renders the 3D table is measured by"),
])
def test_what_the_table_cannot_be_of_is_said_before_another_is_made(given, said, tmp_path, monkeypatch):
    monkeypatch.setattr("core.evaluation.study.Study", None)
    with pytest.raises(UserError, match=said):
        evaluate(monkeypatch, tmp_path, "table1", "table3d", *given)


def test_less_memory_reaches_the_training_of_the_fine_tuned_prior(tmp_path, monkeypatch):
    class Begun(Exception):
        pass

    def begin(*_, less_memory, **__):
        raise Begun(less_memory)

    monkeypatch.setattr("core.evaluation.study.Study", begin)
    with pytest.raises(Begun, match="'accumulation': 4, 'gradient_checkpointing': True"):
        evaluate(monkeypatch, tmp_path, "table3d", "--domain", "porcelain", "--accumulation", 4, "--gradient-checkpointing", "--out", tmp_path / "out")


def test_a_domain_that_a_prior_was_fine_tuned_for_elsewhere_need_be_no_world(world, monkeypatch):
    class Begun(Exception):
        pass

    def begin(preset, domain, *_):
        raise Begun(domain)

    monkeypatch.setattr(evaluation, "Pots", begin)
    with pytest.raises(Begun, match="mine"):
        evaluation.table3d(domains=["mine"], fine_tuned={"mine": world / "tuned"}, out=world / "out", device="cpu")
