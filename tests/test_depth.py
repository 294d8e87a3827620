"""Depth: the estimator on tiny random models in the Hub's layouts, its loss, and what it makes of a bowl; the kiln's own training of one."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, GLPNConfig, GLPNForDepthEstimation

from core.errors import UserError
from core.kiln import depth as kiln_depth
from core.kiln import renderer, shapes
from core.kiln.data import cameras, describe, make_object
from ingen3d.cameras import Cameras, orbit
from ingen3d.depth import DepthEstimator, depth_loss
from ingen3d.field import TriPlaneField
from ingen3d.reference import STEPS, Reference, with_depth
from ingen3d.render import OccupancyGrid, render
from ingen3d.settings import load_settings
from ingen3d.stages import distil
from tests.test_field_render import picture_of_ball

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


def glpn():
    ones = [1] * 4
    return GLPNForDepthEstimation(
        GLPNConfig(hidden_sizes=[8] * 4, depths=ones, num_attention_heads=ones, mlp_ratios=ones, decoder_hidden_size=8, max_depth=1)
    )


def depth_anything():
    out = dict(out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False)
    backbone = Dinov2Config(hidden_size=8, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=1, image_size=32, patch_size=4, **out)
    head = dict(reassemble_hidden_size=8, neck_hidden_sizes=[8] * 4, fusion_hidden_size=8, head_hidden_size=8)
    return DepthAnythingForDepthEstimation(DepthAnythingConfig(backbone_config=backbone, patch_size=4, **head))


@pytest.fixture(params=[glpn, depth_anything])
def folder(request, tmp_path):
    torch.manual_seed(0)
    request.param().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 32, "width": 32}, "image_mean": MEAN, "image_std": STD}))
    return tmp_path


def test_an_estimator_sees_pictures_as_its_folder_says(folder):
    estimator, x = DepthEstimator.from_pretrained(folder), torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        expected = estimator.model((x - mean) / std).predicted_depth
    assert torch.allclose(estimator.nearness(x * 2 - 1), expected, atol=1e-5) and expected.std() > 0
    assert estimator.nearness(torch.rand(1, 3, 64, 64)).shape == (1, 64, 64), "of pictures of any size, at that size"


def test_the_kilns_tells_inverse_depth_of_a_known_scale(tmp_path):
    kiln_depth.new_estimator().save_pretrained(tmp_path)
    kiln_depth.new_processor().save_pretrained(tmp_path)
    estimator, distance = DepthEstimator.from_pretrained(tmp_path), torch.tensor([2.5, 3.0, 4.0])
    assert depth_loss(distance, kiln_depth.inverse(distance), estimator.scale) < 1e-6 and estimator.size == (64, 64)


def test_what_is_no_estimator_is_said_to_be_none(tiny_sd, tmp_path):
    unfit = tmp_path / "unfit"
    glpn().save_pretrained(unfit)
    (unfit / "preprocessor_config.json").write_text(json.dumps({"size_divisor": 32}))  # GLPN's own
    for name in (tiny_sd, tmp_path, unfit):
        with pytest.raises(UserError, match="a depth estimator"):
            DepthEstimator.from_pretrained(name)


def test_the_loss_asks_for_inverse_depth_up_to_a_scale_and_a_shift():
    depth = torch.linspace(2.4, 3.8, 50, requires_grad=True)
    assert depth_loss(depth, 7 / depth.detach() - 3) < 1e-6
    bent = depth_loss(depth, 1 / depth.detach() + 0.1 * torch.linspace(-1, 1, 50) ** 2)
    assert bent > 0.01
    assert depth_loss(depth, -1 / depth.detach()) > 0.01, "what is nearer is not to be farther away"
    assert depth_loss(depth, 1 / (2 * depth.detach()) - 3, scale=2.0) < 1e-6 and depth_loss(depth, 1 / depth.detach(), scale=2.0) > 0.01
    for few in (depth[:0], depth[:2]):
        assert depth_loss(few, few.detach()) == 0
    bent.backward()
    assert depth.grad.isfinite().all() and depth.grad.abs().sum() > 0


def bowl(camera: Cameras, side: int) -> Reference:
    """Half a hollow sphere of radius 0.7 and its nearness, seen by a camera from above."""
    origins, directions = (rays[0].reshape(-1, 3) for rays in camera.rays(side, side))
    b = (origins * directions).sum(-1)
    root = (b**2 - (origins**2).sum(-1) + 0.49).clamp(min=0).sqrt()
    hits = torch.stack([-b - root, -b + root])  # the outside before the inside
    below = (origins[None] + hits[..., None] * directions)[..., 2] < 0
    distance = torch.where((root > 0) & below[0], hits[0], torch.where((root > 0) & below[1], hits[1], torch.inf)).view(side, side)
    mask = distance.isfinite().float()
    nearness = torch.where(mask > 0, 5 / distance, 5 / 3.2)  # beside it as about it, for it is looked up between pixels
    return Reference(torch.full((side, side, 3), 0.5), mask, camera, nearness, 0.2)


@pytest.mark.parametrize("weight", [0.0, 200.0])
def test_a_bowl_is_hollow_by_its_depth_alone(weight, tmp_path):
    settings, ring = load_settings("kiln"), orbit(4, 50.0, 3.2, 40.0)
    s = settings.init
    s.steps, s.render_size, s.samples, s.depth, s.sds, s.distortion = 120, 32, 32, weight, 0.0, 0.0
    torch.manual_seed(0)
    field, grid = TriPlaneField(resolution=32, features=8), OccupancyGrid(32)
    pictures = [bowl(Cameras.at(20.0, 0.0, 3.2, 40.0), 32), *(bowl(ring[i], 32) for i in range(4))]
    generator = torch.Generator().manual_seed(0)
    distil(field, grid, pictures, lambda images, *_: 0 * images.sum(), s, settings.camera, 16, generator, tmp_path / "c.pt", "test", True)
    with torch.no_grad():
        seen = render(field, grid, Cameras.at(89.0, 0.0, 3.2, 40.0), 33, 33, 64)
    middle, *wall = seen.depth[0, 16, [16, 16 - 7, 16 + 7]].tolist()
    assert min(wall) > 0, "there is a wall"
    assert (middle - 3.2 > 0.2) == (weight > 0), f"the rim is 3.2 away, the true bowl's middle 3.9, and this one's {middle:.2f}"


@pytest.mark.parametrize("wider, grows", [(5, True), (1, False), (-20, False)])
def test_pictures_from_above_ask_for_matter_well_inside_their_silhouettes_and_for_no_less_beside_them(wider, grows, tmp_path):
    """wider: than the field's own silhouette, in pixels, of which a picture's outermost one counts for nothing."""
    settings, ring, grid = load_settings("kiln"), orbit(2, 50.0, 3.2, 40.0), OccupancyGrid(16)
    s = settings.init
    s.steps, s.render_size, s.samples, s.depth = 40, 32, 32, 1.0
    s.rgb = s.sds = s.sparsity = s.opaque = s.distortion = 0.0
    torch.manual_seed(0)
    field = TriPlaneField(resolution=16, features=4, levels=1, blob_radius=0.3)

    @torch.no_grad()
    def opacity(i: int) -> torch.Tensor:
        return render(field, grid, ring[i], 32, 32, 64).opacity[0]

    y, x = torch.meshgrid(*(torch.arange(32.0) - 15.5,) * 2, indexing="ij")
    distance = (x**2 + y**2).sqrt()
    own = distance[opacity(1) > 0.5].max()
    none, ring_about = torch.zeros(32, 32), (distance > own + 0.5) & (distance < own + 2.5)
    # the reference is content with what there is
    pictures = [Reference(torch.ones(32, 32, 3), mask, ring[i], none) for i, mask in enumerate((opacity(0), (distance < own + wider).float()))]
    before, inside, generator = opacity(1)[ring_about].mean(), opacity(1)[distance < own].mean(), torch.Generator().manual_seed(0)
    distil(field, grid, pictures, lambda images, *_: 0 * images.sum(), s, settings.camera, 16, generator, tmp_path / "c.pt", "test", True)
    assert (opacity(1)[ring_about].mean() > before + 0.05) == grows
    assert opacity(1)[distance < own].mean() > inside - 0.1


def test_the_reference_is_followed_by_what_zero123_sees_from_above(tmp_path):
    def sample(condition, cameras, guidance_scale, steps, generator):
        seen.append((cameras, guidance_scale, steps, generator.initial_seed()))
        images = torch.ones(len(cameras), 3, 32, 32)
        images[1:, :, 8:24, 8:24] = -0.5
        return images

    seen, settings = [], load_settings("kiln", {"init": {"pictures": 3, "pictures_elevation_deg": 60.0}})
    zero123, estimator = SimpleNamespace(sample=sample), SimpleNamespace(nearness=lambda images: images.mean(1), scale=0.5)
    reference = Reference(torch.zeros(32, 32, 3), torch.ones(32, 32), Cameras.at(20, 0, 3.2, 40))
    first, *others = with_depth(reference, zero123, None, estimator, settings, 5, tmp_path)
    assert torch.equal(first.nearness, reference.on_white()[0].mean(0)) and first.camera is reference.camera
    assert [other.camera.azimuth_deg.item() for other in others] == [120, 240], "in the first picture there is nothing"
    assert all(other.camera.elevation_deg == 60 and other.mask[16, 16] == 1 and other.mask[0, 0] == 0 for other in others)
    assert others[0].nearness[16, 16] == -0.5 and {picture.scale for picture in (first, *others)} == {0.5}
    assert seen[0][1:] == (settings.init.guidance_scale, STEPS, 5)
    again = with_depth(reference, zero123, None, estimator, settings, 5, tmp_path)[1]
    assert len(seen) == 1 and torch.equal(again.nearness, others[0].nearness), "a run that goes on samples none anew"
    assert Image.open(tmp_path / "above.png").size == (64, 64)
    settings.init.pictures = 0
    assert len(with_depth(reference, zero123, None, estimator, settings, 5, tmp_path)) == 1


def test_distances_are_along_rays_to_the_objects_surface():
    pytest.importorskip("mitsuba")
    ball = trimesh.creation.icosphere(5, radius=0.6)
    part = shapes.Part(ball.vertices, ball.vertex_normals, np.zeros((len(ball.vertices), 2)), ball.faces, (1.0, 1.0))
    views = [renderer.View(20.0, 30.0, 3.2), renderer.View(-40.0, 200.0, 3.0)]
    found = torch.from_numpy(renderer.distances([part], views, 48))
    looking = Cameras.at(*zip(*((v.elevation_deg, v.azimuth_deg, v.distance) for v in views)), renderer.FOV_DEG)
    seen, inner = picture_of_ball(looking, 48, 0.63)[1], picture_of_ball(looking, 48, 0.5)[1]
    assert (found[~seen] == 0).all() and (found[inner] > 0).all()
    origins, directions = looking.rays(48, 48)
    reached = (origins + found[..., None] * directions)[inner].norm(dim=-1)
    assert (reached - 0.6).abs().max() < 0.03, "a ray passes anywhere through its pixel"


def test_views_of_several_objects_each_have_their_own_distances():
    pytest.importorskip("mitsuba")
    records = []
    for index in (1, 2):
        form, surface, rng = make_object("base", index)
        records += [describe(index, form, surface, view, True) for view in cameras(rng, 2, 0)]
    found = kiln_depth.distances("base", records, quiet=True)
    assert found.shape == (4, kiln_depth.SIDE, kiln_depth.SIDE) and found.dtype == torch.float16
    assert torch.equal(found[2:], kiln_depth.distances("base", records[2:], quiet=True)) and not torch.equal(found[0], found[1])


def test_training_asks_for_depth_and_for_its_edges_on_the_object_alone():
    true = torch.rand(2, 8, 8)
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[:, 2:6, 2:6] = True
    elsewhere = torch.where(mask, true, torch.rand(2, 8, 8))
    assert kiln_depth.difference(elsewhere, true, mask)["loss"] == 0
    shifted, rough = (kiln_depth.difference(true + error, true, mask) for error in (torch.tensor(0.1), 0.1 * torch.tensor([1.0, -1.0]).repeat(4)))
    assert shifted["mean"] < 1e-6 and shifted["loss"] == pytest.approx(0.01, abs=1e-5), "how far away the whole is, hardly a picture tells"
    assert rough["mean"] == pytest.approx(0.1, abs=1e-5) and rough["loss"] > 0.25
    ends = kiln_depth.inverse(torch.tensor([kiln_depth.NEAR, kiln_depth.FAR, 9.0]))
    assert torch.allclose(ends, torch.tensor([1.0, 0.0, 0.0]), atol=1e-6)


def test_colours_change_and_white_stays_white():
    torch.manual_seed(0)
    x = torch.ones(16, 3, 24, 24)
    x[:, 0, 8:16, 8:16], x[:, 1, 8:16, 8:16] = -0.5, 0.2
    y = kiln_depth.altered(x, x[:, 0] < 1)
    assert torch.allclose(y[..., :4, :4], torch.ones(16, 3, 4, 4), atol=1e-3) and y.abs().max() <= 1 + 1e-3
    assert (y - x)[..., 8:16, 8:16].flatten(1).std(0).min() > 0.05
    blotched, softened = y[..., 10:14, 10:14].flatten(2).std(2).amax(1) > 1e-3, (y[..., 7, 12] < 0.99).any(1)
    assert 0 < blotched.sum() < 16 and 0 < softened.sum() < 16, "some, not all"
