"""Every number of a run, as dataclasses; a preset's YAML file overrides them."""

import dataclasses
import difflib
import math
from dataclasses import dataclass, fields, is_dataclass
from importlib import resources
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.errors import UserError

from .field import RADIUS


@dataclass
class CameraSettings:
    fovy_deg: float = 40.0
    distance_range: tuple[float, float] = (3.0, 3.4)
    reference_elevation_deg: float = 20.0
    reference_azimuth_deg: float = 0.0
    reference_distance: float = 3.2


@dataclass
class ImageSettings:
    num_inference_steps: int | None = None  # None: the preset's
    guidance_scale: float | None = None  # None: the preset's weights
    fill: float | None = 0.75  # a user's picture: the object's longer side, in picture sides; None: it is the reference camera's as it is
    sampled_fill: float | None = None  # a sampled picture, likewise


@dataclass
class FieldSettings:
    resolution: int = 128
    features: int = 16
    levels: int = 4
    hidden: int = 32
    blob_density: float = 10.0
    blob_radius: float = 0.5


@dataclass
class OptimiseSettings:
    """One stage of optimisation. Loss weights multiply means over pixels, sds a mean over views of a sum over latents.

    steps: none leaves out the stage. Refinement then begins with the density blob, or the mesh is that of the first field.
    """

    steps: int = 350
    batch: int = 1
    render_size: int = 64
    samples: int = 64
    lr_planes: float = 2e-2
    lr_mlp: float = 2e-3
    elevation_range: tuple[float, float] = (-10.0, 50.0)
    guidance_scale: float | None = 3.0  # at the first step
    guidance_end: float | None = None  # at the last; None: the same
    t_start: tuple[float, float] = (0.2, 0.8)  # range of timesteps, as fractions of the schedule, at the first step
    t_end: tuple[float, float] = (0.1, 0.4)  # and at the last
    sds: float = 0.1
    rgb: float = 500.0
    mask: float = 100.0
    depth: float = 0.0  # of inverse depth, as an estimator sees it in pictures
    sparsity: float = 0.5
    opaque: float = 0.5
    distortion: float = 0.0  # of rays: one thin opaque wall has none
    normal_smooth: float = 1.0
    orient: float = 1.0
    total_variation: float = 0.5

    def guidance_at(self, progress: float) -> float:
        """Linear over the stage's progress in [0, 1]."""
        end = self.guidance_scale if self.guidance_end is None else self.guidance_end
        return self.guidance_scale + (end - self.guidance_scale) * progress


@dataclass
class InitSettings(OptimiseSettings):
    """The stage whose score is Zero-1-to-3's."""

    pictures: int = 6  # that it samples all around, for their depth and silhouettes
    pictures_elevation_deg: float = 50.0  # so high that a vessel shows how deep it is


@dataclass
class RefineSettings(OptimiseSettings):
    """The stage whose score is the multi-guidance rule's; without weights for the reference it needs none."""

    steps: int = 300
    lr_planes: float = 5e-3
    lr_mlp: float = 1e-3
    elevation_range: tuple[float, float] = (5.0, 35.0)
    guidance_scale: float | None = None  # w0 of Sec. 3.4, which terms without a weight of their own share; None: the preset's
    t_start: tuple[float, float] = (0.02, 0.5)
    t_end: tuple[float, float] = (0.02, 0.3)
    rgb: float = 100.0
    mask: float = 50.0
    hold: float = 0.0  # of the first field's silhouettes
    depth: float = 0.0  # likewise of its inverse depth
    hold_elevation_range: tuple[float, float] = (0.0, 80.0)  # from which they are held: the score's views see next to nothing of a vessel's inside
    arc_deg: float | None = None  # score and painting look from this arc of azimuths about the reference's; None: `text_to_3d` puts in the domain's.
    # From the rest the first field's colours and silhouettes are held, with the weights rgb and mask of the reference's
    domain_scale: float | None = None  # w_d and w_c, in diffusers' convention; None: Sec. 3.4's
    control_scale: float | None = None
    csd: bool = False  # w(t) (eps_hat - eps_0), guidance alone, in place of SDS's w(t) (eps_hat - eps); for one more prediction of a view
    rectify: bool = True  # eps_0 from the prior (Sec. 3.2), not from the customised network
    view_dependent_prompt: bool = False


@dataclass
class PaintSettings:
    """Views all around the refined field, sampled anew by the rule, whose colours it takes: no part of the paper."""

    pictures: int = 0  # none leave it as it is
    strength: float = 0.5  # 0 keeps what a view shows, 1 makes it anew
    domain_scale: float | None = None  # w_d and w_c, in diffusers' convention; None: the preset's for pictures
    control_scale: float | None = None


@dataclass
class MeshSettings:
    resolution: int = 128
    threshold: float = 10.0
    faces: int = 10_000
    texture_size: int = 1024


@dataclass
class TurntableSettings:
    views: int = 8
    frames: int = 36
    size: int = 128
    samples: int = 96
    elevation_deg: float = 20.0


@dataclass
class Settings:
    camera: CameraSettings = dataclasses.field(default_factory=CameraSettings)
    image: ImageSettings = dataclasses.field(default_factory=ImageSettings)
    field: FieldSettings = dataclasses.field(default_factory=FieldSettings)
    init: InitSettings = dataclasses.field(default_factory=InitSettings)
    refine: RefineSettings = dataclasses.field(default_factory=RefineSettings)
    paint: PaintSettings = dataclasses.field(default_factory=PaintSettings)
    mesh: MeshSettings = dataclasses.field(default_factory=MeshSettings)
    turntable: TurntableSettings = dataclasses.field(default_factory=TurntableSettings)

    @property
    def needs_reference(self) -> bool:
        """Whether the object is made from a picture, and not from the prompt alone."""
        return self.init.steps > 0 or self.refine.rgb > 0 or self.refine.mask > 0


BOUNDS = {  # the least and the largest value that can work, in some 16 GB; other counts start at 1, other numbers at 0
    "fovy_deg": (1, 170),
    "elevation_range": (-90, 90),
    "hold_elevation_range": (-90, 90),
    "elevation_deg": (-90, 90),
    "reference_elevation_deg": (-90, 90),
    "pictures_elevation_deg": (-90, 90),
    "reference_azimuth_deg": (-360, 360),
    "distance_range": (RADIUS, math.inf),
    "reference_distance": (RADIUS, math.inf),
    "arc_deg": (1, 360),
    "fill": (0.05, 1),
    "sampled_fill": (0.05, 1),
    "steps": (0, math.inf),
    "pictures": (0, 64),
    "strength": (0, 1),
    "resolution": (8, 512),
    "levels": (1, 8),
    "render_size": (8, 512),
    "texture_size": (8, 8192),
    "size": (16, 2048),
    "samples": (1, 1024),
    "batch": (1, 16),
    "views": (1, 360),
    "frames": (1, 360),
    "faces": (100, math.inf),
    "threshold": (1e-3, math.inf),
    "blob_radius": (1e-3, math.inf),
    "t_start": (0, 1),
    "t_end": (0, 1),
}


def load_settings(config: str, overrides: list[str] | dict | None = None, steps: int | None = None) -> Settings:
    """Defaults, then configs/CONFIG.yaml (a preset's `config`), then overrides: a mapping or a list of 'init.steps=100'.

    steps: of both optimisation stages, over all else. Raises UserError for an unknown key, naming the nearest known one, and for
    a value of the wrong type or out of bounds.
    """
    for item in overrides if isinstance(overrides, list) else []:
        if "=" not in item:
            raise UserError(f"'{item}' is not of the form key=value, such as init.steps=100")
    try:
        given = OmegaConf.from_dotlist(overrides) if isinstance(overrides, list) else OmegaConf.create(overrides or {})
        check_keys(Settings(), OmegaConf.to_container(given))
        preset = OmegaConf.create((configs_folder() / f"{config}.yaml").read_text())
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Settings), preset, given))
    except (OmegaConfBaseException, yaml.YAMLError, TypeError) as error:
        raise UserError(f"a setting in {overrides} has a wrong value: {str(error).splitlines()[0]}") from error
    for stage in (settings.init, settings.refine):
        stage.steps = stage.steps if steps is None else steps
    check(settings)
    return settings


def refuse_others(overrides: list[str] | dict | None, used: tuple[str, ...], where: str) -> None:
    """Raise UserError for settings of a section that has no effect."""
    for key in overrides or ():
        if (section := key.split(".")[0]) not in used:
            raise UserError(f"'{section}' has no effect {where}: {', '.join(used)} can be set")


def check(settings: Settings) -> None:
    """Raise UserError for the first value that no run can work with."""
    for section in fields(settings):
        for name, value in vars(getattr(settings, section.name)).items():
            if value is None or isinstance(value, bool):
                continue
            low, high = BOUNDS.get(name, (1 if isinstance(value, int) else 0, math.inf))
            ends = (value, value) if isinstance(value, (int, float)) else value
            if not all(isinstance(end, (int, float)) and low <= end <= high and math.isfinite(end) for end in ends):
                bounds = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
                raise UserError(f"{section.name}.{name} is {value}: give {bounds}")
            if len(ends) != 2 or ends[0] > ends[1]:
                raise UserError(f"{section.name}.{name} is {value}: give two numbers, the smaller one first")
    if settings.init.guidance_scale is None:  # in refine it is the preset's, which Sec. 3.4's first weights share: Zero-1-to-3 has none
        raise UserError("init.guidance_scale is None: give a number")
    if settings.init.steps == settings.refine.steps == 0:
        raise UserError("init.steps and refine.steps are both 0: there is nothing to make a field with")
    field = settings.field
    if field.resolution % 2 ** (field.levels - 1):  # each level of the pyramid has half the resolution of the next
        raise UserError(f"field.resolution is {field.resolution}: give a multiple of {2 ** (field.levels - 1)} for {field.levels} levels")


def configs_folder() -> Path:
    """The packaged configs, or the source tree's when the package is not installed."""
    try:
        return Path(str(resources.files("ingen3d.configs")))
    except ModuleNotFoundError:
        return Path(__file__).resolve().parent.parent / "configs"


def check_keys(known, given: dict, path: str = "") -> None:
    names = [f.name for f in fields(known)]
    for key, value in given.items():
        if key not in names:
            near = difflib.get_close_matches(str(key), names, 1, 0.0)[0]
            raise UserError(f"unknown setting '{path}{key}': did you mean '{path}{near}'?")
        child = getattr(known, key)
        if is_dataclass(child):
            if not isinstance(value, dict):
                raise UserError(f"'{path}{key}' is a section, not a value: set one of {path}{key}.{{{', '.join(f.name for f in fields(child))}}}")
            check_keys(child, value, f"{path}{key}.")
