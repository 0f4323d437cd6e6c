"""Datasets of a user's own, by import path."""

from __future__ import annotations

import importlib
import re
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pathnas.data import Files, Images, Source
from pathnas.datasets.request import Request, Sets, check_options


def load(name: str, request: Request, options: Mapping[str, Any]) -> Sets:
    """Returns the sets of the function ``package.module:function``.

    Raises:
        ValueError: If there is none, or it raises, or returns something else.
    """
    function = _import(name)
    arguments = {"root": str(request.root), "seed": request.seed}
    clash = arguments.keys() & options.keys()
    if clash:
        raise ValueError(f"Options of dataset {name!r} must not name {sorted(clash)}.")
    check_options(name, function, options, **arguments)
    try:
        result = function(**arguments, **options)
    except Exception as error:  # whatever a user's function raises
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise ValueError(
            f"{name} raised {type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        ) from error
    try:
        return _sets(result)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must return (train, test), each Images, Files or (pixels, labels): {error}"
        ) from error


def _import(name: str) -> Callable[..., Any]:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name):
        raise ValueError(f"Expected package.module:function, but got {name!r}.")
    module_name, function_name = name.split(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"Dataset {name!r}: cannot import {module_name}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"Dataset {name!r}: {module_name} has no function {function_name!r}.")
    return function


def _sets(result: Any) -> Sets:
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise ValueError(f"got {type(result).__name__}, not a pair.")
    if isinstance(result[0], np.ndarray | Tensor):
        return Sets(_source(result))
    return Sets(_source(result[0]), test=_source(result[1]))


def _source(value: Any) -> Source:
    if isinstance(value, Images):
        return value
    if isinstance(value, Files):
        absent = [path for path in value.paths if not Path(value.root, path).is_file()]
        if absent:
            raise ValueError(f"{len(absent)} files are absent in {value.root}: {absent[0]}, ...")
        return value
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"got {type(value).__name__} for a set of images.")
    pixels, labels = (_tensor(array) for array in value)
    if pixels.is_floating_point():
        pixels = pixels.float()
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be whole numbers, but got {labels.dtype}.")
    return Images(pixels, labels.long())


def _tensor(array: Any) -> Tensor:
    if isinstance(array, Tensor):
        return array.detach().cpu()
    if isinstance(array, np.ndarray):
        return torch.tensor(array)
    raise ValueError(f"expected an array, but got {type(array).__name__}.")
