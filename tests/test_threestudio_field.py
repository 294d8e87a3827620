"""A threestudio checkpoint as a field of ours, without threestudio."""

import math
import sys

import numpy as np
import pytest
import torch
import trimesh
from omegaconf import OmegaConf

from core.errors import UserError
from ingen3d.field import TriPlaneField
from ingen3d.pipeline import mesh_checkpoint
from ingen3d.threestudio_field import HashGrid, ThreestudioField, newest_trial

SMALL = {"mesh": {"resolution": 48, "faces": 2500, "texture_size": 64, "threshold": 5.0}, "turntable": {"frames": 2, "size": 32, "samples": 32}}
GRID = dict(otype="HashGrid", n_levels=3, n_features_per_level=2, log2_hashmap_size=9, base_resolution=4, per_level_scale=2.0)


def rows(config) -> list[int]:
    sides = [config["base_resolution"] * round(config["per_level_scale"]) ** level for level in range(config["n_levels"])]
    return [min(math.ceil(side**3 / 8) * 8, 2 ** config["log2_hashmap_size"]) for side in sides]


def save_trial(folder, geometry: dict, material: dict | None = None, step: int = 7, extra=None):
    """A trial as threestudio leaves it: random features, no density of their own."""
    torch.manual_seed(0)
    encoding = GRID | geometry.get("pos_encoding_config", {})
    width = encoding["n_levels"] * encoding["n_features_per_level"]
    state = {
        "geometry.encoding.encoding.encoding.params": torch.randn(sum(rows(encoding)) * 2),
        "geometry.density_network.layers.0.weight": torch.randn(8, width),
        "geometry.density_network.layers.2.weight": torch.zeros(1, 8),
        "geometry.feature_network.layers.0.weight": torch.randn(8, width),
        "geometry.feature_network.layers.2.weight": torch.tensor([[0.0] * 8, [0.0] * 8, [1.0] * 8]),
    }
    system = dict(geometry_type="implicit-volume", geometry=geometry | {"pos_encoding_config": encoding}, material=material or {})
    for name in ("ckpts", "configs"):
        (folder / name).mkdir(parents=True)
    OmegaConf.save(OmegaConf.create({"system": system}), folder / "configs" / "parsed.yaml")
    torch.save({"state_dict": state, "global_step": step, "epoch": 0, "extra": extra}, folder / "ckpts" / "last.ckpt")
    return folder / "ckpts" / "last.ckpt"


def test_a_corner_of_the_grid_has_the_features_that_tiny_cuda_nn_keeps_for_it():
    table = torch.arange(2.0 * sum(rows(GRID)))
    grid = HashGrid(table, OmegaConf.create(GRID), levels=3)
    for level, side, cell in ((0, 4, (1, 2, 3)), (1, 8, (5, 1, 6)), (2, 16, (11, 13, 2))):
        x, y, z = cell
        if side**3 <= 512:
            row = x + side * y + side**2 * z
        else:
            row = (x ^ (y * 2654435761 % 2**32) ^ (z * 805459861 % 2**32)) % 512
        row += sum(rows(GRID)[:level])
        corner = (torch.tensor([cell], dtype=torch.float64) - 0.5) / (side - 1)
        assert torch.allclose(grid(corner)[0, 2 * level : 2 * level + 2], torch.tensor([2.0 * row, 2.0 * row + 1], dtype=torch.float64), atol=1e-6)


def test_a_levels_features_are_linear_within_a_cell():
    grid = HashGrid(torch.randn(2 * sum(rows(GRID)), generator=torch.Generator().manual_seed(0)), OmegaConf.create(GRID), levels=3)
    a, b = torch.tensor([[6.55, 7.1, 5.2], [6.95, 7.1, 5.2]]) / 15  # one cell of the finest level, and of the others
    line = torch.stack([a, (a + b) / 2, b])
    left, middle, right = grid(line)
    assert torch.allclose(middle, (left + right) / 2, atol=1e-5) and not torch.allclose(left, right, atol=1e-2)


def test_levels_that_are_not_yet_in_are_zero(tmp_path):
    bands = dict(otype="ProgressiveBandHashGrid", start_level=1, start_step=5, update_steps=4)
    field = ThreestudioField.from_checkpoint(save_trial(tmp_path, {"pos_encoding_config": bands}, step=10))
    features = field.encoding(torch.rand(5, 3))
    assert features.shape == (5, 6) and (features[:, :4] != 0).all() and (features[:, 4:] == 0).all()


def test_the_mesh_of_a_blob_is_the_ball_where_its_density_is_the_threshold(tmp_path):
    checkpoint = save_trial(tmp_path / "ball", dict(radius=2.0, density_blob_scale=40.0, density_blob_std=0.5))
    run = mesh_checkpoint(checkpoint, out=tmp_path / "out", device="cpu", overrides=SMALL)
    unit = ThreestudioField.from_checkpoint(checkpoint).unit
    assert run.mesh == tmp_path / "out" / "meshes" / "ball" / "mesh.glb" and 0.5 < unit < 0.65, "fitted round the matter, not the box"
    mesh = trimesh.load(run.mesh, force="mesh")
    surface = 0.5 * (1 - (5 / unit) / 40)  # softplus(u) is u here
    assert np.allclose(unit * np.linalg.norm(mesh.vertices, axis=1), surface, atol=0.01)
    colours = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB")).reshape(-1, 3)
    assert (colours[:, :2] == 128).all() and colours[:, 2].std() > 1, "sigmoid(0), and what the third feature says"


def test_a_field_of_our_own_is_meshed_too(tmp_path):
    (tmp_path / "bowl" / "refine").mkdir(parents=True)
    TriPlaneField(resolution=32, features=4, levels=2, hidden=16).save(tmp_path / "bowl" / "refine" / "field.safetensors")
    run = mesh_checkpoint(tmp_path / "bowl" / "refine" / "field.safetensors", out=tmp_path / "out", device="cpu", overrides=SMALL)
    assert run.mesh.parent.name == "bowl" and run.metrics["mesh_watertight"] and (run.folder / "turntable.mp4").is_file()


def test_last_is_the_newest_of_the_trials_of_that_name(tmp_path):
    for time in ("20261125-090000", "20261125-100000", "20261124-230000"):
        for name in ("a_bowl", "a_bowl_[blue]"):
            (tmp_path / f"{name}@{time}").mkdir()
    for name in ("a_bowl", "a_bowl_[blue]"):
        assert newest_trial(tmp_path / f"{name}@LAST" / "ckpts" / "last.ckpt") == tmp_path / f"{name}@20261125-100000" / "ckpts" / "last.ckpt"
    assert newest_trial(tmp_path / "other" / "last.ckpt") == tmp_path / "other" / "last.ckpt"


def test_what_cannot_be_read_is_one_clear_line(tmp_path):
    cases = {
        "density_bias is 'blob_of_mine'": dict(density_bias="blob_of_mine"),
        "pos_encoding_config is 'interpolation'": dict(pos_encoding_config={"interpolation": "Smoothstep"}),
        "activation is 'tanh'": dict(density_activation="tanh"),
        "its configuration says": dict(pos_encoding_config={"n_features_per_level": 4}),
        "has 4 features, which are no colours": dict(n_feature_dims=4),
    }
    for i, (message, geometry) in enumerate(cases.items()):
        with pytest.raises(UserError, match=message):
            ThreestudioField.from_checkpoint(save_trial(tmp_path / str(i), geometry))
    config = save_trial(tmp_path / "latent", {}).parent.parent / "configs" / "parsed.yaml"
    OmegaConf.save(OmegaConf.merge(OmegaConf.load(config), {"system": {"material_type": "sd-latent-adapter-material"}}), config)
    with pytest.raises(UserError, match="material_type is 'sd-latent-adapter-material', which cannot be read"):
        ThreestudioField.from_checkpoint(tmp_path / "latent" / "ckpts" / "last.ckpt")
    with pytest.raises(UserError, match="no threestudio checkpoint of tensors alone"):
        ThreestudioField.from_checkpoint(save_trial(tmp_path / "pickle", {}, extra=sys.exit))
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(UserError, match="neither a field.safetensors nor a .ckpt"):
        mesh_checkpoint(tmp_path / "empty.safetensors", out=tmp_path)
    for missing in ("missing.safetensors", "bowl@LAST/ckpts/last.ckpt"):
        with pytest.raises(UserError, match=f"there is no file '.*{missing}'"):
            mesh_checkpoint(tmp_path / missing, out=tmp_path)
    with pytest.raises(UserError, match="'refine' has no effect on a finished field"):
        mesh_checkpoint(tmp_path / "any.ckpt", out=tmp_path, overrides=["refine.steps=3"])
