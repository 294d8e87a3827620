"""The mesh room, against a bent object whose surface and colours are known."""

import numpy as np
import pytest
import torch
import trimesh
from torch import nn

from ingen3d.mesh import export, extract, facts, textured

CENTRE, RADII = torch.tensor([0.1, 0.0, 0.2]), torch.tensor([0.3, 0.4, 0.6])


class Egg(nn.Module):
    """An ellipsoid with a hollow core and a crumb beside it; colour is position, (x + 1) / 2."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def pyramid_sum(self):
        return None

    def density(self, x, planes=None):
        q = ((x - CENTRE) / RADII).norm(dim=-1)
        egg = torch.minimum(1 - q, q - 0.4) * 30
        crumb = (0.05 - (x - torch.tensor([-0.7, 0, 0])).norm(dim=-1)) * 80
        return 20 * torch.maximum(egg, crumb).clamp(-5, 3).exp()  # 20 at the surface

    def __call__(self, x, planes=None):
        return self.density(x), (x + 1) / 2


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mesh")
    field = Egg()
    path = export(textured(field, extract(field, resolution=64, threshold=20.0, faces=4000), 512), folder)
    return trimesh.load(path, force="mesh", process=False), folder


def test_one_closed_component_without_hollows_or_crumbs():
    mesh = extract(Egg(), resolution=64, threshold=20.0, faces=4000)
    assert mesh.is_watertight and mesh.body_count == 1 and 2000 < len(mesh.faces) <= 4000
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * RADII.prod().item(), rel=0.05)  # positive: outward winding


def test_a_speck_that_smoothing_takes_away_is_one_clear_line():
    class Speck(Egg):
        def density(self, x, planes=None):
            return 20.0 * ((x - 1 / 31).norm(dim=-1) < 0.03)  # one of the 32^3 points

    with pytest.raises(ValueError, match="all but empty"):
        extract(Speck(), resolution=32)


def test_a_mesh_of_few_faces_keeps_every_neck_and_tunnel():
    class Coral(Egg):
        noise = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))

        def density(self, x, planes=None):
            return 20 * nn.functional.grid_sample(self.noise, x[None, None, None], align_corners=True)[0, 0, 0, 0].mul(4).exp()

    fine, coarse = (extract(Coral(), resolution=48, threshold=20.0, faces=faces) for faces in (10**6, 1500))
    assert len(coarse.faces) <= 1500 < len(fine.faces) and coarse.is_watertight and coarse.body_count == 1
    assert coarse.euler_number == fine.euler_number < -10  # 2 less twice the number of tunnels


def test_surface_is_where_the_field_has_it():
    mesh = extract(Egg(), resolution=64, threshold=20.0)
    q = np.linalg.norm((mesh.vertices - CENTRE.numpy()) / RADII.numpy(), axis=1)
    assert np.abs(q - 1).max() < 0.06


def test_the_facts_are_those_of_the_file_and_seams_are_no_gaps(loaded):
    mesh, folder = loaded
    found = facts(folder / "mesh.glb")
    assert not mesh.is_watertight and found["watertight"] and found["components"] == 1 and found["texture_size"] == 512
    assert found["faces"] == len(mesh.faces) and found["volume"] == pytest.approx(4 / 3 * np.pi * RADII.prod().item(), rel=0.05)


def test_glb_is_y_up_with_outward_normals_and_a_texture(loaded):
    mesh, _ = loaded
    assert np.ptp(mesh.vertices, axis=0).argmax() == 1, "the egg's long axis, z in our world, is y in glTF"
    assert mesh.vertices[:, 1].mean() == pytest.approx(0.2, abs=0.05)
    outward = mesh.vertices - [0.1, 0.2, 0.0]
    assert ((mesh.vertex_normals * outward).sum(1) > 0).all()
    assert mesh.visual.material.baseColorTexture.size == (512, 512)


def test_texture_has_the_fields_colour_at_every_vertex(loaded):
    mesh, _ = loaded
    x, y, z = mesh.vertices.T
    expected = (np.stack([x, -z, y], 1) + 1) / 2  # back to z up
    seen = mesh.visual.to_color().vertex_colors[:, :3] / 255
    assert np.abs(seen - expected).max() < 0.05
    assert np.abs(seen - expected).mean() < 0.01


def test_obj_and_ply_hold_the_same_surface_z_up(loaded):
    _, folder = loaded
    obj, ply = (trimesh.load(folder / f"mesh.{kind}", force="mesh", process=False) for kind in ("obj", "ply"))
    for mesh in (obj, ply):
        assert np.ptp(mesh.vertices, axis=0).argmax() == 2
    expected = (ply.vertices + 1) / 2
    assert np.abs(ply.visual.vertex_colors[:, :3] / 255 - expected).max() < 0.05
    assert obj.visual.material.image.size == (512, 512)


def test_an_empty_field_says_so():
    with pytest.raises(ValueError, match="empty"):
        extract(Egg(), resolution=16, threshold=1e6)
