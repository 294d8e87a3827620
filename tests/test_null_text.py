"""The null-text UNet is the prior under a one-token context, exactly (Sec. 3.3)."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from core import NullTextUNet

from .conftest import tiny_unet

T = torch.tensor([3, 500, 990])


def shapes():
    three = dict(block_out_channels=(16, 32, 32), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
                 down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"), layers_per_block=2)
    return {"plain": {}, "deep": dict(transformer_layers_per_block=2), "three levels": three, "linear": dict(use_linear_projection=True),
            "no cross in the middle": dict(mid_block_type="UNetMidBlock2D", up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"))}


@pytest.mark.parametrize("changes", shapes().values(), ids=shapes().keys())
def test_the_fold_equals_the_prior_under_its_one_token_context(changes):
    torch.manual_seed(1)
    unet, feature, z_t = tiny_unet(**changes), 3 * torch.randn(1, 1, 24), torch.randn(3, 4, 8, 8)
    with torch.no_grad():
        for parameter in unet.parameters():  # biases too: at the start diffusers has them small
            parameter.add_(0.05 * torch.randn_like(parameter))
        unet_d = NullTextUNet.from_prior(unet, feature)
        expected = unet(z_t, T, feature.expand(3, -1, -1)).sample
        assert (unet_d(z_t, T).sample - expected).abs().max() <= 1e-5
        assert (unet(z_t, T, torch.zeros(3, 1, 24)).sample - expected).abs().max() > 1e-3, "the feature had no effect: the test is void"


def test_the_fold_keeps_the_rescaling_of_the_attention_output():
    unet, feature, z_t = tiny_unet(), torch.randn(1, 1, 24), torch.randn(3, 4, 8, 8)
    for module in unet.modules():
        if getattr(module, "is_cross_attention", False):
            module.rescale_output_factor = 1.7
    with torch.no_grad():
        difference = NullTextUNet.from_prior(unet, feature)(z_t, T).sample - unet(z_t, T, feature.expand(3, -1, -1)).sample
    assert difference.abs().max() <= 1e-5


def test_the_fold_is_a_copy_and_the_prior_stays_untouched():
    unet = tiny_unet().requires_grad_(False)
    unet_d = NullTextUNet.from_prior(unet, torch.randn(1, 1, 24))
    assert all(p.requires_grad for p in unet_d.parameters()) and not any(p.requires_grad for p in unet.parameters())
    assert not {p.data_ptr() for p in unet.parameters()} & {p.data_ptr() for p in unet_d.parameters()}


def test_no_queries_keys_values_or_output_projection_remain():
    names = NullTextUNet.from_prior(tiny_unet(), torch.randn(1, 1, 24)).state_dict().keys()
    assert {name.rsplit("attn2.")[-1] for name in names if "attn2" in name} == {"E"}


def test_stable_diffusion_1_5_gives_815_57_million_parameters():
    with torch.device("meta"):
        prior, unet_d = (cls(sample_size=64, cross_attention_dim=768) for cls in (UNet2DConditionModel, NullTextUNet))
    count = lambda model: sum(p.numel() for p in model.parameters())
    assert count(prior) == 859_520_964
    assert count(unet_d) == 859_520_964 - 43_962_560 + 12_480 == 815_570_884


def test_save_and_load_give_the_same_model_from_safetensors(tmp_path):
    unet_d, z_t = NullTextUNet.from_prior(tiny_unet(), torch.randn(1, 1, 24)), torch.randn(3, 4, 8, 8)
    unet_d.save_pretrained(tmp_path)
    again = NullTextUNet.from_pretrained(tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in unet_d.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(again(z_t, T).sample, unet_d(z_t, T).sample, atol=1e-6)


def test_loading_a_unet_that_reads_text_is_refused(tmp_path):
    tiny_unet().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no null-text UNet"):
        NullTextUNet.from_pretrained(tmp_path)


def test_gradient_checkpointing_gives_the_same_gradients():
    unet_d, z_t = NullTextUNet.from_prior(tiny_unet(), torch.randn(1, 1, 24)).train(), torch.randn(3, 4, 8, 8)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            unet_d.enable_gradient_checkpointing()
        unet_d.zero_grad()
        unet_d(z_t, T).sample.square().sum().backward()
        gradients.append([p.grad.clone() for name, p in unet_d.named_parameters() if name.endswith(".E")])
    assert gradients[0] and all(torch.allclose(a, b, atol=1e-5) and a.abs().max() > 0 for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("changes, said", [
    (dict(addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=72), "addition_embed_type"),
    (dict(num_class_embeds=4), "num_class_embeds"),
    (dict(only_cross_attention=True), "cross-attention"),
    (dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, mid_block_type="UNetMidBlock2D"), "nothing for E"),
])
def test_unsupported_unets_are_refused_with_the_reason(changes, said):
    with pytest.raises(ValueError, match=said):
        NullTextUNet.from_prior(tiny_unet(**changes), torch.randn(1, 1, 24))


def test_a_feature_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(1, 2, 24\).*\(1, 1, 24\)"):
        NullTextUNet.from_prior(tiny_unet(), torch.randn(1, 2, 24))
