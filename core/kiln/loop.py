"""The one training loop of the kiln: resumable, logged, with a moving average; in bf16, and compiled or recorded, where that is faster."""

import copy
import csv
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from ..checkpoints import checkpointed, fingerprint, save_atomically, write_atomically
from ..devices import is_fast_in_bf16, suit_attention
from ..evaluation.html import curves
from ..evaluation.report import Curves
from ..interrupts import kept_in

logger = logging.getLogger(__name__)
WORTH_COMPILING = 1000  # steps: compiling takes a CPU some two minutes


def digest(*inputs) -> str:
    """A short hash of what a stage learns from: arrays, tensors, and whatever JSON can say."""
    whole = hashlib.sha256()
    for x in inputs:
        whole.update(np.ascontiguousarray(x) if isinstance(x, (np.ndarray, torch.Tensor)) else json.dumps(x).encode())
    return whole.hexdigest()[:16]


def gains(device: torch.device, steps: int) -> bool:
    """Whether a training of so many steps gains by bf16: on CUDA, or on a CPU that multiplies it, if it is long enough to pay for being compiled."""
    pays = device.type != "cpu" or steps >= WORTH_COMPILING and shutil.which("g++") is not None
    return pays and is_fast_in_bf16(device)


def make_fast(device: torch.device, steps: int, *modules: nn.Module) -> None:
    """Have modules compute in channels_last and, where a training `gains` by it, suited to bf16, under the same names of weights.

    Compiled on a CPU alone: on a GPU that takes more than a minute, and Zero-1-to-3's steps, `Recorded` as they are, gained 1% by it, beside
    another training. Steps that are not recorded were not compared.
    """
    for module in modules:
        module.to(memory_format=torch.channels_last)
        if gains(device, steps):
            suit_attention(module, device)
            suit_norms(module)
            if device.type == "cpu":
                module.compile()


class GroupNorm(nn.GroupNorm):
    """In the precision of what it is given: autocast has norms in fp32, and with them all that follows up to the next product."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class LayerNorm(nn.LayerNorm):
    """Likewise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def suit_norms(module: nn.Module) -> None:
    for each in module.modules():
        if kind := {nn.GroupNorm: GroupNorm, nn.LayerNorm: LayerNorm}.get(type(each)):
            each.__class__ = kind  # so that weights, their names and copies stay what they are


class Recorded:
    """Calls of a step that draws on its device alone and does the same whatever its number: recorded once as a CUDA graph, and then replayed.

    A small network's kernels run shorter than it takes to launch them one by one.
    """

    FIRST = 5  # calls that are not recorded: in these libraries begin, and an optimizer makes its state

    def __init__(self, step: Callable[[int], dict[str, torch.Tensor]], device: torch.device):
        self.step, self.device, self.aside = step, device, torch.cuda.Stream(device)  # CUDA wants all of them off the default stream
        self.graph, self.result, self.calls = None, {}, 0

    def __call__(self, number: int) -> dict[str, torch.Tensor]:
        """What the step gave; of a replayed one in tensors that the next one overwrites."""
        self.calls += 1
        if self.calls <= self.FIRST:
            main = torch.cuda.current_stream(self.device)
            self.aside.wait_stream(main)
            with torch.cuda.stream(self.aside):
                result = self.step(number)
            main.wait_stream(self.aside)
            return result
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.aside):
                self.result = self.step(number)
        self.graph.replay()
        return self.result


def generator(device: torch.device) -> torch.Generator:
    """The one that `torch.manual_seed` seeds there: noise that a CPU draws keeps a GPU waiting."""
    return torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator


@torch.no_grad()
def average(averaged: nn.Module, model: nn.Module, count: int) -> None:
    """Move an average towards the weights after `count` steps so that it spans the last tenth or so of those, however many there are; buffers are copied.

    Karras et al. 2024, Sec. 3: a power function's profile, here of a relative width of 0.05. A fixed decay is too long for some stages, too short for others.
    torch's AveragedModel has a counter that each step would wait for on a GPU.
    """
    torch._foreach_lerp_([*averaged.parameters()], [*model.parameters()], 1 - (1 - 1 / count) ** 18)
    for theirs, ours in zip(averaged.buffers(), model.buffers()):
        theirs.copy_(ours)


def fit(
    model: nn.Module,
    loss: Callable[[int], dict[str, torch.Tensor]],
    steps: int,
    learning_rate: float,
    folder: Path,
    *,
    made_from: str = "",
    warmup: int = 100,
    weight_decay: float = 0.01,
    recorded: bool = False,
    checkpoint_seconds: float = 120,
    sample: Callable[[nn.Module, int], None] | None = None,
    sample_every: int = 1000,
    quiet: bool = False,
) -> nn.Module:
    """Train `model` in place for `steps` and return its moving average.

    `loss(step)` gives a dict whose "loss" is minimised and whose other entries are only logged. All randomness of a step is
    seeded by its number, so that a killed and resumed run ends like one that was not. Warm-up, then cosine to a tenth.
    recorded: `loss` is the same at each step and keeps to the device, so that a GPU may record it, see `Recorded`.
    made_from: the `digest` of the data and whatever else `loss` depends on. A run begun otherwise, or from other weights than `model` has now,
    starts anew.
    sample: gets the moving average and the steps done, every `sample_every` and at the end; into `folder` go also loss.csv and loss.svg.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log = folder / "checkpoint.pt", folder / "loss.csv"
    params = [p for p in model.parameters() if p.requires_grad]
    device = params[0].device
    on_gpu = device.type == "cuda"
    fused = on_gpu or device.type == "cpu"  # one by one parameters take a tenth of a small network's step
    rate = torch.tensor(learning_rate, device=device if on_gpu else "cpu")  # a tensor, as the number that a recorded step has stays what it was
    optimizer = torch.optim.AdamW(params, rate, weight_decay=weight_decay, betas=(0.9, 0.99), fused=fused, capturable=on_gpu)
    averaged = copy.deepcopy(model).requires_grad_(False)
    first, means, made_from = 0, {}, f"{fingerprint(model)} {made_from} {learning_rate:g} {weight_decay:g}"
    state = torch.load(checkpoint, map_location=device, weights_only=True) if checkpoint.exists() else {}
    if state and (state.get("made_from") != made_from or state["step"] > steps or "averaged" not in state):
        logger.info("%s was begun otherwise, or is for longer already: it starts anew", folder.name)
    elif state:
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        optimizer.param_groups[0]["lr"] = rate
        first, means = state["step"], state.get("means", {})
        logger.info("%s goes on at step %d of %d", folder.name, first, steps)
    rows = cut_log(log, first)

    def save(step: int) -> None:
        state = {"model": model.state_dict(), "averaged": averaged.state_dict(), "optimizer": optimizer.state_dict()}
        save_atomically(state | {"step": step, "made_from": made_from, "means": {k: float(v) for k, v in means.items()}}, checkpoint)
        draw_curves(log, folder / "loss.svg")

    def update(step: int) -> dict[str, torch.Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=gains(device, steps), cache_enabled=not on_gpu):  # a replay must cast weights anew
            terms = loss(step)
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        return {name: value.detach() for name, value in terms.items()}

    take = Recorded(update, device) if recorded and on_gpu else update
    bar = tqdm(range(first, steps), folder.name, initial=first, total=steps, disable=quiet, mininterval=5)
    with kept_in(folder):
        for step in checkpointed(bar, folder.name, save, checkpoint_seconds):
            torch.manual_seed(step)
            rate.fill_(learning_rate * min(1, (step + 1) / warmup) * (0.55 + 0.45 * math.cos(math.pi * step / steps)))
            terms = take(step)
            average(averaged, model, step + 1)
            for key, value in terms.items():  # tensors and not their numbers, for which a GPU would have to be waited for
                means[key] = 0.98 * means.get(key, value) + 0.02 * value
            if (step + 1) % 20 == 0 or step + 1 == steps:
                bar.set_postfix({k: f"{v:.4f}" for k, v in means.items()})
                with open(log, "a", newline="") as f:
                    csv.writer(f).writerows([*([] if rows else [["step", *means]]), [step + 1, *(f"{v:.6f}" for v in means.values())]])
                rows += 1
            if sample and ((step + 1) % sample_every == 0 or step + 1 == steps):
                with torch.inference_mode():
                    sample(averaged, step + 1)
    return averaged.eval()


def cut_log(log: Path, step: int) -> int:
    """Drop what a killed run logged after its last checkpoint: that comes again. Returns how many rows are left."""
    rows = [row for row in read_log(log)[1:] if int(row[0]) <= step]
    if not rows:
        log.unlink(missing_ok=True)
    elif len(rows) < len(read_log(log)) - 1:
        write_atomically("\n".join(map(",".join, [read_log(log)[0], *rows])) + "\n", log)
    return len(rows)


def read_log(log: Path) -> list[list[str]]:
    return list(csv.reader(log.read_text().splitlines())) if log.exists() else []


def draw_curves(log: Path, picture: Path, points: int = 100) -> None:
    """The columns of a loss.csv over its steps as an SVG, logarithmic, at about so many points."""
    if not log.exists():
        return
    (_, *names), *rows = read_log(log)
    rows = [[float(value) for value in row] for row in rows[:: -(-len(rows) // points)]]
    series = {name: [(row[0], math.log10(row[i + 1])) for row in rows if row[i + 1] > 0] for i, name in enumerate(names)}
    write_atomically(curves(Curves("", "step", "log10", {name: line for name, line in series.items() if line})), picture)
