"""A domain as it is measured: pictures to learn from, pictures held out, and what is asked for in words."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints import replaced_whole
from ..domains import read_domain
from ..errors import UserError
from ..presets import PRESETS, WEIGHTS, Preset
from ..training.data import MIN_SIDE, Pictures, is_picture, walk

HEADS = ("head wearing a hat", "smiling head", "head wearing glasses", "head with a beard", "surprised head", "smiling head wearing a hat",
         "head with a beard, wearing glasses", "head wearing a hat and glasses", "surprised head with a beard", "smiling head wearing glasses")
HELD_OUT_EVERY = 20  # of a folder without pictures held out


@dataclass(frozen=True)
class World:
    """train, held_out: folders of pictures. digest: what tells these from others. prompts: attributes, such as "a vase".

    negative_prompt: what all the pictures show, where they show one thing; every trained method has it in eps_0 beside a text.
    checkpoints: others customised the prior to this style, by preset, folder or Hub id; `rectification` takes them in place of those trained here.
    """

    name: str
    train: Path
    held_out: Path
    digest: str
    prompts: tuple[str, ...]
    negative_prompt: str = ""
    checkpoints: tuple[str, ...] = ()


def find_worlds(preset: Preset, domains: Sequence[str], data: str | Path | None, held_out: str | Path | None, prompts: str | Path | None,
                work: Path, negative_prompt: str | None = None) -> list[World]:
    """The worlds of domains, all that ship over the preset where none is named: rendered views where the preset has a judge, else a user's pictures.

    data: a folder of pictures of the one domain; held_out: others, never learned from, by default every twentieth of `data`.
    prompts: a text file, one a line. work: where pictures are laid out. negative_prompt: what all pictures show, by default what the kiln's do.
    Raises UserError.
    """
    asked = read_prompts(prompts) if prompts else None
    if data is None and held_out:
        raise UserError("--held-out has no effect without --data: leave it out, or give --data FOLDER")
    if data is None and preset.judge is None:
        raise UserError(f"no pictures are at hand of any domain over '{preset.name}': give --domain NAME and --data FOLDER")
    if data is None:
        return [rendered(name, asked, work, preset, negative_prompt) for name in domains or shipped(preset.name)]
    if len(domains) != 1:
        raise UserError(f"--data is the pictures of one domain, and there are {len(domains)}: give one --domain")
    if asked is None:
        raise UserError("there are no texts to make images of: give --prompts FILE, one a line, such as 'a face with glasses'")
    return [in_folders(domains[0], Path(data), held_out and Path(held_out), asked, work, negative_prompt or "")]


def shipped(preset: str) -> list[str]:
    """Domains that ship with the package over a preset."""
    names = [file.parent.name for file in sorted((WEIGHTS / "domains").glob("*/domain.json")) if read_domain(file.parent).prior == preset]
    if not names:
        raise UserError(f"no domain ships over '{preset}': give --domain NAME")
    return names


def read_prompts(file: str | Path) -> tuple[str, ...]:
    if not Path(file).is_file():
        raise UserError(f"no such file of prompts: {file}")
    prompts = tuple(line.strip() for line in Path(file).read_text().splitlines() if line.strip())
    if len(set(prompts)) < max(2, len(prompts)):
        raise UserError(f"{file} holds {len(set(prompts))} different prompts in {len(prompts)} lines: give two or more, each once")
    return prompts


def styles(preset: str) -> list[str]:
    """Those that customised checkpoints ship in over a preset: "toon" for "kiln-toon" over "kiln"."""
    return [name.removeprefix(f"{preset}-") for name in PRESETS if name.startswith(f"{preset}-")]


def rendered(name: str, prompts: tuple[str, ...] | None, work: Path, preset: Preset, negative_prompt: str | None) -> World:
    """A world of the kiln: its rendered views, as pictures on white, and what the preset's judge can read."""
    from ..kiln.data import PICTURES, identity, load_views, write_pictures
    from ..kiln.fire import CACHE, DOMAIN
    from ..kiln.judge import Judge

    if name not in PICTURES:
        raise UserError(f"'{name}' is no world of the kiln's: give its pictures with --data, and --prompts")
    train, held_out = (load_views(CACHE / "data" / name, split) for split in ("train", "test"))
    key = identity(CACHE / "data" / name)
    folder = work / f"{name}-{key[:8]}"
    for views, split in ((train, "train"), (held_out, "held-out")):
        if not (folder / split).exists():
            write_pictures(views.images, folder / split)
    prompts = prompts or attribute_prompts(train.records, Judge.load(Path(preset.judge)).vocabulary)
    own = DOMAIN.get(name, {}).get("negative_prompt", "")
    checkpoints = (f"{preset.name}-{name}",) if name in styles(preset.name) else ()
    return World(name, folder / "train", folder / "held-out", key, prompts, own if negative_prompt is None else negative_prompt, checkpoints)


def attribute_prompts(records: list[dict], vocabulary: Mapping[str, Sequence[str]], count: int = 10) -> tuple[str, ...]:
    """What the judge can read: what heads wear and show, where the domain is of nothing else; or the domain's own classes, then others that an
    open-world prompt may ask for, with a colour where captions have it."""
    from ..kiln.glazes import with_article

    own = {record["class"] for record in records}
    classes = sorted(vocabulary["class"], key=lambda name: name not in own)  # in the world's order, the domain's own first
    colours = [colour for colour in vocabulary["colour"] if any(record["caption"] and record.get("colour") == colour for record in records)]
    said = [f"{colours[i % len(colours)]} {name}" if len(colours) > 2 else name for i, name in enumerate(classes[:count])]
    return tuple(map(with_article, HEADS[:count] if own == {"head"} else said))


def in_folders(name: str, data: Path, held_out: Path | None, prompts: tuple[str, ...], work: Path, negative_prompt: str) -> World:
    """A user's pictures; without others to hold out every twentieth is, and the two parts are laid out as links. Raises UserError."""
    for folder in filter(None, (data, held_out)):
        if not folder.is_dir():
            raise UserError(f"no such folder of images: {folder}")
    key = hashlib.sha256(json.dumps([listing(folder) for folder in (data, held_out) if folder]).encode()).hexdigest()[:16]
    if held_out:
        kept = files_of(held_out)
        if shared := kept & files_of(data):
            raise UserError(f"{len(shared)} files of {held_out} are in {data} too, such as {min(shared).name}: hold out pictures that are in no other folder")
        if sum(map(is_picture, kept)) < 2 and not any(path.suffix == ".tar" for path in kept):
            raise UserError(f"{held_out} has fewer than 2 pictures: hold out more, such as a twentieth of them all")
        next(iter(Pictures(held_out, MIN_SIDE)))  # one without a usable picture is an error before anything is learned
        return World(name, data, held_out, key, prompts, negative_prompt)
    folder = work / f"{name}-{key[:8]}"
    if not folder.exists() or any(not link.exists() for link in folder.rglob("*")):  # the pictures have moved
        files = sorted(path for path in walk(data, set()) if is_picture(path))  # by name, the same on every disk
        if len(files) < 2 * HELD_OUT_EVERY:
            raise UserError(f"{data} has {len(files)} pictures that are no tar file's, too few to hold every {HELD_OUT_EVERY}th out: give --held-out FOLDER")
        with replaced_whole(folder) as new:
            for i, path in enumerate(files):
                link = new / ("train" if i % HELD_OUT_EVERY else "held-out") / f"{i:06d}{path.suffix}"
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(path.resolve())
    return World(name, folder / "train", folder / "held-out", key, prompts, negative_prompt)


def files_of(folder: Path) -> set[Path]:
    """All files below a folder, by where they really are."""
    return {path.resolve() for path in walk(folder, set()) if path.is_file()}


def listing(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes of all files: enough to tell a folder from a changed one without reading it."""
    return sorted((str(path.relative_to(folder)), path.stat().st_size) for path in folder.rglob("*") if path.is_file())
