"""Surfaces of the kiln's world: captions say what is painted, patterns differ and cover, porcelain closes around its pots."""

import re
from dataclasses import replace

import numpy as np
import pytest

from core.kiln import brush, glazes, motifs, patterns, porcelain, shapes, world

HEAD = shapes.Form("head", [], ("smiling",), "wearing a hat and glasses", {"hat": "hat", "expression": "smiling"})
OWL = shapes.Form("owl", [], ("upright", "tall"))
CUP = shapes.Form("cup", [], (), "with a handle")


def captioned(form, count=600):
    rng = np.random.default_rng(0)
    return [glazes.captioned(form, rng) for _ in range(count)]


def form_of(name, seed=0):
    return world.build(name, np.random.default_rng(seed))


@pytest.mark.parametrize("form", [HEAD, OWL, CUP], ids=lambda f: f.name)
def test_captions_name_the_class_and_the_first_colour_first_in_good_english(form):
    for surface in captioned(form):
        words = surface.caption.replace(",", "").split()
        assert words.count(form.name) == 1
        colours = [w for w in words if w in glazes.COLOURS]
        assert colours == [c for c in (surface.labels["colour"], surface.labels["second"]) if c][: len(colours)]
        assert not {"porcelain", "celadon", "cobalt"} & set(words)
        assert len(words) <= 24 and not any(a == b for a, b in zip(words, words[1:]))
        for article, after in re.findall(r"\b(an?) (\w)", surface.caption):
            assert (article == "an") == (after in "aeiou"), surface.caption
        assert surface.caption.count(" with ") <= 1, surface.caption


def test_a_pattern_is_told_by_one_word_and_only_where_it_is_painted():
    known = patterns.NOUNS | {p: p for p in patterns.PATTERNS}
    for surface in captioned(OWL) + captioned(CUP):
        said = [known[w] for w in surface.caption.replace(",", "").split() if w in known]
        assert said in ([], [surface.labels["pattern"]]), surface.caption
    two = [s for s in captioned(OWL) if s.labels["second"] and s.labels["second"] in s.caption.split()]
    assert two and all(any(w in known for w in s.caption.replace(",", "").split()) for s in two)


def test_words_and_details_are_said_where_they_are_deserved_and_short_prompts_stay():
    heads, cups = [s.caption for s in captioned(HEAD)], [s.caption for s in captioned(CUP)]
    assert not any("smiling" in c or "wearing" in c for c in cups)
    assert 0.35 < np.mean(["smiling" in c for c in heads]) < 0.6
    assert 0.65 < np.mean([c.endswith("wearing a hat and glasses") for c in heads]) < 0.85
    assert {"a head", "a smiling head"} <= set(heads) and any(re.fullmatch(rf"an? ({'|'.join(glazes.COLOURS)}) head", c) for c in heads)
    assert all(s.labels["hat"] == "hat" for s in captioned(HEAD, 40))


@pytest.mark.parametrize("name", ["vase", "plate", "cube", "chair", "ball"])
def test_each_pattern_covers_its_share_of_the_body_and_none_is_another(name):
    form, covers = form_of(name), {}
    for pattern in patterns.FAMILIES:
        cover = patterns.coverage(pattern, form.parts, np.random.default_rng(1))
        assert all(not c.any() for c, p in zip(cover, form.parts) if p.role != "body" and pattern != "dipped")
        covers[pattern] = np.concatenate([c for c, p in zip(cover, form.parts) if p.role == "body"])
    for pattern, cover in covers.items():
        if pattern != "dipped" or name != "chair":  # a chair's dip reaches its legs alone
            assert 0.08 < cover.mean() < 0.75, pattern
        assert all(np.abs(cover - other).mean() > 0.05 for p, other in covers.items() if p != pattern), pattern
    assert not any(c.any() for c in patterns.coverage("plain", form.parts, np.random.default_rng(1)))


@pytest.mark.parametrize("name", ["vase", "teapot", "bowl", "plate"])
def test_what_was_dipped_shows_both_colours_from_above_or_from_the_side(name):
    form = form_of(name)
    covers = patterns.coverage("dipped", form.parts, np.random.default_rng(1))
    up = np.concatenate([p.normals[:, 2] for p in form.parts]) > (0.5 if name in ("bowl", "plate") else -1)
    assert 0.2 < np.concatenate(covers)[up].mean() < 0.8


@pytest.mark.parametrize("pattern", patterns.FAMILIES)
def test_patterns_close_around_a_vase(pattern):
    form = form_of("vase", 2)
    for part, cover in zip(form.parts, patterns.coverage(pattern, form.parts, np.random.default_rng(3))):
        u = part.uv[:, 0]
        assert np.allclose(cover[u == 0], cover[u == 1], atol=1e-6)


def test_dots_are_as_large_on_a_neck_as_on_a_belly():
    form = form_of("vase", 2)
    part = form.parts[0]
    cover = patterns.coverage("dotted", form.parts, np.random.default_rng(3))[0]
    heights, around = patterns.girths(part)
    assert np.allclose(around.max(), 2 * np.pi * np.hypot(*part.vertices[:, :2].T).max(), rtol=0.01)
    by_height = cover.reshape(-1, len(heights)).mean(0)
    wide = around > np.median(around)
    assert by_height[wide].mean() == pytest.approx(by_height[~wide].mean(), rel=0.4)


def test_tone_darkens_and_one_light_falls_on_all_parts_of_an_object():
    form = form_of("ball")
    dark = replace(form, parts=[*form.parts, replace(form.parts[0], tone=0.5)])
    for seed in range(20):
        light, shaded = glazes.captioned(dark, np.random.default_rng(seed)).rgb
        assert np.allclose(shaded, light * 0.5, atol=0.01) or light.max() == 1


def test_two_colours_of_an_object_are_told_apart():
    for surface in captioned(OWL, 200):
        if second := surface.labels["second"]:
            assert np.linalg.norm(np.subtract(glazes.COLOURS[second], glazes.COLOURS[surface.labels["colour"]])) > 0.4


def painted(name, ware, motif, monkeypatch, seed=0):
    monkeypatch.setattr(porcelain, "VARIANTS", {ware: 1.0})
    monkeypatch.setattr(porcelain, "SHARES", {motif: 1.0})
    form = form_of(name, seed)
    return form, porcelain.porcelain(form, np.random.default_rng(seed))


@pytest.mark.parametrize("motif", motifs.MOTIFS)
def test_blue_and_white_is_white_with_cobalt_and_closes_around_the_pot(motif, monkeypatch):
    for name in ("vase", "teapot", "plate"):
        form, surface = painted(name, "cobalt", motif, monkeypatch, seed=4)
        assert surface.caption is None and surface.labels == {"colour": "white", "pattern": motif, "material": "porcelain"}
        rgb = np.concatenate([c for c, p in zip(surface.rgb, form.parts) if p.role == "body"])
        blue = rgb[:, 2] - rgb[:, 0] > 0.25
        assert 0.06 < blue.mean() < 0.8 and (rgb.min(1) > 0.8).mean() > 0.1
        for part, colours in zip(form.parts, surface.rgb):
            u = part.uv[:, 0]
            assert np.allclose(colours[u == 0], colours[u == 1], atol=1e-3)


def test_what_crosses_a_bands_end_goes_on_at_its_beginning():
    colours = porcelain.palette("cobalt", np.random.default_rng(0))
    wide = [brush.picture(2.0, 0.5, colours) for _ in range(2)]
    for image, x in zip(wide, (0.0, 2.0)):
        b = brush.Brush(image, colours, 2.0, 0.5)
        b.disc(x, 0.25, 0.1, "deep")
        b.bar(x - 0.2, 0.05, x + 0.2, 0.1, "line")
        b.fill([(x - 0.1, 0.4), (x + 0.1, 0.4), (x, 0.48)], "wash")
    ends = np.asarray(wide[0])[:, [0, -1]]
    assert (ends != ends[:1]).any((0, 2)).all()
    assert (np.asarray(wide[0]) == np.asarray(wide[1])).all()


def test_only_wide_and_low_vessels_show_a_painted_inside(monkeypatch):
    for name, seen in (("plate", True), ("bowl", True), ("cup", False), ("bottle", False)):
        form, surface = painted(name, "cobalt", "peonies", monkeypatch)
        inner = [c for c, p in zip(surface.rgb, form.parts) if p.uv[:, 1].max() > 1]
        assert all((np.ptp(c, axis=0).max() > 0.3) == seen for c in inner), name


def test_wares_come_at_their_rates_and_celadon_is_green_all_over(monkeypatch):
    cup, rng = form_of("cup"), np.random.default_rng(0)
    cup = replace(cup, parts=[replace(p, vertices=p.vertices[:3], uv=p.uv[:3]) for p in cup.parts if p.role == "limb"])  # quick to paint
    green = np.mean([porcelain.porcelain(cup, rng).labels["colour"] == "green" for _ in range(400)])
    assert green == pytest.approx(porcelain.VARIANTS["celadon"], abs=0.05) and porcelain.VARIANTS["cobalt"] == 0.75
    assert sum(porcelain.VARIANTS.values()) == pytest.approx(1) and sum(porcelain.SHARES.values()) == pytest.approx(1)
    _, celadon = painted("vase", "celadon", "scrolls", monkeypatch)
    rgb = np.concatenate(celadon.rgb)
    assert (rgb.argmax(1) == 1).mean() > 0.99
    _, rose = painted("vase", "famille rose", "peonies", monkeypatch)
    rgb = np.concatenate(rose.rgb)
    assert (rgb[:, 0] - rgb[:, 1] > 0.2).mean() > 0.05 and (rgb[:, 1] - rgb[:, 0] > 0.1).mean() > 0.02 and (rgb.min(1) > 0.85).mean() > 0.2
