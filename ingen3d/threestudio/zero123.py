"""Zero-1-to-3 as threestudio guidance, from diffusers' layout: no .ckpt, no LDM code."""

from dataclasses import dataclass

import threestudio

from core.errors import UserError
from core.guidance import MultiGuidance
from core.images import fit_square, load_image, to_tensor
from core.presets import PRESETS
from ingen3d.cameras import Cameras
from ingen3d.zero123 import Zero123

from .guidance import ScoreDistillation


@threestudio.register("zero123-diffusers-guidance")
class Zero123Diffusers(ScoreDistillation):
    """Views of the object in a picture, as zero123-guidance has them, from a folder or a Hub id such as kxic/zero123-xl, or a preset's."""

    @dataclass
    class Config(ScoreDistillation.Config):
        guidance_scale: float = 5.0  # eps_0 + w (eps_c - eps_0), as in zero123-guidance
        cond_image_path: str = "load/images/hamburger_rgba.png"
        cond_elevation_deg: float = 0.0
        cond_azimuth_deg: float = 0.0
        cond_camera_distance: float = 1.2

    cfg: Config

    def configure(self) -> None:
        name = self.cfg.pretrained_model_name_or_path
        threestudio.info(f"Loading Zero-1-to-3 of {name} ...")
        folder, prior = (PRESETS[name].zero123, PRESETS[name].prior) if name in PRESETS else (name, None)
        self.model = Zero123.from_pretrained(folder, self.device, self.weights_dtype, vae=prior)
        self.unet, self.vae, self.scheduler = self.model.unet, self.model.vae, self.model.scheduler
        super().configure()
        picture = load_image(self.cfg.cond_image_path)
        if picture.mode != "RGBA" or picture.getextrema()[3][0] > 127:  # threestudio takes its alpha as the object's mask
            raise UserError(f"{self.cfg.cond_image_path} has no transparent background: give image.png of any run of scripts/text_to_3d.py, or cut it out")
        picture = to_tensor(fit_square(picture, self.image_size[0]))[None].to(self.device)
        camera = self.cfg.cond_elevation_deg, self.cfg.cond_azimuth_deg, self.cfg.cond_camera_distance
        self.condition = self.model.condition(picture, Cameras.at(*camera, 0.0, self.device))

    def predictor(self, prompt_utils, cameras: Cameras) -> MultiGuidance:
        return self.model.noise_predictor(self.condition, cameras, self.cfg.guidance_scale)
