"""What a preset's name stands for: the models behind 'kiln' and 'sd15'. The only file that knows them."""

import difflib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import UserError
from .images import reason

BASELINE = "baseline.json"  # what a customised prior's folder says of its training
WEIGHTS = Path(__file__).parent / "kiln" / "weights"


@dataclass(frozen=True)
class Preset:
    """A prior, a Zero-1-to-3 and a depth estimator, each a folder or a Hub id, with the sizes in pixels and the scales that suit them."""

    name: str
    prior: str
    zero123: str
    depth: str  # an estimator of transformers' that tells inverse depth
    config: str  # the name of ingen3d's settings for them, in configs/
    resolution: int
    zero123_resolution: int
    guidance_scale: float  # w0 of Sec. 3.4
    num_inference_steps: int
    domain_scale: tuple[float, ...] | None  # w_d and w_c of prompts, by parts of the steps; None: Sec. 3.4's
    control_scale: tuple[float, ...] | None
    unconditional_scale: float  # w_d where there is no prompt
    guidance_interval: tuple[float, float]  # the fractions of the steps in which a domain's guidance helps
    guidance_every: int  # at which steps all terms are evaluated, see MultiGuidance
    learning_rate: float  # for learning a domain: the paper's, or what a small prior wants
    judge: str | None = None  # the file of the network whose features FID is measured by, where it is not Inception
    controlnet: str | None = None  # one that reads a picture's edges, by `conditions.canny`
    unet: str | None = None  # the folder of a customised prior that has a unet/ of its own and shares all else with the prior


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("kiln", str(WEIGHTS / "prior"), str(WEIGHTS / "zero123"), str(WEIGHTS / "depth"), "kiln", 128, 128,
               3.0, 25, (2.0, 3.0), (3.5, 1.5), 1.0, (0.0, 0.6), 2, 3e-4,
               judge=str(WEIGHTS / "judge" / "model.safetensors"), controlnet=str(WEIGHTS / "controlnet")),
        Preset("sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5", "kxic/zero123-xl", "depth-anything/Depth-Anything-V2-Small-hf", "sd15", 512, 256,
               7.0, 25, None, None, 1.0, (0.0, 1.0), 1, 1e-5),
    )
}
PRESETS["kiln-toon"] = replace(PRESETS["kiln"], name="kiln-toon", unet=str(WEIGHTS / "toon"))


def find_preset(name: str | Path) -> Preset:
    """A preset by name; a folder, .safetensors file or Hub id of a Stable Diffusion model is sd15 with another prior, or, where it is a prior that
    was customised here, what that was trained over. Raises UserError."""
    name = str(name)
    if name in PRESETS:
        return PRESETS[name]
    if Path(name).suffix != ".safetensors" and (Path(name).is_file() or Path(name).suffix.lower() in (".ckpt", ".pt", ".pth", ".bin", ".pkl")):
        raise UserError(f"'{name}' is no .safetensors file; pickles can run any code and are not loaded: give a .safetensors file or a folder")
    if Path(name).suffix == ".safetensors" and not Path(name).is_file():
        raise UserError(f"there is no file '{name}'")
    if Path(name).is_dir() or Path(name).is_file() or is_hub_id(name):
        return replace(PRESETS[customised_from(Path(name) / BASELINE) or "sd15"], name=name, prior=name, unet=None)
    raise UserError(f"unknown preset '{name}'{nearest(name, PRESETS)}; known: {', '.join(PRESETS)}; a folder or a Hub id does too")


def customised_from(record: Path) -> str | None:
    """The preset that a baseline's record names, if there is one."""
    try:
        prior = json.loads(record.read_text())["prior"]
    except (OSError, ValueError, KeyError, TypeError):  # a file by that name may be anyone's
        return None
    return prior if prior in PRESETS else None


def find_controlnet(name: str | Path) -> str:
    """A preset's own ControlNet by the preset's name; any other name is a ControlNet's folder or Hub id itself. Raises UserError."""
    name = str(name)
    if name not in PRESETS:
        return name
    if PRESETS[name].controlnet is None:
        raise UserError(f"the preset '{name}' has no ControlNet of its own: give a ControlNet's folder or Hub id")
    return PRESETS[name].controlnet


def is_hub_id(name: str) -> bool:
    """'owner/name', and no path."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


def hub_errors() -> tuple[type[Exception], ...]:
    """What the Hub's client raises, with what reading files does."""
    from huggingface_hub.utils import HfHubHTTPError

    return OSError, ValueError, *HfHubHTTPError.__bases__  # the errors of the client that it is built on: requests, httpx or httpx2


@contextmanager
def wanted(name: str, files: str) -> Iterator[None]:
    """Turn whatever keeps models from being loaded into one line: what was wanted, and how to get it."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, *hub_errors()) as error:
        if Path(name).is_relative_to(WEIGHTS) and not Path(name).is_dir():
            raise UserError(f"the kiln lacks {files} in {name}: run `python scripts/fire_kiln.py data {Path(name).name}`, or install ingen3d anew") from error
        if is_hub_id(name) and not Path(name).is_dir():
            raise UserError(
                f"could not get {files} of '{name}' from the Hugging Face Hub ({reason(error)[:160]}): with a network run "
                f"`hf download {name}`, then give its folder or carry its cache over and set HF_HOME"
            ) from error
        raise UserError(f"'{name}' is no usable model folder, wanted {files} ({reason(error)[:160]})") from error


def nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f": did you mean '{close[0]}'?" if close else ""
