"""Modules of a user's own that enter operations into the registry when they are imported."""

from __future__ import annotations

import importlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Plugins:
    """Modules that are imported wherever this value is made, also where a worker unpickles it.

    Attributes:
        modules: dotted names, imported in order.

    Raises:
        ValueError: if one cannot be imported.
    """

    modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.modules:
            try:
                importlib.import_module(name)
            except Exception as error:  # whatever the code of a user raises
                raise ValueError(
                    f"plugins: expected a module that can be imported, got {name!r}: "
                    f"{type(error).__name__}: {error}"
                ) from error

    def __reduce__(self) -> tuple[type[Plugins], tuple[tuple[str, ...]]]:
        return Plugins, (self.modules,)


NONE = Plugins()
