"""The two optimisation stages by threestudio: its own launch.py with configs/threestudio, each in a process of its own."""

import csv
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from core.errors import UserError
from core.presets import PRESETS, Preset

from .settings import Settings, configs_folder

SOURCE = Path(__file__).resolve().parent.parent
START = "import ingen3d.threestudio, runpy; runpy.run_path('launch.py', run_name='__main__')"  # nothing has to lie in custom/
NEEDED = ("pytorch_lightning", "tinycudann", "nvdiffrast")
CONFIGS = {"init": "zero123-init", "refine": "multi-guidance-refine"}


def check_installation(root: str | Path | None) -> Path:
    """The checkout's absolute path. Raises UserError for what is missing to run it: threestudio, CUDA, its libraries."""
    if root is None:
        raise UserError("--engine threestudio needs a checkout: git clone https://github.com/threestudio-project/threestudio, then --threestudio-root DIR")
    root = Path(root).resolve()
    if not (root / "launch.py").is_file() or not (root / "threestudio").is_dir():
        raise UserError(f"no threestudio in '{root}': --threestudio-root is the folder with its launch.py")
    if not torch.cuda.is_available():
        raise UserError("threestudio needs an NVIDIA GPU and a torch with CUDA, and there is none: leave out --engine, the native one runs anywhere")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} is not installed for {sys.executable}: install what '{root / 'requirements.txt'}' lists")
    return root


def stage_config(stage: str, preset: Preset, domain: Path | None, prompt: str, settings: Settings, steps: int | None) -> DictConfig:
    """configs/threestudio's for a stage, with this run's models, camera and prompt. domain: its folder. steps: None keeps the configuration's own."""
    name, zero123 = (str(Path(name).absolute()) if Path(name).exists() else name for name in (preset.name, preset.zero123))  # it runs elsewhere
    if preset.name in PRESETS:
        name = zero123 = preset.name
    camera, config = settings.camera, OmegaConf.load(configs_folder() / "threestudio" / f"{CONFIGS[stage]}.yaml")
    if stage == "init":
        views = {
            "default_elevation_deg": camera.reference_elevation_deg,
            "default_azimuth_deg": camera.reference_azimuth_deg,
            "default_camera_distance": camera.reference_distance,
            "default_fovy_deg": camera.fovy_deg,
            "random_camera": {"n_test_views": 1},  # the turntable is ours
        }
        system = {"guidance": {"pretrained_model_name_or_path": zero123}}
    else:
        views = {
            "eval_elevation_deg": camera.reference_elevation_deg,
            "eval_camera_distance": camera.reference_distance,
            "eval_fovy_deg": camera.fovy_deg,
            "n_test_views": 1,
        }
        guidance = {"pretrained_model_name_or_path": name, "domain_model": domain and str(domain.resolve()),
                    "guidance_scale": settings.refine.guidance_scale}
        system = {"guidance": guidance, "prompt_processor": {"prompt": prompt}}
    trainer = {} if steps is None else {"max_steps": steps}
    return OmegaConf.merge(config, {"data": views, "system": system, "trainer": trainer})


def visible_gpu(device: torch.device) -> str:
    """CUDA_VISIBLE_DEVICES for a process that is to use this device."""
    ours, index = os.environ.get("CUDA_VISIBLE_DEVICES"), device.index or 0  # one: of several each would be a rank, which has no extension
    return ours.split(",")[index] if ours else str(index)


def launch(config: DictConfig, root: Path, folder: Path, seed: int, quiet: bool, device: torch.device) -> Path:
    """Train by a configuration; threestudio's trial goes to FOLDER/threestudio. Returns its last checkpoint, which may be there already.

    What threestudio says goes to FOLDER/threestudio.log and, unless `quiet`, to the terminal, its progress bar included.
    Raises UserError with its last line when it fails.
    """
    log, last = folder / "threestudio.log", folder / "threestudio" / "ckpts" / "last.ckpt"
    if last.is_file():  # our configurations save it once, at the end
        return last
    shutil.rmtree(folder / "threestudio", ignore_errors=True)  # of an interrupted launch: beside it the checkpoint would take another name
    here = {"seed": seed, "exp_root_dir": str(folder.parent), "name": folder.name, "tag": "threestudio", "use_timestamp": False}
    OmegaConf.save(OmegaConf.merge(config, here), folder / "threestudio.yaml")
    paths = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": visible_gpu(device), "PYTHONPATH": paths}
    command = [sys.executable, "-c", START, "--train", "--config", str(folder / "threestudio.yaml")]
    with open(log, "wb") as file, subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            for said in iter(lambda: process.stdout.read1(), b""):
                file.write(said)
                if not quiet:
                    sys.stderr.buffer.write(said)
                    sys.stderr.flush()
        except KeyboardInterrupt:
            process.terminate()  # Lightning would take Ctrl-C for the end of the training, and go on with the test views
            raise
    if process.returncode or not last.is_file():
        words = log.read_text(errors="replace").split("\n")
        raise UserError(f"threestudio ended with exit code {process.returncode}: {next(filter(str.strip, reversed(words)), '')}; all it said is in '{log}'")
    return last


def last_losses(trial: Path) -> dict[str, float]:
    """What a trial logged of each loss at last, by threestudio's names; those with `_w` are weighted."""
    file = next(trial.glob("csv_logs/*/metrics.csv"), None)
    rows = [] if file is None else csv.DictReader(file.read_text().splitlines())
    logged = [(key.removeprefix("train/loss_"), value) for row in rows for key, value in row.items() if key.startswith("train/loss_")]
    return {name: float(value) for name, value in logged if value}
