"""The methods that the paper compares its own to (Sec. 4.4): what each of them trains of a prior."""

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import BaseOutput
from torch import nn

from ..errors import UserError
from ..pipeline import InDomainPipeline
from ..presets import nearest

TOKEN = "<v>"  # the paper's [V]
ATTENTION = r".*\.attn[12]\.(to_[qkv]|to_out\.0)"  # all four projections of every self- and cross-attention


@dataclass(frozen=True)
class Method:
    """layers: a regular expression of the UNet's layers that are trained, or get the `adapter`, as peft's configuration has it.

    rate: the learning rate, in those that a domain is learned with over the same prior: 1e-5 for SD1.5, more for small ones.
    has_token: whether [V] is trained too, by one vector.
    """

    layers: str
    rate: float
    has_token: bool = False
    adapter: Mapping[str, Any] | None = None


# Rates are meant to follow each method's authors and diffusers' examples for SD1.5; none has been tuned on the kiln.
# The numbers of parameters trained there, beside Table 1's:
# 768 (< 1K); 19.2M (44M is all of `attn2`, the option `crossattn` of Custom Diffusion's code: r".*\.attn2\..*" here); 11.6M (23M: the authors' code
# keeps each of the r = 4 blocks as a full matrix of which it uses the skew-symmetric part, peft that part alone: 23.3M say the same rotations);
# 0.199M (0.19M, rank 1); 859.5M (859M).
METHODS = {
    "textual-inversion": Method("", 50.0, has_token=True),
    "custom-diffusion": Method(r".*\.attn2\.to_[kv]", 1.0, has_token=True),
    "oft": Method(ATTENTION, 5.0, adapter=dict(peft_type="OFT", r=4, oft_block_size=0, use_cayley_neumann=False)),  # Cayley's transform, not a series
    "lora": Method(ATTENTION, 10.0, adapter=dict(peft_type="LORA", r=1, lora_alpha=1, init_lora_weights="gaussian")),
    "fine-tuning": Method(".*", 1.0),
}


def find_method(name: str) -> Method:
    """Raises UserError for an unknown one."""
    if name not in METHODS:
        raise UserError(f"unknown method '{name}'{nearest(name, METHODS)}; known: {', '.join(METHODS)}")
    return METHODS[name]


def domain_words(method: Method, name: str) -> str:
    """How the domain is called in a prompt: "<v> porcelain", or "porcelain" where no text is trained (Sec. 4.4)."""
    return f"{TOKEN} {name}" if method.has_token else name


class Baseline(nn.Module):
    """A prior's UNet under "a photo of [V] <domain name>", called as a null-text UNet is; it starts out as the prior.

    Its parameters are those that the method trains, alone: the rest stays in `pipe`, which is no module. They are at work in `pipe` itself.
    """

    def __init__(self, pipe: InDomainPipeline, method: Method, name: str, seed: int = 0):
        super().__init__()
        self.pipe, self.prompt = pipe, f"a photo of {domain_words(method, name)}"
        pipe.text_encoder.requires_grad_(False)
        self.plain_unet = choose_trained(pipe.unet, method, seed)  # makes the UNet as it is, without adapters: they are in its weights
        self.token = add_token(pipe, name) if method.has_token else None
        self.trained = nn.ParameterList(p for p in pipe.unet.parameters() if p.requires_grad)
        self.ids = pipe.tokenizer(self.prompt, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(pipe.device)
        self.text = None if method.has_token else pipe.encode_prompt([self.prompt])  # (1, T, d), once and for all

    @property
    def device(self) -> torch.device:
        return self.pipe.unet.device

    def forward(self, z_t: torch.Tensor, t: torch.Tensor) -> BaseOutput:
        """z_t (B, C, h, w) and t (B,) -> `.sample`, the network's output (B, C, h, w)."""
        text = self.pipe.text_encoder(self.ids)[0] if self.text is None else self.text
        return self.pipe.unet(z_t, t, text.expand(len(z_t), -1, -1))

    @torch.no_grad()
    def write_token(self) -> None:
        """Put [V] as it is into the text encoder's weights."""
        if self.token is not None:
            self.pipe.text_encoder.get_input_embeddings().weight[self.pipe.tokenizer.convert_tokens_to_ids(TOKEN)] = self.token


def choose_trained(unet: UNet2DConditionModel, method: Method, seed: int) -> Callable[[], UNet2DConditionModel]:
    """Have those parameters alone require gradients that the method trains. Returns what gives the UNet with adapters merged into its weights,
    a copy where there are any."""
    unet.requires_grad_(False)
    if method.adapter is None:
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(re.fullmatch(method.layers, name.rpartition(".")[0]) is not None)
        return lambda: unet
    try:
        import peft
    except ImportError as error:
        raise UserError("LoRA and OFT need peft: pip install 'ingen3d[baselines]'") from error
    with torch.random.fork_rng(devices=[]):  # adapters start on the CPU
        torch.manual_seed(seed)
        adapted = peft.get_peft_model(unet, peft.get_peft_config({**method.adapter, "target_modules": method.layers}))
    return lambda: copy.deepcopy(adapted).merge_and_unload()


def add_token(pipe: InDomainPipeline, name: str) -> nn.Parameter:
    """[V] as a new word of the tokenizer: its vector (d,), which the text encoder reads from here. It starts as the mean of the name's own tokens."""
    embedding = pipe.text_encoder.get_input_embeddings()
    start = embedding.weight[pipe.tokenizer(name, add_special_tokens=False, return_tensors="pt").input_ids[0].to(embedding.weight.device)].mean(0)
    pipe.tokenizer.add_tokens([TOKEN])
    rows, word = max(len(pipe.tokenizer), len(embedding.weight)), pipe.tokenizer.convert_tokens_to_ids(TOKEN)
    embedding = pipe.text_encoder.resize_token_embeddings(rows, mean_resizing=False).requires_grad_(False)
    token = nn.Parameter(start.detach().clone())
    embedding.register_forward_hook(lambda _, ids, vectors: torch.where((ids[0] == word)[..., None], token.to(vectors), vectors))
    return token
