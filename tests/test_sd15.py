"""Stable Diffusion 1.5's and 2's own sizes, without their weights: mostly on the meta device, where shapes and precisions are all there is."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import SlicedAttnProcessor

from core import InDomainPipeline, NullTextUNet
from core.evaluation.speed import random_sd15
from core.terms import Step, Term, predict_together

from .conftest import tiny_pipeline, tiny_scheduler


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


@pytest.mark.slow
def test_one_step_at_512_px_is_that_of_the_rule():
    pipe = random_sd15(torch.device("cpu"))
    pipe.set_progress_bar_config(disable=True)
    pipe.register_modules(domain_unet=NullTextUNet.from_prior(pipe.unet, pipe.encode_prompt(["a jar"])[:, :1]))
    eps, latents = {}, {}
    for name in ("unet", "domain_unet"):
        getattr(pipe, name).register_forward_hook(lambda module, _, out, name=name: eps.update({name: out.sample}))
    note = lambda pipe, i, t, tensors: latents.update(t=t, **tensors) or tensors
    image = pipe("a vase", num_inference_steps=1, generator=torch.Generator().manual_seed(0), output_type="pt", callback_on_step_end=note).images
    assert image.shape == (1, 3, 512, 512) and image.isfinite().all() and image.std() > 0.01
    eps_0, eps_c = eps["unet"].chunk(2)
    weigh = lambda eps_i: 3.5 * eps_0.norm() / eps_i.norm() * (eps_i - eps_0)  # half of w0 (Sec. 3.4)
    eps_hat = eps_0 + weigh(eps["domain_unet"]) + weigh(eps_c)
    alpha_bar, noise = pipe.scheduler.alphas_cumprod[latents["t"]], torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = (noise - (1 - alpha_bar).sqrt() * eps_hat) / alpha_bar.sqrt()  # a last step ends in what is clean
    assert (latents["latents"] - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_a_prior_of_stable_diffusion_2s_sizes_that_predicts_v():
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=96, cross_attention_dim=1024, use_linear_projection=True, attention_head_dim=[5, 10, 20, 20]).eval()
    domain_unet = NullTextUNet.from_prior(unet, torch.zeros(1, 1, 1024, device="meta"))
    widths = [(name, tuple(p.shape)) for name, p in domain_unet.named_parameters() if name.endswith("attn2.E")]
    assert len(widths) == 16 and {shape for _, shape in widths} == {(320,), (640,), (1280,)}
    assert not any("attn2.to_" in name for name, _ in domain_unet.named_parameters())
    v = tiny_scheduler(prediction_type="v_prediction").alphas_cumprod
    z_t, t, text = torch.zeros(2, 4, 96, 96, device="meta"), torch.zeros(2, device="meta"), torch.zeros(1, 77, 1024, device="meta")
    terms, step = [Term(unet, text, alphas_cumprod=v), Term(domain_unet, alphas_cumprod=v)], Step(torch.zeros(1, dtype=torch.long), 25)
    with torch.no_grad():
        for wanted in (v, None):
            assert [each.shape for each in predict_together(terms, z_t, t, step, wanted)] == [z_t.shape] * 2


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_latents_in_half_precision_are_about_those_in_fp32(rescale, tiny_sd):
    latents, weights = [], []
    for dtype in (torch.float32, torch.bfloat16):
        pipe = InDomainPipeline.from_pretrained(tiny_sd, dtype=dtype)
        pipe.register_modules(domain_unet=NullTextUNet.from_prior(pipe.unet, torch.ones(1, 1, 24)))
        predict = pipe.noise_predictor(["a vase", "a jar"], batch=2, guidance_scale=7.0, guidance_rescale=rescale)
        z_t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
        with torch.no_grad():
            latents.append(predict(z_t, torch.tensor(500)))
        weights.append(predict.weights)
        assert latents[-1].dtype == dtype and latents[-1].isfinite().all()
    whole, half = latents
    assert torch.allclose(weights[1], weights[0], rtol=0.02) and (half.float() - whole).norm() < 0.1 * whole.norm()  # w0 is 7, of differences


def test_what_saves_memory_changes_no_image(tiny_sd):
    pipe = InDomainPipeline.from_pretrained(tiny_sd)
    pipe.set_progress_bar_config(disable=True)
    pipe.register_modules(domain_unet=NullTextUNet.from_prior(pipe.unet, torch.ones(1, 1, 24)))
    draw = lambda: pipe(["a vase", "a jar"], num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt").images
    expected = draw()
    for save in (pipe.enable_attention_slicing, pipe.vae.enable_slicing):
        save()
        assert (draw() - expected).abs().max() <= 1e-5
    for unet in (pipe.unet, pipe.domain_unet):
        assert {type(processor) for processor in unet.attn_processors.values()} == {SlicedAttnProcessor}
