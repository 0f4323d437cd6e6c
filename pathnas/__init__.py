"""Architecture search by function-preserving path-level transforms.

Grows a trained convolutional network into a better one, after "Path-Level Network Transformation
for Efficient Architecture Search" (Cai et al., ICML 2018). The modules are the interface:
``from pathnas import tree, transforms, cell``; a few functions that most users begin with are here
too, by names that no module has. Importing this package imports no torch, so that ``pathnas.run``
can set the thread environment first: those functions come when they are asked for.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathnas.grafting import graft
    from pathnas.growth import replay, transform
    from pathnas.places import candidates

__version__ = "0.1.0"
__all__ = ["candidates", "graft", "replay", "transform"]

# Where the functions are that stand here; a name must not be a module's, which would replace it
# once that module is imported.
_HOMES = {
    "candidates": "pathnas.places",
    "graft": "pathnas.grafting",
    "replay": "pathnas.growth",
    "transform": "pathnas.growth",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'pathnas' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


# In a checkout, `pathnas.envs` and `pathnas.controllers` live beside this folder; an installed
# package has them inside it.
_root = Path(__file__).resolve().parent.parent
if (_root / "setup.cfg").is_file() and (_root / "envs" / "__init__.py").is_file():
    __path__.append(str(_root))
del Path, _root
