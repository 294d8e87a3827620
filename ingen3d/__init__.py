"""In-domain 3D generation: from a prompt to a textured mesh."""

from .pipeline import Run, text_to_3d

__all__ = ["Run", "text_to_3d"]
