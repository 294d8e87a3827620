"""The multi-guidance rule as threestudio guidance: a prompt's control and a domain's style (Eq. 3, Sec. 4.3)."""

from dataclasses import dataclass

import threestudio
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from core.domains import find_domain, load_domain_unet
from core.errors import UserError
from core.guidance import MultiGuidance, PerpNeg
from core.presets import find_preset, wanted
from core.terms import Term, velocity_schedule
from ingen3d.cameras import Cameras

from .guidance import ScoreDistillation


@threestudio.register("multi-guidance-sds-guidance")
class MultiGuidanceSDS(ScoreDistillation):
    """eps_hat = eps_0 + w_d (eps_d - eps_0) + w_c (eps_c - eps_0), every weight in diffusers' convention.

    threestudio's stable-diffusion-guidance computes eps_c + w (eps_c - eps_0): with no domain model, `control_scale: w + 1` is its gradient.
    With Perp-Neg it computes eps_0 + w (...), and `control_scale: w` is.
    """

    @dataclass
    class Config(ScoreDistillation.Config):
        domain_model: str | None = None  # a known domain, a folder or a Hub id; none is the prior alone
        guidance_scale: float = 7.0  # w0, shared out by Sec. 3.4 among the terms without a scale of their own, anew in each step
        domain_scale: float | None = None  # w_d
        control_scale: float | None = None  # w_c
        view_dependent_prompting: bool = True
        use_perp_neg: bool = False  # threestudio's prompt processors have the same: either turns it on

    cfg: Config

    def configure(self) -> None:
        found = find_preset(self.cfg.pretrained_model_name_or_path)
        prior = found.prior
        threestudio.info(f"Loading {prior}, domain: {self.cfg.domain_model} ...")
        with wanted(prior, "a Stable Diffusion pipeline (unet, vae, scheduler)"):
            self.unet, self.vae = (
                kind.from_pretrained(folder, subfolder=part, use_safetensors=True).to(self.device, self.weights_dtype).eval()
                for kind, folder, part in ((UNet2DConditionModel, found.unet or prior, "unet"), (AutoencoderKL, prior, "vae"))
            )
            self.scheduler = DDIMScheduler.from_pretrained(prior, subfolder="scheduler")
        domain = find_domain(self.cfg.domain_model)
        self.domain_unet = None if domain is None else load_domain_unet(domain, self.unet)
        for model in (self.unet, self.vae, self.domain_unet):
            if model is not None:
                model.requires_grad_(False)
        super().configure()

    def predictor(self, prompt_utils, cameras: Cameras) -> MultiGuidance:
        views = cameras.elevation_deg, cameras.azimuth_deg, cameras.distance, self.cfg.view_dependent_prompting
        alphas = velocity_schedule(self.scheduler)
        avoid = []
        if self.cfg.use_perp_neg or prompt_utils.use_perp_neg:
            if not self.cfg.view_dependent_prompting:
                raise UserError("Perp-Neg avoids other views' prompts: it needs view_dependent_prompting, or leave out use_perp_neg")
            contexts, weights = prompt_utils.get_text_embeddings_perp_neg(*views)  # (4B, T, d): text, empty, two to avoid per view; (B, 2)
            text, empty, others = contexts.split([len(cameras), len(cameras), weights.numel()])
            avoid = [Term(self.unet, others[j :: weights.shape[1]], weight, alphas) for j, weight in enumerate(weights.T)]
        else:
            text, empty = prompt_utils.get_text_embeddings(*views).chunk(2)  # (B, T, d) each
        domain = [] if self.domain_unet is None else [Term(self.domain_unet, None, self.cfg.domain_scale, alphas)]
        control = Term(self.unet, text, self.cfg.control_scale, alphas)
        return PerpNeg(Term(self.unet, empty, None, alphas), [*domain, control], avoid, self.cfg.guidance_scale)
