"""What a name stands for: presets (the models behind 'kiln' and 'sd15') and domains ('porcelain'). The only file that knows them."""

import difflib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import UserError

WEIGHTS = Path(__file__).parent / "kiln" / "weights"


@dataclass(frozen=True)
class Preset:
    """A prior and a Zero-1-to-3, each a folder or a Hub id, with the sizes in pixels and the scales that suit them."""

    name: str
    prior: str
    zero123: str
    config: str  # the name of ingen3d's settings for them, in configs/
    resolution: int
    zero123_resolution: int
    guidance_scale: float  # w0 of Sec. 3.4
    num_inference_steps: int
    learning_rate: float  # for learning a domain: the paper's, or what a small prior wants


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("kiln", str(WEIGHTS / "prior"), str(WEIGHTS / "zero123"), "kiln", 128, 128, 7.0, 25, 3e-4),
        Preset("sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5", "kxic/zero123-xl", "sd15", 512, 256, 7.0, 25, 1e-5),
    )
}


@dataclass(frozen=True)
class Domain:
    """A learned domain: a folder with `unet/` (a NullTextUNet), `text_feature.safetensors` and `domain.json`, which holds these."""

    folder: Path
    name: str
    phrase: str  # how a prompt is said in this domain, such as "{prompt}, porcelain"
    prior: str  # the preset, folder or Hub id that it was trained on
    resolution: int


def find_preset(name: str | Path) -> Preset:
    """A preset by name; a folder or Hub id of a Stable Diffusion pipeline is sd15 with another prior. Raises UserError."""
    name = str(name)
    if name in PRESETS:
        return PRESETS[name]
    if Path(name).is_dir() or is_hub_id(name):
        return replace(PRESETS["sd15"], name=name, prior=name)
    raise UserError(f"unknown preset '{name}'{nearest(name, PRESETS)}; known: {', '.join(PRESETS)}; a folder or a Hub id does too")


def find_domain(name: str | Path | None) -> Domain | None:
    """A domain by name, folder or Hub id; None is no domain. The user's own come before those that are shipped. Raises UserError."""
    if name is None:
        return None
    known = known_domains()
    if str(name) in known:
        return read_domain(known[str(name)])
    if Path(name).is_dir():
        return read_domain(Path(name))
    if is_hub_id(str(name)):
        from huggingface_hub import snapshot_download

        with wanted(str(name), "domain.json, unet/ and text_feature.safetensors"):
            return read_domain(Path(snapshot_download(str(name), allow_patterns=["domain.json", "unet/*", "*.safetensors"])))
    listed = ", ".join(sorted(known)) or "none yet, train one with scripts/train_domain.py"
    raise UserError(f"unknown domain '{name}'{nearest(str(name), known)}; known: {listed}; a folder or a Hub id does too")


def load_domain_unet(domain: Domain, prior):
    """The domain's null-text UNet, in the precision and on the device of the prior's UNet. Raises UserError where the two do not fit."""
    from .null_text import NullTextUNet

    with wanted(str(domain.folder / "unet"), "a null-text UNet"):
        unet = NullTextUNet.from_pretrained(domain.folder / "unet").to(prior.device, prior.dtype).eval()
    theirs, ours = ((u.config.in_channels, u.config.sample_size) for u in (unet, prior))
    if theirs != ours:
        raise UserError(
            f"domain '{domain.name}' was trained on '{domain.prior}' (latents of {theirs[0]} channels, size {theirs[1]}), "
            f"this prior has {ours[0]} channels, size {ours[1]}: train it anew with scripts/train_domain.py --preset"
        )
    return unet


def known_domains() -> dict[str, Path]:
    """Name -> folder of every domain on this machine."""
    homes = (WEIGHTS / "domains", user_domains())
    return {file.parent.name: file.parent for home in homes for file in sorted(home.glob("*/domain.json"))}


def user_domains() -> Path:
    """Where the user's own domains live: $INGEN3D_HOME/domains, ~/.local/share/ingen3d/domains by default."""
    return Path(os.environ.get("INGEN3D_HOME") or Path.home() / ".local" / "share" / "ingen3d") / "domains"


def read_domain(folder: Path) -> Domain:
    """The domain in a folder. Raises UserError for a folder that holds none."""
    try:
        record = json.loads((folder / "domain.json").read_text())
        domain = Domain(folder, **{key: record[key] for key in ("name", "phrase", "prior", "resolution")})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{folder}' is no domain: its domain.json is missing or lacks {error}; scripts/train_domain.py makes one") from error
    if "{prompt}" not in domain.phrase:
        raise UserError(f"the phrase '{domain.phrase}' in '{folder}/domain.json' lacks the place for the prompt: write {{prompt}} in it")
    return domain


def is_hub_id(name: str) -> bool:
    """'owner/name', and no path."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


@contextmanager
def wanted(name: str, files: str) -> Iterator[None]:
    """Turn whatever keeps models from being loaded into one line: what was wanted, and how to get it."""
    from huggingface_hub.utils import HfHubHTTPError
    from safetensors import SafetensorError

    unreachable = HfHubHTTPError.__bases__  # the errors of the client that huggingface_hub is built on: requests, httpx or httpx2
    try:
        yield
    except (OSError, ValueError, SafetensorError, *unreachable) as error:
        if Path(name).is_relative_to(WEIGHTS) and not Path(name).is_dir():
            raise UserError(f"the kiln's {files} is not in {name}: run scripts/fire_kiln.py, or install ingen3d anew") from error
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if is_hub_id(name) and not Path(name).is_dir():
            raise UserError(
                f"could not get {files} of '{name}' from the Hugging Face Hub ({reason[:160]}): with a network run "
                f"`hf download {name}`, then give its folder or carry its cache over and set HF_HOME"
            ) from error
        raise UserError(f"'{name}' is no usable model folder, wanted {files} ({reason[:160]})") from error


def nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f": did you mean '{close[0]}'?" if close else ""
