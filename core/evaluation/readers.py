"""Whether images show what their prompts ask for: read by the kiln's judge, or by CLIP."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoTokenizer, CLIPModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ..errors import UserError
from ..presets import wanted

CLIP = "openai/clip-vit-base-patch16"  # what torchmetrics' CLIPScore reads by, and papers


def asked(vocabulary: Mapping[str, Sequence[str]], prompt: str) -> dict[str, str]:
    """What a prompt names of what a judge can read: attribute -> value, such as "hat" -> "hat", "expression" -> "smiling".

    Of several values the first is meant, and "no hat" goes before "hat". A colour is left out where no picture says which of two is named first.
    Raises UserError for a prompt without a class, which the judge cannot tell.
    """
    from ..kiln.patterns import GROUNDED, NOUNS

    text = f" {' '.join(NOUNS.get(word, word) for word in prompt.lower().replace(',', ' ').split())} "
    found = {}
    for name, values in vocabulary.items():
        said = [(text.find(f" {value} "), -len(value), value) for value in values if f" {value} " in text]
        if said:
            found[name] = min(said)[2]
    if "class" not in found:
        raise UserError(f"the judge cannot tell whether an image shows '{prompt}': name one of {', '.join(vocabulary['class'])} in it")
    if found.get("pattern", "plain") not in GROUNDED:
        found.pop("colour", None)
    return found


class JudgeReader:
    """The judge's class, and whatever else the prompt names that it reads. Raises UserError for prompts (`choices`) that it cannot tell."""

    def __init__(self, judge: nn.Module, choices: Sequence[str]):
        self.judge = judge
        for choice in choices:
            asked(judge.vocabulary, choice)

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> dict[str, list[float]]:
        """alignment: 1 where all that the prompt names is read in the image (N, 3, H, W) in [-1, 1], else 0."""
        from ..kiln.judge import read

        seen = read(self.judge, images.to(next(self.judge.parameters()).device))
        wanted = [asked(self.judge.vocabulary, prompt) for prompt in prompts]
        return {"alignment": [float(all(seen[name][i] == value for name, value in each.items())) for i, each in enumerate(wanted)]}


class ClipReader:
    """CLIP, by its folder or Hub id. Raises UserError where it cannot be had.

    choices: all prompts that are asked for, of which an image must fit its own best.
    """

    def __init__(self, name: str | Path, choices: Sequence[str], device: torch.device | str = "cpu"):
        with wanted(str(name), "a CLIP model"):
            self.model = CLIPModel.from_pretrained(name, use_safetensors=True).to(device).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.choices = list(choices)
        with torch.inference_mode():
            texts = self.tokenizer([f"a photo of {choice}" for choice in self.choices], padding=True, truncation=True, return_tensors="pt").to(device)
            self.texts = F.normalize(self.model.text_projection(self.model.text_model(**texts).pooler_output), dim=-1)  # (choices, d)

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> dict[str, list[float]]:
        """For images (N, 3, H, W) in [-1, 1]: alignment, 1 where no other choice fits better (R-precision, Park et al. 2021), else 0;
        clip_score, 100 cos (Hessel et al. 2021)."""
        size, device = self.model.config.vision_config.image_size, self.texts.device
        mean, std = (torch.tensor(x, device=device)[:, None, None] for x in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        cosines = []
        for x in images.split(64):
            pixels = F.interpolate(x.to(device).float() / 2 + 0.5, size=size, mode="bicubic", antialias=True).clamp(0, 1)
            pooled = self.model.vision_model(pixel_values=(pixels - mean) / std).pooler_output
            cosines.append(F.normalize(self.model.visual_projection(pooled), dim=-1) @ self.texts.T)
        cosines, own = torch.cat(cosines).cpu(), torch.tensor([self.choices.index(prompt) for prompt in prompts])
        scores = cosines.gather(1, own[:, None])[:, 0]
        return {"alignment": (cosines.argmax(1) == own).float().tolist(), "clip_score": (100 * scores.clamp(min=0)).tolist()}
