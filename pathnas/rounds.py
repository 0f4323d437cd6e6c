"""Growth in rounds: runs whose base network is the best one of the run before.

Every round is a run of its own, in a folder of its own: the best network of one, its tree and its
weights, is the base of the next (`base.grown`), whose trees grow from that tree.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pathnas import config as configs
from pathnas import files
from pathnas import tree as trees
from pathnas.config import Base, Config
from pathnas.tree import BASE_TREE, Node


def settings(config: Config) -> list[Config]:
    """Returns the configs of the rounds of a run, its own first.

    The runs of later rounds are named ``name-round2`` and so on. Each says how many rounds there
    are from it on, so that whoever resumes it resumes those as well.

    Raises:
        ConfigError: if a name becomes too long.
    """
    found = [config]
    while found[-1].search.rounds > 1:
        values = found[-1].model_dump()
        found.append(configs.restore(_next(values)))
    return found


def _next(values: dict[str, Any]) -> dict[str, Any]:
    folder = Path(values["runs"]) / values["name"]
    ended = re.fullmatch(r"(.+)-round([0-9]+)", values["name"]) if values["base"]["grown"] else None
    stem, number = (ended[1], int(ended[2])) if ended else (values["name"], 1)
    base = {**values["base"], "weights": None, "grown": str(folder / "best")}
    search = {**values["search"], "rounds": values["search"]["rounds"] - 1}
    return {**values, "name": f"{stem}-round{number + 1}", "base": base, "search": search}


def start(base: Base) -> Node:
    """Returns the tree that a search begins with.

    Raises:
        FileNotFoundError: if `base.grown` is no network's folder.
        ValueError: if what it says of the network is damaged, or the network has been trained on
            the validation images, by which trees are rewarded.
    """
    if base.grown is None:
        return BASE_TREE
    path = Path(base.grown) / "tree.json"
    try:
        tree = trees.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileNotFoundError(f"base.grown: expected the folder of a network: {error}") from error
    except ValueError as error:
        raise ValueError(f"base.grown: {path}: expected a tree: {error}") from error
    if tree != trees.canonical(tree):
        raise ValueError(f"base.grown: {path}: expected a tree in canonical form, got {tree}")
    if _about(base.grown).get("everything"):
        raise ValueError(
            f"base.grown: the network of {base.grown} was trained on the validation images too "
            f"(final.retrain), by which trees are rewarded"
        )
    return tree


def _about(folder: str) -> dict[str, Any]:
    path = Path(folder) / "about.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise FileNotFoundError(f"base.grown: expected the folder of a network: {error}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"base.grown: {path} is damaged: {error!r}") from error


def weights(base: Base) -> Path | None:
    """Returns the file of weights that the base network takes; None: it is trained first."""
    if base.grown is not None:
        return Path(base.grown) / "network.safetensors"
    return None if base.weights is None else Path(base.weights)


def ancestors(base: Base) -> list[dict[str, Any]]:
    """Returns the networks that a base network has grown from, the oldest first, itself last.

    Returns:
        Of each its `folder` when the next grew from it, its `tree`, the SHA-256 of its `weights`,
        and its accuracies `validation` and `test`; nothing without `base.grown`.

    Raises:
        FileNotFoundError: if the network's folder is none.
        ValueError: if what the folder says of the network is damaged.
    """
    file = weights(base)
    if base.grown is None or file is None:
        return []
    about = _about(base.grown)
    try:
        before = [dict(one) for one in about.get("ancestors", [])]
        scores = {name: float(about[name]) for name in ("validation", "test")}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"base.grown: about.json is damaged: {error!r}") from error
    own = {"folder": base.grown, "tree": str(start(base)), "weights": files.digest(file), **scores}
    return [*before, own]
