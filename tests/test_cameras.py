"""Cameras: threestudio's conventions, stated as where things land in the picture."""

import torch

from ingen3d.cameras import Cameras, orbit, random_cameras


def project(cameras: Cameras, point) -> torch.Tensor:
    """Normalised image coordinates (x right, y up, edges at +-1 vertically) of a world point, (B, 2)."""
    local = torch.linalg.inv(cameras.c2w()) @ torch.tensor([*point, 1.0])
    assert (local[:, 2] < 0).all(), "behind the camera"
    return local[:, :2] / -local[:, 2:3] / torch.tan(torch.deg2rad(cameras.fovy_deg) / 2)[:, None]


def test_azimuth_zero_looks_from_plus_x_with_z_up_and_y_to_the_right():
    camera = Cameras.at(0, 0, 3.0, 40)
    assert torch.allclose(camera.position(), torch.tensor([[3.0, 0, 0]]))
    assert project(camera, (0, 0, 0.5))[0, 1] > 0.1
    assert project(camera, (0, 0.5, 0))[0, 0] > 0.1


def test_c2w_is_a_rotation_at_every_elevation_poles_included():
    rotation = Cameras.at([-90, -30, 0, 60, 90], 33, 3.0, 40).c2w()[:, :3, :3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), atol=1e-5)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(5), atol=1e-5)


def test_ray_of_a_pixel_meets_the_point_that_projects_there():
    camera = Cameras.at(25, 130, 3.2, 40)
    origin, direction = camera.rays(8, 8)
    row, column = 1, 6
    point = (origin + 3.0 * direction)[0, row, column]
    assert torch.allclose(
        project(camera, point.tolist())[0], torch.tensor([2 * (column + 0.5) / 8 - 1, 1 - 2 * (row + 0.5) / 8]), atol=1e-4
    )


def test_a_unit_at_the_focal_distance_fills_the_field_of_view():
    camera = Cameras.at(0, 0, 3.0, 40)
    edge = 3.0 * torch.tan(torch.deg2rad(torch.tensor(20.0)))
    assert torch.allclose(project(camera, (0, 0, edge.item()))[0, 1], torch.tensor(1.0), atol=1e-5)


def test_random_cameras_stay_in_range_cover_all_sectors_and_follow_the_seed():
    def draw(seed):
        return random_cameras(4, (-10, 45), (3.0, 3.4), 40, torch.Generator().manual_seed(seed))

    first, same, other = draw(0), draw(0), draw(1)
    assert torch.equal(first.azimuth_deg, same.azimuth_deg) and not torch.equal(first.azimuth_deg, other.azimuth_deg)
    assert ((first.elevation_deg >= -10) & (first.elevation_deg <= 45) & (first.distance >= 3.0) & (first.distance <= 3.4)).all()
    gaps = first.azimuth_deg.sort().values.diff()
    assert (gaps < 180).all() and len(orbit(8, 20, 3, 40)) == 8


def test_random_cameras_of_an_arc_cover_it_and_no_more():
    """About an azimuth near which degrees begin anew."""
    cameras = random_cameras(200, (0, 0), (3.0, 3.0), 40, torch.Generator().manual_seed(0), centre_deg=350.0, arc_deg=120.0)
    off = (cameras.azimuth_deg - 350 + 180) % 360 - 180
    assert off.abs().max() <= 60 and off.min() < -57 and off.max() > 57 and off.mean().abs() < 1
    assert ((cameras.azimuth_deg >= 0) & (cameras.azimuth_deg < 360)).all()
