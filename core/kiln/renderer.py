"""Path-traced views of the world with Mitsuba 3 (extra `[kiln]`): straight-alpha RGBA, one object a scene."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from ..errors import UserError
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


COATS = {"glossy": (0.06, 0.12), "diffuse": (0.0, 0.25), "metal": (1.0, 0.25)}  # reflectance -> its share of the light, its roughness


def bsdf(reflectance: str) -> dict:
    """A coat over colour: a glaze's is thin and clear, a metal is nothing else and has the colour. `plastic` cannot read mesh attributes."""
    colour, (share, roughness) = {"type": "mesh_attribute", "name": "vertex_color"}, COATS[reflectance]
    tint = {"specular_reflectance": colour} if reflectance == "metal" else {}
    coat = {"type": "roughconductor", "material": "none", "alpha": roughness, **tint}
    return {"type": "twosided", "bsdf": {"type": "blendbsdf", "weight": share, "under": {"type": "diffuse", "reflectance": colour}, "coat": coat}}


def load_mesh(mi, parts: list[Part], rgb: list[np.ndarray], material):
    """All parts as one Mitsuba mesh with normals and a linear `vertex_color`, of sRGB colours (V, 3) for each part."""
    offsets = np.cumsum([0] + [len(p.vertices) for p in parts])
    faces = np.concatenate([p.faces + o for p, o in zip(parts, offsets)])
    props = mi.Properties()
    props["bsdf"] = material
    mesh = mi.Mesh("object", int(offsets[-1]), len(faces), props, has_vertex_normals=True)
    mesh.add_attribute("vertex_color", 3, srgb_to_linear(np.concatenate(rgb)).astype(np.float32).ravel())
    params = mi.traverse(mesh)
    params["vertex_positions"] = np.concatenate([p.vertices for p in parts]).astype(np.float32).ravel()
    params["vertex_normals"] = np.concatenate([p.normals for p in parts]).astype(np.float32).ravel()
    params["faces"] = faces.astype(np.uint32).ravel()
    params.update()
    return mesh


def check_renderer() -> None:
    """Raises UserError where there is no Mitsuba."""
    if find_spec("mitsuba") is None:
        raise UserError("rendering wants Mitsuba: pip install 'ingen3d[kiln]'")


def load_mitsuba(threads: int | None = None):
    """Mitsuba, compiled for this CPU's vectors where there is LLVM (some three times as fast), else as it comes.

    threads: of this process, all cores by default. LLVM before 19 is not asked to: 16 and older abort on some CPUs.
    """
    import drjit
    import mitsuba as mi

    mi.set_variant("llvm_ad_rgb" if drjit.detail.llvm_version() >= (19,) else "scalar_rgb")
    if threads:
        drjit.set_thread_count(threads)
    return mi


def look_from(mi, view: View):
    """Camera to world."""
    elevation, azimuth = np.deg2rad([view.elevation_deg, view.azimuth_deg])
    direction = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    return mi.ScalarTransform4f().look_at(origin=(direction * view.distance).tolist(), target=[0, 0, 0], up=[0, 0, 1])


def sensor(mi, resolution: int, samples: int):
    return mi.load_dict({
        "type": "perspective", "fov": FOV_DEG, "sampler": {"type": "multijitter", "sample_count": samples},
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


def render(parts: list[Part], surface: Surface, views: list[View], resolution: int = RESOLUTION, samples: int = 16,
           finish: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None) -> np.ndarray:
    """Views of one object, uint8 sRGB with straight alpha: (len(views), resolution, resolution, 4).

    samples: a square number spreads them best. finish: `(rgb, albedo, alpha) -> rgb`, all linear, on the denoised picture.
    """
    mi = load_mitsuba()
    material, camera = mi.load_dict(bsdf(surface.reflectance)), sensor(mi, resolution, samples)
    light, colour = (mi.load_dict(x) for x in ({"type": "path", "max_depth": 4, "hide_emitters": True}, {"type": "aov", "aovs": "albedo:albedo"}))
    scene = mi.load_dict({
        "type": "scene", "object": load_mesh(mi, parts, surface.rgb, material), "sky": {"type": "constant", "radiance": {"type": "rgb", "value": 0.6}},
        "lamp": {"type": "sphere", "center": [2.6, -3.2, 5.0], "radius": 1.2,
                 "emitter": {"type": "area", "radiance": {"type": "rgb", "value": 8.0}}},
    })
    coat, placed = mi.traverse(material), mi.traverse(camera)
    images = []
    for i, view in enumerate(views):
        placed["to_world"] = mi.Transform4f(look_from(mi, view))  # moved, not made anew: a compiled tracer is used again
        placed.update()
        found = []
        for integrator, share in ((light, COATS[surface.reflectance][0]), (colour, 0.0)):  # the bare colour is seen without the coat
            coat["brdf_0.weight.value"] = share
            coat.update()
            found.append(np.array(mi.render(scene, sensor=camera, integrator=integrator, seed=i)))
        alpha = np.clip(found[0][..., 3:], 0, 1)
        rgb, albedo = (x[..., :3] / np.maximum(alpha, 1e-3) for x in found)
        rgb = denoise(rgb, albedo, alpha)
        if finish:
            rgb = finish(rgb, albedo, alpha)
        rgb = linear_to_srgb(np.clip(rgb, 0, 1)) * (alpha > 1e-3)
        images.append(np.round(255 * np.concatenate([rgb, alpha], -1)).astype(np.uint8))
    return np.stack(images)


def distances(parts: list[Part], views: list[View], resolution: int = RESOLUTION) -> np.ndarray:
    """How far an object is from each view's camera, along one ray through each pixel: (len(views), resolution, resolution), 0 where it is not."""
    mi = load_mitsuba()
    camera, depth = sensor(mi, resolution, samples=1), mi.load_dict({"type": "aov", "aovs": "distance:depth"})
    bare = [np.ones((len(p.vertices), 3)) for p in parts]
    scene, placed = mi.load_dict({"type": "scene", "object": load_mesh(mi, parts, bare, mi.load_dict({"type": "diffuse"}))}), mi.traverse(camera)
    found = []
    for i, view in enumerate(views):
        placed["to_world"] = mi.Transform4f(look_from(mi, view))
        placed.update()
        found.append(np.array(mi.render(scene, sensor=camera, integrator=depth, seed=i))[..., -1])
    return np.stack(found)
