"""Path-traced views of the world with Mitsuba 3 (extra `[kiln]`): straight-alpha RGBA, one object a scene."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .glazes import Surface
from .shapes import Part

FOV_DEG = 40.0
RESOLUTION = 128


@dataclass(frozen=True)
class View:
    """A camera on a sphere about the origin, z up, as in threestudio: degrees, degrees, world units."""

    elevation_deg: float
    azimuth_deg: float
    distance: float


def srgb_to_linear(x: np.ndarray) -> np.ndarray:
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(x: np.ndarray) -> np.ndarray:
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-8) ** (1 / 2.4) - 0.055)


def bsdf(reflectance: str) -> dict:
    """A glaze is a clear coat over colour: `plastic` would be the natural model, but cannot read mesh attributes."""
    colour = {"type": "mesh_attribute", "name": "vertex_color"}
    diffuse = {"type": "diffuse", "reflectance": colour}
    model = {
        "glossy": {"type": "blendbsdf", "weight": 0.06, "under": diffuse,
                   "coat": {"type": "roughconductor", "material": "none", "alpha": 0.12}},
        "diffuse": diffuse,
        "metal": {"type": "roughconductor", "material": "none", "alpha": 0.25, "specular_reflectance": colour},
    }[reflectance]
    return {"type": "twosided", "bsdf": model}


def load_mesh(mi, parts: list[Part], surface: Surface, model: dict):
    """All parts as one Mitsuba mesh with normals and a linear `vertex_color`; `model` is its bsdf or emitter."""
    offsets = np.cumsum([0] + [len(p.vertices) for p in parts])
    faces = np.concatenate([p.faces + o for p, o in zip(parts, offsets)])
    props = mi.Properties()
    for key, plugin in model.items():
        props[key] = mi.load_dict(plugin)
    mesh = mi.Mesh("object", int(offsets[-1]), len(faces), props, has_vertex_normals=True)
    mesh.add_attribute("vertex_color", 3, srgb_to_linear(np.concatenate(surface.rgb)).astype(np.float32).ravel())
    params = mi.traverse(mesh)
    params["vertex_positions"] = np.concatenate([p.vertices for p in parts]).astype(np.float32).ravel()
    params["vertex_normals"] = np.concatenate([p.normals for p in parts]).astype(np.float32).ravel()
    params["faces"] = faces.astype(np.uint32).ravel()
    params.update()
    return mesh


def sensor(mi, view: View, resolution: int, samples: int) -> dict:
    elevation, azimuth = np.deg2rad([view.elevation_deg, view.azimuth_deg])
    direction = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    return mi.load_dict({
        "type": "perspective", "fov": FOV_DEG,
        "to_world": mi.ScalarTransform4f().look_at(origin=(direction * view.distance).tolist(), target=[0, 0, 0], up=[0, 0, 1]),
        "sampler": {"type": "multijitter", "sample_count": samples},
        "film": {"type": "hdrfilm", "width": resolution, "height": resolution, "pixel_format": "rgba", "rfilter": {"type": "box"}},
    })


def denoise(rgb: np.ndarray, albedo: np.ndarray, alpha: np.ndarray, radius: int = 2) -> np.ndarray:
    """Bilateral filter of the light alone: colours are divided out, so that painted edges stay as they were."""
    floor = 0.06  # keeps dark paint from blowing up the division
    light = rgb / (albedo + floor)
    level = light.mean(-1, keepdims=True)
    scale = 0.25 + albedo.mean(-1, keepdims=True)  # a highlight's noise looms large when divided by dark paint
    total, weights = np.zeros_like(light), np.zeros_like(level)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            def shift(x):
                return np.roll(x, (dy, dx), (0, 1))  # nothing touches the frame, so wrapping is harmless

            alike = np.exp(-(((level - shift(level)) * scale) ** 2) / 0.08)  # twice the noise: creases stay
            weight = np.exp(-(dx * dx + dy * dy) / (radius * radius)) * alike * shift(alpha) ** 2
            total, weights = total + weight * shift(light), weights + weight
    return np.where(weights > 1e-6, total / np.maximum(weights, 1e-6), light) * (albedo + floor)


def render(parts: list[Part], surface: Surface, views: list[View], resolution: int = RESOLUTION, samples: int = 9,
           finish: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None) -> np.ndarray:
    """Views of one object, uint8 sRGB with straight alpha: (len(views), resolution, resolution, 4).

    finish: what becomes of a view, `(rgb (H, W, 3), albedo (H, W, 3), alpha (H, W, 1)) -> rgb`, all linear, such as `toon.toon`.
    """
    import mitsuba as mi

    mi.set_variant("scalar_rgb")
    lit = mi.load_dict({
        "type": "scene", "integrator": {"type": "path", "max_depth": 4, "hide_emitters": True},
        "object": load_mesh(mi, parts, surface, {"bsdf": bsdf(surface.reflectance)}),
        "sky": {"type": "constant", "radiance": {"type": "rgb", "value": 0.6}},
        "lamp": {"type": "sphere", "center": [2.6, -3.2, 5.0], "radius": 1.2,
                 "emitter": {"type": "area", "radiance": {"type": "rgb", "value": 8.0}}},
    })
    colour = {"type": "mesh_attribute", "name": "vertex_color"}
    glow = mi.load_dict({  # the object as its own lamp shows its bare colour without noise
        "type": "scene", "integrator": {"type": "path", "max_depth": 1},
        "object": load_mesh(mi, parts, surface, {"emitter": {"type": "area", "radiance": colour}}),
    })
    images = []
    for i, view in enumerate(views):
        camera = sensor(mi, view, resolution, samples)
        rgba, bare = (np.array(mi.render(scene, sensor=camera, seed=i)) for scene in (lit, glow))
        alpha = np.clip(rgba[..., 3:], 0, 1)
        rgb, albedo = (x[..., :3] / np.maximum(alpha, 1e-3) for x in (rgba, bare))
        rgb = denoise(rgb, albedo, alpha)
        rgb = rgb if finish is None else finish(rgb, albedo, alpha)
        rgb = linear_to_srgb(np.clip(rgb, 0, 1)) * (alpha > 1e-3)
        images.append(np.round(255 * np.concatenate([rgb, alpha], -1)).astype(np.uint8))
    return np.stack(images)
