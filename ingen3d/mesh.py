"""From a field to a textured mesh: isosurface, clean-up, UV atlas, baked colours, GLB/OBJ/PLY."""

import itertools
from pathlib import Path

import igl
import mcubes
import numpy as np
import torch
import trimesh
import xatlas
from PIL import Image
from scipy import ndimage
from tqdm.auto import tqdm

from core.errors import UserError

from .field import RADIUS

Y_UP = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], float)  # glTF: +y up; ours: +z up


@torch.no_grad()
def density_volume(field, resolution: int, quiet: bool = True) -> np.ndarray:
    """Density on a regular grid over the cube about the unit ball, zero outside the ball: (R, R, R)."""
    device = next(field.parameters()).device
    axis = torch.linspace(-RADIUS, RADIUS, resolution, device=device)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    inside = points.norm(dim=-1) < 0.98 * RADIUS  # the margin keeps the isosurface closed
    planes = field.pyramid_sum()
    volume = torch.zeros(len(points), device=device)
    chunks = tqdm(points[inside].split(200_000), "meshing", disable=quiet, delay=2)
    volume[inside] = torch.cat([field.density(chunk, planes) for chunk in chunks])
    return volume.view(resolution, resolution, resolution).cpu().numpy()


def fill_cavities(solid: np.ndarray) -> np.ndarray:
    """The solid's largest component with enclosed hollows closed: a volume render never sees inside."""
    labels, n = ndimage.label(solid)
    if n == 0:
        return solid
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    return ndimage.binary_fill_holes(largest)


def extract(field, resolution: int = 128, threshold: float = 10.0, faces: int = 10_000, quiet: bool = True) -> trimesh.Trimesh:
    """A closed mesh of the field's largest component, of about `faces` triangles at most, normals outward, z up.

    faces: what closed handles and tunnels need may be more. threshold: density of the surface, in 1 / world unit. Raises ValueError when the
    field is empty.
    """
    volume = density_volume(field, resolution, quiet)
    solid = fill_cavities(volume > threshold)
    if not solid.any():
        raise ValueError(f"the field is empty: no density above {threshold:g} (maximum {volume.max():.3g})")
    # the level set of log density, clipped, is near linear across the surface; other parts and hollows are overwritten
    level = np.clip(np.log((volume + 1e-3) / threshold), -1.5, 1.5)
    level = np.where(solid, np.maximum(level, 0.2), np.minimum(level, -0.2))
    level = ndimage.gaussian_filter(level, 0.7)  # takes off the voxel staircase, about a third of a voxel
    vertices, triangles = mcubes.marching_cubes(level, 0.0)
    if not len(triangles):
        raise ValueError(f"the field is all but empty: what has a density above {threshold:g} is too thin for a mesh")
    mesh = trimesh.Trimesh(2 * RADIUS * vertices / (resolution - 1) - RADIUS, triangles, process=True)
    mesh = largest_component(mesh)
    if len(mesh.faces) > faces:
        # libigl keeps a closed mesh closed: where others collapse a neck into one edge, that has four faces
        found = igl.qslim(np.asfortranarray(mesh.vertices), np.asfortranarray(mesh.faces), faces)
        mesh = trimesh.Trimesh(*found[-4:-2])  # before 2.6 there is one more in front
    if mesh.volume < 0:
        mesh.invert()
    return mesh


def largest_component(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    parts = mesh.split(only_watertight=False)
    return max(parts, key=lambda part: part.area) if len(parts) > 1 else mesh


def unwrap(mesh: trimesh.Trimesh, texture_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """UV atlas by xatlas: (index of the original vertex (V,), faces (F, 3), uv (V, 2) with v up)."""
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32), mesh.vertex_normals.astype(np.float32))
    charts, pack = xatlas.ChartOptions(), xatlas.PackOptions()
    charts.max_iterations = 1
    pack.resolution, pack.padding = texture_size, 3
    atlas.generate(charts, pack)
    return atlas[0]


def edge(u: np.ndarray, v: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Twice the signed area of triangles (u, v, p): u, v (n, 2), p (n, m, 2) -> (n, m)."""
    along, to = (v - u)[:, None], p - u[:, None]
    return along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0]


def surface_texels(uv: np.ndarray, faces: np.ndarray, positions: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rasterise the UV triangles: 3D position under each texel (size, size, 3) and which texels are covered; row 0 is v = 1."""
    pixel = np.stack([uv[:, 0], 1 - uv[:, 1]], -1) * size - 0.5  # (V, 2), x right, y down, texel centres at integers
    a, b, c = (pixel[faces[:, k]] for k in range(3))
    low = np.floor(np.minimum(np.minimum(a, b), c)).astype(int)
    high = np.ceil(np.maximum(np.maximum(a, b), c)).astype(int)
    extent = (high - low + 1).max(-1)
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    image, covered = np.zeros((size, size, 3), np.float32), np.zeros((size, size), bool)
    # triangles of like size together, so that one array operation tests all their texels
    for lo, hi in itertools.pairwise([0, 4, 8, 16, 32, 64, 128, size + 2]):
        pick = np.flatnonzero((extent > lo) & (extent <= hi) & (np.abs(area) > 1e-12))
        window = np.stack(np.meshgrid(np.arange(hi), np.arange(hi), indexing="xy"), -1).reshape(-1, 2)
        for chunk in np.array_split(pick, max(1, len(pick) * len(window) // 2_000_000)):
            p = low[chunk][:, None] + window  # (n, texels, 2)
            corners = a[chunk], b[chunk], c[chunk]
            weight = np.stack([edge(corners[k - 2], corners[k - 1], p) for k in range(3)], -1) / area[chunk, None, None]
            hit = (weight > -1e-4).all(-1) & (p >= 0).all(-1) & (p < size).all(-1)
            n, k = np.nonzero(hit)
            x, y = p[n, k].T
            image[y, x] = np.einsum("ij,ijk->ik", weight[n, k], positions[faces[chunk[n]]])
            covered[y, x] = True
    # slivers that miss every texel centre would take their neighbour chart's colour: give each vertex at least the texel it lies in
    x, y = np.clip(np.round(pixel), 0, size - 1).astype(int).T
    bare = ~covered[y, x]
    image[y[bare], x[bare]] = positions[bare]
    covered[y[bare], x[bare]] = True
    return image, covered


@torch.no_grad()
def bake(field, positions: np.ndarray, covered: np.ndarray) -> Image.Image:
    """The field's colour at every covered texel, spread outward so that seams and mip maps do not bleed."""
    device = next(field.parameters()).device
    points = torch.from_numpy(positions[covered]).float().to(device)
    planes = field.pyramid_sum()
    colour = torch.cat([field(chunk, planes)[1].cpu() for chunk in points.split(200_000)]).numpy()
    texture = np.zeros((*covered.shape, 3), np.float32)
    texture[covered] = colour
    nearest = ndimage.distance_transform_edt(~covered, return_distances=False, return_indices=True)
    return Image.fromarray(np.round(255 * texture[tuple(nearest)]).astype(np.uint8))


def textured(field, mesh: trimesh.Trimesh, texture_size: int = 1024) -> trimesh.Trimesh:
    """The mesh with a UV texture baked from the field (vertices are split at seams), smooth normals, z up."""
    source, faces, uv = unwrap(mesh, texture_size)
    source, faces = source.astype(np.int64), faces.astype(np.int64)
    positions, covered = surface_texels(uv, faces, mesh.vertices[source].astype(np.float32), texture_size)
    material = trimesh.visual.material.PBRMaterial(
        name="field", baseColorTexture=bake(field, positions, covered), metallicFactor=0.0, roughnessFactor=0.5
    )
    return trimesh.Trimesh(
        mesh.vertices[source],
        faces,
        vertex_normals=mesh.vertex_normals[source],
        process=False,
        visual=trimesh.visual.TextureVisuals(uv=uv, material=material),
    )


def facts(path: Path) -> dict:
    """What a user finds in an exported GLB: its texture's size, and its shape once the vertices that UV seams split are one again.

    Raises UserError for one without a texture.
    """
    mesh = trimesh.load(path, force="mesh")
    texture = getattr(getattr(mesh.visual, "material", None), "baseColorTexture", None)
    if texture is None:
        raise UserError(f"'{path}' has no texture: give a mesh.glb as scripts/text_to_3d.py writes it")
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    return {
        "faces": len(mesh.faces),
        "components": int(mesh.body_count),
        "watertight": bool(mesh.is_watertight),
        "volume": round(float(mesh.volume), 4),
        "texture_size": texture.width,
    }


def export(mesh: trimesh.Trimesh, folder: Path, name: str = "mesh") -> Path:
    """Write NAME.glb (y up, as glTF demands), NAME.obj with its texture and NAME.ply with vertex colours (z up). Returns the GLB."""
    glb = mesh.copy().apply_transform(Y_UP)
    path = folder / f"{name}.glb"
    path.write_bytes(glb.export(file_type="glb", include_normals=True))
    plain = mesh.copy()
    plain.visual.material = trimesh.visual.material.SimpleMaterial(name=name, image=mesh.visual.material.baseColorTexture)
    text, files = trimesh.exchange.obj.export_obj(plain, include_normals=True, return_texture=True, mtl_name=f"{name}.mtl")
    (folder / f"{name}.obj").write_text(text)
    for file, data in files.items():
        (folder / file).write_bytes(data)
    coloured = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False, vertex_colors=mesh.visual.to_color().vertex_colors)
    (folder / f"{name}.ply").write_bytes(coloured.export(file_type="ply"))
    return path
