"""Every picture that users have is read upright and in its colours, or named and skipped."""

import logging
import os
import sys
import tarfile
from contextlib import contextmanager
from io import BytesIO

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import UserError
from core.images import contact_sheet, load_image, open_image, to_pil, to_tensor
from core.training.data import Pictures, files_in_dataset

SIZE = 64


def read(folder) -> torch.Tensor:
    return torch.stack(list(Pictures(folder, SIZE)))


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


def test_grey_of_8_and_16_bits_and_floats_agree(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 80).astype(np.uint8), (80, 1))
    Image.fromarray(ramp).save(tmp_path / "a.png")
    Image.fromarray(ramp.astype(np.uint16) * 257).save(tmp_path / "b.png")
    Image.fromarray(ramp.astype(np.float32) / 255).save(tmp_path / "c.tiff")
    a, b, c = read(tmp_path)
    assert torch.allclose(a, b, atol=0.02) and torch.allclose(a, c, atol=0.02) and a.std() > 0.4


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
        read(tmp_path / "missing")


@pytest.mark.parametrize("names", [("0", "1", "2", "3"), ("a/0", "a/1", "a/b/2", "c/3")])
def test_a_folder_is_read_as_it_is_listed_flat_or_deep(names, tmp_path, monkeypatch):
    for name in (*names, ".hidden/4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(tmp_path / f"{name}.png")
    listed, scandir = [], os.scandir

    @contextmanager
    def watched(folder):
        with scandir(folder) as entries:
            yield (listed.append(entry.name) or entry for entry in entries)

    monkeypatch.setattr(os, "scandir", watched)
    for i, _ in enumerate(Pictures(tmp_path, SIZE), 1):
        assert sum(name.endswith(".png") for name in listed) == i
    assert i == 4 and "4.png" not in listed


def test_links_to_folders_are_followed_and_none_round_in_a_circle(tmp_path):
    for name in ("data", "elsewhere/deep"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / name / "0.png")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data")
    (tmp_path / "elsewhere" / "self").symlink_to(tmp_path / "elsewhere" / "self")
    names = sorted(name for name, _ in Pictures(tmp_path / "data", SIZE).files())
    assert names == [str(tmp_path / "data" / name) for name in ("0.png", "linked/deep/0.png")]


def test_a_folder_that_several_links_lead_to_is_read_once(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "a" / "0.png")
    for link in ("b", "c"):
        (tmp_path / link).symlink_to(tmp_path / "a")
    assert len(list(Pictures(tmp_path, SIZE).files())) == 1


@pytest.mark.parametrize("change", ["deep/1.png", "deep/0.png", "1.png"])
def test_what_is_new_behind_a_link_is_a_change(change, tmp_path):
    for name in ("elsewhere/deep/0.png", "data/0.png", "latents"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    for path in tmp_path.rglob("*"):
        os.utime(path, (0, 0), follow_symlinks=False)
    pictures = Pictures(tmp_path / "data", SIZE)
    assert not pictures.changed_since(tmp_path / "latents")
    (tmp_path / "elsewhere" / change).touch()
    assert pictures.changed_since(tmp_path / "latents")


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
        assert sorted(image.mean((1, 2)).argmax().item() for image in read(shards)) == [0, 1, 2]
    assert "b.tar/3.jpg" in caplog.text and "c.tar from here on" in caplog.text and ".txt" not in caplog.text
    assert [image.mean((1, 2)).argmax().item() for image in read(shards / "a.tar")] == [0, 1]


@pytest.fixture
def hub(monkeypatch):
    """A Hugging Face Hub with one dataset, `me/colours`, read by the real library: red, a broken file, none at all, and green that lies beside the table."""
    def load_dataset(name, split, streaming):
        assert split == "train" and streaming
        if name != "me/colours":
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub\nand more")
        return datasets.Dataset.from_dict({"caption": list("abcd"), "picture": rows}, features=features).to_iterable_dataset()

    def fill(folder):
        Image.new("RGB", (40, 40), "lime").save(folder / "green.png")
        encoded = BytesIO()
        Image.new("RGB", (40, 40), "red").save(encoded, "PNG")
        rows.extend([{"bytes": encoded.getvalue(), "path": None}, {"bytes": b"broken", "path": None}, None, {"bytes": None, "path": str(folder / "green.png")}])

    rows, features = [], datasets.Features({"caption": datasets.Value("string"), "picture": datasets.Image()})
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return fill


def test_a_hugging_face_dataset_streams_its_pictures_by_name(hub, tmp_path, caplog):
    hub(tmp_path)
    for column in (None, "picture"):
        pictures = Pictures("me/colours", SIZE, column)
        with caplog.at_level(logging.WARNING):
            assert [image.mean((1, 2)).argmax().item() for image in pictures] == [0, 1]
    assert "me/colours, row 1" in caplog.text and "row 2" in caplog.text and pictures.name == pictures.source == "me/colours"


@pytest.mark.parametrize("kind", ["parquet", "files"])
def test_a_dataset_on_the_disk_streams_through_the_library_itself(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    table = tmp_path / "data"
    table.mkdir()
    for i, colour in enumerate(("red", "lime", "blue")):
        Image.new("RGB", (40, 40), colour).save(table / f"{i}.png")
    if kind == "parquet":
        files = sorted(map(str, table.iterdir()))
        table = tmp_path / "table"
        table.mkdir()
        datasets.Dataset.from_dict({"photo": files}, features=datasets.Features({"photo": datasets.Image()})).to_parquet(table / "train.parquet")
    column = "photo" if kind == "parquet" else "image"
    for given in (None, column):
        shown = [open_image(file).getpixel((0, 0)) for _, file in files_in_dataset(str(table), given)]
        assert shown == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    with pytest.raises(UserError, match=f"no column of images '{column}s': did you mean '{column}'"):
        list(files_in_dataset(str(table), f"{column}s"))


def test_a_dataset_or_a_column_that_is_not_there_is_said(hub, tmp_path):
    hub(tmp_path)
    with pytest.raises(UserError, match="no column of images 'pictures': did you mean 'picture'.; its columns: caption, picture"):
        list(Pictures("me/colours", SIZE, "pictures"))
    with pytest.raises(UserError, match=r"'me/shapes' is no folder here.*doesn't exist on the Hub\)$"):
        list(Pictures("me/shapes", SIZE))


def test_without_the_datasets_library_its_absence_is_said_and_only_when_it_is_wanted(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"no folder 'me/colours'.*pip install 'ingen3d\[datasets\]'"):
        list(Pictures("me/colours", SIZE))
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    assert len(read(tmp_path)) == 1


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
