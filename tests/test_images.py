"""Every picture that users have is read upright and in its colours, or named and skipped."""

import logging
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import UserError
from core.images import ImageFolder, contact_sheet, load_image, to_pil, to_tensor

SIZE = 64


def read(folder) -> torch.Tensor:
    return torch.stack(list(ImageFolder(folder, SIZE)))


def test_all_kinds_of_files_come_out_as_their_colours(tmp_path):
    red = Image.new("RGB", (80, 80), (255, 0, 0))
    red.save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.wrong")  # by content, not by name
    red.convert("CMYK").save(tmp_path / "b.jpg", quality=100)
    (tmp_path / "sub").mkdir()
    Image.new("RGBA", (80, 80), (255, 0, 0, 255)).save(tmp_path / "sub" / "c.png")
    for image in read(tmp_path):
        assert torch.allclose(image.mean((1, 2)), torch.tensor([1.0, -1.0, -1.0]), atol=0.06)


@pytest.mark.parametrize("mode, colour", [("RGBA", (0, 0, 0, 0)), ("LA", (0, 0))])
def test_transparency_is_white(tmp_path, mode, colour):
    Image.new(mode, (80, 80), colour).save(tmp_path / "a.png")
    assert torch.allclose(read(tmp_path), torch.ones(1))


def test_a_palette_with_transparency_is_white_too(tmp_path):
    image = Image.new("P", (80, 80), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "a.png", transparency=0)
    assert torch.allclose(read(tmp_path), torch.ones(1))


def test_grey_of_8_and_16_bits_agree(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 80).astype(np.uint8), (80, 1))
    Image.fromarray(ramp).save(tmp_path / "a.png")
    Image.fromarray(ramp.astype(np.uint16) * 257).save(tmp_path / "b.png")
    a, b = read(tmp_path)
    assert torch.allclose(a, b, atol=0.02) and a.std() > 0.4


def test_a_dark_16_bit_picture_stays_dark(tmp_path):
    Image.fromarray(np.full((80, 80), 200, np.uint16)).save(tmp_path / "a.png")
    assert read(tmp_path).max() < -0.98


def test_exif_rotation_is_undone(tmp_path):
    image = Image.new("RGB", (80, 80), "black")
    image.paste("white", (0, 0, 80, 40))  # the stored top half
    exif = Image.Exif()
    exif[0x0112] = 3  # shown upside down
    image.save(tmp_path / "a.jpg", exif=exif, quality=100)
    (shown,) = read(tmp_path)
    assert shown[:, : SIZE // 4].mean() < -0.9 and shown[:, -SIZE // 4 :].mean() > 0.9


def test_the_centre_of_a_wide_picture_is_kept(tmp_path):
    image = Image.new("RGB", (300, 100), "black")
    image.paste("white", (100, 0, 200, 100))
    image.save(tmp_path / "a.png")
    assert read(tmp_path)[..., 2:-2].min() > 0.9


def test_bad_files_are_named_and_skipped_and_none_left_is_an_error(tmp_path, caplog):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (tmp_path / "notes.txt").write_text("not a picture")
    Image.new("RGB", (20, 200)).save(tmp_path / "tiny.png")
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8)).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:4000])
    with caplog.at_level(logging.WARNING):
        assert len(read(tmp_path)) == 1
    for name in ("broken.jpg", "notes.txt", "tiny.png", "cut.png"):
        assert name in caplog.text
    whole.unlink()
    with pytest.raises(UserError, match="no usable image"):
        read(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        ImageFolder(tmp_path / "missing", SIZE)


def test_tar_shards_give_their_pictures_and_leave_what_is_beside_them(tmp_path, caplog):
    files, shards = tmp_path / "files", tmp_path / "shards"
    for folder in (files, shards):
        folder.mkdir()
    for i, colour in enumerate(("red", "lime", "blue")):
        Image.new("RGB", (40, 40), colour).save(files / f"{i}.png")
        (files / f"{i}.txt").write_text("a caption")
    (files / "3.jpg").write_bytes(b"broken")
    for shard, names in (("a", "01"), ("b", "23")):
        with tarfile.open(shards / f"{shard}.tar", "w") as tar:
            for name in sorted(path.name for path in files.iterdir() if path.stem in names):
                tar.add(files / name, name)
    (shards / "c.tar").write_bytes((shards / "a.tar").read_bytes()[:700])
    with caplog.at_level(logging.WARNING):
        assert [image.mean((1, 2)).argmax().item() for image in read(shards)] == [0, 1, 2]
    assert "b.tar/3.jpg" in caplog.text and "c.tar from here on" in caplog.text and ".txt" not in caplog.text
    assert torch.equal(read(shards / "a.tar"), read(shards)[:2])


def test_a_users_one_image_that_is_missing_or_no_image_is_said(tmp_path):
    with pytest.raises(UserError, match="no such image"):
        load_image(tmp_path / "a.png")
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(UserError, match="not a readable image"):
        load_image(tmp_path / "a.png")


def test_pictures_survive_the_way_to_tensors_and_back():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    assert np.array_equal(np.asarray(to_pil(to_tensor(Image.fromarray(pixels))[None])[0]), pixels)


def test_a_contact_sheet_is_filled_row_by_row():
    sheet = contact_sheet([Image.new("RGB", (4, 6), c) for c in ("red", "lime", "blue")], columns=2)
    assert sheet.size == (8, 12) and [sheet.getpixel(p) for p in ((1, 1), (5, 1), (1, 8))] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
