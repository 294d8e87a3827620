"""Field and renderer against a sphere whose pictures are known in closed form."""

import pytest
import torch

from ingen3d.cameras import Cameras, orbit
from ingen3d.field import TriPlaneField
from ingen3d.render import OccupancyGrid, distortion, render


class Ball:
    """A solid ball, coloured by its normal, as a field."""

    def __init__(self, radius: float, density: float = 400.0):
        self.radius, self.value = radius, density

    def pyramid_sum(self):
        return None

    def __call__(self, x, planes=None):
        distance = x.norm(dim=-1)
        return self.value * ((self.radius - distance) * 200).clamp(-20, 20).exp(), 0.5 + 0.5 * x / distance[:, None]

    def density(self, x, planes=None):
        return self(x)[0]

    normal = TriPlaneField.normal


def picture_of_ball(cameras: Cameras, size: int, radius: float):
    """Closed form: rgb on white (B, H, W, 3), and mask."""
    origin, direction = cameras.rays(size, size)
    b = (origin * direction).sum(-1)
    under = b**2 - (origin**2).sum(-1) + radius**2
    mask = under > 0
    depth = -b - under.clamp(min=0).sqrt()
    normal = (origin + depth[..., None] * direction) / radius
    return torch.where(mask[..., None], 0.5 + 0.5 * normal, 1.0), mask


@torch.no_grad()
def test_a_known_ball_renders_the_right_silhouette_colour_and_normal():
    field, grid = Ball(0.6), OccupancyGrid()
    for _ in range(2):
        grid.update(field, decay=0.0)
    cameras = Cameras.at([20, -40], [30, 200], [3.2, 3.0], 40)
    out = render(field, grid, cameras, 48, 48, samples=200, priors=True)
    rgb, _ = picture_of_ball(cameras, 48, 0.6)
    assert (out.opacity[picture_of_ball(cameras, 48, 0.59)[1]] > 0.5).all()
    assert (out.opacity[~picture_of_ball(cameras, 48, 0.63)[1]] < 0.5).all()
    _, inner = picture_of_ball(cameras, 48, 0.5)
    assert (out.rgb - rgb)[inner].abs().max() < 0.03
    assert ((out.normal - (2 * rgb - 1))[inner].norm(dim=-1)).max() < 0.2
    assert torch.allclose(out.rgb[~(out.opacity > 1e-4)], torch.ones(3), atol=1e-3)


@torch.no_grad()
def test_skipping_empty_space_does_not_change_the_picture():
    field, full, sparse = Ball(0.4), OccupancyGrid(), OccupancyGrid()
    sparse.update(field, decay=0.0)
    assert sparse.occupied.float().mean() < 0.1
    camera = Cameras.at(10, 75, 3.1, 40)
    assert torch.allclose(render(field, full, camera, 32, 32).rgb, render(field, sparse, camera, 32, 32).rgb, atol=1e-3)


def test_a_picture_is_rendered_in_parts_and_the_same(monkeypatch):
    torch.manual_seed(0)
    field, grid, camera = TriPlaneField(resolution=32, features=4, levels=2, hidden=8), OccupancyGrid(), Cameras.at([10, 20], [75, 80], 3.1, 40)
    asked = []
    monkeypatch.setattr(TriPlaneField, "forward", lambda self, x, planes, forward=TriPlaneField.forward: asked.append(len(x)) or forward(self, x, planes))
    view = lambda: render(field, grid, camera, 16, 16, 32, generator=torch.Generator().manual_seed(0), priors=True)
    with torch.no_grad():
        whole = view()
        before = max(asked)
        asked.clear()
        monkeypatch.setattr("ingen3d.render.SAMPLES_AT_ONCE", 1000)
        parts = view()
    assert max(asked) <= 1000 < before
    for name, value in vars(whole).items():
        assert torch.allclose(value, getattr(parts, name), atol=1e-5), name


def test_dropping_hidden_samples_keeps_the_gradient():
    torch.manual_seed(0)
    field, camera = TriPlaneField(resolution=32, blob_density=60), Cameras.at(10, 75, 3.1, 40)

    def grad():
        return torch.autograd.grad(((render(field, OccupancyGrid(), camera, 16, 16).rgb - 0.3) ** 2).sum(), list(field.planes))

    thinned = grad()
    import ingen3d.render as module

    real, module.render_transmittance_from_density = module.render_transmittance_from_density, lambda a, b, c: (torch.ones_like(c),)
    try:
        every = grad()
    finally:
        module.render_transmittance_from_density = real
    for a, b in zip(thinned, every, strict=True):
        assert (a - b).norm() < 0.01 * b.norm()


def test_distortion_is_the_mean_distance_between_two_points_that_a_ray_sees():
    torch.manual_seed(0)
    weights, step = torch.rand(5, 12) / 12, 0.25
    middles = torch.rand(5, 1) + (torch.arange(12) + 0.5) * step
    pairs = (weights[:, :, None] * weights[:, None] * (middles[:, :, None] - middles[:, None]).abs()).sum((1, 2))
    assert torch.allclose(distortion(weights, middles, step)[:, 0], pairs + (weights**2).sum(1) * step / 3, atol=1e-6)


@torch.no_grad()
def test_an_opaque_ball_has_next_to_no_distortion_and_a_foggy_one_has():
    camera, middle = Cameras.at(20, 30, 3.2, 40), (0, 8, 8)
    solid, fog = (render(Ball(0.6, density), OccupancyGrid(), camera, 17, 17, samples=200, priors=True) for density in (400.0, 1e-9))
    assert solid.distortion[middle] < 0.02 and 0.3 < fog.opacity[middle] < 0.9
    assert fog.distortion[middle] > 0.2 * fog.opacity[middle] ** 2


@pytest.mark.parametrize("seed", [0])
def test_the_field_learns_a_coloured_ball_from_eight_views(seed):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    field, grid = TriPlaneField(resolution=64), OccupancyGrid(resolution=32)
    optimizer = torch.optim.Adam([{"params": field.planes, "lr": 2e-2}, {"params": field.mlp.parameters(), "lr": 5e-3}], betas=(0.9, 0.99))
    views = orbit(8, 20, 3.2, 40)
    for step in range(150):
        i = step % 8
        camera = Cameras.at(20 if step % 16 < 8 else -30, views.azimuth_deg[i], 3.2, 40)
        target, mask = picture_of_ball(camera, 32, 0.6)
        if step % 16 == 15:
            grid.update(field, generator)
        out = render(field, grid, camera, 32, 32, 48)
        loss = ((out.rgb - target) ** 2).mean() + ((out.opacity - mask.float()) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unseen = Cameras.at(5, 22.5, 3.0, 40)
    with torch.no_grad():
        out = render(field, grid, unseen, 64, 64, 128)
    rgb, mask = picture_of_ball(unseen, 64, 0.6)
    psnr = -10 * torch.log10(((out.rgb - rgb) ** 2).mean())
    assert psnr > 24, f"{psnr:.1f} dB"
    assert ((out.opacity > 0.5) != mask).float().mean() < 0.02


def test_save_and_load_give_the_same_field(tmp_path):
    field = TriPlaneField(resolution=32, features=4, levels=2, hidden=8, blob_radius=0.4, blob_density=1e-5)
    field.save(tmp_path / "field.safetensors")
    loaded = TriPlaneField.load(tmp_path / "field.safetensors")
    x = torch.rand(100, 3) * 2 - 1
    assert all(torch.equal(a, b) for a, b in zip(field(x), loaded(x), strict=True)) and loaded.config == field.config
