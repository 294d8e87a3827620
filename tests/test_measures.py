"""Measures between sets of features and of edges: what they are known to be where the truth is known."""

import json

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from core.errors import UserError
from core.evaluation import kiln
from core.evaluation.features import density_coverage, fid, fid_with_interval, kid, mean_with_interval, memorising, nearest, win_rates
from core.evaluation.readers import ClipReader, JudgeReader, asked
from core.images import to_pil
from core.kiln import data, judge
from core.kiln.judge import Judge

from .conftest import tiny_tokenizer
from .test_fire import made_up_views


def gaussian(count, dim=4, mean=0.0, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + mean


def test_the_interval_covers_the_true_frechet_distance_about_as_often_as_it_says():
    hits = []
    for trial in range(20):
        value, low, high = fid_with_interval(gaussian(1500, seed=2 * trial), gaussian(1500, mean=0.5, seed=2 * trial + 1), resamples=60)
        assert low < value < high < 2 * value
        hits.append(low < 4 * 0.5**2 < high)  # of unit Gaussians whose means are 0.5 apart in each of 4 directions
    assert sum(hits) >= 16


def test_the_interval_shrinks_with_the_count_and_is_the_same_each_time():
    small, large = (fid_with_interval(gaussian(n, seed=1), gaussian(n, mean=1.0, seed=2), resamples=60) for n in (200, 3200))
    assert large[2] - large[1] < 0.5 * (small[2] - small[1])
    assert small == fid_with_interval(gaussian(200, seed=1), gaussian(200, mean=1.0, seed=2), resamples=60)


def test_the_interval_of_a_share_is_one_of_shares():
    assert mean_with_interval(torch.tensor([0.0, 1.0])) == (0.5, 0.0, 1.0)
    value, low, high = mean_with_interval((torch.rand(400, generator=torch.Generator().manual_seed(0)) < 0.9).float())
    spread = 1.96 * (value * (1 - value) / 400) ** 0.5
    assert low == pytest.approx(value - spread, abs=0.01) and high == pytest.approx(value + spread, abs=0.01)


class Mean(torch.nn.Module):
    num_features = 3
    forward = staticmethod(lambda x: x.mean((2, 3)))


def test_distances_of_features_are_those_of_images_by_an_extractor_that_gives_them():
    from core.evaluation import measures

    real, fake = torch.randn(60, 3, 8, 8), 0.5 + torch.randn(60, 3, 8, 8)
    assert fid(real.mean((2, 3)), fake.mean((2, 3))) == pytest.approx(measures.fid_to(measures.real_statistics(Mean(), [real]), Mean(), [fake]), rel=1e-4)
    assert kid(real.mean((2, 3)), fake.mean((2, 3))) == pytest.approx(measures.kid(Mean(), real, fake), rel=1e-3, abs=1e-5)


def test_kid_is_of_all_images_up_to_a_thousand_and_of_no_larger_subsets(monkeypatch):
    sizes = set()
    monkeypatch.setattr("torchmetrics.image.kid.poly_mmd", lambda real, fake, *_: sizes.add((len(real), len(fake))) or torch.zeros(()))
    for real, fake in ((60, 50), (1000, 1200), (1300, 1200)):
        kid(gaussian(real), gaussian(fake))
    assert sizes == {(50, 50), (1000, 1000)}


def test_a_domains_fid_is_to_its_training_views(tmp_path):
    made_up_views(tmp_path / "porcelain", "porcelain")
    views = kiln.views_tensor(data.load_views(tmp_path / "porcelain"))
    measure = kiln.fid_to_domain(Mean(), tmp_path / "porcelain")
    assert measure(views) == pytest.approx(0, abs=1e-6)
    assert measure(-views) == pytest.approx(fid(views.mean((2, 3)), -views.mean((2, 3))), rel=1e-4) and measure(-views) > 0.1


def test_density_and_coverage_of_the_same_far_and_collapsed_sets():
    real = gaussian(400, seed=1)
    assert density_coverage(real, real) == pytest.approx({"density": 1.0, "coverage": 1.0}, abs=0.02)
    like = density_coverage(real, gaussian(400, seed=2))
    assert like["density"] == pytest.approx(1, abs=0.15) and like["coverage"] > 0.9
    assert density_coverage(real, real + 100) == {"density": 0, "coverage": 0}
    crowded = density_coverage(real, real[:1].repeat(400, 1))  # one good image again and again
    assert crowded["density"] > 0.5 and crowded["coverage"] < 0.1


def test_copies_of_training_images_are_seen_as_memorised():
    train, held_out = gaussian(500, seed=1), gaussian(200, seed=2)
    fresh, copies = memorising(train, gaussian(500, seed=3), held_out), memorising(train, train[:300] + 0.01 * gaussian(300, seed=4), held_out)
    assert fresh["copied"] < 0.12 and fresh["ratio"] == pytest.approx(1, abs=0.15)
    assert copies["copied"] > 0.95 and copies["ratio"] < 0.2


def test_nearest_is_the_nearest():
    x, others = gaussian(30, seed=1), gaussian(1500, seed=2)
    assert torch.allclose(nearest(x, others, 2), torch.cdist(x, others).sort(1).values[:, :2], atol=1e-4)


def test_at_each_seed_the_nearest_of_those_that_are_right_wins():
    right = np.array([[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    distance = np.array([[3, 1, 3, 9], [2, 5, 4, 1], [1, 2, 1, 1]])
    assert win_rates(right, distance).tolist() == [0.25, 0.5, 0.25]  # image by image: 1 is nearer; 1 alone is right; none is: 2; 0 alone is right


def test_the_judge_must_read_all_that_a_prompt_names(monkeypatch):
    judge = Judge({"class": ("vase", "bowl", "head"), "colour": ("red", "blue", "white"), "pattern": ("plain", "striped", "dotted"),
                   "hat": ("hat", "no hat"), "glasses": ("glasses", "no glasses"), "expression": ("smiling", "sad")}, widths=(4,))
    reader = JudgeReader(judge, ["a vase"])
    seen = {"class": ["vase", "vase", "bowl"], "colour": ["red", "blue", "red"], "pattern": ["plain", "dotted", "dotted"],
            "hat": ["no hat"] * 3, "glasses": ["glasses"] * 3, "expression": ["sad"] * 3}
    monkeypatch.setattr("core.kiln.judge.read", lambda *_: seen)
    images = torch.zeros(3, 3, 8, 8)
    assert reader(images, ["a vase"] * 3)["alignment"] == [1, 1, 0]
    assert reader(images, ["a red vase"] * 3)["alignment"] == [1, 0, 0]
    assert reader(images, ["a photo of a blue vase with white dots"] * 3)["alignment"] == [0, 1, 0]
    with pytest.raises(UserError, match="'a smile'"):
        JudgeReader(judge, ["a vase", "a smile"])
    seen |= {"class": ["head"] * 3, "hat": ["hat", "no hat", "hat"], "expression": ["smiling", "smiling", "sad"]}
    assert reader(images, ["a smiling head wearing a hat and glasses"] * 3)["alignment"] == [1, 0, 0]
    assert reader(images, ["a head with no hat"] * 3)["alignment"] == [0, 1, 0]
    assert asked(judge.vocabulary, "a red vase with stripes") == {"class": "vase", "pattern": "striped"}, "no picture says which colour is named first"


def test_clip_finds_the_text_whose_feature_an_image_has(tmp_path):
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(tmp_path)
    end = tokenizer.eos_token_id
    both = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    text = both | dict(vocab_size=len(tokenizer), max_position_embeddings=64, eos_token_id=end, bos_token_id=tokenizer.bos_token_id, pad_token_id=end)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=both | dict(image_size=16, patch_size=8), projection_dim=16))
    model.save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    choices, images = ["a vase", "a bowl", "a jar"], torch.rand(5, 3, 32, 32) * 2 - 1
    reader = ClipReader(tmp_path / "clip", choices)
    found = [reader(images, [choice] * 5) for choice in choices]
    assert all(sum(right) == 1 for right in zip(*(each["alignment"] for each in found)))  # each image fits one text best
    for i in range(5):
        best = max(found, key=lambda each: each["clip_score"][i])
        assert best["alignment"][i] == 1 or best["clip_score"][i] == 0
    with torch.no_grad():  # as CLIP itself compares them
        ids = tokenizer([f"a photo of {choice}" for choice in choices], padding=True, return_tensors="pt")
        x = torch.nn.functional.interpolate(images / 2 + 0.5, size=16, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (torch.tensor(v)[:, None, None] for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))
        out = model.eval()(**ids, pixel_values=(x - mean) / std)
    cosines = out.logits_per_image / model.logit_scale.exp()
    assert torch.allclose(100 * cosines.clamp(min=0).T, torch.tensor([each["clip_score"] for each in found]), atol=1e-3)


def test_a_clip_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match="CLIP"):
        ClipReader(tmp_path / "none", ["a", "b"])


def test_a_runs_kid_is_told_with_that_of_true_objects_of_its_class(kiln_weights, tmp_path, monkeypatch):
    pytest.importorskip("torchmetrics")
    made_up_views(tmp_path / "data" / "porcelain", "porcelain")
    views = kiln.views_tensor(data.load_views(tmp_path / "data" / "porcelain", "test"))  # of objects 0 and 20, two of each
    (tmp_path / "run.json").write_text(json.dumps({"stages": {"image": {}, "init": {}, "init/views": {}, "refine": {}, "refine/views": {}, "paint": {},
                                                                   "paint/views": {}, "mesh": {}}}))
    for stage in ("init", "refine", "paint"):
        (tmp_path / stage / "views").mkdir(parents=True)
        for i, image in enumerate(to_pil(views[:2])):
            image.save(tmp_path / stage / "views" / f"{i}.png")
    for name, known in ((data.class_of("porcelain", 0), True), ("chair", False)):
        monkeypatch.setattr(judge, "read", lambda critic, views, name=name: {"class": [name] * len(views)})
        found = kiln.run_quality(tmp_path, tmp_path / "data")
        assert found["paint_classes"] == [name, name] and "refine_kid" in found
        assert found["true_kid"] == (pytest.approx(found["paint_kid"], rel=0.05) if known else None), "the run shows that very object"
