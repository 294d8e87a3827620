"""threestudio's prompts, for a preset's text encoder and in a domain's words."""

from dataclasses import dataclass

import threestudio
from threestudio.models.prompt_processors.base import PromptProcessor
from transformers import CLIPTextModel, CLIPTokenizer

from core.domains import find_domain
from core.presets import find_preset, wanted
from core.text import encode_prompts


@threestudio.register("in-domain-prompt-processor")
class InDomainPromptProcessor(PromptProcessor):
    """stable-diffusion-prompt-processor, with the prompt composed for the domain: bare conditions fight each other (App. A); so is the domain's negative
    prompt, where `negative_prompt` gives none.

    Prompts too long for the text encoder are cut. It keeps no cache (`use_cache`) and needs no process of its own (`spawn`):
    threestudio's cache knows a text encoder by its path, and the kiln's is the same when it was fired again.
    """

    @dataclass
    class Config(PromptProcessor.Config):
        pretrained_model_name_or_path: str = "sd15"  # a preset, a folder or a Hub id, in diffusers' layout
        domain_model: str | None = None  # a known domain, a folder or a Hub id

    cfg: Config

    def configure(self) -> None:
        self.domain = find_domain(self.cfg.domain_model)
        if self.domain is not None:
            self.cfg.negative_prompt = self.cfg.negative_prompt or self.domain.negative_prompt
        super().configure()

    def preprocess_prompt(self, prompt: str) -> str:
        prompt = super().preprocess_prompt(prompt)
        return prompt if self.domain is None else self.domain.phrase.replace("{prompt}", prompt)

    def prepare_text_embeddings(self) -> None:
        prior = find_preset(self.cfg.pretrained_model_name_or_path).prior
        with wanted(prior, "a text encoder and its tokenizer"):
            tokenizer = CLIPTokenizer.from_pretrained(prior, subfolder="tokenizer")
            text_encoder = CLIPTextModel.from_pretrained(prior, subfolder="text_encoder").to(self.device)
        prompts = [self.prompt, self.negative_prompt, *self.prompts_vd, *self.negative_prompts_vd]
        features = encode_prompts(tokenizer, text_encoder, prompts).float()
        self.text_embeddings, self.uncond_text_embeddings = features[:1], features[1:2]
        self.text_embeddings_vd, self.uncond_text_embeddings_vd = features[2:].chunk(2)

    def load_text_embeddings(self) -> None:
        """They are here."""
