"""The 3D table's methods, and what they make of one pot: its measures from views, and how near a lifted picture of a true pot comes to it."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import trimesh
from omegaconf import OmegaConf
from PIL import Image

from core.domains import find_domain
from core.evaluation import features, kiln
from core.evaluation.cells import Cell
from core.images import contact_sheet, to_pil
from core.kiln import fire, glazes, judge, renderer, shapes
from core.kiln.data import PICTURES, WORLDS, load_views, make_object, on_white
from core.presets import BASELINE, find_preset

from .cameras import orbit
from .geometry import held_out, shape_errors, true_mesh
from .mesh import Y_UP
from .models import Models
from .pipeline import NoObject, text_to_3d
from .run_folder import models_fingerprint
from .settings import Settings, load_settings

logger = logging.getLogger(__name__)
VIEWS, SHOWN = 24, 8  # of an object: measured, and put into the report
DREAMFUSION_SCALE = 101.0  # its guidance weight of 100, in diffusers' convention


@dataclass(frozen=True)
class Method:
    """A row of the table. overrides: settings on top of those that all share.

    models: whose they are: the "domain"'s, the "prior"'s alone or the "fine-tuned" prior's. The last two make objects from the prompt alone,
    and lift no picture. varies: it differs from ours in refinement and painting alone, so that picture and first field are the same.
    """

    title: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    models: str = "domain"
    varies: bool = False


def methods(s: Settings) -> dict[str, Method]:
    """The rows, each with as many steps of optimisation in all as ours has with these settings. Painting is no part of the paper's.

    From scratch: DreamFusion's score distillation (Poole et al. 2023), of all timesteps and with its guidance, from the density blob, with
    the learning rates and cameras of our first field, and no loss on distortion, which came later. Zero-1-to-3 only: the first field, longer, with its depth.
    No rectification (Fig. 12a): eps_0 is the customised network's own, that is eps_d, for a null-text UNet has no condition to leave out. The
    domain's term eps_d - eps_0 then vanishes, and what is left is eps_d + w_c (eps_c - eps_d), with the same w_c: from the domain away,
    towards the prior's prediction for the prompt; with `csd` of that the last alone. No domain, no text: the one term that is
    left has all of w0 (Sec. 3.4 with K = 1).
    """
    total = s.init.steps + s.refine.steps
    dreamfusion = dict(t_start=[0.02, 0.98], t_end=[0.02, 0.98], guidance_scale=DREAMFUSION_SCALE, guidance_end=DREAMFUSION_SCALE)
    learning = dict(steps=total, lr_planes=s.init.lr_planes, lr_mlp=s.init.lr_mlp, elevation_range=list(s.init.elevation_range))
    bare = {"paint": {"pictures": 0}}
    scratch = bare | {"init": {"steps": 0}, "refine": dreamfusion | learning | {"rgb": 0.0, "mask": 0.0, "distortion": 0.0, "csd": False}}
    return {
        "sds-prior": Method("SDS from scratch, prior", scratch, "prior"),
        "sds-fine-tuned": Method("SDS from scratch, fine-tuned prior", scratch, "fine-tuned"),
        "zero123": Method("Zero-1-to-3 only", bare | {"init": {"steps": total}, "refine": {"steps": 0}}),
        "ours": Method("ours"),
        "no-painting": Method("ours without painting", bare, varies=True),
        "no-rectification": Method("ours without rectification", {"refine": {"rectify": False}}, varies=True),
        "no-domain": Method("ours without the domain's term", dict.fromkeys(("refine", "paint"), {"domain_scale": 0.0}), varies=True),
        "no-text": Method("ours without the text's term", dict.fromkeys(("refine", "paint"), {"control_scale": 0.0}), varies=True),
    }


class Pots:
    """The pots of one domain: what each method makes of them, and its measures.

    common: settings that all methods share, on top of the preset's. runs: folder of the text_to_3d runs, which go on where they were stopped.
    fine_tuned: the folder of a prior that was fine-tuned for the domain, as `core.training.baselines` writes it.
    """

    def __init__(self, preset: str, domain: str, common: Mapping, runs: Path, fine_tuned: Path, device: torch.device, quiet: bool):
        self.preset, self.domain, self.common, self.device, self.quiet = find_preset(preset), find_domain(domain), common, device, quiet
        self.runs, self.renders = runs / self.domain.name, fire.CACHE / "data" / self.domain.name
        self.fine_tuned = fine_tuned
        self.settings = load_settings(self.preset.config, dict(common))
        self.methods = methods(self.settings)
        self.models = cache(self.load_models)
        self.has_truth = self.domain.name in PICTURES and self.settings.camera.fovy_deg == renderer.FOV_DEG

    def load_models(self, whose: str) -> Models:
        """Each at most once; all parts when a stage first needs them."""
        prior = self.fine_tuned if whose == "fine-tuned" else None
        return Models(self.preset.name, str(self.domain.folder) if whose == "domain" else None, self.device, prior)

    def prompt(self, method: Method, name: str, seed: int) -> str:
        """What a method is asked for; where it knows no domain, in words that come nearest to it."""
        if method.models == "fine-tuned":
            return json.loads((self.fine_tuned / BASELINE).read_text())["phrase"].replace("{prompt}", glazes.with_article(name))
        imitations = kiln.imitations(self.domain.name, [name])
        return imitations[seed % len(imitations)] if method.models == "prior" else glazes.with_article(name)

    def overrides(self, method: Method, lifts: bool) -> dict:
        """A lifted picture keeps its framing: the renderer's camera is the reference's. Only its shape is measured, which painting leaves as it is."""
        given = (self.common, method.overrides, {"image": {"fill": None}, "paint": {"pictures": 0}} if lifts else {})
        return OmegaConf.to_container(OmegaConf.merge(*(dict(each) for each in given)))

    def cell(self, task: str, key: str, name: str, seed: int) -> Cell:
        """The measures of a method over one pot. task: "text", or "lift" a picture of a true pot of the class."""
        method, make = self.methods[key], {"text": self.from_text, "lift": self.lifted}[task]
        depends = {
            "settings": asdict(load_settings(self.preset.config, self.overrides(method, task == "lift"))),
            "models": self.models(method.models).fingerprint,
            "prompt": self.prompt(method, name, seed),
            "renders": models_fingerprint(self.renders, self.preset.judge),
        }
        return Cell(f"table3d {self.domain.name} {task} {key} {name} {seed}", depends, lambda folder: make(key, name, seed, folder))

    def cells(self, names: Sequence[str], seeds: Sequence[int]) -> dict[tuple, Cell]:
        """All, by task, method, class and seed, batch by batch: from text before the lifted, a seed after the other, all methods of a class together."""
        lifting = [key for key, method in self.methods.items() if method.models == "domain" and key != "no-painting"]  # whose shapes are ours
        tasks = {"text": self.methods, "lift": lifting if self.has_truth else []}
        wanted = [(task, key, name, seed) for task, keys in tasks.items() for seed in seeds for name in names for key in keys]
        return {each: self.cell(*each) for each in sorted(wanted, key=self.batch)}

    def batch(self, each: tuple[str, str, str, int]) -> tuple:
        """Of a cell by its task, method, class and seed: when its turn is. What starts from ours comes after it."""
        task, key, _, seed = each
        return task == "lift", seed, self.methods[key].varies

    def run(self, task: str, key: str, name: str, seed: int, picture: Image.Image | None = None) -> tuple[Path, bool]:
        """The folder of a finished run, and whether it came to a mesh."""
        method = self.methods[key]
        out = self.runs / task / f"{name}-{seed}" / key
        ours, partial = out.with_name("ours"), out.with_name(f"{key}.partial")
        if method.varies and ours.exists() and not out.exists():
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(ours, partial)
            partial.rename(out)
        try:
            run = text_to_3d(
                self.prompt(method, name, seed), str(self.domain.folder) if method.models == "domain" else None, self.preset.name, picture, seed,
                out, device=self.device, quiet=self.quiet, overrides=self.overrides(method, picture is not None), models=self.models(method.models),
            )  # fmt: skip
            return run.folder, True
        except NoObject as error:
            logger.warning("%s, %s, seed %d: %s", method.title, name, seed, error)
            return error.folder, False

    def from_text(self, key: str, name: str, seed: int, folder: Path) -> dict[str, Any]:
        """kid, class and consistency of the turntable's views, whether there is a mesh, and seconds. An object without views has none of the first."""
        run, meshed = self.run("text", key, name, seed)
        stages, seen = json.loads((run / "run.json").read_text())["stages"], kiln.seen_stages(run)
        figures = {"mesh": float(meshed), "seconds": sum(entry.get("seconds", 0) for entry in stages.values())}
        if meshed:
            shutil.copy(run / "mesh.glb", folder)
        return figures | (self.judge_views(kiln.turntable_views(run, seen[-1]), name, folder) if seen else {})

    def lifted(self, key: str, name: str, seed: int, folder: Path) -> dict[str, float]:
        """Distances of the lifted picture of a held-out pot to that pot. Without a mesh there are none."""
        parts, surface = self.true_pot(name, seed)
        c, size = self.settings.camera, self.preset.resolution
        view = renderer.View(c.reference_elevation_deg, c.reference_azimuth_deg, c.reference_distance)
        picture = Image.fromarray(renderer.render(parts, surface, [view], size)[0])
        run, meshed = self.run("lift", key, name, seed, picture)
        picture.save(folder / "picture.png")
        true = true_mesh(parts)
        true.copy().apply_transform(Y_UP).export(folder / "true.glb")
        if not meshed:
            return {"mesh": 0.0}
        shutil.copy(run / "mesh.glb", folder)
        return {"mesh": 1.0} | shape_errors(trimesh.load(run / "mesh.ply", force="mesh"), true)

    def rendered(self, name: str, seed: int) -> Cell:
        """The same measures of a held-out pot itself, from the same cameras: what a perfect method would reach."""
        camera = dict(elevation_deg=self.settings.turntable.elevation_deg, distance=self.settings.camera.reference_distance)

        def make(folder: Path) -> dict[str, float]:
            parts, surface = self.true_pot(name, seed)
            ring = orbit(VIEWS, fovy_deg=renderer.FOV_DEG, **camera)
            views = [renderer.View(*map(float, each)) for each in zip(ring.elevation_deg, ring.azimuth_deg, ring.distance)]
            return self.judge_views(on_white(renderer.render(parts, surface, views, 128)), name, folder)

        depends = {"renders": models_fingerprint(self.renders, self.preset.judge), "views": VIEWS, **camera}
        return Cell(f"table3d {self.domain.name} true {name} {seed}", depends, make)

    def true_pot(self, name: str, seed: int) -> tuple[list[shapes.Part], glazes.Surface]:
        """Parts and surface of a pot that no model has seen."""
        form, surface, _ = make_object(self.domain.name, held_out(name, seed + 1, self.domain.name)[seed])
        return form.parts, surface

    @cached_property
    def classes(self) -> list[str]:
        """The domain's classes that the judge knows; of a domain that is no world of the kiln's, all that it knows."""
        known = self.critic.vocabulary["class"]
        return [name for name in (WORLDS[self.domain.name].classes if self.domain.name in PICTURES else known) if name in known]

    @cached_property
    def critic(self) -> judge.Judge:
        return judge.Judge.load(Path(self.preset.judge))

    @cached_property
    def real(self) -> torch.Tensor:
        """Features (N, d) of the domain's renders, of all classes, that models learn from."""
        return features.extract(self.critic, kiln.views_tensor(load_views(self.renders)).split(128))

    def judge_views(self, views: torch.Tensor, name: str, folder: Path) -> dict[str, float]:
        """Measures of one object's views (N, 3, 128, 128) in [-1, 1], all around it; some of them go to views.png, their features to features.npy."""
        contact_sheet(to_pil(views[:: max(1, len(views) // SHOWN)])[:SHOWN], columns=SHOWN).save(folder / "views.png")
        found = features.extract(self.critic, views.split(128))
        np.save(folder / "features.npy", found.numpy())
        right = [seen == name for seen in judge.read(self.critic, views)["class"]]
        return {"kid": features.kid(self.real, found), "class": sum(right) / len(right), "consistency": consistency(found)}

    def kid_of_all(self, folders: Sequence[Path]) -> float | None:
        """KID of the views of several objects together, by the features that `judge_views` left; None where there are none."""
        found = [torch.from_numpy(np.load(file)) for folder in folders if (file := folder / "features.npy").is_file()]
        return features.kid(self.real, torch.cat(found)) if found else None


def consistency(found: torch.Tensor) -> float:
    """Mean cosine similarity of the features (N, d) of neighbouring views on a turntable, the last one's neighbour being the first."""
    return float(F.cosine_similarity(found, found.roll(-1, 0)).mean())
