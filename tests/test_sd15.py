"""Stable Diffusion 1.5's own sizes, without its weights: on the meta device, where shapes and precisions are all there is."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from core import InDomainPipeline, NullTextUNet
from core.terms import Step, Term, predict_together

from .conftest import tiny_pipeline


@pytest.fixture(scope="module")
def unet():
    with torch.device("meta"):
        return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8).half().eval()


@pytest.fixture(scope="module")
def domain_unet(unet):
    return NullTextUNet.from_prior(unet, torch.zeros(1, 1, 768, device="meta", dtype=torch.float16))


def test_a_step_at_512_px_in_fp16(unet, domain_unet):
    z_t, t = torch.zeros(2, 4, 64, 64, device="meta", dtype=torch.float16), torch.zeros((), device="meta")
    text = torch.zeros(1, 77, 768, device="meta", dtype=torch.float16)
    with torch.no_grad():
        eps = predict_together([Term(unet, text), Term(unet, text), Term(domain_unet)], z_t, t, Step(torch.zeros(1, dtype=torch.long), 25))
    assert [(each.shape, each.dtype) for each in eps] == [(z_t.shape, torch.float16)] * 3


def test_the_pipeline_reads_512_px_and_4_x_64_x_64_latents_from_the_models(unet, domain_unet):
    with torch.device("meta"):
        blocks = dict(down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
        vae = AutoencoderKL(**blocks, block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512).half().eval()
    tiny = tiny_pipeline()
    pipe = InDomainPipeline(vae, tiny.text_encoder, tiny.tokenizer, unet, tiny.scheduler, domain_unet)
    assert (pipe.resolution, pipe.latent_shape(2), pipe.latent_shape(1, 768, 512)) == (512, (2, 4, 64, 64), (1, 4, 96, 64))
    with torch.no_grad():
        pictures = pipe.decode_latents(torch.zeros(2, 4, 64, 64, device="meta", dtype=torch.float16))
    assert pictures.shape == (2, 3, 512, 512) and pictures.dtype == torch.float16


def test_what_saves_memory_changes_no_image(tiny_sd):
    pipe = InDomainPipeline.from_pretrained(tiny_sd)
    pipe.set_progress_bar_config(disable=True)
    pipe.register_modules(domain_unet=NullTextUNet.from_prior(pipe.unet, torch.ones(1, 1, 24)))
    draw = lambda: pipe(["a vase", "a jar"], num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt").images
    expected = draw()
    for save in (pipe.enable_attention_slicing, pipe.vae.enable_slicing):
        save()
        assert (draw() - expected).abs().max() <= 1e-5
