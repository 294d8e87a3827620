"""Editing keeps what it is told to keep; the command lines of sampling and editing take every condition."""

import errno
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from core import NullTextUNet, command_line, edit, sample
from core.conditions import canny
from core.domains import Domain, save_domain
from core.edit import edit as edit_image
from core.errors import UserError
from core.images import to_tensor
from core.presets import PRESETS
from core.results import alone_in
from core.sample import load
from core.terms import Control

from .conftest import tiny_controlnet, tiny_unet


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))


@pytest.fixture
def pipe(tiny_sd):
    pipe = load(tiny_sd, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def edited(tiny_sd, picture):
    return lambda **changes: edit_image(**dict(image=picture, prompt="a vase", preset=tiny_sd, device="cpu", quiet=True, num_inference_steps=4) | changes)


def half_mask(size=(16, 16)):
    """White, to be edited, on the right."""
    mask = Image.new("L", size)
    mask.paste(255, (size[0] // 2, 0, *size))
    return mask


def latents_of(pipe, picture):
    return pipe.encode_images(to_tensor(picture)[None], torch.Generator().manual_seed(0))


def test_strength_0_keeps_the_picture_and_more_strength_keeps_less(pipe, picture):
    call = dict(image=picture, num_inference_steps=8, output_type="latent")
    go = lambda strength: pipe("a vase", strength=strength, generator=torch.Generator().manual_seed(0), **call).images
    distances = [(go(strength) - latents_of(pipe, picture)).norm() for strength in (0.0, 0.25, 1.0)]
    assert distances[0] < 1e-5 and 0.1 < distances[1] < distances[2]


def test_what_the_mask_keeps_is_the_pictures_own_at_the_end_and_under_noise_before(pipe, picture):
    seen = []

    def note(pipe, step, t, tensors):
        seen.append(tensors["latents"])
        return tensors

    latents = pipe("a vase", image=picture, mask_image=half_mask(), strength=1.0, num_inference_steps=4, output_type="latent",
                   generator=torch.Generator().manual_seed(0), callback_on_step_end=note).images
    clean = latents_of(pipe, picture)
    assert (latents - clean)[..., :4].abs().max() <= 1e-5 and (latents - clean)[..., 4:].norm() > 1
    distances = [(at[..., :4] - clean[..., :4]).norm() for at in seen]
    assert distances == sorted(distances, reverse=True) and distances[0] > 1


def test_edits_have_the_pictures_proportions_at_the_priors_resolution_and_a_seed_each(edited, picture, tmp_path):
    picture.resize((60, 33)).save(tmp_path / "wide.png")
    images = edited(image=tmp_path / "wide.png", mask=half_mask((60, 33)), num_images=2, seed=3)
    assert [image.size for image in images] == [(30, 16)] * 2
    assert np.abs(np.float32(edited(image=tmp_path / "wide.png", mask=half_mask((60, 33)), seed=4)[0]) - np.float32(images[1])).max() <= 1


def test_what_is_transparent_in_a_mask_is_not_painted_and_is_kept(edited, picture):
    layer = Image.new("RGBA", (16, 16))
    layer.paste("white", (8, 0, 16, 16))
    assert edited(mask=layer)[0].tobytes() == edited(mask=half_mask())[0].tobytes()


def test_a_picture_is_the_same_from_its_file_and_from_memory(edited, tmp_path):
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "a.png", transparency=1)
    Image.fromarray(np.full((16, 16), 30000, np.uint16)).save(tmp_path / "b.png")
    turned = Image.new("RGB", (16, 16))
    turned.paste("red", (0, 0, 8, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "c.jpg", exif=exif)
    for name in ("a.png", "b.png", "c.jpg"):
        by_file, in_memory = (edited(image=given, strength=0)[0] for given in (tmp_path / name, Image.open(tmp_path / name)))
        assert by_file.tobytes() == in_memory.tobytes()


def test_what_a_mask_keeps_and_all_of_strength_0_are_the_pictures_own_pixels(edited, picture):
    kept = []
    pixels, masked = np.int32(picture), np.int32(edited(mask=half_mask(), strength=1.0, keep=lambda seed, image: kept.append(image))[0])
    assert np.array_equal(masked[:, :8], pixels[:, :8]) and np.abs(masked - pixels)[:, 8:].mean() > 10
    assert np.array_equal(np.int32(kept[0]), masked)
    assert np.array_equal(np.int32(edited(strength=0.0)[0]), pixels) and not np.array_equal(np.int32(edited(strength=0.5)[0]), pixels)


@pytest.mark.parametrize("given, size", [(dict(width=20), (20, 12)), (dict(height=24), (44, 24)), (dict(width=12, height=20), (12, 20))])
def test_a_size_that_is_asked_for_is_the_edits(edited, picture, given, size):
    controlled = dict(controlnet=tiny_controlnet(tiny_unet()), image=picture.resize((50, 50)))
    assert edited(image=picture.resize((60, 33)), mask=half_mask((60, 33)), controls=[controlled], **given)[0].size == size


@pytest.mark.parametrize("given, size", [({}, (16, 16)), (dict(width=20), (20, 16)), (dict(width=12, height=24), (12, 24))])
def test_images_with_controls_have_the_size_that_is_asked_for(tiny_sd, picture, given, size):
    controlled = dict(controlnet=tiny_controlnet(tiny_unet()), image=picture.resize((50, 40)))
    images = sample.sample("a vase", preset=tiny_sd, device="cpu", quiet=True, num_inference_steps=1, controls=[controlled], **given)
    assert images[0].size == size
    with pytest.raises(UserError, match="height is 15: give a positive multiple of 2"):
        sample.sample("a vase", preset=tiny_sd, device="cpu", height=15)


def test_canny_is_white_where_the_picture_changes():
    edges = np.asarray(canny(half_mask((32, 32))))
    assert edges.shape == (32, 32, 3) and set(np.unique(edges)) == {0, 255}
    assert (edges[4:-4, 14:18].max(1) == 255).all() and not edges[:, :12].any() and not edges[:, 20:].any()


def test_the_command_line_takes_every_condition(tiny_sd, pipe, picture, tmp_path, monkeypatch):
    tiny_controlnet(pipe.unet).save_pretrained(tmp_path / "net")
    feature = torch.ones(1, 1, 24)
    save_domain(Domain(tmp_path / "clay", "clay", "{prompt} of clay", "kiln", 16), NullTextUNet.from_prior(pipe.unet, feature), feature)
    monkeypatch.setitem(PRESETS, "kiln", replace(PRESETS["kiln"], controlnet=f"{tmp_path}/net"))
    picture.resize((40, 40)).save(tmp_path / "picture.png")
    half_mask((40, 40)).save(tmp_path / "mask.png")
    made, whole = [], type(pipe).__call__
    monkeypatch.setattr(type(pipe), "__call__", lambda self, *args, **given: made.append(given) or whole(self, *args, **given))
    common = (
        f"--preset {tiny_sd} --domain {tmp_path}/clay --prompt jar --negative-prompt red --steps 2 --device cpu --num-images 1 "
        f"--canny kiln {tmp_path}/picture.png --control {tmp_path}/net {tmp_path}/picture.png --control-guidance-start 0.25 --control-guidance-end 0.5 "
        f"--controlnet-conditioning-scale 0.75 --custom {tiny_sd} blue --custom-scale 2 --no-rectify --no-compose --guidance-scale 6 --guidance-every 2 "
        f"--guidance-rescale 0.5 --guidance-interval 0 0.8 --domain-scale 1 2 --control-scale 7 3 --height 20 --width 24 --out {tmp_path}/out"
    )
    for module, more in ((sample, ""), (edit, f"--image {tmp_path}/picture.png --mask {tmp_path}/mask.png --strength 0.9")):
        monkeypatch.setattr(sys, "argv", ["", *common.split(), *more.split()])
        module.main()
        given = made.pop()
        assert Image.open(tmp_path / "out" / "00000.png").size == (24, 20)
        given_picture, edges = (control.image for control in given["controls"])
        assert all(isinstance(control, Control) for control in given["controls"])
        assert {(control.conditioning_scale, control.start, control.end) for control in given["controls"]} == {(0.75, 0.25, 0.5)}
        assert edges.unique().tolist() == [0, 1] and given_picture.unique().numel() > 2 and given["terms"][0].weight == 2.0
        numbers = {name: given[name] for name in ("num_inference_steps", "guidance_scale", "guidance_every", "guidance_rescale", "guidance_interval",
                                                  "domain_scale", "control_scale")}
        assert numbers == dict(num_inference_steps=2, guidance_scale=6.0, guidance_every=2, guidance_rescale=0.5, guidance_interval=[0.0, 0.8],
                               domain_scale=[1.0, 2.0], control_scale=[7.0, 3.0])
        assert given["negative_prompt"] == "red" and not given["rectify"] and not given["compose_prompt"]
    assert given["image"].size == given["mask_image"].size == (24, 20) and given["strength"] == 0.9
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["00000.png", "settings.json", "sheet.png"]


@pytest.mark.parametrize("wrong, said", [
    (dict(mask="no-such-mask.png"), "no such image: no-such-mask.png"), (dict(image="no.png"), "no such image"), (dict(strength=-0.1), "strength is -0.1"),
    (dict(mask=half_mask((8, 16))), "the mask is 8 x 16 px and the image 16 x 16"), (dict(num_images=0), "number of images is 0"),
    (dict(height=15), "height is 15: give a positive multiple of 2"),
    (dict(controls=[dict(controlnet="no/such/net", image=half_mask())]), "no usable model folder, wanted a ControlNet"),
])
def test_what_a_user_did_wrong_is_said(edited, wrong, said):
    with pytest.raises(UserError, match=said):
        edited(**wrong)


def test_each_of_several_runs_has_a_folder_named_by_what_was_asked_and_its_settings(tiny_sd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = iter("ABABA")
    monkeypatch.setattr(sample, "sample", lambda keep, **_: [keep(0, image := Image.new("L", (1, 1), ord(next(images)))), image][1:])
    (tmp_path / "outputs/samples/open/bowl-0").mkdir(parents=True)  # of a run that failed: no image is lost
    (tmp_path / "outputs/samples/open/bowl-0/settings.json").write_text("{}")
    for changes in ("--prompt bowl", "--prompt bowl --steps 9", "--prompt bowl", "--seed 3", "--prompt bowl --domain face"):
        monkeypatch.setattr(sys, "argv", f"sample --preset {tiny_sd} --num-images 1 {changes}".split())
        sample.main()
    folders = {str(file.parent.relative_to("outputs/samples")): json.loads(file.read_text()) for file in Path().rglob("settings.json")}
    first, other = sorted(name for name in folders if name.startswith("open/bowl-0"))
    assert sorted(folders) == ["face/bowl-0", "open/anything-3", first, other] and first == "open/bowl-0"
    assert [folders[name]["num_inference_steps"] for name in (first, other)] == [None, 9] and folders["open/anything-3"]["seed"] == 3
    assert [Image.open(f"outputs/samples/{name}/00000.png").getpixel((0, 0)) for name in (first, other)] == [ord("A"), ord("B")]


def test_a_folder_takes_the_images_of_one_command_at_a_time(monkeypatch, tmp_path):
    monkeypatch.setattr(sample, "sample", lambda **_: pytest.fail("images are made"))
    monkeypatch.setattr(sys, "argv", f"sample --prompt bowl --out {tmp_path}".split())
    with alone_in(tmp_path), pytest.raises(UserError, match=f"another process is at work in '{tmp_path}': wait for it, or give another --out"):
        sample.main()


def test_a_file_system_without_locks_does_without(monkeypatch, tmp_path):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("core.results.fcntl", SimpleNamespace(flock=flock, LOCK_EX=2, LOCK_NB=4))
    with alone_in(tmp_path):
        (tmp_path / "00000.png").touch()


@pytest.mark.parametrize("is_there", [False, True])
def test_a_command_that_makes_no_image_leaves_folders_as_they_were(is_there, tiny_sd, monkeypatch, tmp_path):
    if is_there:
        (tmp_path / "out").mkdir()
    monkeypatch.setattr(sys, "argv", f"sample --preset {tiny_sd} --prompt bowl --height 15 --out {tmp_path / 'out'}".split())
    with pytest.raises(UserError, match="height is 15"):
        sample.main()
    assert (tmp_path / "out").exists() == is_there


def test_porcelain_is_the_command_lines_domain_over_its_own_prior_alone():
    given = [(None, "kiln"), ("clay", "kiln"), ("None", "kiln"), (None, "sd15"), ("porcelain", "sd15")]
    assert [command_line.choose_domain(*each) for each in given] == ["porcelain", "clay", None, None, "porcelain"]


def test_a_scale_of_no_checkpoint_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", f"sample --custom-scale 2 --out {tmp_path}".split())
    with pytest.raises(UserError, match="custom-scale is 2.0 but there is no --custom"):
        sample.main()


def test_a_condition_file_that_is_missing_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", f"sample --canny net {tmp_path}/no.png --out {tmp_path}".split())
    with pytest.raises(UserError, match="no such image"):
        command_line.run(None, command_line.new_parser("core.sample", "", 1, "out"))
