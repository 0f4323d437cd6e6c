"""Architecture search by function-preserving path-level transforms.

Grows a trained convolutional network into a better one, after "Path-Level Network
Transformation for Efficient Architecture Search" (Cai et al., ICML 2018). The modules are the
interface: ``from pathnas import tree, transforms, cell``. Importing this package imports no torch,
so that ``pathnas.run`` can set the thread environment first.
"""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout, `pathnas.envs` and `pathnas.controllers` live beside this folder; an installed
# package has them inside it.
_root = Path(__file__).resolve().parent.parent
if (_root / "setup.cfg").is_file() and (_root / "envs" / "__init__.py").is_file():
    __path__.append(str(_root))
del Path, _root
