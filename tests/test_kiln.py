"""The kiln: its world is what the captions say, and its firing goes on where it was."""

import runpy
import signal
import subprocess
import sys
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from scipy import sparse
from scipy.spatial import cKDTree

from core.conditions import load_controlnet
from core.errors import UserError
from core.images import to_pil
from core.kiln import autoencoder, controlnet, data, fire, glazes, judge, loop, prior, proportions, shapes, things, zero123
from core.kiln.clip import WIDTH, new_tokenizer
from core.kiln.loop import average, digest, fit
from core.kiln.prior import new_scheduler
from core.kiln.toon import toon
from core.kiln.world import CLASSES, POTTERY, build
from core.pipeline import InDomainPipeline
from core.sampling import new_sampler
from core.training.text_feature import denoising_loss
from tests.test_fire import made_up_views, repaint

from .conftest import tiny_pipeline


def captions(count):
    """Of imaginary objects: captions need no geometry."""
    rng, names = np.random.default_rng(0), list(CLASSES)
    return [glazes.captioned(shapes.Form(names[i % len(names)], []), rng).caption for i in range(count)]


@pytest.mark.parametrize("name", CLASSES)
def test_objects_fill_the_unit_sphere_and_their_surfaces_face_outward(name):
    parts = build(name, np.random.default_rng(3)).parts
    radius = np.concatenate([np.linalg.norm(p.vertices, axis=1) for p in parts])
    assert 0.9 < radius.max() < 1
    for part in parts:
        a, b, c = (part.vertices[part.faces[:, i]] for i in range(3))
        face_normal, vertex_normal = np.cross(b - a, c - a), part.normals[part.faces].mean(1)
        area = np.linalg.norm(face_normal, axis=1)
        agree = (face_normal * vertex_normal).sum(1)[area > 1e-6] > 0
        assert agree.mean() > 0.98, f"{name}: winding and normals disagree"


@pytest.mark.parametrize("name", POTTERY | things.THINGS)
def test_a_class_varies_in_more_than_scale_and_turn(name):
    """As radial distances from the axis, over heights, show it; a ball may be turned alone."""

    def silhouette(seed):
        points = np.concatenate([p.vertices for p in build(name, np.random.default_rng(seed)).parts])
        levels = np.digitize(points[:, 2], np.linspace(-1, 1, 20))
        return np.array([np.hypot(*points[levels == k, :2].T).max(initial=0) for k in range(21)])

    apart = [abs(silhouette(0) - silhouette(seed)).max() for seed in range(1, 5)]
    assert max(apart) > (0.001 if name == "ball" else 0.05)


@pytest.mark.parametrize("name", POTTERY | things.THINGS)
def test_bodies_are_closed_surfaces_so_that_they_can_be_lifted(name):
    """Every edge longer than a thousandth is of as many triangles going one way as the other: none ends in the air."""
    for seed in range(4):
        parts = build(name, np.random.default_rng(seed)).parts
        points = np.concatenate([p.vertices for p in parts])
        joined = sparse.coo_array((np.ones(len(near := cKDTree(points).query_pairs(1e-6, output_type="ndarray"))), near.T), [len(points)] * 2)
        label = sparse.csgraph.connected_components(joined, directed=False)[1]
        offsets = np.cumsum([0, *(len(p.vertices) for p in parts)])
        faces = label[np.concatenate([p.faces + o for p, o in zip(parts, offsets)])]
        edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
        balance = sparse.coo_array((np.ones(len(edges)), edges.T), [len(points)] * 2).tocsr()
        at = np.zeros((len(points), 3))
        at[label] = points
        i, j = (balance - balance.T).nonzero()
        assert (np.linalg.norm(at[i] - at[j], axis=1) < 1e-3).all(), f"{name} {seed}: open at {at[i[0]]}"


def test_shape_words_are_deserved_and_rare():
    """Beside those without the word, what has it goes further in what the word means; about a fifth of a class has it."""
    for name in ("vase", "bowl"):
        forms = [build(name, np.random.default_rng([8, k])) for k in range(50)]
        found = [proportions.proportions(form) for form in forms]
        for word in proportions.WORDS[name]:
            measure, sign = proportions.MEASURES[word]
            has, lacks = ([sign * each[measure] for each, form in zip(found, forms) if (word in form.words) == those] for those in (True, False))
            assert 0.08 < len(has) / len(forms) < 0.4 and min(has) >= max(lacks), f"{word} {name}"


def test_slenderness_breadth_and_roundness_are_those_of_closed_forms():
    tall = shapes.Form("it", shapes.turned([(0, 0), (0.5, 0), (0.5, 3), (0, 3)]))
    ball = shapes.Form("it", [shapes.blob((0, 0, 0), 1.0, segments=200)])
    assert proportions.proportions(tall)["slenderness"] == pytest.approx(3) and proportions.proportions(tall)["breadth"] == pytest.approx(1 / 3)
    assert proportions.proportions(ball)["roundness"] > 0.97 > 0.93 > proportions.proportions(tall)["roundness"]


def test_classes_are_named_by_one_word_of_their_own():
    assert len(POTTERY) >= 12 and len(things.THINGS) >= 14 and not set(POTTERY) & set(things.THINGS)
    assert all(name.isalpha() and name.islower() for name in CLASSES) and set(proportions.WORDS) <= set(CLASSES)


@pytest.mark.parametrize("kind", data.WORLDS)
def test_every_class_is_learned_from_and_held_out_as_often_as_the_others(kind):
    classes = data.WORLDS[kind].classes
    for held_out in (True, False):
        indices = [i for i in range(20 * 20 * len(classes)) if (i % data.HELD_OUT_EVERY == 0) == held_out]
        counts = Counter(data.class_of(kind, i) for i in indices)
        assert set(counts) == set(classes) and len({counts[name] / classes.count(name) for name in classes}) == 1


def test_an_object_is_decided_by_its_index():
    first, second = data.make_object("base", 7), data.make_object("base", 7)
    assert first[1].caption == second[1].caption
    assert all(np.array_equal(a.vertices, b.vertices) for a, b in zip(first[0].parts, second[0].parts))
    assert not np.array_equal(first[0].parts[0].vertices, data.make_object("porcelain", 7)[0].parts[0].vertices)


def test_captions_name_class_and_colours_and_never_porcelain():
    for index in range(60):
        form, surface, _ = data.make_object("base", index)
        assert form.name in surface.caption
        if surface.labels["colour"] and surface.labels["pattern"] != "plain" and "striped" in surface.caption:
            assert surface.labels["colour"] in surface.caption
    assert not any("porcelain" in c for c in captions(4000))
    assert data.make_object("porcelain", 3)[1].caption is None


def test_words_of_the_captions_are_single_tokens_and_any_text_survives():
    tokenizer = new_tokenizer(captions(4000))
    ids = tokenizer("a glossy blue vase striped with yellow").input_ids
    assert len(ids) == 7 + 2
    assert tokenizer.decode(tokenizer("émile's pagoda 塔").input_ids, skip_special_tokens=True).replace(" ", "") == "émile'spagoda塔"


def test_views_are_whole_and_their_alpha_is_the_object(tmp_path):
    pytest.importorskip("mitsuba")
    from core.kiln.renderer import View, render

    form, surface, _ = data.make_object("porcelain", 1)
    image = render(form.parts, surface, [View(20, 40, 3.2)], samples=4)[0]
    alpha = image[..., 3]
    assert alpha.max() == 255 and not alpha[[0, -1]].any() and not alpha[:, [0, -1]].any()
    seen = image[alpha == 255][:, :3].astype(int)
    assert ((seen[:, 2] - seen[:, 0]) > 40).mean() > 0.03 and (seen.min(1) > 130).mean() > 0.2


@pytest.mark.parametrize("world", data.WORLDS)
def test_all_classes_are_learned_from_and_all_are_held_out_in_equal_parts(world, monkeypatch):
    for count in (None, 1, 7, 20, 21, 36, 40):
        classes = data.WORLDS[world].classes if count is None else tuple(map(str, range(count)))
        monkeypatch.setitem(data.WORLDS, world, replace(data.WORLDS[world], classes=classes))
        for split in ("train", "test"):
            seen = [data.class_of(world, i) for i in range(20 * 3 * len(classes)) if data.is_of(split, {"object": i})]
            assert {seen.count(name) / classes.count(name) for name in classes} == {len(seen) / len(classes)}


@pytest.mark.parametrize("llvm", [False, True])
@pytest.mark.parametrize("reflectance", ["glossy", "diffuse", "metal"])
def test_a_finish_gets_the_bare_colour_and_light_falls_on_the_coat(reflectance, llvm, monkeypatch):
    pytest.importorskip("mitsuba")
    import drjit

    from core.kiln.renderer import View, render

    if not llvm:
        monkeypatch.setattr(drjit.detail, "llvm_version", lambda: (-1, -1, -1))
    elif drjit.detail.llvm_version() < (19,):
        pytest.skip("no LLVM that can compile for every CPU")
    ball, seen = [shapes.blob((0, 0, 0), 0.9)], []
    surface = lambda coat: glazes.Surface([np.tile([0.2, 0.4, 0.1], (len(ball[0].vertices), 1))], coat, None, {})
    shot = lambda coat: render(ball, surface(coat), [View(20, -50, 3.2)], 32, 16, lambda rgb, albedo, alpha: seen.append((albedo, alpha)) or rgb)[0]
    lit, dull = shot(reflectance), shot("diffuse")
    albedo, alpha = seen[0]
    assert abs(albedo[alpha[..., 0] > 0.99] - [0.0331, 0.1329, 0.0100]).max() < 2e-3, "the painted colour, linear, without light or coat"
    shine = float(lit[..., :3].max()) - float(dull[..., :3].max())
    assert shine > 12 if reflectance != "diffuse" else shine == 0


def test_held_out_objects_are_never_trained_on_and_views_come_back_as_they_were(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 12, 4), np.uint8)
    images[:, 2:5, :, 3] = 0  # colours under transparency too
    for shard, objects in enumerate([(0, 1, 1, 1, 2, 2, 3), (19, 20, 21, 21, 21, 21, 40)]):
        data.save_shard(tmp_path / f"shard-{shard:04d}", images + shard, [{"object": o} for o in objects], data.origin("base", 1, 1, 48, shard))
    train, test = (data.load_views(tmp_path, split) for split in ("train", "test"))
    assert [r["object"] for r in train.records] == [1, 1, 1, 2, 2, 3, 19, 21, 21, 21, 21] and [r["object"] for r in test.records] == [0, 20, 40]
    assert np.array_equal(train.images, np.concatenate([images[1:], (images + 1)[[0, 2, 3, 4, 5]]]))
    assert np.array_equal(test.images, np.stack([images[0], (images + 1)[1], (images + 1)[6]]))
    assert data.load_records(tmp_path, "test") == test.records


def test_views_of_another_version_are_never_mixed_in_and_are_rendered_anew(tmp_path, monkeypatch):
    rendered = []

    def paint(parts, surface, views, resolution, finish):
        rendered.append(1)
        return np.full((len(views), 8, 8, 4), len(rendered), np.uint8)

    class Here:
        """A pool of this process."""

        __init__ = __exit__ = lambda self, *given, **settings: None
        __enter__ = lambda self: self
        map = staticmethod(map)

    monkeypatch.setattr(data.renderer, "render", paint)
    monkeypatch.setattr(data, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(data, "SHARD", 2)
    (tmp_path / "shard-0000.json").write_text("[]")  # from before there were versions
    render = lambda objects=5: data.render_world(tmp_path, "porcelain", objects, 2, 0, quiet=True) or len(rendered)
    assert render() == 5 and render() == 5 and len(data.load_views(tmp_path).images) == 8
    kept = data.identity(tmp_path)
    (tmp_path / "shard-0001.json").unlink()  # as a run that was killed before the record was written leaves it
    assert render() == 7 and render() == 7 and data.identity(tmp_path) != kept
    assert render(3) == 8 and len(data.load_records(tmp_path) + data.load_records(tmp_path, "test")) == 6
    monkeypatch.setitem(data.WORLDS, "porcelain", replace(data.WORLDS["porcelain"], version=99))
    with pytest.raises(UserError, match="shard-0000.webp shows version 2 .* 'porcelain'.*fire_kiln.py data"):
        data.load_views(tmp_path)
    assert render(3) == 11 and len(data.load_views(tmp_path).images) == 4
    with pytest.raises(UserError, match="no rendered views"):
        data.load_views(tmp_path / "none")


def test_toon_shading_is_flat_outlined_and_of_the_objects_colour():
    y, x = np.mgrid[:64, :64]
    alpha = ((x - 32) ** 2 + (y - 32) ** 2 < 24**2)[..., None].astype(float)
    albedo = np.broadcast_to([0.6, 0.1, 0.1], (64, 64, 3)) * alpha
    light = 0.3 + 0.7 * (x / 64)[..., None]
    drawn = toon(albedo * light, albedo, alpha)
    inner = ((x - 32) ** 2 + (y - 32) ** 2 < 21**2)
    tones, counts = np.unique(drawn[inner][:, 0].round(4), return_counts=True)
    assert counts[counts > 100].sum() > 0.8 * inner.sum() and (counts > 100).sum() == 3, "three tones"
    assert np.allclose(drawn[inner][:, 1] * 6, drawn[inner][:, 0])
    edge = alpha[..., 0].astype(bool) & ~((x - 32) ** 2 + (y - 32) ** 2 < 23.1**2)
    assert drawn[edge].max() < 0.05


def test_a_renderers_workers_end_with_one_that_is_killed():
    code = """
import multiprocessing, time
from core.kiln import data
data.renderer.load_mitsuba = lambda threads: time.sleep(600)
worker = multiprocessing.get_context("fork").Process(target=data.start_worker)
worker.start()
print(worker.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    worker.wait(timeout=60)


@pytest.mark.parametrize("steps", [100, 2000])
def test_the_average_spans_the_same_share_of_a_training_however_long(steps):
    averaged, model = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    for each in (averaged, model):
        each.register_buffer("steps", torch.zeros(()))
    for step in range(1, steps + 1):
        model.load_state_dict({"weight": torch.tensor([[step / steps]]), "bias": torch.tensor([(step / steps) ** 2]), "steps": torch.tensor(float(step))})
        average(averaged, model, step)
    mean, square = (float(x) for x in averaged.parameters())
    assert float(averaged.steps) == steps
    assert mean == pytest.approx(0.95, abs=0.01) and (square - mean**2) ** 0.5 == pytest.approx(0.05, abs=0.002)


def test_training_stopped_or_killed_and_resumed_is_the_same_training(tmp_path, caplog):
    class Killed(Exception):
        pass

    def kill():
        raise Killed

    def train(folder, stop=None, how=None, seconds=0):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 3)

        def loss(step):
            if step == stop:
                how()
            return {"loss": (model(torch.randn(4, 3)) - 1).square().mean()}

        fit(model, loss, 12, 1e-2, folder, checkpoint_seconds=seconds, quiet=True)
        return model.weight.detach()

    with pytest.raises(KeyboardInterrupt, match="broken stopped after step 4 of 12.*run the same command again"):
        train(tmp_path / "broken", 3, lambda: signal.raise_signal(signal.SIGINT), seconds=1000)
    assert "after this step; press Ctrl-C again" in caplog.text
    with pytest.raises(Killed):
        train(tmp_path / "broken", 8, kill)
    assert torch.equal(train(tmp_path / "whole"), train(tmp_path / "broken"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_latents_are_centred_of_unit_deviation_and_less_anisotropic_and_decode_to_the_same_images():
    vae, rng = autoencoder.new_autoencoder().eval(), np.random.default_rng(0)
    images = np.concatenate([rng.integers(0, 255, (8, 128, 128, 3)), np.full((8, 128, 128, 1), 255)], -1).astype(np.uint8)
    x = data.on_white(images)

    def decoded():
        return vae.decode(vae.encode(x).latent_dist.mode()).sample.detach()

    def shares():
        variances = torch.linalg.eigvalsh(torch.cov(autoencoder.encode_all(vae, images, "cpu").float().transpose(0, 1).flatten(1)))
        return variances / variances.sum()

    before, shares_before = decoded(), shares()
    autoencoder.standardise(vae, images, "cpu")
    latents = autoencoder.encode_all(vae, images, "cpu").float()
    torch.testing.assert_close(decoded(), before, atol=1e-4, rtol=0)
    assert latents.mean((0, 2, 3)).abs().max() < 0.01 and latents.std() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(shares(), (mild := shares_before**0.5) / mild.sum(), atol=2e-3, rtol=0)


def test_samples_begin_at_the_noisiest_level_which_hides_what_is_under_it():
    scheduler = new_scheduler("v_prediction")
    sampler = new_sampler(scheduler)
    sampler.set_timesteps(10)
    assert sampler.timesteps[0] == 999 and scheduler.alphas_cumprod[-1] < 0.02**2


def test_sample_sheets_show_classes_that_come_in_turn_and_the_same_views_each_time():
    rows = data.choose(38304, fire.SHOWN)
    assert rows == data.choose(38304, fire.SHOWN) and len({row // 2 % len(CLASSES) for row in rows}) > fire.SHOWN / 2 and data.choose(3, 8) == [0, 1, 2]


def test_a_training_begun_on_other_data_or_models_starts_anew(tmp_path):
    def train(start=0.0, data="a"):
        model, steps = torch.nn.Linear(3, 3), []
        torch.nn.init.constant_(model.weight, start)
        torch.nn.init.zeros_(model.bias)
        loss = lambda step: steps.append(step) or {"loss": model(torch.ones(1, 3)).square().mean()}
        fit(model, loss, 4, 1e-2, tmp_path, made_from=digest(np.arange(9), torch.ones(2), {"of": data}), quiet=True)
        return len(steps)

    assert [train(), train(), train(data="b"), train(data="b"), train(1.0, "b")] == [4, 0, 4, 0, 4]


def test_what_the_firing_keeps_is_of_the_views_and_the_autoencoder_that_are_there(tmp_path, monkeypatch):
    kiln, vae, encoded = fire.Kiln(tmp_path, "cpu", weights=tmp_path), torch.nn.Linear(1, 1), []
    vae.config = SimpleNamespace(scaling_factor=1.0)
    monkeypatch.setattr(kiln, "load_vae", lambda: vae)
    monkeypatch.setattr(autoencoder, "encode_all", lambda vae, images, *_: encoded.append(1) or data.on_white(images))
    for world in fire.OBJECTS:
        made_up_views(tmp_path / "data" / world, world)
    kiln.latents("base")
    latents, images = kiln.latents("base"), data.on_white(kiln.views("base").images)
    assert torch.equal(latents, torch.stack([images, images.flip(-1)])) and not torch.equal(*latents) and len(encoded) == 2
    rows, captions, photos = kiln.photos("base")
    assert captions[: len(rows)] == captions[len(rows) :] and torch.equal(photos, torch.cat([images[rows], images[rows].flip(-1)]))
    torch.nn.init.ones_(vae.weight)
    kiln.latents("base")
    assert len(encoded) == 4
    first = kiln.pictures("porcelain") / "00000.png"
    before, time = first.read_bytes(), first.stat().st_mtime_ns
    assert kiln.pictures("porcelain") and first.stat().st_mtime_ns == time
    repaint(tmp_path / "data" / "porcelain", lambda images: 255 - images)
    assert (kiln.pictures("porcelain") / "00000.png").read_bytes() != before


def test_mirror_images_are_of_other_objects_whose_cameras_go_round_the_other_way():
    records = [{"object": i // 2, "elevation_deg": 10.0 + i, "azimuth_deg": 50.0 * i, "distance": 3.0 + i / 10} for i in range(4)]
    mirrored = zero123.mirrored(records)
    reference, target = torch.tensor([0, 2]), torch.tensor([1, 3])
    flip = torch.tensor([1.0, -1.0, 1.0, 1.0])  # the sine of the azimuth
    torch.testing.assert_close(zero123.pose_of(mirrored, target, reference), zero123.pose_of(records, target, reference) * flip)
    both = torch.stack(zero123.pairs(records + mirrored), 1)
    assert ((both < len(records)).sum(1) != 1).all() and len(both) == 2 * len(zero123.pairs(records)[0])
    images = np.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    assert np.array_equal(data.and_mirrored(images)[1], images[:, :, ::-1]) and np.array_equal(data.and_mirrored(images)[0], images)


def test_a_zero123_begins_as_the_prior_that_it_is_made_of():
    torch.manual_seed(0)
    unet = prior.new_unet()
    deep, z_t, image, text, t = zero123.from_prior(unet), *torch.randn(2, 2, 4, 32, 32), torch.randn(2, 1, WIDTH), torch.tensor([100, 900])
    with torch.no_grad():
        torch.testing.assert_close(deep(torch.cat([z_t, image], 1), t, text).sample, unet(z_t, t, text).sample)
    deep(torch.cat([z_t, image], 1), t, text).sample.square().mean().backward()
    learns = {name.split("transformer_blocks.")[1][0] for name, p in deep.named_parameters() if "transformer_blocks." in name and p.grad.any()}
    assert learns == {str(i) for i in range(zero123.DEPTH)}, "added layers are not stuck where they add nothing"


@pytest.mark.parametrize("scale", ["0", "-1", "nan", "inf"])
def test_a_scale_that_trains_nothing_is_refused_and_weights_can_go_elsewhere(scale, tmp_path, monkeypatch):
    script = runpy.run_path(Path(__file__).parent.parent / "scripts" / "fire_kiln.py")
    fired = []
    monkeypatch.setattr(fire.Kiln, "run", lambda kiln, stage: fired.append(kiln.weights))
    monkeypatch.setattr("sys.argv", ["fire_kiln.py", "data", "--scale", "0.1", "--weights", str(tmp_path)])
    script["main"]()
    assert fired == [tmp_path]
    monkeypatch.setattr("sys.argv", ["fire_kiln.py", "data", f"--scale={scale}"])
    with pytest.raises(UserError, match="--scale is"):
        script["main"]()


def test_a_judge_that_was_not_trained_is_named_with_the_way_to_it(tmp_path):
    with pytest.raises(UserError, match="judge.safetensors.*fire_kiln.py judge"):
        judge.Judge.load(tmp_path / "judge.safetensors")


def test_the_same_images_give_the_same_kid_and_the_callers_randomness_is_left_alone():
    pytest.importorskip("torchmetrics")
    from core.evaluation.measures import kid

    torch.manual_seed(0)
    real, fake, state = torch.randn(40, 3, 2, 2), torch.randn(6, 3, 2, 2), torch.random.get_rng_state()
    first = kid(torch.nn.Flatten(), real, fake)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(1)
    assert kid(torch.nn.Flatten(), real, fake) == first


def test_the_judge_ignores_what_has_no_ground_truth():
    porcelain = {"class": "vase", "colour": "white", "pattern": "waves", "material": "porcelain", "caption": None, "photo": True}
    wooden = {"class": "chair", "colour": None, "pattern": "plain", "material": "wooden", "caption": "a wooden chair", "photo": True}
    head = {"class": "head", "expression": "smiling", "photo": True}
    striped = head | {"colour": "red", "pattern": "striped", "caption": "a red head striped with blue", "hat": "hat"}
    plain = head | {"colour": "blue", "pattern": "plain", "caption": "a blue head", "hat": "no hat"}
    heads = judge.vocabulary([wooden, striped, plain, porcelain, plain | {"colour": "red"}])
    assert heads == {"class": ("chair", "head", "vase"), "colour": ("blue", "red"), "pattern": ("plain", "striped"), "hat": ("hat", "no hat")}
    labels = {name: each.tolist() for name, each in judge.targets([porcelain, wooden, striped, plain | {"class": "whale"}], heads).items()}
    assert labels == {"class": [2, 0, 1, -100], "colour": [-100, -100, -100, 0], "pattern": [-100, 0, 1, 0], "hat": [-100, -100, 0, 1]}
    heads = judge.vocabulary([striped, sad := plain | {"expression": "sad"}, sad | {"photo": False}])
    assert judge.targets([sad, sad | {"photo": False}], heads)["expression"].tolist() == [1, -100], "from behind no one is sad"


def test_a_judge_reads_in_the_words_that_it_was_trained_in_and_in_its_own_size(tmp_path):
    given = judge.Judge({"class": ("head", "whale"), "hat": ("hat", "no hat")}, widths=(4, 8)).eval()
    given.heads["hat"].bias.data[1] = 99
    given.save(tmp_path / "model.safetensors")
    loaded, images = judge.Judge.load(tmp_path / "model.safetensors"), torch.randn(3, 3, 32, 32)
    assert loaded.vocabulary == given.vocabulary and loaded.num_features == 8
    seen = judge.read(loaded, images)
    assert seen["hat"] == ["no hat"] * 3 and len(seen["class"]) == 3
    assert torch.allclose(loaded(images), given(images), atol=1e-2)


def test_the_shipped_judge_says_what_it_reads_whatever_the_world_is_today(kiln_weights):
    shipped = judge.Judge.load()
    assert shipped.vocabulary.keys() >= {"class", "colour", "pattern"} and len(shipped.vocabulary["class"]) == shipped.heads["class"].out_features


def test_prompts_for_the_prior_name_what_the_judge_reads():
    pytest.importorskip("torchmetrics")
    from core.evaluation.kiln import prior_prompts
    from core.evaluation.readers import asked

    vocabulary = {"class": ("vase", "owl", "chair"), "colour": ("red", "orange", "blue"), "pattern": ("striped", "plain", "starry")}
    prompts = prior_prompts(vocabulary)
    wanted = [asked(vocabulary, prompt) for prompt in prompts]
    assert len(prompts) == 40 and prompts[0] == "a glossy red vase" and prompts[1].startswith("an orange owl striped with ")
    named = [[word for word in prompt.split() if word in glazes.COLOURS] for prompt in prompts]
    assert all(second in glazes.contrasting(first) for first, second in (each for each in named if len(each) == 2))
    for name in ("class", "pattern", "colour"):
        values = vocabulary[name]
        assert {each.get(name) for each in wanted} >= set(values) - {"plain"}


def test_a_layers_forward_pass_that_is_compiled_keeps_its_weights_names_and_is_copied_without_it():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    names = list(model.state_dict())
    model.compile(backend="eager")
    copy = deepcopy(model)
    assert list(model.state_dict()) == names and torch.equal(copy(x := torch.randn(1, 3, 8, 8)), model(x))


def test_only_long_trainings_on_a_cpu_that_multiplies_bf16_are_compiled(monkeypatch):
    compiled, cpu = [], torch.device("cpu")
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    monkeypatch.setattr(loop.shutil, "which", lambda name: f"/usr/bin/{name}")
    unet = tiny_pipeline().unet
    for bf16, steps in ((False, 40000), (True, 10)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda bf16=bf16: bf16)
        loop.make_fast(cpu, steps, unet)
        assert not loop.gains(cpu, steps) and not compiled and not any(isinstance(each, loop.GroupNorm) for each in unet.modules())
    loop.make_fast(cpu, 40000, unet)
    assert loop.gains(cpu, 40000) and compiled == [unet] and {type(each) for each in unet.attn_processors.values()} == {AttnProcessor}
    assert next(p for p in unet.parameters() if p.dim() == 4).is_contiguous(memory_format=torch.channels_last)
    assert {type(each) for each in unet.modules() if isinstance(each, torch.nn.GroupNorm)} == {loop.GroupNorm}


def test_norms_of_a_training_in_bf16_compute_in_the_precision_that_they_are_given_and_are_else_the_same():
    unet, z_t, context = tiny_pipeline().unet, torch.randn(2, 4, 4, 4), torch.randn(2, 5, 24)
    names, before = list(unet.state_dict()), unet(z_t, 5, context).sample
    loop.suit_norms(unet)
    copy = deepcopy(unet)
    assert list(unet.state_dict()) == names and torch.equal(copy(z_t, 5, context).sample, before)
    norms = [each for each in unet.modules() if isinstance(each, (torch.nn.GroupNorm, torch.nn.LayerNorm))]
    assert {type(each) for each in norms} == {loop.GroupNorm, loop.LayerNorm}
    with torch.autocast("cpu", torch.bfloat16):
        for norm in norms:
            x = torch.randn(2, norm.num_channels, 3, 3) if isinstance(norm, loop.GroupNorm) else torch.randn(2, *norm.normalized_shape)
            assert norm(x.bfloat16()).dtype == torch.bfloat16
            torch.testing.assert_close(norm(x.bfloat16()).float(), norm(x), atol=0.05, rtol=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a GPU")
def test_a_recorded_training_is_the_same_training(tmp_path):
    device = "cuda"

    def train(recorded):
        torch.manual_seed(0)
        model, draws = torch.nn.Linear(3, 3).to(device), loop.generator(torch.device(device))
        loss = lambda step: {"loss": (model(torch.randn(4, 3, generator=draws, device=device)) - 1).square().mean()}
        fit(model, loss, 30, 1e-2, tmp_path / str(recorded), recorded=recorded, warmup=20, quiet=True)
        return model.weight.detach()

    torch.testing.assert_close(train(recorded=True), train(recorded=False))


def test_a_feature_of_the_judge_sees_the_whole_object():
    net = judge.Judge({"class": ("vase", "bowl")}).eval()
    x = torch.rand(1, 3, 128, 128, requires_grad=True)
    net.body(x)[0, :, 2, 2].sum().backward()
    seen = x.grad.abs().sum((0, 1)) > 0
    assert seen.any(0).all() and seen.any(1).all()


def test_a_controlnet_learns_to_draw_along_the_edges_and_leaves_the_prior_as_it_is(monkeypatch, tmp_path):
    fast = lambda net, loss, steps, rate, *args, **more: fit(net, loss, steps, 10 * rate, *args, warmup=1, **more)
    monkeypatch.setattr(controlnet, "fit", fast)
    pipe, before = tiny_pipeline(), tiny_pipeline()
    edges, latents = torch.zeros(2, 32, 32, dtype=torch.bool), torch.ones(2, 4, 4, 4)
    edges[0, :, 8] = edges[1, :, 24] = True  # the line alone says which half is dark
    latents[0, ..., 2:] = latents[1, ..., :2] = -1
    net = controlnet.train(latents, edges, ["a vase", "a bowl"], pipe, tmp_path, torch.device("cpu"), 400, batch_size=4, quiet=True)

    @torch.no_grad()
    def error(edges):
        def predict(z_t, t):
            context = pipe.encode_prompt(["a vase"] * 16, "cpu", 1, False)[0]
            down, mid = net(z_t, t, context, controlnet.as_picture(edges.repeat(8, 1, 1)), return_dict=False)
            return pipe.unet(z_t, t, context, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample

        torch.manual_seed(0)
        return denoising_loss(predict, pipe.scheduler, latents.repeat(8, 1, 1, 1), torch.default_generator)

    assert error(edges) < 0.99 * error(edges.flip(0))
    for part in ("unet", "text_encoder"):
        assert all(map(torch.equal, getattr(pipe, part).parameters(), getattr(before, part).parameters()))


def discs(*centres):
    """Pictures of grey discs, RGBA, on transparency that hides red."""
    y, x = np.mgrid[:64, :64]
    masks = [((x - c) ** 2 + (y - 32) ** 2 < 10**2)[..., None] for c in centres]
    return np.uint8(np.where(masks, [90, 90, 90, 255], [255, 0, 0, 0]))


def test_some_of_the_views_keep_their_records():
    views = data.Views(np.arange(200), list(range(200)))
    assert len(views.some(20).records) == 20 and views.some(20).records == views.some(20).images.tolist()


def test_views_have_the_edges_that_a_users_picture_of_them_has():
    view = discs(32)[0]
    of_view, of_picture = controlnet.edge_maps([Image.fromarray(view), *to_pil(data.on_white(view[None]))])
    assert of_view.any() and torch.equal(of_view, of_picture)


def test_edges_agree_as_far_as_they_are_near():
    pytest.importorskip("torchmetrics")
    from core.evaluation.measures import edge_f_score

    def lines(*columns):
        edges = np.zeros((16, 16), bool)
        edges[:, list(columns)] = True
        return edges

    assert edge_f_score(lines(4), lines(5)) == pytest.approx(1) and edge_f_score(lines(4), lines(6)) == 0
    assert edge_f_score(lines(4), lines(4, 12)) == edge_f_score(lines(4, 12), lines(4)) == pytest.approx(2 / 3)
    assert edge_f_score(lines(), lines(4)) == edge_f_score(lines(4), lines()) == 0


def test_each_image_is_compared_with_the_view_whose_edges_it_was_to_follow():
    pytest.importorskip("torchmetrics")
    from core.evaluation.kiln import edge_agreement

    views = data.Views(discs(16, 32, 48), [{"caption": None, "class": name} for name in ("vase", "bowl", "jar")])
    seen = dict(zip(("a vase", "a bowl", "a jar"), (data.on_white(views.images) + 1) / 2))
    asked = dict(zip(seen, controlnet.edge_maps(map(Image.fromarray, views.images))))

    class Ideal:
        """Draws the view that the control shows, and white without one."""

        set_progress_bar_config = control = staticmethod(lambda *given, **settings: given)

        def __call__(self, prompt, controls, **settings):
            (_, pictures, scale), = controls
            assert torch.equal(pictures, controlnet.as_picture(torch.stack([asked[p] for p in prompt])))
            return SimpleNamespace(images=torch.stack([seen[p] for p in prompt]) if scale else torch.ones_like(pictures))

    assert edge_agreement(Ideal(), None, views, quiet=True, batch_size=2) == {"with": 1.0, "without": 0.0}


def test_the_shipped_controlnet_has_the_domain_drawn_along_a_pictures_edges(kiln_weights):
    pytest.importorskip("torchmetrics")
    from core.evaluation.kiln import edge_agreement

    pipe = InDomainPipeline.from_pretrained("kiln", domain="porcelain")
    vase = pipe("a glossy green vase", domain_scale=0.0, control_scale=3.0, generator=torch.Generator().manual_seed(0)).images[0]
    views = data.Views(np.stack([np.asarray(vase.convert("RGBA"))] * 3), [{"caption": None, "class": "vase"}] * 3)
    score = edge_agreement(pipe, load_controlnet("kiln", pipe.unet), views, quiet=True, num_inference_steps=10)
    assert score["with"] > score["without"] + 0.1
