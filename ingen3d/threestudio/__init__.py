"""The paper's method inside threestudio: importing this registers its guidances and its prompt processor.

Import it, or put it into threestudio's `custom/`: a folder with an `__init__.py` that says `import ingen3d.threestudio`, or a link to this one,
`custom/threestudio-ingen3d`.
"""

if __name__ in ("threestudio", "ingen3d"):  # threestudio's loader takes the name in custom/ for the module's
    raise ImportError(f"custom/{__name__} hides the package of that name: call the link custom/threestudio-ingen3d")

import threestudio
from packaging.version import Version

if Version(getattr(threestudio, "__version__", "0")) < Version("0.2.3"):
    raise ImportError("ingen3d needs threestudio 0.2.3 or newer: `git pull` in its checkout")

# by the full name, so that a link in custom/ and an import of the package are one module, and register once
from ingen3d.threestudio import multi_guidance, prompts, zero123  # noqa: E402, F401
