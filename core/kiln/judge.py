"""The judge: a classifier of the world's ground truth, trained on renders only and never used to train a generator.

It reads class, colour, pattern and more off an image, and its features measure kiln-FID and KID. What it can read is stored with its weights.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from ..checkpoints import write_atomically
from ..errors import UserError
from .data import Views, on_white
from .loop import fit, make_fast
from .patterns import GROUNDED

READ = ("class", "colour", "pattern", "hat", "glasses", "beard", "expression")  # fields of a view's record
FRONT = ("glasses", "beard", "expression")  # of these, what can only be seen from the front
BATCH = 64
WIDTHS = (24, 48, 96, 160, 192)  # of stages down to 4 x 4: features there see the whole object, and not parts of it
WEIGHTS = Path(__file__).parent / "weights" / "judge" / "model.safetensors"
CONFIG = "config.json"  # beside the weights: {"heads": attribute -> values, "widths"}


class Block(nn.Module):
    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(c_in, c_out, 3, 2, 1, bias=False), nn.BatchNorm2d(c_out)
        self.conv2, self.norm2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out)
        self.skip = nn.Conv2d(c_in, c_out, 1, 2)

    def forward(self, x):
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.skip(x))


class Judge(nn.Module):
    """Images (B, 3, 128, 128) in [-1, 1] on white -> features (B, widths[-1]), with a head for each attribute on top.

    heads: attribute -> the values that it can have, such as "class" -> ("vase", "bowl").
    """

    def __init__(self, heads: Mapping[str, Sequence[str]], widths: Sequence[int] = WIDTHS):
        super().__init__()
        self.vocabulary, self.widths = {name: tuple(values) for name, values in heads.items()}, tuple(widths)
        self.num_features = self.widths[-1]  # what torchmetrics' FID and KID ask of an extractor
        self.body = nn.Sequential(*(Block(*each) for each in zip((3, *self.widths), self.widths)))
        self.heads = nn.ModuleDict({name: nn.Linear(self.num_features, len(values)) for name, values in self.vocabulary.items()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).mean((2, 3))

    def logits(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self(x)
        return {name: head(features) for name, head in self.heads.items()}

    @classmethod
    def load(cls, file: Path = WEIGHTS) -> "Judge":
        """Raises UserError where it has not been trained."""
        config = file.with_name(CONFIG)
        if not file.is_file() or not config.is_file():
            raise UserError(f"no judge in {file}: run `python scripts/fire_kiln.py judge` first")
        judge = cls(**json.loads(config.read_text()))
        judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(file).items()})
        return judge.eval()

    def save(self, file: Path = WEIGHTS) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.half() if v.is_floating_point() else v for k, v in self.state_dict().items()}, file)
        write_atomically(json.dumps({"heads": self.vocabulary, "widths": self.widths}, indent=1) + "\n", file.with_name(CONFIG))


@torch.inference_mode()
def read(judge: Judge, images: torch.Tensor) -> dict[str, list[str]]:
    """What the judge sees in images (B, 3, 128, 128) in [-1, 1]: attribute -> a value for each."""
    seen = {name: [] for name in judge.vocabulary}
    for x in images.split(128):
        for name, logits in judge.logits(x).items():
            seen[name] += [judge.vocabulary[name][i] for i in logits.argmax(1).tolist()]
    return seen


def truth(record: dict) -> dict[str, str]:
    """What can be read off a view: no colour word of porcelain and wood, nor of stripes and checks, which have two colours in equal parts; nor
    what a face shows from its back, as only photos are taken from where it can be seen."""
    known = {name: record[name] for name in READ if record.get(name) is not None and (record["photo"] or name not in FRONT)}
    if record["caption"] is None:
        known.pop("pattern", None)
    if record["caption"] is None or record["pattern"] not in GROUNDED:
        known.pop("colour", None)
    return known


def vocabulary(records: list[dict]) -> dict[str, tuple[str, ...]]:
    """Every attribute that varies over views, and its values in the order in which they come."""
    seen = {name: {} for name in READ}
    for record in records:
        for name, value in truth(record).items():
            seen[name][value] = None
    return {name: tuple(values) for name, values in seen.items() if len(values) > 1}


def targets(records: list[dict], heads: Mapping[str, Sequence[str]]) -> dict[str, torch.Tensor]:
    """Label indices (N,) for each head; -100 (ignored) where a picture has none, or one that the judge does not know."""
    known = [truth(record) for record in records]
    index = {name: {value: i for i, value in enumerate(values)} for name, values in heads.items()}
    return {name: torch.tensor([of.get(each.get(name), -100) for each in known]) for name, of in index.items()}


def blemish(x: torch.Tensor) -> torch.Tensor:
    """Blur, noise and light as generated images have them, so that the judge looks at shape and colour only."""
    small = F.interpolate(x, scale_factor=float(torch.empty(1).uniform_(0.35, 1)), mode="bilinear", antialias=True)
    x = torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, F.interpolate(small, size=x.shape[-2:], mode="bilinear"), x)
    x = x + 0.06 * torch.rand(len(x), 1, 1, 1, device=x.device) * torch.randn_like(x)
    return torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(-1), x).clamp(-1, 1)


def train(views: Views, folder: Path, device: torch.device, steps: int, made_from: str, batch_size: int = BATCH, quiet: bool = False) -> Judge:
    """On views of all worlds, of whatever attributes they have. made_from: tells them from others."""
    torch.manual_seed(0)
    judge = Judge(vocabulary(views.records)).to(device)
    if device.type == "cuda":  # channels-last strides crash torch 2.13's CPU backward pass of this net
        make_fast(device, steps, judge)
    images = torch.from_numpy(views.images).to(device)
    labels = {name: of.to(device) for name, of in targets(views.records, judge.vocabulary).items()}

    def loss(step):
        index = torch.randint(len(images), (batch_size,), device=device)
        logits = judge.logits(blemish(on_white(images[index])))
        wanted = {k: labels[k][index] for k in logits}
        parts = {k: F.cross_entropy(v, wanted[k], ignore_index=-100, reduction="sum") / (wanted[k] >= 0).sum().clamp(min=1) for k, v in logits.items()}
        return {"loss": sum(parts.values()), **{k: v.detach() for k, v in parts.items()}}

    fit(judge, loss, steps, 2e-3, folder, made_from=f"{made_from} {batch_size}", weight_decay=0.02, quiet=quiet)
    return judge.eval()  # not the average: its batch statistics belong to these weights


@torch.inference_mode()
def accuracy(judge: Judge, views: Views) -> dict[str, float]:
    """Share of right readings by attribute, where there is one to read."""
    labels = targets(views.records, judge.vocabulary)
    hits = {k: [] for k in labels}
    for i in torch.arange(len(views.images)).split(128):
        for name, logits in judge.logits(on_white(views.images[i])).items():
            y = labels[name][i]
            hits[name].append((logits.argmax(1) == y)[y >= 0])
    return {k: float(right.float().mean()) for k, v in hits.items() if len(right := torch.cat(v))}
