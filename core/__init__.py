"""In-domain generation in 2D: the multi-guidance rule, null-text UNets and the pipeline that puts them to work."""

import importlib

_HOMES = {"Control": ".terms", "InDomainPipeline": ".pipeline", "MultiGuidance": ".guidance", "NullTextUNet": ".null_text", "Term": ".terms"}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    """Hand on a public name, importing its home (and with it diffusers) only when asked."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
