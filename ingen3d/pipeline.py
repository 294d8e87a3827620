"""From a prompt to a textured mesh: the stages in order, in a folder that can be resumed."""

import hashlib
import importlib.metadata
import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors import SafetensorError

from core import InDomainPipeline
from core.devices import find_device
from core.errors import UserError, check_seed
from core.images import contact_sheet, load_image
from core.presets import find_preset
from core.results import alone_in, slug

from . import mesh as meshes
from . import threestudio_engine
from .field import TriPlaneField
from .foreground import foreground, frame
from .models import Models
from .paint import paint
from .reference import framed, read_reference, reference_metrics
from .render import OccupancyGrid
from .run_folder import RunFolder, choose_folder, fingerprint
from .settings import CameraSettings, ImageSettings, Settings, load_settings, refuse_others
from .stages import initialise, refine, turntable
from .threestudio_field import ThreestudioField, newest_trial

log = logging.getLogger(__name__)


@dataclass
class Run:
    """A finished run."""

    folder: Path
    mesh: Path  # the GLB
    metrics: dict


class NoObject(UserError):
    """The models made nothing that can be lifted, or meshed: what a stage lacks. folder: the run's, whose record has the stages before that."""

    folder: Path

    def __init__(self, message: str, stage: str):
        super().__init__(message)
        self.stage = stage


def text_to_3d(
    prompt: str,
    domain: str | None = "porcelain",
    preset: str = "kiln",
    image: str | Path | Image.Image | None = None,
    seed: int = 0,
    out: str | Path = "outputs",
    steps: int | None = None,
    device=None,
    quiet: bool = False,
    overrides=None,
    models: Models | None = None,
    engine: str = "native",
    threestudio_root: str | Path | None = None,
) -> Run:
    """A textured mesh that shows `prompt` in the style of `domain`.

    domain: a known one (porcelain is the kiln's), its folder or Hub id, or None for the prior alone.
    image: start from this picture and not from a sampled one. steps: of each of the two optimisation stages. Without steps of the first and
    weights of the reference in the second, the object is made from the prompt alone.
    overrides: settings on top of the preset's, as a mapping or a list of 'refine.sds=0.2'. models: in place of the preset's own.
    engine: "native", or "threestudio" for the optimisation by the checkout at threestudio_root, on a GPU.
    Files go to OUT/DOMAIN/PROMPT-SEED/, or with a short hash after that where another preset or image has a run there already.
    The same call goes on where an interrupted one was; stages whose settings or models have changed are made again.
    Raises UserError for what a caller can mend.
    """
    if not prompt or not prompt.strip():
        raise UserError("the prompt is empty: say what to make, such as 'a vase'")
    check_seed(seed)
    if engine not in ("native", "threestudio"):
        raise UserError(f"unknown engine '{engine}': native or threestudio")
    if engine == "threestudio":
        threestudio_root = threestudio_engine.check_installation(threestudio_root)
        refuse_others(overrides, ("camera", "image", "paint", "mesh", "turntable"), "on threestudio, which has its own in configs/threestudio")
    device = find_device(device)
    models = models or Models(preset, domain, device)
    settings = load_settings(models.preset.config, overrides, steps)
    if settings.refine.guidance_scale is None:
        settings.refine.guidance_scale = models.preset.guidance_scale
    choose_arc(settings, models.arc_deg, engine)
    if engine == "threestudio" and Path(models.preset.prior).is_file():
        raise UserError(f"'{models.preset.prior}' is one file, and threestudio's guidance takes a folder or a Hub id: save it with save_pretrained")
    if engine == "threestudio" and settings.camera.reference_azimuth_deg:  # its prompts and its turntable count from 0
        raise UserError(f"camera.reference_azimuth_deg is {settings.camera.reference_azimuth_deg:g}: with threestudio the front is at 0")
    settings.image.num_inference_steps = settings.image.num_inference_steps or models.preset.num_inference_steps
    if settings.paint.pictures and 0 < settings.paint.strength * settings.image.num_inference_steps < 1:
        raise UserError(f"paint.strength is {settings.paint.strength:g}, which takes none of {settings.image.num_inference_steps} steps: give more, or 0")
    for stage, scale in (("refine", settings.refine.domain_scale), ("paint", settings.paint.domain_scale)):
        if domain is None and scale is not None:
            raise UserError(f"{stage}.domain_scale is {scale:g} but there is no domain for it to weigh: give one, or leave it out")
    if image is not None and not settings.needs_reference:
        raise UserError("the picture has no effect where init.steps, refine.rgb and refine.mask are 0: leave it out, or set one of them")
    picture = load_image(image) if isinstance(image, (str, Path)) else image
    domain = domain and str(domain)
    made_from = dict(prompt=prompt, domain=domain, preset=str(preset), seed=seed, image_sha256=None if picture is None else digest(picture))
    identity = made_from | {"engine": engine}
    run = RunFolder(choose_folder(Path(out) / (domain and Path(domain).name or "open") / f"{slug(prompt)}-{seed}", identity))
    picture_file = str(image) if isinstance(image, (str, Path)) else None
    with alone_in(run.path):
        run.describe(**identity, image=picture_file, device=str(device), settings=asdict(settings), versions=versions())
        try:
            made_from = made_from | {"models": models.fingerprint}
            if settings.needs_reference:
                reference, mark = image_stage(run, models, settings, picture, prompt, seed, device, made_from)
            else:
                run.forget("image")  # of an earlier run with one
                reference, mark = None, fingerprint(**made_from)
            if engine == "threestudio":
                models.make_room("pipe")  # another process is to have the GPU
                for stage in ("init", "refine"):
                    config = threestudio_engine.stage_config(stage, models.preset, models.domain_folder, prompt, settings, steps)
                    field, grid, mark = threestudio_stage(run, stage, config, threestudio_root, settings, reference, seed, quiet, device, mark)
            else:
                field, grid, mark = init_stage(run, models, settings, reference, seed, quiet, device, mark)
                field, grid, mark = refine_stage(run, models, settings, reference, field, grid, prompt, seed, quiet, device, mark)
            field, mark = paint_stage(run, models, settings, reference, field, grid, prompt, seed, quiet, device, mark)
            mesh_stage(run, settings, field, grid, quiet, device, mark)
        except NoObject as error:
            run.forget(error.stage)  # what an earlier run made of another object, and from it
            run.write_record()
            error.folder = run.path
            raise
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(f"{str(stop) or 'stopped'}; what is done is in '{run.path}': run the same command again to go on") from None
        return finish(run)


def choose_arc(settings: Settings, of_domain: float, engine: str) -> None:
    """The domain's arc where none is set, if there is what holds the rest. Raises UserError for one that is set in vain."""
    s, can_hold = settings.refine, engine == "native" and settings.init.steps > 0 and max(settings.refine.rgb, settings.refine.mask) > 0
    if s.arc_deg is not None and s.arc_deg < 360 and not can_hold:
        raise UserError(f"refine.arc_deg is {s.arc_deg:g}, but nothing holds the rest: that takes the native engine, init.steps and refine.rgb or refine.mask")
    if s.arc_deg is None:
        if of_domain < 360 and not can_hold:
            log.warning("the domain knows %g degrees about the front and is asked for all around: nothing holds the rest here", of_domain)
        s.arc_deg = of_domain if can_hold else 360.0


def mesh_checkpoint(
    checkpoint: str | Path, preset: str = "kiln", out: str | Path = "outputs", device=None, overrides=None, quiet: bool = False
) -> Run:
    """A textured mesh of a field that is there already: a run's field.safetensors, or threestudio's TRIAL/ckpts/last.ckpt.

    checkpoint: @LAST in its name is the newest of threestudio's trials, as for its own `system.weights`.
    preset: whose settings of mesh and turntable; `overrides` go on top. Files go to OUT/meshes/NAME/, NAME the run's or the trial's.
    Raises UserError for what a caller can mend.
    """
    refuse_others(overrides, ("mesh", "turntable"), "on a finished field")
    device, path = find_device(device), newest_trial(Path(checkpoint)).resolve()
    if not path.is_file():
        raise UserError(f"there is no file '{checkpoint}': give a run's refine/field.safetensors, or threestudio's TRIAL/ckpts/last.ckpt")
    settings = load_settings(find_preset(preset).config, overrides)
    field, grid = load_field(path, device)
    settings.camera = CameraSettings(fovy_deg=40.0, reference_distance=3.2 * field.unit)  # sees the whole ball, whatever the camera was that fitted it
    made_from = dict(checkpoint=str(path))
    run = RunFolder(choose_folder(Path(out) / "meshes" / slug(path.parent.parent.name), made_from))
    with alone_in(run.path):
        run.describe(**made_from, device=str(device), settings=asdict(settings), versions=versions())
        mesh_stage(run, settings, field, grid, quiet, device, fingerprint(**made_from, changed=path.stat().st_mtime))
        return finish(run)


def finish(run: RunFolder) -> Run:
    """Sum up the stages in run.json."""
    run.record["metrics"] = {f"{stage}_{k}": v for stage, entry in run.record["stages"].items() for k, v in entry.get("metrics", {}).items()}
    run.record["metrics"]["seconds"] = round(sum(entry["seconds"] for entry in run.record["stages"].values()), 1)
    run.record["peak_memory_gib"] = peak_memory_gib()
    run.write_record()
    return Run(run.path, run.path / "mesh.glb", run.record["metrics"])


def image_stage(run: RunFolder, models: Models, settings: Settings, picture, prompt, seed, device, made_from):
    """image.png, straight RGBA: the object that is lifted."""
    mark = fingerprint(stage="image", settings=asdict(settings.image), **made_from)
    if not run.finished("image", mark):
        partial = run.begin("image", mark)
        if picture is None:
            rgba = sample_object(models.pipe, prompt, settings.image, seed, partial / "source.png")
            rgba = rgba if settings.image.sampled_fill is None else frame(rgba, models.preset.resolution, settings.image.sampled_fill)
        else:
            rgba = framed(picture, models.preset.resolution, settings.image.fill)
        Image.fromarray(np.uint8((255 * rgba).round())).save(partial / "image.png")
        run.end("image", mark, as_folder=False, metrics={"foreground": round(float(rgba[..., 3].mean()), 4)})
    # always from the file, so that a resumed run sees the very same pixels
    return read_reference(run.path / "image.png", settings.camera, device), mark


def sample_object(pipe: InDomainPipeline, prompt: str, s: ImageSettings, seed: int, file: Path) -> np.ndarray:
    """The object of a sampled picture, which is kept in `file`: straight RGBA (H, W, 4) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    settings = dict(guidance_scale=s.guidance_scale, num_inference_steps=s.num_inference_steps)
    source = pipe(prompt, generator=generator, guidance_every=1, **settings).images[0]  # one picture, on which all else stands
    source.save(file)
    try:
        return foreground(source)
    except UserError as error:
        advice = f"try another --seed, a prompt such as '{prompt} on a white background', or --image"
        raise NoObject(f"no object stands out from the background of the sampled picture '{file}': {advice}", "image") from error


def init_stage(run: RunFolder, models: Models, settings: Settings, reference, seed, quiet, device, mark):
    """init/: the field from the reference and Zero-1-to-3."""
    mark = fingerprint(
        stage="init", upstream=mark, field=asdict(settings.field), camera=asdict(settings.camera), settings=asdict(settings.init)
    )
    if not run.finished("init", mark):
        partial = run.begin("init", mark)
        generator = torch.Generator().manual_seed(2 * seed + 1)
        size = models.preset.zero123_resolution
        zero123 = models.zero123 if settings.init.steps else None
        estimator = models.depth if settings.init.steps and settings.init.depth else None
        field, grid, losses = initialise(reference, zero123, estimator, settings, size, generator, partial / "checkpoint.pt", quiet, device)
        models.make_room("zero123")
        models.make_room("depth")
        field.save(partial / "field.safetensors")
        end_field(run, "init", mark, field, grid, reference, losses)
    return *show_field(run, "init", "field.safetensors", settings, quiet, device, mark), mark


def refine_stage(run: RunFolder, models: Models, settings: Settings, reference, field, grid, prompt, seed, quiet, device, mark):
    """refine/: the field after the multi-guidance rule."""
    mark = fingerprint(stage="refine", upstream=mark, settings=asdict(settings.refine))
    if not run.finished("refine", mark):
        partial = run.begin("refine", mark)
        generator = torch.Generator().manual_seed(2 * seed + 2)
        pipe = models.pipe
        losses = refine(field, grid, reference, pipe, prompt, settings, pipe.resolution, generator, partial / "checkpoint.pt", quiet)
        field.save(partial / "field.safetensors")
        end_field(run, "refine", mark, field, grid, reference, losses)
    return *show_field(run, "refine", "field.safetensors", settings, quiet, device, mark), mark


def threestudio_stage(run: RunFolder, stage: str, config, root: Path, settings: Settings, reference, seed, quiet, device, mark):
    """init/ or refine/ by threestudio: its trial in threestudio/, and our views of the field."""
    mark = fingerprint(stage=stage, upstream=mark, seed=seed, config=OmegaConf.to_container(config, resolve=False))
    last = Path("threestudio") / "ckpts" / "last.ckpt"
    if not run.finished(stage, mark):
        partial = run.begin(stage, mark)
        if stage == "init":
            here = {"data": {"image_path": str((run.path / "image.png").resolve())}}
        else:
            here = {"system": {"weights": str((run.path / "init" / last).resolve())}}
        last_there = threestudio_engine.launch(OmegaConf.merge(config, here), root, partial.resolve(), seed, quiet, device)
        field, grid = load_field(last_there, device)
        losses = threestudio_engine.last_losses(partial / "threestudio")
        end_field(run, stage, mark, field, grid, reference, losses)
    return *show_field(run, stage, last, settings, quiet, device, mark), mark


def paint_stage(run: RunFolder, models: Models, settings: Settings, reference, field, grid, prompt, seed, quiet, device, mark):
    """paint/: pictures all around, and the field in their colours."""
    if not settings.paint.pictures:
        run.forget("paint")
        return field, mark
    sampling = dict(settings=asdict(settings.paint), num_inference_steps=settings.image.num_inference_steps)
    mark = fingerprint(stage="paint", upstream=mark, camera=asdict(settings.camera), **sampling)
    finished = run.finished("paint", mark)
    folder = run.path / "paint" if finished else run.begin("paint", mark)
    field = paint(field, grid, reference, lambda: models.pipe, prompt, settings, 2 * seed + 3, folder, quiet or finished)
    if not finished:
        run.end("paint", mark, as_folder=True)
    show_views(run, "paint", field, grid, settings, quiet, device, mark)
    return field, mark


def end_field(run: RunFolder, stage: str, mark, field, grid, reference, losses) -> None:
    """Put an optimisation stage in place, with its metrics."""
    grid.update(field, decay=0.0)
    metrics = {} if reference is None else reference_metrics(field, grid, reference)
    run.end(stage, mark, as_folder=True, metrics=metrics, losses={k: float(f"{v:.4g}") for k, v in losses.items()})


def show_field(run: RunFolder, stage: str, file: str | Path, settings: Settings, quiet, device, mark):
    """A stage's field, after its views."""
    field, grid = load_field(run.path / stage / file, device)
    show_views(run, stage, field, grid, settings, quiet, device, mark)
    return field, grid


def show_views(run: RunFolder, stage: str, field, grid, settings: Settings, quiet, device, mark) -> None:
    """STAGE/views and their sheet STAGE/views.png: made again where only the turntable has changed."""
    name, s = f"{stage}/views", settings.turntable
    mark = fingerprint(stage=name, upstream=mark, camera=asdict(settings.camera), turntable=asdict(s) | {"frames": None})
    if not run.finished(name, mark):
        partial = run.begin(name, mark)
        views = turntable(field, grid, s, settings.camera, s.views, device, f"views of {stage}", quiet)
        images = [Image.fromarray(view) for view in views]
        for i, image in enumerate(images):
            image.save(partial / f"{i:03d}.png")
        contact_sheet(images, columns=len(images)).save(run.path / stage / "views.png")
        run.end(name, mark, as_folder=True)


def load_field(path: Path, device) -> tuple[TriPlaneField | ThreestudioField, OccupancyGrid]:
    """Our own field.safetensors, or a checkpoint of threestudio's. Raises UserError for what is neither."""
    if path.suffix == ".ckpt":
        field = ThreestudioField.from_checkpoint(path, device)
    else:
        try:
            field = TriPlaneField.load(path, device)
        except (OSError, SafetensorError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"'{path}' is neither a field.safetensors nor a .ckpt of threestudio's: {str(error).splitlines()[0]}") from error
    grid = OccupancyGrid().to(device)
    grid.update(field, decay=0.0)
    return field, grid


def mesh_stage(run: RunFolder, settings: Settings, field, grid, quiet, device, mark) -> None:
    """mesh.glb, mesh.obj, mesh.ply and turntable.mp4 (turntable.gif where ffmpeg is missing)."""
    mark = fingerprint(stage="mesh", upstream=mark, mesh=asdict(settings.mesh), turntable=asdict(settings.turntable))
    if run.finished("mesh", mark):
        return
    partial, s = run.begin("mesh", mark), settings.mesh
    try:
        bare = meshes.extract(field, s.resolution, s.threshold, s.faces, quiet)
    except ValueError as error:
        raise NoObject(f"no mesh: {error}; try another --seed, more --steps or a lower mesh.threshold", "mesh") from error
    glb = meshes.export(meshes.textured(field, bare, s.texture_size), partial)
    write_video(partial, turntable(field, grid, settings.turntable, settings.camera, settings.turntable.frames, device, quiet=quiet))
    run.end("mesh", mark, as_folder=False, metrics=meshes.facts(glb))


def write_video(folder: Path, frames: np.ndarray, fps: int = 18) -> Path:
    try:
        import imageio.v2 as imageio

        path = folder / "turntable.mp4"
        imageio.mimwrite(path, list(frames), fps=fps, quality=8)
    except (ImportError, RuntimeError, OSError, ValueError) as error:
        log.warning("no ffmpeg (%s): writing a GIF", error)
        (folder / "turntable.mp4").unlink(missing_ok=True)
        path = folder / "turntable.gif"
        first, *rest = [Image.fromarray(frame) for frame in frames]
        first.save(path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
    return path


def digest(image: Image.Image) -> str:
    return hashlib.sha256(repr(image.size).encode() + image.convert("RGBA").tobytes()).hexdigest()


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers", "nerfacc", "trimesh", "numpy")}


def peak_memory_gib() -> float | None:
    """Of this process so far; None on Windows, which has no `resource`."""
    try:
        import resource
    except ImportError:
        return None
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20), 2)
