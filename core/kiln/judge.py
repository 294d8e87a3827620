"""The judge: a classifier of the world's ground truth, trained on renders only and never used to train a generator.

It reads class, colour and pattern off an image, and its features measure kiln-FID and KID.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import UserError
from . import glazes
from .data import Views
from .loop import digest, fit
from .world import SHAPES

CLASSES = tuple(SHAPES)
COLOURS = tuple(glazes.COLOURS)
FEATURES = 128
WEIGHTS = Path(__file__).parent / "weights" / "judge" / "model.safetensors"


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
    """Images (B, 3, 128, 128) in [-1, 1] on white -> features (B, 128); three heads on top."""

    num_features = FEATURES  # what torchmetrics' FID and KID ask of an extractor

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(Block(3, 24), Block(24, 48), Block(48, 96), Block(96, FEATURES))
        self.heads = nn.ModuleDict({"class": nn.Linear(FEATURES, len(CLASSES)), "colour": nn.Linear(FEATURES, len(COLOURS)),
                                    "pattern": nn.Linear(FEATURES, len(glazes.PATTERNS))})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).mean((2, 3))

    def logits(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self(x)
        return {name: head(features) for name, head in self.heads.items()}

    @classmethod
    def load(cls, file: Path = WEIGHTS) -> "Judge":
        """Raises UserError where it has not been trained."""
        if not file.is_file():
            raise UserError(f"no judge in {file}: run `python scripts/fire_kiln.py judge` first")
        judge = cls()
        judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(file).items()})
        return judge.eval()

    def save(self, file: Path = WEIGHTS) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.half() if v.is_floating_point() else v for k, v in self.state_dict().items()}, file)


@dataclass
class Verdict:
    classes: list[str]
    colours: list[str]
    patterns: list[str]


@torch.inference_mode()
def read(judge: Judge, images: torch.Tensor) -> Verdict:
    """What the judge sees in images (B, 3, 128, 128) in [-1, 1]."""
    picks = {"class": [], "colour": [], "pattern": []}
    for x in images.split(128):
        for name, logits in judge.logits(x).items():
            picks[name] += logits.argmax(1).tolist()
    return Verdict([CLASSES[i] for i in picks["class"]], [COLOURS[i] for i in picks["colour"]], [glazes.PATTERNS[i] for i in picks["pattern"]])


def targets(records: list[dict]) -> dict[str, torch.Tensor]:
    """Label indices; -100 (ignored) where a picture has none: porcelain and wood have no colour word, and stripes and checks
    have two colours in equal parts, of which no picture says which the caption names first."""
    def index(names, value):
        return names.index(value) if value in names else -100

    captioned = [r["material"] != "porcelain" for r in records]
    one_colour = [c and r["pattern"] in ("plain", "dotted") for r, c in zip(records, captioned)]
    return {
        "class": torch.tensor([CLASSES.index(r["class"]) for r in records]),
        "colour": torch.tensor([index(COLOURS, r["colour"]) if c else -100 for r, c in zip(records, one_colour)]),
        "pattern": torch.tensor([index(glazes.PATTERNS, r["pattern"]) if c else -100 for r, c in zip(records, captioned)]),
    }


def to_tensor(rgba: torch.Tensor) -> torch.Tensor:
    """RGBA views (N, H, W, 4) uint8 on white -> (N, 3, H, W) in [-1, 1]."""
    x = rgba.permute(0, 3, 1, 2).contiguous().float() / 255  # channels-last strides crash torch 2.13's CPU backward pass of this net
    return (x[:, :3] * x[:, 3:] + 1 - x[:, 3:]) * 2 - 1


def blemish(x: torch.Tensor) -> torch.Tensor:
    """Blur, noise and light as generated images have them, so that the judge looks at shape and colour only."""
    small = F.interpolate(x, scale_factor=float(torch.empty(1).uniform_(0.35, 1)), mode="bilinear", antialias=True)
    x = torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, F.interpolate(small, size=x.shape[-2:], mode="bilinear"), x)
    x = x + 0.06 * torch.rand(len(x), 1, 1, 1, device=x.device) * torch.randn_like(x)
    return torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(-1), x).clamp(-1, 1)


def train(worlds: list[Views], folder: Path, device: torch.device, steps: int, quiet: bool = False) -> Judge:
    torch.manual_seed(0)
    judge = Judge().to(device)
    images = torch.cat([torch.from_numpy(w.images) for w in worlds])
    labels = targets([r for w in worlds for r in w.records])

    def loss(step):
        index = torch.randint(len(images), (64,))
        logits = judge.logits(blemish(to_tensor(images[index].to(device))))
        parts = {k: F.cross_entropy(v, labels[k][index].to(device), ignore_index=-100) for k, v in logits.items()}
        return {"loss": sum(parts.values()), **{k: v.detach() for k, v in parts.items()}}

    fit(judge, loss, steps, 2e-3, folder, made_from=digest(images, *labels.values()), weight_decay=0.02, quiet=quiet)
    return judge.eval()  # not the average: its batch statistics belong to these weights


@torch.inference_mode()
def accuracy(judge: Judge, views: Views) -> dict[str, float]:
    """Share of right readings by attribute, where there is one to read."""
    labels = targets(views.records)
    hits = {k: [] for k in labels}
    for i in torch.arange(len(views.images)).split(128):
        for name, logits in judge.logits(to_tensor(torch.from_numpy(views.images[i]))).items():
            y = labels[name][i]
            hits[name].append((logits.argmax(1) == y)[y >= 0])
    return {k: float(right.float().mean()) for k, v in hits.items() if len(right := torch.cat(v))}
