"""A checkpoint in one .safetensors file, as Stable Diffusion's community shares them, is the pipeline that it was made from."""

import re

import pytest
import torch
from safetensors.torch import save_file

from core import InDomainPipeline
from core.errors import UserError

RESNET = [("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("norm2", "out_layers.0"), ("conv2", "out_layers.3"),
          ("time_emb_proj", "emb_layers.1"), ("conv_shortcut", "skip_connection")]
UNET = [("conv_in", "input_blocks.0.0"), ("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"),
        ("conv_norm_out", "out.0"), ("conv_out", "out.2"), ("mid_block.resnets.0", "middle_block.0"),
        ("mid_block.attentions.0", "middle_block.1"), ("mid_block.resnets.1", "middle_block.2")]
VAE = [("conv_shortcut", "nin_shortcut"), ("down_blocks", "down"), ("up_blocks", "up"), (r"samplers\.0", "sample"),
       ("mid_block.resnets.0", "mid.block_1"), ("mid_block.resnets.1", "mid.block_2"), ("resnets", "block"), (r"to_(q|k|v)\.", r"\1."),
       ("mid_block.attentions.0", "mid.attn_1"), ("group_norm", "norm"), ("conv_norm_out", "norm_out"), (r"to_out\.0", "proj_out")]


def unet_key(key: str) -> str:
    """diffusers' name to that in CompVis' layout, for the tiny UNet: two levels of one layer, with attention at the larger size."""
    for theirs, ours in UNET:
        key = re.sub(f"^{theirs}", ours, key)
    key = re.sub(r"down_blocks\.(\d)\.(resnets|attentions)\.0", lambda m: f"input_blocks.{2 * int(m[1]) + 1}.{int(m[2] != 'resnets')}", key)
    key = re.sub(r"down_blocks\.0\.downsamplers\.0\.conv", "input_blocks.2.0.op", key)
    up = lambda m: f"output_blocks.{2 * int(m[1]) + int(m[3])}.{int(m[2] != 'resnets')}"
    key = re.sub(r"up_blocks\.(\d)\.(resnets|attentions)\.(\d)", up, key)
    key = re.sub(r"up_blocks\.0\.upsamplers\.0", "output_blocks.1.1", key)
    for theirs, ours in RESNET if re.match(r"(input|output)_blocks\.\d\.0\.|middle_block\.[02]\.", key) else []:
        key = re.sub(rf"\b{theirs}\b", ours, key)
    return key


def vae_key(key: str) -> str:
    for theirs, ours in VAE:
        key = re.sub(theirs, ours, key)
    return re.sub(r"decoder\.up\.(\d)", lambda m: f"decoder.up.{1 - int(m[1])}", key)


@pytest.fixture
def checkpoint(tiny_sd, tmp_path):
    pipe = InDomainPipeline.from_pretrained(tiny_sd)
    state = {f"model.diffusion_model.{unet_key(key)}": value for key, value in pipe.unet.state_dict().items()}
    for key, value in pipe.vae.state_dict().items():
        square = "attentions" in key and value.ndim == 2
        state[f"first_stage_model.{vae_key(key)}"] = value[..., None, None] if square else value
    for key, value in pipe.text_encoder.state_dict().items():
        state[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    save_file({key: value.clone() for key, value in state.items()}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_file_draws_as_the_folder_that_it_was_made_from(tiny_sd, checkpoint):
    images = []
    for source, config in ((tiny_sd, {}), (checkpoint, {"config": str(tiny_sd)})):
        pipe = InDomainPipeline.from_pretrained(source, **config)
        pipe.set_progress_bar_config(disable=True)
        images.append(pipe("a vase", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt").images)
    assert torch.equal(*images)


@pytest.mark.parametrize("name, said", [
    *((name, f"'.*{name}' is no .safetensors file; pickles.*are not loaded") for name in ("model.ckpt", "m.CKPT", "m.pkl", "gone.bin")),
    ("gone.safetensors", "no file '.*gone.safetensors'"),
    ("cut.safetensors", "could not be read"),
    ("lora.safetensors", "could not be read as a Stable Diffusion checkpoint .*CLIPTextModel.*kind"),
])
def test_files_that_are_no_such_checkpoint_are_said(tiny_sd, tmp_path, name, said):
    for pickle in ("model.ckpt", "m.CKPT", "m.pkl"):
        torch.save({}, tmp_path / pickle)
    save_file({"lora_unet_x.weight": torch.zeros(2)}, tmp_path / "lora.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"12345")
    with pytest.raises(UserError, match=said) as error:
        InDomainPipeline.from_pretrained(tmp_path / name, config=str(tiny_sd))
    assert "\n" not in str(error.value)
