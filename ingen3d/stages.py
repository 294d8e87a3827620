"""The four stages of the paper's Sec. 4.3: a domain image, a first field from it, its refinement, a mesh.

Each takes what it needs and returns what it made; folders and resuming are the pipeline's.
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from core.guidance import MultiGuidance

from .cameras import Cameras, orbit, random_cameras
from .depth import depth_loss
from .distillation import anneal, sds
from .field import TriPlaneField
from .optimise import optimise
from .reference import Reference, with_depth
from .render import OccupancyGrid, Render, render, render_views
from .settings import CameraSettings, OptimiseSettings, Settings, TurntableSettings


def initialise(
    reference: Reference | None,
    zero123,
    estimator,
    settings: Settings,
    size: int,
    generator: torch.Generator,
    checkpoint: Path,
    quiet: bool,
    device,
) -> tuple[TriPlaneField, OccupancyGrid, dict]:
    """Stage 2: the reference view, and Zero-1-to-3's score at random views. size: side of the pictures that Zero-1-to-3 sees.

    estimator: a DepthEstimator, where `settings.init.depth` has weight. Without steps it is the density blob, for which all three may be None.
    """
    torch.manual_seed(generator.initial_seed())  # the field's first weights
    field, grid = TriPlaneField(**vars(settings.field)).to(device), OccupancyGrid().to(device)
    if settings.init.steps == 0:
        return field, grid, {}
    condition = zero123.condition(F.interpolate(reference.on_white(), (size, size), mode="bilinear", antialias=True), reference.camera)
    pictures = [reference]
    if settings.init.depth:
        pictures = with_depth(reference, zero123, condition, estimator, settings, generator.initial_seed(), checkpoint.parent)

    def score(images: torch.Tensor, cameras: Cameras, t_range, guidance_scale: float) -> torch.Tensor:
        predict = zero123.noise_predictor(condition, cameras, guidance_scale)
        return sds(zero123.encode_images(images).float(), predict, zero123.scheduler.alphas_cumprod, t_range, generator)

    averages = distil(field, grid, pictures, score, settings.init, settings.camera, size, generator, checkpoint, "initialise", quiet)
    return field, grid, averages


def refine(
    field: TriPlaneField,
    grid: OccupancyGrid,
    reference: Reference | None,
    pipe,
    prompt: str,
    settings: Settings,
    size: int,
    generator: torch.Generator,
    checkpoint: Path,
    quiet: bool,
) -> dict:
    """Stage 3: the multi-guidance rule's score at random views, the shape held by low timesteps and the reference. Changes the field.

    From the density blob, without a reference, with the prompt's term alone and without `csd`, this is DreamFusion.
    """
    s, predictors = settings.refine, {}

    def predictor(camera: Cameras, guidance_scale: float):
        suffix = view_phrase(camera, settings.camera.reference_azimuth_deg) if s.view_dependent_prompt else ""
        if suffix not in predictors:
            said, negative = pipe.compose(prompt) + suffix, pipe.negative_of(prompt) if s.rectify else None  # eps_d as eps_0 takes no text
            scales = {"guidance_scale": guidance_scale, "domain_scale": s.domain_scale, "control_scale": s.control_scale}
            predictors[suffix] = pipe.noise_predictor(said, negative, compose_prompt=False, rectify=s.rectify, **scales)
        rule = predictors[suffix]
        rule.guidance_scale = guidance_scale
        rule.weights = None  # Sec. 3.4's first weights, anew each step: held ones would depend on where a run was resumed
        return rule

    def score(images: torch.Tensor, cameras: Cameras, t_range, guidance_scale: float) -> torch.Tensor:
        latents, alphas_cumprod = pipe.encode_images(images).float(), pipe.scheduler.alphas_cumprod

        def score_of(i: int) -> torch.Tensor:
            rule = predictor(cameras[i], guidance_scale)
            return sds(latents[i : i + 1], rule, alphas_cumprod, t_range, generator, MultiGuidance(rule.uncond, []) if s.csd else None)

        return sum(map(score_of, range(len(cameras))))

    is_held = settings.init.steps and (s.hold or s.depth or s.arc_deg < 360)  # the density blob is no shape to hold
    first = copy.deepcopy((field, grid)) if is_held else None
    pictures = [] if reference is None else [reference]
    return distil(field, grid, pictures, score, s, settings.camera, size, generator, checkpoint, "refine", quiet, first, s.arc_deg)


def view_phrase(camera: Cameras, front_deg: float = 0.0) -> str:
    """DreamFusion's view-dependent words (its Sec. 3.2) for a batch of one camera; the reference's azimuth is the front."""
    azimuth = (camera.azimuth_deg.item() - front_deg + 180) % 360 - 180
    if camera.elevation_deg.item() > 60:
        return ", overhead view"
    return ", front view" if abs(azimuth) < 45 else ", back view" if abs(azimuth) > 135 else ", side view"


def distil(
    field,
    grid,
    pictures: Sequence[Reference],
    score,
    settings: OptimiseSettings,
    cameras: CameraSettings,
    size: int,
    generator: torch.Generator,
    checkpoint: Path,
    name: str,
    quiet: bool,
    first: tuple[TriPlaneField, OccupancyGrid] | None = None,
    arc_deg: float = 360.0,
) -> dict:
    """Both optimisation stages: reconstruction of the reference, a score at random views, and threestudio's shape priors.

    pictures: the reference, then others that tell shape alone. A step looks at the first and at one of the rest.
    arc_deg: the arc of azimuths about the reference's that these views are of. first: a field whose silhouettes (`hold`) and depth are
    to be held all around, and its colours outside the arc.

    score(images (B, 3, size, size) in [-1, 1], cameras, t_range, guidance_scale) -> scalar, summed over B.
    """
    device = next(field.parameters()).device
    side, s, c = settings.render_size, settings, cameras

    def look(n: int, *arc: float, elevations: tuple[float, float] = s.elevation_range) -> Cameras:
        return random_cameras(n, elevations, c.distance_range, c.fovy_deg, generator, device, *arc)

    def difference(views: Cameras) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of colours, silhouettes and inverse depths from the first field's."""
        new = render(field, grid, views, side, side, s.samples, 1.0, generator)
        with torch.no_grad():
            old = render(*first, views, side, side, s.samples, 1.0, generator)
        both = (new.depth > 0) & (old.depth > 0)
        depth = F.l1_loss(1 / new.depth[both], 1 / old.depth[both]) if both.any() else 0.0
        return F.mse_loss(new.rgb, old.rgb), F.mse_loss(new.opacity, old.opacity), depth

    def compare(picture: Reference, background: torch.Tensor | float) -> tuple[Render, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """The field from a picture's camera; the picture's colours on the background, and its mask; the term of their depths, where one is known."""
        jitter = torch.rand(2, generator=generator).to(device)
        target, mask, nearness = picture.sample(side, jitter, background)
        seen = render(field, grid, picture.camera, side, side, s.samples, background, generator, jitter)
        both = (seen.opacity[0] > 0.5) & (mask > 0.5)
        is_known = picture.nearness is not None
        return seen, target, mask, {"depth": s.depth * depth_loss(seen.depth[0][both], nearness[both], picture.scale)} if is_known else {}

    def reconstruction(reference: Reference) -> dict[str, torch.Tensor]:
        # a random background tells white matter from no matter
        seen, target, mask, depth = compare(reference, torch.rand(3, generator=generator).to(device))
        return {"rgb": s.rgb * F.mse_loss(seen.rgb[0], target), "mask": s.mask * F.mse_loss(seen.opacity[0], mask)} | depth

    def shape(picture: Reference) -> dict[str, torch.Tensor]:
        """Depth, and matter well inside the silhouette: pictures that were sampled one by one agree on no more."""
        seen, _, mask, depth = compare(picture, 1.0)
        band = max(1, side // 32)  # pixels at the edge, which count for nothing
        inside = -F.max_pool2d(-mask[None], 2 * band + 1, stride=1, padding=band)[0]
        terms = depth | {"mask": s.mask * ((inside - seen.opacity[0]).clamp(min=0) ** 2).mean()}
        return {f"{name} above": term for name, term in terms.items()}

    def objective(step: int) -> dict[str, torch.Tensor]:
        terms = reconstruction(pictures[0]) if pictures else {}
        if others := pictures[1:]:
            terms |= shape(others[int(torch.randint(len(others), (), generator=generator))])
        views = look(s.batch, c.reference_azimuth_deg, arc_deg)
        new = render(field, grid, views, side, side, s.samples, 1.0, generator, priors=True)
        images = F.interpolate(new.rgb.permute(0, 3, 1, 2), (size, size), mode="bilinear", align_corners=False) * 2 - 1
        progress = step / s.steps
        terms["sds"] = s.sds / s.batch * score(images, views, anneal(s.t_start, s.t_end, progress), s.guidance_at(progress))
        if first is not None and (s.hold or s.depth):
            _, mask, depth = difference(look(1, elevations=s.hold_elevation_range))
            terms["hold"] = s.hold * mask + s.depth * depth
        if arc_deg < 360:
            rgb, mask, _ = difference(look(1, c.reference_azimuth_deg + 180, 360 - arc_deg))
            terms["away"] = s.rgb * rgb + s.mask * mask
        return terms | shape_priors(field, new, s)

    return optimise(objective, field, grid, settings, generator, checkpoint, name=name, quiet=quiet)


def shape_priors(field: TriPlaneField, view: Render, s: OptimiseSettings) -> dict[str, torch.Tensor]:
    """threestudio's regularisers: few and decided pixels, smooth normals that face the camera, smooth planes."""
    opacity = view.opacity.clamp(1e-3, 1 - 1e-3)
    hit = (view.opacity > 0.5).float()
    across = ((view.normal.diff(dim=2) ** 2).sum(-1) * hit[:, :, 1:] * hit[:, :, :-1]).mean()
    down = ((view.normal.diff(dim=1) ** 2).sum(-1) * hit[:, 1:] * hit[:, :-1]).mean()
    return {
        "sparsity": s.sparsity * (view.opacity**2 + 0.01).sqrt().mean(),
        "opaque": s.opaque * F.binary_cross_entropy(opacity, opacity),
        "distortion": s.distortion * view.distortion.mean(),
        "smooth": s.normal_smooth * (across + down),
        "orient": s.orient * ((view.normal * view.rays_d).sum(-1).clamp(min=0) ** 2).mean(),
        "tv": s.total_variation * field.total_variation(),
    }


def turntable(
    field, grid, s: TurntableSettings, camera: CameraSettings, n: int, device, name: str = "turntable", quiet: bool = True
) -> np.ndarray:
    """n views all around, uint8 (n, size, size, 3), from the reference's azimuth on."""
    ring = orbit(n, s.elevation_deg, camera.reference_distance / field.unit, camera.fovy_deg, camera.reference_azimuth_deg, device)
    return render_views(field, grid, ring, s.size, s.samples, name, quiet)
