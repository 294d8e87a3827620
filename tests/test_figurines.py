"""Figurines: their geometry, what is said of it, and the looks of the domains `face` and `animal`."""

import numpy as np
import pytest

from core.kiln import animals, clay, data, heads, looks, shapes

FIGURINES = {"head": heads.head} | animals.ANIMALS


def make(name, seed):
    rng = np.random.default_rng(seed)
    return shapes.build(name, FIGURINES[name], rng), rng


def paint(form, rng):
    return (looks.face if form.name == "head" else looks.animal)(form, rng)


@pytest.mark.parametrize("name", FIGURINES)
def test_figurines_fill_the_unit_sphere_and_their_surfaces_face_outward(name):
    for seed in range(6):
        form, _ = make(name, seed)
        assert form.name == name and sum(len(p.vertices) for p in form.parts) < 40_000
        assert 0.9 < max(np.linalg.norm(p.vertices, axis=1).max() for p in form.parts) < 1
        for part in form.parts:
            a, b, c = (part.vertices[part.faces[:, i]] for i in range(3))
            face_normal, vertex_normal = np.cross(b - a, c - a), part.normals[part.faces].mean(1)
            area = np.linalg.norm(face_normal, axis=1)
            agree = (face_normal * vertex_normal).sum(1)[area > 1e-6] > 0
            assert agree.mean() > 0.98, f"{part.role} of {name} {seed}: winding and normals disagree"
            assert np.allclose(np.linalg.norm(part.normals, axis=1), 1, atol=1e-2) and 0 <= part.uv.min() and part.uv.max() <= 1


def test_a_head_has_what_its_attributes_and_its_caption_say():
    seen = set()
    for seed in range(40):
        form, _ = make("head", seed)
        roles = {p.role for p in form.parts}
        for key in ("hat", "glasses", "beard"):
            assert form.attributes[key] == (key if key in roles else f"no {key}")
            assert (key in form.detail) == (key in roles)
            seen.add(form.attributes[key])
        expression = form.attributes["expression"]
        assert form.words == (() if expression == "neutral" else (expression,)) and ("mouth" in roles) == (expression == "surprised")
        seen.add(expression)
    assert seen == {"hat", "no hat", "glasses", "no glasses", "beard", "no beard", "smiling", "neutral", "surprised"}


@pytest.mark.parametrize("has, said", [((), ""), (("hat",), "wearing a hat"), (("glasses", "hat"), "wearing a hat and glasses"), (("beard",), "with a beard"),
                                       (("beard", "glasses"), "with a beard, wearing glasses")])
def test_details_read_as_one_says_them(has, said):
    assert heads.describe({key: key in has for key in ("hat", "glasses", "beard")}) == said


@pytest.mark.parametrize("name", animals.ANIMALS)
def test_each_species_varies_and_keeps_its_proportions_in_its_words(name):
    forms = [make(name, seed)[0] for seed in range(8)]
    assert len({sum(len(p.vertices) for p in f.parts) for f in forms}) == len(forms)
    assert all(f.attributes == {} and set(f.words) <= {"fat", "tall", "sitting"} for f in forms)


def test_photos_of_a_head_show_its_face_and_wide_views_go_all_around():
    for seed in range(10):
        form, rng = make("head", seed)
        eyes = np.mean([p.vertices.mean(0) for p in form.parts if p.role == "eye"], 0)
        toward = np.degrees(np.arctan2(eyes[1], eyes[0]))
        off = [abs((v.azimuth_deg - toward + 180) % 360 - 180) for v in data.cameras(rng, 30, 30, form.seen_from)]
        assert max(off[:30]) < 75 and max(off[30:]) > 120


def test_a_sphere_is_meshed_where_it_is_and_solids_that_are_cut_away_are_gone():
    ground = clay.GROUND
    ball, bite = ground.egg((0.3, 0, 0), 0.5), ground.egg((0.8, 0, 0), 0.3, blend=0.01)
    whole, = clay.Lump([ball]).parts()
    outward = whole.vertices - [0.3, 0, 0]
    assert np.allclose(np.linalg.norm(outward, axis=1), 0.5, atol=2e-3) and ((outward * whole.normals).sum(1) > 0.49).all()
    bitten, = clay.Lump([ball], [bite]).parts()
    assert np.linalg.norm(bitten.vertices - [0.8, 0, 0], axis=1).min() > 0.28
    assert np.allclose(clay.Lump([ball]).front(0.0, 0.3), [0.7, 0, 0.3], atol=5e-3)


@pytest.mark.parametrize("name", FIGURINES)
def test_looks_have_no_caption_and_differ_between_seeds(name):
    form, _ = make(name, 0)
    surfaces = [paint(form, np.random.default_rng(seed)) for seed in range(6)]
    for surface in surfaces:
        assert surface.caption is None and surface.reflectance in ("diffuse", "glossy") and form.attributes.items() <= surface.labels.items()
        assert all(rgb.shape == p.vertices.shape and 0 <= rgb.min() and rgb.max() <= 1 for rgb, p in zip(surface.rgb, form.parts))
    assert all(np.mean([abs(a - b).mean() for a, b in zip(surfaces[0].rgb, s.rgb)]) > 0.005 for s in surfaces[1:])


def test_every_coat_is_worn_and_species_have_their_own_colours():
    for name in animals.ANIMALS:
        form, _ = make(name, 1)
        labels = [looks.animal(form, np.random.default_rng(seed)).labels for seed in range(60)]
        assert {(label["colour"], label["pattern"]) for label in labels} == {(coat.colour, coat.pattern) for coat in looks.COATS[name]}
    form, rng = make("pig", 2)
    rgb = np.concatenate([c for c, p in zip(looks.animal(form, np.random.default_rng(0)).rgb, form.parts) if p.role == "muzzle"]).mean(0)
    assert rgb[0] > 1.1 * rgb[2]
