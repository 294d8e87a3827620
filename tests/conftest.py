"""Random tiny diffusers models, in the layout of the real ones."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

torch.set_num_threads(1)
WORDS = "a the of photo vase bowl jar blue red white porcelain with and in on"
MAX_TOKENS = 16


def tiny_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer, without merges: text is bytes."""
    letters = [chr(c) for c in range(33, 127)]
    vocab = {t: i for i, t in enumerate([*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=MAX_TOKENS)


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
    tokenizer = tiny_tokenizer()
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
    tiny_pipeline().save_pretrained(folder)
    return folder


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
