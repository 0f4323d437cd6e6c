"""Datasets by name or import path, split into training, validation and test images.

:func:`load` is the way in. A dataset of one's own needs no change here: `package.module:function`
names a function that returns images (see :func:`load`).
"""

from pathnas.datasets.known import DATASETS
from pathnas.datasets.loading import load
from pathnas.datasets.request import Request, Sets

__all__ = ["DATASETS", "Request", "Sets", "load"]
