"""Zero-1-to-3 as a noise predictor, on tiny random models in the folder layout of kxic/zero123-xl."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from core.errors import UserError
from core.kiln.data import Views, load_views, on_white
from core.kiln.renderer import View
from core.sampling import denoise
from ingen3d.cameras import Cameras
from ingen3d.novel_views import novel_view_quality, overlap
from ingen3d.zero123 import Zero123, relative_pose
from tests.test_fire import made_up_views


@pytest.fixture(scope="module")
def zero123(tiny_zero123):
    return Zero123.from_pretrained(tiny_zero123)


REFERENCE = Cameras.at(20, 30, 3.2, 40)
T = torch.tensor([500, 100])


@pytest.fixture(scope="module")
def asked(zero123):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 16, 16, generator=generator) * 2 - 1
    return (
        zero123.condition(image, REFERENCE),
        torch.randn(2, 4, 8, 8, generator=generator),
        Cameras.at([0, 45], [120, 300], [3.0, 3.4], 40),
    )


def test_relative_pose_is_polar_azimuth_distance():
    same = relative_pose(REFERENCE, REFERENCE)
    assert torch.allclose(same, torch.tensor([[0.0, 0.0, 1.0, 0.0]]))
    moved = relative_pose(Cameras.at(50, 120, 3.0, 40), REFERENCE)
    assert torch.allclose(moved, torch.tensor([[-torch.pi / 6, 1.0, 0.0, -0.2]]), atol=1e-5)


def test_training_and_use_share_the_relative_pose():
    target, reference = torch.tensor([[50.0], [120.0], [3.0]]), torch.tensor([[20.0], [30.0], [3.2]])
    assert torch.equal(relative_pose(View(*target), View(*reference)), relative_pose(Cameras.at(50, 120, 3.0, 40), REFERENCE))


@torch.no_grad()
def test_guided_prediction_is_the_formula_of_the_network(zero123, asked):
    condition, z_t, cameras = asked
    context = zero123.cc_projection(torch.cat([condition.embedding.expand(2, -1), relative_pose(cameras, REFERENCE)], -1))[:, None]
    eps_c = zero123.unet(torch.cat([z_t, condition.latents.expand(2, -1, -1, -1)], 1), T, context).sample
    eps_0 = zero123.unet(torch.cat([z_t, torch.zeros_like(z_t)], 1), T, torch.zeros_like(context)).sample
    guided = zero123.noise_predictor(condition, cameras, guidance_scale=3.0)(z_t, T)
    assert torch.allclose(guided, eps_0 + 3.0 * (eps_c - eps_0), atol=1e-5)
    assert (eps_c - eps_0).abs().max() > 1e-3, "the condition says something"


@torch.no_grad()
def test_a_network_that_predicts_v_gives_eps_and_samples_alike(zero123, asked):
    condition, z_t, cameras = asked
    v = replace(zero123, scheduler=DDIMScheduler.from_config(zero123.scheduler.config, prediction_type="v_prediction"))
    alpha_bar = v.scheduler.alphas_cumprod[T].view(-1, 1, 1, 1)
    predict = v.noise_predictor(condition, cameras)
    said = zero123.noise_predictor(condition, cameras)(z_t, T)
    assert torch.allclose(predict(z_t, T), alpha_bar.sqrt() * said + (1 - alpha_bar).sqrt() * z_t, atol=1e-5)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    by_eps = denoise(v.noise_predictor(condition, cameras), zero123.scheduler, noise, 4) / v.vae.config.scaling_factor
    sampled = v.sample(condition, cameras, num_inference_steps=4, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(v.vae.decode(by_eps).sample, sampled, atol=1e-3)


@torch.no_grad()
def test_a_view_does_not_depend_on_its_batch(zero123, asked):
    condition, z_t, cameras = asked
    together = zero123.noise_predictor(condition, cameras)(z_t, T)
    for i in range(2):
        alone = zero123.noise_predictor(condition, cameras[i])(z_t[i : i + 1], T[i : i + 1])
        assert torch.allclose(alone, together[i : i + 1], atol=1e-5)


@torch.no_grad()
def test_the_picture_is_the_unscaled_mode_and_latents_are_scaled(zero123):
    image = torch.zeros(1, 3, 16, 16)
    condition = zero123.condition(image, REFERENCE)
    assert torch.allclose(zero123.encode_images(image), 0.5 * condition.latents, atol=1e-6)


def test_encoding_passes_gradients_to_the_picture(zero123):
    image = torch.zeros(1, 3, 16, 16, requires_grad=True)
    zero123.encode_images(image).sum().backward()
    assert image.grad.abs().sum() > 0


def test_sampled_views_follow_seed_and_camera(zero123, asked):
    condition, _, cameras = asked

    def draw(seed, camera):
        return zero123.sample(condition, camera, num_inference_steps=3, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(0, cameras), draw(0, cameras)) and draw(0, cameras).shape == (2, 3, 16, 16)
    assert not torch.allclose(draw(0, cameras[0]), draw(0, cameras[1])) and not torch.allclose(draw(0, cameras), draw(1, cameras))


def test_a_folder_without_a_part_is_one_clear_line(tiny_zero123, tmp_path):
    with pytest.raises(UserError, match="feature_extractor"):
        Zero123.from_pretrained(tmp_path)
    (tmp_path / "feature_extractor").symlink_to(tiny_zero123 / "feature_extractor")
    with pytest.raises(UserError, match="unet") as error:
        Zero123.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_vae_takes_the_priors_and_one_with_keeps_its_own(zero123, tiny_zero123, tmp_path):
    for part in tiny_zero123.iterdir():
        if part.name != "vae":
            (tmp_path / part.name).symlink_to(part)
    with pytest.raises(UserError, match="no vae/"):
        Zero123.from_pretrained(tmp_path)
    borrowed, image = Zero123.from_pretrained(tmp_path, vae=zero123.vae), torch.rand(1, 3, 16, 16)
    assert borrowed.vae is zero123.vae and torch.equal(borrowed.encode_images(image), zero123.encode_images(image))
    assert Zero123.from_pretrained(tiny_zero123, vae=zero123.vae).vae is not zero123.vae


def test_novel_views_are_measured_against_the_view_of_the_camera_that_was_asked_for(tmp_path):
    made_up_views(tmp_path / "base", "base")
    views = load_views(tmp_path / "base", "test")
    shown = {r["azimuth_deg"]: image for r, image in zip(views.records, on_white(views.images))}
    find = lambda cameras: torch.stack([shown[min(shown, key=lambda known: abs(known - float(a)))] for a in cameras.azimuth_deg])

    class Ideal:
        """Sees each object as it is, or, `blind`, as its reference picture shows it."""

        def __init__(self, blind):
            self.blind = blind

        def condition(self, image, camera):
            assert torch.equal(image, find(camera))
            return image

        def sample(self, condition, cameras, **settings):
            return condition if self.blind else find(cameras)

    right, wrong = (novel_view_quality(Ideal(blind), tmp_path, count=2, batch_size=1, quiet=True) for blind in (False, True))
    assert right["count"] == 2 and right["psnr"] > 60 and right["iou"] > 0.98 and wrong["psnr"] < 30
    assert len({r["object"] for r in views.records}) == 2, "all that are held out of 21"


def test_novel_views_are_measured_on_objects_of_all_classes(tmp_path, monkeypatch):
    """Every second of objects whose classes come in turn would miss every second class."""
    objects = [{"object": 20 * i, "class": f"{i % 4}", "photo": photo} for i in range(24) for photo in (True, False)]
    seen = []
    monkeypatch.setattr("ingen3d.novel_views.load_views", lambda folder, split: Views(np.full((48, 8, 8, 4), 255, np.uint8), objects))
    monkeypatch.setattr("ingen3d.novel_views.cameras", lambda records, rows: seen.extend(records[i]["class"] for i in rows))
    model = SimpleNamespace(condition=lambda image, camera: image, sample=lambda condition, cameras, **settings: condition)
    assert novel_view_quality(model, tmp_path, count=12, quiet=True)["count"] == 12 and set(seen) == set("0123")


def test_overlap_is_intersection_over_union():
    assert overlap(np.eye(4) > 0, np.ones((4, 4)) > 0) == 0.25
