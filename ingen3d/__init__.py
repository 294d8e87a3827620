"""In-domain 3D generation: from a prompt to a textured mesh."""

import importlib

__all__ = ["Run", "text_to_3d"]


def __getattr__(name: str):
    """Hand on a public name, importing the native engine only when asked: threestudio's environment may lack what it needs."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".pipeline", __name__), name)
