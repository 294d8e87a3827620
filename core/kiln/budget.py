"""What size and training time buy: the autoencoder and the prior in other architectures, each fired for a share of the steps, and measured."""

import json
import shutil
from collections.abc import Iterator

from ..checkpoints import write_atomically
from ..evaluation.kiln import autoencoder_psnr, prior_alignment
from ..presets import PRESETS
from .fire import Kiln, Recipe

VARIANTS = {  # stage -> what is varied -> recipe
    "autoencoder": {f"f={factor}, {channels} latent channels": Recipe(factor, channels) for factor, channels in ((4, 4), (4, 8), (8, 8), (8, 16))},
    "prior": {"v, 1 layer a block": Recipe(), "epsilon, 1 layer": Recipe(prediction_type="epsilon"), "v, 2 layers": Recipe(layers=2)},
}
SHARES = (0.05, 0.2)  # of the steps of what ships
SEEDS = 5  # of each of the prior's prompts
SAMPLING = {key: getattr(PRESETS["kiln"], key) for key in ("guidance_scale", "num_inference_steps")}  # a prior in a folder would have sd15's


def compare(kiln: Kiln, shares: tuple[float, ...] = SHARES) -> Iterator[dict[str, object]]:
    """A row for each variant and share: what, steps, minutes, MiB and its measures. Goes on where it was; lies in CACHE/budget.

    kiln: has rendered the worlds and fired what ships, over whose autoencoder and CLIP the priors are compared.
    """
    for stage, variants in VARIANTS.items():
        for name, recipe in variants.items():
            for share in shares:
                folder = kiln.cache / "budget" / f"{stage}-{'-'.join(str(value) for value in vars(recipe).values())}-{share:g}"
                variant = Kiln(folder, kiln.device, share * kiln.scale, kiln.quiet, folder / "weights", kiln.renders, recipe)
                if stage == "prior":
                    share_inputs(kiln, variant)
                variant.run(stage)
                yield {"model": stage, "variant": name} | cost(variant, stage) | measures(variant, stage)


def share_inputs(kiln: Kiln, variant: Kiln) -> None:
    """What a prior is trained over: the autoencoder, CLIP, and base views that were encoded once for all."""
    for part in ("prior/vae", "clip"):
        shutil.copytree(kiln.weights / part, variant.weights / part, dirs_exist_ok=True)
    kiln.latents("base")
    latents = variant.cache / "base-latents.pt"
    latents.unlink(missing_ok=True)
    latents.symlink_to((kiln.cache / latents.name).resolve())


def cost(kiln: Kiln, stage: str) -> dict[str, object]:
    """steps, minutes and MiB of a stage's model."""
    part = {"autoencoder": "prior/vae", "prior": "prior/unet"}[stage]
    return {"steps": kiln.steps[stage], "minutes": round(kiln.record(stage).seconds / 60, 1), "MiB": kiln.sizes()[part]}


def measures(kiln: Kiln, stage: str) -> dict[str, float]:
    """PSNR in dB of the autoencoder on each world's held-out views, or shares of the prior's images that show what was asked for."""
    file, now = kiln.cache / "measures.json", {"made": kiln.made(stage)} | (SAMPLING if stage == "prior" else {})
    kept = json.loads(file.read_text()) if file.exists() else {}
    if not now.items() <= kept.items():
        found = (autoencoder_psnr(kiln.renders, kiln.load_vae()) if stage == "autoencoder"
                 else prior_alignment(SEEDS, str(kiln.weights / "prior"), kiln.quiet, **SAMPLING))
        kept = now | {"measures": {key: round(value, 3) for key, value in found.items()}}
        write_atomically(json.dumps(kept), file)
    return kept["measures"]


def as_markdown(rows: list[dict[str, object]]) -> str:
    """A table of each model's rows."""
    tables = []
    for stage in VARIANTS:
        mine = [row for row in rows if row["model"] == stage]
        names = [key for key in mine[0] if key != "model"] if mine else []
        lines = [names, ["---"] * len(names), *([str(row[key]) for key in names] for row in mine)]
        tables.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(tables)
