"""Painting: pictures are projected onto what they show and onto nothing else, and a run's pictures are made in turn, once."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from core.errors import UserError
from ingen3d.cameras import Cameras
from ingen3d.paint import OWN, PaintedField, look_up, paint
from ingen3d.render import OccupancyGrid, render
from ingen3d.settings import load_settings
from tests.test_text_to_3d import SMALL, FakeModels, make, picture  # noqa: F401 (a fixture)

GREY, RED, GREEN = (torch.tensor(colour) for colour in ((0.5, 0.5, 0.5), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)))


class Balls(nn.Module):
    """Solid balls, by centre (3,) and radius, in a colour of each point; it knows no normals, as threestudio's fields do not."""

    unit = 1.0

    def __init__(self, *balls, colour=lambda x: GREY.expand(len(x), 3)):
        super().__init__()
        self.balls, self.colour = [(torch.tensor(centre), radius) for centre, radius in balls], colour

    def pyramid_sum(self):
        return None

    def density(self, x, planes=None):
        inside = torch.stack([radius - (x - centre).norm(dim=-1) for centre, radius in self.balls]).amax(0)
        return 300 * torch.sigmoid(80 * inside)

    def forward(self, x, planes=None):
        return self.density(x), self.colour(x)


class Wall(Balls):
    """An upright square across the x axis, of some thickness."""

    def __init__(self, thickness):
        super().__init__()
        self.half = torch.tensor([thickness / 2, 0.5, 0.5])

    def density(self, x, planes=None):
        return 300 * torch.sigmoid(400 * (self.half - x.abs()).amin(-1))


BALL = (0.0, 0.0, 0.0), 0.6


def grid_of(field) -> OccupancyGrid:
    grid = OccupancyGrid()
    grid.update(field, decay=0.0)
    return grid


def flat(colour, size=64):
    return colour.view(3, 1, 1).expand(3, size, size)


def painted_from(field, *shots) -> PaintedField:
    """With pictures (3, S, S) from cameras."""
    painted = PaintedField(field, grid_of(field))
    for camera, shown in shots:
        _, depth, quality, _ = painted.survey(camera, shown.shape[-1])
        painted.add(camera, shown, depth, quality)
    return painted


def camera_at(azimuth_deg, elevation_deg=0.0):
    return Cameras.at(elevation_deg, azimuth_deg, 3.2, 40.0)


def test_a_picture_colours_what_it_shows_and_not_what_it_cannot_see():
    painted = painted_from(Balls(BALL), (camera_at(0), flat(RED)))
    x = torch.tensor([[0.6, 0, 0], [-0.6, 0, 0], [0.0, 0, 0.6], [0, 0.6, 0], [0.0, 0, 0], [0.75, 0, 0]])
    colour = painted(x)[1]
    assert torch.allclose(colour[0], RED, atol=1e-3), "the front"
    assert torch.allclose(colour[1:], GREY.expand(5, 3), atol=1e-3), "the back, the edges, the inside, and the air before it"
    assert torch.equal(painted.density(x), painted.field.density(x))


def test_each_side_has_the_colours_of_the_picture_that_sees_it_best():
    painted = painted_from(Balls(BALL), (camera_at(0), flat(RED)), (camera_at(90), flat(GREEN)))
    degrees = torch.deg2rad(torch.tensor([0.0, 30, 60, 90]))
    x = 0.6 * torch.stack([degrees.cos(), degrees.sin(), 0 * degrees], -1)
    assert torch.allclose(painted(x)[1], torch.stack([RED, RED, GREEN, GREEN]), atol=0.05)
    assert torch.allclose(painted.best(x), torch.tensor([1, 0.87, 0.87, 1]), atol=0.07) and painted.best(-x).max() < OWN


def test_what_stands_before_something_else_keeps_its_colour_to_itself():
    """A small ball in front of a large one: its shadow in the picture is not painted onto the large one, and no edge mixes the two."""
    field = Balls(((-0.3, 0.0, 0.0), 0.5), ((0.7, 0.0, 0.0), 0.15))
    camera = camera_at(0)
    near = PaintedField(field, grid_of(field)).survey(camera, 128)[1] < 2.5
    painted = painted_from(field, (camera, torch.where(near, RED.view(3, 1, 1), GREEN.view(3, 1, 1))))
    colour = painted(torch.tensor([[0.85, 0.0, 0.0], [0.2, 0.0, 0.0], [0.1, 0.0, 0.3]]))[1]
    assert torch.allclose(colour, torch.stack([RED, GREY, GREEN]), atol=0.02)


@pytest.mark.parametrize("thickness", [0.04, 0.08])
def test_paint_does_not_go_through_a_wall_however_thin(thickness):
    wall = Wall(thickness)
    painted = painted_from(wall, (camera_at(0), flat(RED)))
    sides = torch.tensor([[thickness / 2, 0, 0], [-thickness / 2, 0, 0]])
    assert torch.allclose(painted(sides)[1], torch.stack([RED, GREY]), atol=1e-2)
    depth, quality, best = painted.survey(camera_at(180), 64)[1:]
    assert (quality > best)[depth > 0].float().mean() > 0.9, "the back is still to be made"
    painted.add(camera_at(180), flat(GREEN), depth, quality)
    assert torch.allclose(painted(sides)[1], torch.stack([RED, GREEN]), atol=1e-2)


@pytest.mark.parametrize("unit", [1.0, 0.5])
def test_a_view_of_a_field_gives_it_back_from_there(unit):
    """The right way up and not mirrored: octants of eight colours."""
    field = Balls(BALL, colour=lambda x: (x > 0).float())
    field.unit = unit
    camera = Cameras.at(20.0, 30.0, 3.2 / unit, 40.0 * unit)
    seen = render(field, grid_of(field), camera, 128, 128, 96).rgb[0]
    bare = Balls(BALL)
    painted = painted_from(bare, (camera, seen.permute(2, 0, 1)))
    again = render(painted, grid_of(bare), camera, 128, 128, 96).rgb[0]
    inside = painted.views[0].quality > 0.5
    assert inside.float().mean() > 0.08 and (again - seen)[inside].abs().mean() < 0.02
    mirrored = painted_from(bare, (camera, seen.permute(2, 0, 1).flip(-1)))
    assert (render(mirrored, grid_of(bare), camera, 128, 128, 96).rgb[0] - seen)[inside].abs().mean() > 0.08


def test_a_point_behind_the_camera_is_not_in_its_picture():
    painted = painted_from(Balls(BALL), (camera_at(0), flat(RED)))
    assert look_up(painted.views[0], torch.tensor([[5.8, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))[1] == 0


class Sampler:
    """Paints what it is to make green, all else black, and keeps what it was asked."""

    resolution = 128

    def __init__(self):
        self.asked = []

    def __call__(self, prompt, image, mask_image, **settings):
        self.asked.append(SimpleNamespace(prompt=prompt, image=image[0], mask=mask_image[0, 0] > 0, **settings))
        return SimpleNamespace(images=GREEN.view(1, 3, 1, 1) * mask_image)


def paint_ball(folder, pipe, arc_deg=360.0, **settings):
    field = Balls(BALL)
    reference = SimpleNamespace(on_white=lambda: flat(RED, 32)[None] * 2 - 1)
    overrides = {"paint": {"pictures": 4} | settings, "refine": {"arc_deg": arc_deg}}
    return paint(field, grid_of(field), reference, lambda: pipe, "a ball", load_settings("kiln", overrides), 7, folder, True)


def test_pictures_are_made_from_the_front_to_the_back_and_keep_what_earlier_ones_show_better(tmp_path):
    pipe = Sampler()
    painted = paint_ball(tmp_path, pipe)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{i:03d}.png" for i in range(4)] and len(pipe.asked) == 3
    turns = [round(float(view.camera.azimuth_deg)) % 360 for view in painted.views]
    assert turns == [0, 90, 270, 180]
    left = pipe.asked[0]  # from 90 degrees, of which the front shows the half on its left
    assert torch.allclose(left.image[:, 64, 35], RED, atol=0.1) and not left.mask[64, 33:36].any() and left.mask[64, 42:88].all()
    assert left.mask[2, 2] and torch.allclose(painted.views[1].picture[:, 64, 35], RED, atol=0.1) and torch.equal(painted.views[1].picture[:, 64, 80], GREEN)
    assert torch.allclose(painted.views[1].picture[:, 2, 2], torch.ones(3)), "the background may change for the object's sake, and stays white"
    assert pipe.asked[2].mask[64, 46:82].all() and not pipe.asked[2].mask[64, [33, 35, 92, 94]].any(), "the back, between what both sides show"
    assert {(one.prompt, one.strength, one.rectify) for one in pipe.asked} == {("a ball", 0.5, True)}
    assert len({one.generator.initial_seed() for one in pipe.asked}) == 3


def test_the_background_of_a_picture_does_not_get_onto_a_surface_that_is_wider_than_its_object(tmp_path):
    class Narrow(Sampler):
        """Paints green in the middle alone, and white around it, also where it is to make something."""

        def __call__(self, prompt, image, mask_image, **settings):
            made = torch.where(torch.arange(128).sub(63.5).abs() < 8, GREEN.view(1, 3, 1, 1), torch.ones(1, 3, 1, 128))
            return SimpleNamespace(images=made.expand(1, 3, 128, 128))

    painted = paint_ball(tmp_path, Narrow())
    seen = render(painted, painted.grid, camera_at(180), 64, 64, 96).rgb[0]
    centre, beside = seen[32, 32], seen[32, 40]
    assert torch.allclose(centre, GREEN, atol=0.1) and (Image.open(tmp_path / "002.png").getpixel((80, 64)) == (255, 255, 255))
    assert beside.mean() < 0.8


def test_pictures_are_made_on_refinements_arc_alone(tmp_path):
    painted = paint_ball(tmp_path, Sampler(), arc_deg=200.0)
    assert [round(float(view.camera.azimuth_deg)) % 360 for view in painted.views] == [0, 90, 270]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["000.png", "001.png", "003.png"]


def test_weights_of_its_own_go_to_the_rule_and_none_leave_it_the_presets(tmp_path):
    (tmp_path / "own").mkdir()
    pipes = Sampler(), Sampler()
    paint_ball(tmp_path, pipes[0])
    paint_ball(tmp_path / "own", pipes[1], domain_scale=0.0, control_scale=2.0)
    assert not {"domain_scale", "control_scale"} & vars(pipes[0].asked[0]).keys()
    assert (pipes[1].asked[0].domain_scale, pipes[1].asked[0].control_scale) == (0.0, 2.0)


class Noisy(Sampler):
    """Paints some noise of its generator into the green."""

    def __call__(self, prompt, image, mask_image, generator, **settings):
        made = super().__call__(prompt, image, mask_image, **settings).images
        return SimpleNamespace(images=made + mask_image * torch.rand(made.shape, generator=generator) * torch.tensor([0.0, 0, 1]).view(3, 1, 1))


def test_pictures_that_are_there_are_kept_and_a_stopped_run_ends_like_an_unbroken_one(tmp_path):
    paint_ball(tmp_path, Noisy())
    files = sorted(tmp_path.iterdir())
    before = [file.read_bytes() for file in files]
    for file in files[1:3]:
        file.unlink()
    Image.new("RGB", (8, 8)).save(tmp_path / "001.partial", "PNG")
    pipe = Noisy()
    paint_ball(tmp_path, pipe)
    assert len(set(before)) == 4 and [file.read_bytes() for file in files] == before and len(pipe.asked) == 2 and not list(tmp_path.glob("*.partial"))
    painted = paint_ball(tmp_path, None)
    assert torch.allclose(painted(torch.tensor([[0.6, 0.0, 0.0]]))[1][0], RED, atol=0.05), "the reference is the first"


def test_a_run_is_painted_where_it_is_asked_for(picture, tmp_path):  # noqa: F811
    models = FakeModels()
    sampler = Sampler()
    models.pipe = type("Pipe", (SimpleNamespace,), {"__call__": lambda self, *args, **kwargs: sampler(*args, **kwargs)})(**vars(models.pipe))
    views = {"turntable": SMALL["turntable"] | {"views": 4}}
    run = make(picture, tmp_path, models=models, overrides=views | {"paint": {"pictures": 4}})
    stages = json.loads((run.folder / "run.json").read_text())["stages"]
    assert list(stages) == ["image", "init", "init/views", "refine", "refine/views", "paint", "paint/views", "mesh"]
    back = {stage: np.asarray(Image.open(run.folder / stage / "views" / "002.png"))[14:18, 14:18].mean((0, 1)) for stage in ("refine", "paint")}
    assert back["paint"][1] > 200 > 3 * back["paint"][0] and back["refine"][1] < 150, back
    texture = np.asarray(Image.open(run.folder / "mesh.png").convert("RGB")).reshape(-1, 3)
    assert ((texture[:, 1] > 200) & (texture[:, 0] < 60)).mean() > 0.2, "the mesh has the painted colours"
    asked = len(sampler.asked)
    make(picture, tmp_path, models=models, overrides=views | {"paint": {"pictures": 4}})
    assert len(sampler.asked) == asked, "what is finished is kept"
    run = make(picture, tmp_path, models=models, overrides=views)
    assert not any(name.startswith("paint") for name in json.loads((run.folder / "run.json").read_text())["stages"])
    texture = np.asarray(Image.open(run.folder / "mesh.png").convert("RGB")).reshape(-1, 3)
    assert not ((texture[:, 1] > 200) & (texture[:, 0] < 60)).any()


def test_other_steps_of_the_sampler_paint_anew_where_there_is_no_picture_to_start_from(tmp_path):
    models, sampler = FakeModels(), Sampler()
    models.pipe = type("Pipe", (SimpleNamespace,), {"__call__": lambda self, *args, **kwargs: sampler(*args, **kwargs)})(**vars(models.pipe))
    alone = {"init": {"steps": 0}, "refine": SMALL["refine"] | {"steps": 2, "rgb": 0.0, "mask": 0.0}, "paint": {"pictures": 1}}
    for steps in (4, 4, 8):
        make(None, tmp_path, models=models, overrides=alone | {"image": {"num_inference_steps": steps}})
    assert [one.num_inference_steps for one in sampler.asked] == [4, 8]


def test_a_weight_for_a_domain_that_is_not_there_is_an_error(picture, tmp_path):  # noqa: F811
    with pytest.raises(UserError, match=r"paint\.domain_scale is 2 but there is no domain"):
        make(picture, tmp_path, domain=None, overrides={"paint": {"domain_scale": 2.0}})
