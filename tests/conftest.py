"""Random tiny diffusers models, in the layout of the real ones."""

import json
import signal
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModelWithProjection

from core.zero123 import CCProjection

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
WORDS = "a the of photo vase bowl jar blue red white porcelain with and in on"
MAX_TOKENS = 16


def tiny_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer, without merges: text is bytes. Made from files, as the transformers that threestudio pins knows no other way."""
    letters = [chr(c) for c in range(33, 127)]
    vocab = {t: i for i, t in enumerate([*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=MAX_TOKENS)


def tiny_unet(**changes) -> UNet2DConditionModel:
    config = dict(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=24, attention_head_dim=4, norm_num_groups=8,
    )
    return UNet2DConditionModel(**config | changes).eval()


def tiny_scheduler(**changes) -> DDIMScheduler:
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
                         steps_offset=1, **changes)


def tiny_pipeline(**changes) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        tokenizer = tiny_tokenizer(Path(folder))
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=24, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4, norm_num_groups=8, sample_size=16,
    )
    pipe = StableDiffusionPipeline(
        vae.eval(), CLIPTextModel(text).eval(), tokenizer, tiny_unet(), tiny_scheduler(**changes),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_controlnet(unet: UNet2DConditionModel, seed: int = 0) -> ControlNetModel:
    """For `unet`, reading pictures twice the latents' size, and with something to say: fresh ones say zero."""
    torch.manual_seed(seed)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16)).eval()
    for zero in (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out):
        torch.nn.init.normal_(zero.weight, std=0.3)
    return net


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory) -> Path:
    """The folder of a Stable Diffusion pipeline with random weights: 16 px pictures, 4 x 8 x 8 latents."""
    folder = tmp_path_factory.mktemp("tiny-sd")
    tiny_pipeline().save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def tiny_zero123(tmp_path_factory) -> Path:
    """A Zero-1-to-3 with random weights, in the layout of kxic/zero123-xl: 16 px pictures."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("zero123")
    blocks = dict(block_out_channels=(8, 16), norm_num_groups=4)
    UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=4,
        **blocks,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(path / "unet")
    AutoencoderKL(
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.5,
        **blocks,
    ).save_pretrained(path / "vae")
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8, projection_dim=8
    )
    CLIPVisionModelWithProjection(vision).save_pretrained(path / "image_encoder")
    CCProjection(8 + 4, 12).save_pretrained(path / "cc_projection")
    DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False).save_pretrained(path / "scheduler")
    (path / "feature_extractor").mkdir()
    config = {"size": {"shortest_edge": 16}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}
    (path / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch):
    """No test sees or touches the user's own domains."""
    monkeypatch.setenv("INGEN3D_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="session")
def kiln_weights() -> Path:
    from core.presets import WEIGHTS

    if not (WEIGHTS / "prior" / "model_index.json").exists():
        pytest.skip("the kiln has not been fired")
    return WEIGHTS
