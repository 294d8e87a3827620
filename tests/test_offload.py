"""CPU offload, with the CPU or the meta device in the GPU's place: images stay the same, and each part is where it computes."""

import accelerate
import pytest
import torch
from diffusers.pipelines import pipeline_utils

from core import InDomainPipeline, NullTextUNet
from core.domains import Domain, save_domain


@pytest.fixture
def pipe(tiny_sd, tmp_path):
    pipe = InDomainPipeline.from_pretrained(tiny_sd)
    pipe.set_progress_bar_config(disable=True)
    feature = 3 * torch.randn(1, 1, 24, generator=torch.Generator().manual_seed(1))
    save_domain(Domain(tmp_path / "clay", "clay", "{prompt}", "tiny", 16), NullTextUNet.from_prior(pipe.unet, feature), feature)
    return pipe


@pytest.fixture(params=["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def offload(request, monkeypatch):
    for name in ("cpu_offload", "cpu_offload_with_hook"):  # diffusers says cpu:0, which is not where tensors on the CPU say they are
        hook = getattr(accelerate, name)
        monkeypatch.setattr(accelerate, name, lambda model, device, hook=hook, **more: hook(model, torch.device(device.type), **more))
    return lambda pipe: getattr(pipe, request.param)(device="cpu")


def draw(pipe, prompt="a vase"):
    generator, image = torch.Generator().manual_seed(0), torch.full((1, 3, 16, 16), 0.3)
    return pipe(prompt, num_inference_steps=2, generator=generator, output_type="pt", image=image).images


def test_images_are_the_same_with_offload_before_and_after_a_domain_is_taken(pipe, offload, tmp_path):
    prior = draw(pipe)
    domain = draw(pipe.set_domain(tmp_path / "clay"))
    pipe.set_domain(None)
    offload(pipe)
    assert torch.equal(draw(pipe), prior) and not torch.equal(prior, domain)
    pipe.set_domain(tmp_path / "clay")
    assert all(hasattr(network, "_hf_hook") for network in (pipe.unet, pipe.domain_unet)) and torch.equal(draw(pipe), domain)
    assert torch.equal(draw(pipe.set_domain(None)), prior)


@pytest.fixture
def to_meta(monkeypatch):
    """Offload with the meta device as the GPU, from which nothing comes back; the models that were to be evicted from it."""
    evicted = []
    monkeypatch.setattr(pipeline_utils, "empty_device_cache", lambda device: None)
    monkeypatch.setattr(accelerate.hooks.UserCpuOffloadHook, "offload", lambda hook: evicted.append(hook.model))
    return lambda pipe: pipe.enable_model_cpu_offload(device="meta") or evicted


def test_pictures_and_prompts_go_where_offloaded_models_compute(pipe, to_meta):
    to_meta(pipe)
    assert pipe.encode_images(torch.zeros(1, 3, 16, 16)).device.type == pipe.encode_prompt(["a vase"]).device.type == "meta"


def test_neither_unet_evicts_the_other(pipe, to_meta, tmp_path):
    evicted = to_meta(pipe.set_domain(tmp_path / "clay"))
    text, z_t, t = pipe.encode_prompt(["a vase"]), torch.zeros(1, 4, 8, 8, device="meta"), torch.zeros(1, device="meta")
    for _ in range(2):
        pipe.unet(z_t, t, text)
        pipe.domain_unet(z_t, t)
    assert pipe.domain_unet.device.type == pipe.unet.device.type == "meta" and set(evicted) == {pipe.text_encoder}
