"""The kiln's CLIP pair: a byte-level BPE over the world's captions, a text and a vision transformer."""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from .data import Views, on_white
from .loop import digest, fit, make_fast

WIDTH = 128  # of text tokens, image tokens and the shared space
MAX_TOKENS = 32
IMAGE_SIZE = 64
TOKENS = 1400  # at most: letters, their joints and whole words of the captions


def new_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """CLIP's tokenizer with merges learned on the captions: their words are one token each, any other text is bytes."""
    trainer = trainers.BpeTrainer(vocab_size=TOKENS, end_of_word_suffix="</w>", show_progress=False)
    words = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(captions, trainer)
    merges = [tuple(m) for m in json.loads(words.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(m) for m in merges), "<|startoftext|>", "<|endoftext|>"]
    vocab = {t: i for i, t in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)


def new_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    end = tokenizer.eos_token_id
    text = dict(vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=2, num_attention_heads=4,
                max_position_embeddings=MAX_TOKENS, projection_dim=WIDTH, bos_token_id=tokenizer.bos_token_id, eos_token_id=end, pad_token_id=end)
    vision = dict(hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=4, num_attention_heads=4, image_size=IMAGE_SIZE,
                  patch_size=8, projection_dim=WIDTH)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def new_processor() -> CLIPImageProcessor:
    half = [0.5, 0.5, 0.5]
    size = {"shortest_edge": IMAGE_SIZE}
    return CLIPImageProcessor(size=size, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=half, image_std=half)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """(B, T) token ids, padded as Stable Diffusion pads."""
    return tokenizer(captions, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt").input_ids


def small(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """RGBA views on white at the vision tower's size, resized as Zero-1-to-3 does: (N, 3, 64, 64) in about [-1, 1]."""
    return F.interpolate(on_white(images, device), size=IMAGE_SIZE, mode="bicubic", antialias=True)


def train(base: Views, tokenizer: CLIPTokenizer, folder: Path, device: torch.device, steps: int, made_from: str, quiet: bool = False) -> CLIPModel:
    """Contrastive training (InfoNCE, both ways) on captioned base views. made_from: tells them from others."""
    torch.manual_seed(0)
    clip, ids = new_clip(tokenizer).to(device), tokenize(tokenizer, [r["caption"] for r in base.records])
    make_fast(device, steps, clip.text_model, clip.vision_model)

    def loss(step):
        index = torch.randint(len(ids), (192,))
        x, tokens = small(base.images[index.numpy()], device), ids[index].to(device)
        x = torch.where(torch.rand(len(x), 1, 1, 1, device=device) < 0.5, x.flip(-1), x)
        out = clip(input_ids=tokens, pixel_values=x)
        same = (tokens[:, None] == tokens[None]).all(-1).float()  # equal captions are no negatives
        target = same / same.sum(1, keepdim=True)
        ce = (F.cross_entropy(out.logits_per_text, target) + F.cross_entropy(out.logits_per_image, target)) / 2
        return {"loss": ce}

    return fit(clip, loss, steps, 1e-3, folder, made_from=made_from + digest(ids), quiet=quiet)
