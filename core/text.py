"""Prompts to what a prior's text encoder makes of them."""

import logging

import torch

logger = logging.getLogger(__name__)


@torch.no_grad()
def encode_prompts(tokenizer, text_encoder, prompts: list[str], device: torch.device | None = None) -> torch.Tensor:
    """Text features (B, T, d). What the tokenizer cannot take is cut off and logged. device: where an offloaded encoder computes."""
    each = list(dict.fromkeys(prompts))  # once
    limit = tokenizer.model_max_length
    ids = tokenizer(each, padding="max_length", max_length=limit, truncation=True, return_tensors="pt").input_ids
    for whole in tokenizer(each, padding=False, truncation=False, verbose=False).input_ids:
        if len(whole) > limit:
            cut = tokenizer.decode(whole[limit - 1 : -1])
            logger.warning("the prompt is longer than the %d tokens that the text encoder takes: cut off '%s'", limit - 2, cut)
    features = text_encoder(ids.to(text_encoder.device if device is None else device))[0]
    return features[[each.index(prompt) for prompt in prompts]]
