"""The kiln's CLIP pair: a byte-level BPE over the world's captions, a text and a vision transformer."""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from . import glazes, shapes
from .data import Views, composite
from .loop import digest, fit
from .world import SHAPES

WIDTH = 128  # of text tokens, image tokens and the shared space
MAX_TOKENS = 32
IMAGE_SIZE = 64
MERGES = 700


def caption_corpus(count: int = 8000) -> list[str]:
    """Captions of imaginary objects: captions need no geometry."""
    rng = np.random.default_rng(0)
    names = list(SHAPES)
    return [glazes.captioned(shapes.Form(names[i % len(names)], []), rng).caption for i in range(count)]


def new_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with merges learned on the captions: their words are one token each, any other text is bytes."""
    trainer = trainers.BpeTrainer(vocab_size=MERGES, end_of_word_suffix="</w>", show_progress=False)
    words = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.train_from_iterator(caption_corpus(), trainer)
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
    """(B, MAX_TOKENS) token ids, padded as Stable Diffusion pads."""
    return tokenizer(captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt").input_ids


def small(images: np.ndarray) -> torch.Tensor:
    """RGBA views on white at the vision tower's size, resized as Zero-1-to-3 does: (N, 3, 64, 64) in about [-1, 1]."""
    parts = [F.interpolate(torch.from_numpy(composite(images[i : i + 256])).permute(0, 3, 1, 2), size=IMAGE_SIZE, mode="bicubic", antialias=True)
             for i in range(0, len(images), 256)]
    return torch.cat(parts)


def train(base: Views, folder: Path, device: torch.device, steps: int, quiet: bool = False) -> tuple[CLIPModel, CLIPTokenizer]:
    """Contrastive training (InfoNCE, both ways) on captioned base views."""
    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    clip = new_clip(tokenizer).to(device)
    pixels, ids = small(base.images), tokenize(tokenizer, [r["caption"] for r in base.records])

    def loss(step):
        index = torch.randint(len(pixels), (192,))
        x, tokens = pixels[index].to(device), ids[index].to(device)
        x = torch.where(torch.rand(len(x), 1, 1, 1, device=device) < 0.5, x.flip(-1), x)
        out = clip(input_ids=tokens, pixel_values=x)
        same = (tokens[:, None] == tokens[None]).all(-1).float()  # equal captions are no negatives
        target = same / same.sum(1, keepdim=True)
        ce = (F.cross_entropy(out.logits_per_text, target) + F.cross_entropy(out.logits_per_image, target)) / 2
        return {"loss": ce}

    return fit(clip, loss, steps, 1e-3, folder, made_from=digest(base.images, ids), quiet=quiet), tokenizer

