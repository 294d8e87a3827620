"""The null-text UNet: a diffusion UNet whose text cross-attention became one learned vector per block (Sec. 3.3)."""

import functools
from collections.abc import Iterator

import torch
from diffusers import ModelMixin, UNet2DConditionModel  # noqa: F401  diffusers looks for ModelMixin here to load a pipeline's null-text UNet
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.utils import BaseOutput
from torch import nn


class NullText(nn.Module):
    """F'_img = E + F_img (Eq. 5): in a block's `attn2` place it gives E (width,); the block adds its input."""

    def __init__(self, width: int):
        super().__init__()
        self.E = nn.Parameter(torch.zeros(width))

    def forward(self, hidden_states: torch.Tensor, **unused) -> torch.Tensor:
        return self.E


class NullTextUNet(UNet2DConditionModel):
    """Predicts the domain's noise eps_d(z_t) with no condition at all; loads, saves and trains like any diffusers model.

    Its configuration is its prior's. Raises ValueError for UNets whose condition does not enter by a text cross-attention alone.
    """

    @functools.wraps(UNet2DConditionModel.__init__)  # diffusers reads the configuration's keys from this signature
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        _check_supported(self)
        for _, block in _blocks(self):
            block.attn2 = NullText(block.attn1.to_q.in_features)  # `norm2` stays, as in the prior: the block calls it, E does not read it
        if any(isinstance(m, Attention) and getattr(m, "is_cross_attention", False) for m in self.modules()):
            raise ValueError("this UNet has cross-attention outside its transformer blocks: no null-text form of it is known")

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor | int, return_dict: bool = True) -> BaseOutput | tuple:
        """z_t (B, C, h, w) and t, a scalar or (B,) -> `.sample`, the predicted noise (B, C, h, w)."""
        return super().forward(sample, timestep, encoder_hidden_states=None, return_dict=return_dict)

    @classmethod
    def from_pretrained(cls, name, **kwargs) -> "NullTextUNet":
        """As in diffusers; a folder or Hub id of a UNet that still reads text is a ValueError."""
        model = super().from_pretrained(name, **kwargs)
        if any(p.is_meta for p in model.parameters()):  # what the file lacks stays on the meta device
            raise ValueError(f"'{name}' is no null-text UNet: make one of a prior with NullTextUNet.from_prior")
        return model

    @classmethod
    @torch.no_grad()
    def from_prior(cls, unet: UNet2DConditionModel, text_feature: torch.Tensor) -> "NullTextUNet":
        """A copy of the prior `unet` that computes eps_prior(z_t, F^T) for the text feature F^T (1, 1, d), exactly.

        Softmax over ONE token is 1, so that cross-attention (Eq. 4) gives W_O W_V F^T + b_O for every query: that is E.
        Raises ValueError for a feature of another shape and for unsupported UNets.
        """
        width = unet.config.cross_attention_dim
        if isinstance(width, int) and text_feature.shape != (1, 1, width):
            raise ValueError(f"text_feature has shape {tuple(text_feature.shape)}: the prior needs (1, 1, {width})")
        config = {k: v for k, v in unet.config.items() if not k.startswith("_")}
        with torch.device("meta"):  # weights come from the prior
            model = cls(**config)
        prior = unet.state_dict()
        state = {k: prior[k].clone() for k in model.state_dict() if k in prior}
        for name, block in _blocks(unet):
            attn, feature = block.attn2, text_feature.to(unet.device, unet.dtype)
            state[f"{name}.attn2.E"] = attn.to_out[0](attn.to_v(feature))[0, 0] / attn.rescale_output_factor
        model.load_state_dict(state, assign=True)
        return model.train(unet.training).requires_grad_(True)


def _blocks(unet: nn.Module) -> Iterator[tuple[str, BasicTransformerBlock]]:
    return ((name, m) for name, m in unet.named_modules() if isinstance(m, BasicTransformerBlock))


def _check_supported(unet: UNet2DConditionModel) -> None:
    config = unet.config
    for key in ("addition_embed_type", "encoder_hid_dim_type", "class_embed_type", "num_class_embeds", "time_cond_proj_dim"):
        if config.get(key) is not None:
            raise ValueError(f"this UNet takes a condition besides text ({key}={config[key]!r}): a null-text UNet has none")
    if config.dual_cross_attention or config.get("attention_type", "default") != "default":
        raise ValueError("dual and gated attention have no null-text form")
    blocks = [block for _, block in _blocks(unet)]
    # threestudio's diffusers, 0.19, does not say which attention is which; there the second one reads the text where there is any
    if not blocks or not all(block.attn2 is not None and getattr(block.attn2, "is_cross_attention", True) for block in blocks):
        raise ValueError("this UNet has transformer blocks without text cross-attention: there is nothing for E to replace")
