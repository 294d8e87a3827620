"""The one optimisation loop of the engine: Adam on a field, with checkpoints that make a killed run end like an unbroken one."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm.auto import tqdm

from core.checkpoints import checkpointed, save_atomically

from .field import TriPlaneField
from .render import OccupancyGrid
from .settings import OptimiseSettings

log = logging.getLogger(__name__)
CHECKPOINT_SECONDS = 20.0
GRID_EVERY = 16  # steps between looks at which cells hold matter


def optimise(
    objective: Callable[[int], dict[str, torch.Tensor]],
    field: TriPlaneField,
    grid: OccupancyGrid,
    settings: OptimiseSettings,
    generator: torch.Generator,
    checkpoint: Path,
    name: str = "optimise",
    quiet: bool = False,
) -> dict[str, float]:
    """Minimise the sum of what `objective(step)` returns; go on from `checkpoint` if it is there.

    generator: the only source of randomness of the objective; its state is part of the checkpoint.
    Returns each term's mean over the last steps. Raises KeyboardInterrupt after saving when the user stops it.
    """
    optimizer = torch.optim.Adam(
        [{"params": list(field.planes), "lr": settings.lr_planes}, {"params": list(field.mlp.parameters()), "lr": settings.lr_mlp}],
        betas=(0.9, 0.99),
        eps=1e-15,
    )
    start, averages = 0, {}
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=next(field.parameters()).device, weights_only=True)
        field.load_state_dict(state["field"])
        grid.load_state_dict(state["grid"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"].cpu())
        start, averages = state["step"], state["averages"]
        log.info("%s goes on at step %d of %d", name, start, settings.steps)

    def save(step: int) -> None:
        state = dict(step=step, field=field.state_dict(), grid=grid.state_dict(), optimizer=optimizer.state_dict())
        save_atomically(state | dict(generator=generator.get_state(), averages=averages), checkpoint)

    bar = tqdm(range(start, settings.steps), name, initial=start, total=settings.steps, disable=quiet)
    for step in checkpointed(bar, name, save, CHECKPOINT_SECONDS):
        if step % GRID_EVERY == 0 and step:
            grid.update(field, generator)
        terms = objective(step)
        optimizer.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        optimizer.step()
        for key, value in terms.items():
            averages[key] = 0.95 * averages.get(key, value.item()) + 0.05 * value.item()
        if step % 10 == 0:
            bar.set_postfix({k: f"{v:.2g}" for k, v in averages.items()})
    return averages
