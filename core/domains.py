"""Learned domains: their folders, how a name leads to one, and how they are shared."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from huggingface_hub import HfApi, snapshot_download
from safetensors.torch import save_file

from .checkpoints import fingerprint, replaced_whole
from .errors import UserError
from .images import reason
from .null_text import NullTextUNet
from .presets import PRESETS, WEIGHTS, hub_errors, is_hub_id, nearest, wanted

FILES = ["*.json", "*.safetensors", "README.md"]  # what is shared: no pickle is ever sent or fetched


@dataclass(frozen=True)
class Domain:
    """A learned domain: a folder with `unet/` (a NullTextUNet), `text_feature.safetensors` and `domain.json`, which holds these."""

    folder: Path
    name: str
    phrase: str  # how a prompt is said in this domain, such as "{prompt}, porcelain"
    prior: str  # the preset or Hub id that it was trained on, or the name of the folder, not the way to it: this is published
    resolution: int
    licence: str = "other"  # as the Hub names them, such as cc-by-4.0
    prior_unet: str | None = None  # what tells the prior's weights from others, see `unet_fingerprint`
    training: Mapping[str, Any] = field(default_factory=dict)  # the record of its training
    negative_prompt: str = ""  # what all its pictures show, as the prior says it, such as "a head": a prompt's term then tells what that adds
    arc_deg: float = 360.0  # in 3D it may look from this arc of azimuths about the reference's: one whose pictures all show faces puts a face on any side

    def push_to_hub(self, repo_id: str, private: bool | None = None, token: str | None = None, commit_message: str = "Upload domain") -> str:
        """Upload the folder to the Hugging Face Hub; `from_pretrained(..., domain=repo_id)` loads it. Returns its address. Raises UserError."""
        api = HfApi(token=token)
        try:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            return str(api.upload_folder(repo_id=repo_id, folder_path=self.folder, allow_patterns=FILES, commit_message=commit_message))
        except hub_errors() as error:
            raise UserError(f"could not upload '{self.name}' to '{repo_id}' ({reason(error)[:160]}): log in with `hf auth login`, then try again") from error


def find_domain(name: str | Path | None, **hub) -> Domain | None:
    """A domain by name, folder or Hub id; None is no domain. The user's own come before those that are shipped. Raises UserError.

    hub: how a Hub id is got, as in huggingface_hub's snapshot_download: token, cache_dir, local_files_only.
    """
    if name is None:
        return None
    known = known_domains()
    if str(name) in known:
        return read_domain(known[str(name)])
    if Path(name).is_dir():
        return read_domain(Path(name))
    if is_hub_id(str(name)):
        with wanted(str(name), "domain.json, unet/ and text_feature.safetensors"):
            return read_domain(Path(snapshot_download(str(name), allow_patterns=FILES, **hub)))
    listed = ", ".join(sorted(known)) or "none yet, train one with scripts/train_domain.py"
    raise UserError(f"unknown domain '{name}'{nearest(str(name), known)}; known: {listed}; a folder or a Hub id does too")


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
        domain = Domain(folder, **{key.name: record[key.name] for key in fields(Domain) if key.name in record})
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"'{folder}' is no domain: its domain.json is missing or wrong ({error}); scripts/train_domain.py makes one") from error
    for name in ("phrase", "negative_prompt"):
        if not isinstance(said := getattr(domain, name), str):
            raise UserError(f"{name} is {said!r} in '{folder}/domain.json': give words in quotes")
    if "{prompt}" not in domain.phrase:
        raise UserError(f"the phrase '{domain.phrase}' in '{folder}/domain.json' lacks the place for the prompt: write {{prompt}} in it")
    check_arc(domain.arc_deg, f" in '{folder}/domain.json'")
    return domain


def check_arc(arc_deg: float, where: str = "") -> None:
    """Raise UserError for what is no arc in degrees."""
    if type(arc_deg) not in (int, float) or not 1 <= arc_deg <= 360:
        raise UserError(f"arc_deg is {arc_deg!r}{where}: give 1 to 360, which is all around")


def public_name(source: str | Path) -> str:
    """What may be told to others: the name of a file or folder without the way to it, a preset or a Hub id as it is."""
    path = Path(source).resolve()
    return path.name if path.exists() else str(source)


def load_domain_unet(domain: Domain, prior: UNet2DConditionModel) -> NullTextUNet:
    """The domain's null-text UNet, in the precision and on the device of the prior's UNet. Raises UserError where it was trained on another prior."""
    folder = domain.folder / "unet"
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"'{domain.folder}' holds no unet/*.safetensors; pickles (.bin, .ckpt, .pt) can run any code and are not loaded: save it anew")
    with wanted(str(folder), "a null-text UNet"):
        unet = NullTextUNet.from_pretrained(folder, torch_dtype=prior.dtype, use_safetensors=True)
    weights = domain.prior_unet and unet_fingerprint(prior)  # None for a domain that does not say: then sizes must do
    theirs, ours = (
        f"latents of {u.config.in_channels} channels, size {u.config.sample_size}" + (f", weights {w}" if w else "")
        for u, w in ((unet, domain.prior_unet), (prior, weights))
    )
    if theirs != ours:
        raise UserError(
            f"domain '{domain.name}' was trained on another prior, '{domain.prior}' ({theirs}), than this one ({ours}): "
            "load that one, or train the domain anew with scripts/train_domain.py --preset"
        )
    return unet.to(prior.device).eval()


def unet_fingerprint(unet: UNet2DConditionModel) -> str:
    """Tells a prior's weights from others, whatever precision they are in: rounding keeps signs."""
    return fingerprint(unet, of=torch.signbit)


def save_domain(domain: Domain, unet: NullTextUNet, feature: torch.Tensor) -> None:
    """The domain's folder, whole or not at all, in place of what was there."""
    with replaced_whole(domain.folder) as new:
        unet.eval().save_pretrained(new / "unet")
        save_file({"text_feature": feature.cpu().contiguous()}, new / "text_feature.safetensors")
        record = {key: value for key, value in asdict(domain).items() if key != "folder"}
        (new / "domain.json").write_text(json.dumps(record, indent=2) + "\n")
        (new / "README.md").write_text(model_card(domain))


def model_card(domain: Domain) -> str:
    """The folder's README, with the head that the Hub reads."""
    prior = PRESETS[domain.prior].prior if domain.prior in PRESETS else domain.prior
    base = f"base_model: {prior}\n" if is_hub_id(prior) else ""
    return f"""---
license: {domain.licence}
library_name: diffusers
{base}tags: [ingen3d, null-text-unet]
---
# {domain.name}

A null-text UNet that ingen3d learned over the prior `{domain.prior}`, from {domain.training.get("images", "a folder of")} pictures without any text.
How it was trained is in `domain.json`.

```python
from core import InDomainPipeline

pipe = InDomainPipeline.from_pretrained("{domain.prior}", domain="{domain.name}")  # or this folder, or this repository
pipe(None).images  # anything in the domain
```
"""
