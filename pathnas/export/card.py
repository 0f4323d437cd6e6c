"""The texts of an exported folder that people and programs read: README.md and arch.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pathnas
from pathnas import tree as trees
from pathnas.best import Best
from pathnas.config import Config
from pathnas.export.parity import Parity


@dataclass(frozen=True)
class Facts:
    """What is said of an exported network.

    Attributes:
        name: of the entry function.
        found: the source.
        settings: of the run that found it.
        parameters: of the exported network.
        macs: multiply-adds of the source for one image.
        fused: whether batch norms were merged into convolutions.
        onnx: whether there is a ``model.onnx``.
    """

    name: str
    found: Best
    settings: Config
    parameters: int
    macs: int
    fused: bool
    onnx: bool


def architecture(facts: Facts) -> str:
    """Returns ``arch.json``."""
    found = facts.found
    content = {
        "name": facts.name,
        "network": facts.settings.base.arguments(),
        "tree": trees.to_dict(found.tree),
        "image_shape": list(found.image_shape),
        "classes": found.classes,
        "normalization": asdict(found.normalization),
        "parameters": facts.parameters,
        "macs": facts.macs,
        "validation": found.validation,
        "test": found.test,
        "fused": facts.fused,
        "pathnas": pathnas.__version__,
    }
    return json.dumps(content, indent=2) + "\n"


CARD = """\
# {name}

An image classifier of {classes} classes for images of {channels} x {height} x {width}, found by
pathnas. This folder needs torch and safetensors, and nothing of pathnas.

| | |
|---|---|
| data | {data} |
| test accuracy | {test:.4f} |
| validation accuracy | {validation:.4f} |
| parameters | {parameters:,} |
| multiply-adds, one image | {macs:,} |
| input | pixels in [0, 255], less mean {mean}, divided by std {std}, by channel |
| output | logits |

## Load it

```python
import torch
from model import {name}

model = {name}(pretrained=True).eval()
logits = model(torch.randn(1, {channels}, {height}, {width}))
```

`{name}(num_classes=7)` makes the network with fresh weights and another last layer.{fused}

## How it was found

Run `{run}`, seed {seed}: a search with a budget of {trials} distinct trees and the controller
`{controller}`,
by path-level transforms (Cai et al., ICML 2018) of a trained base network, each tree trained
briefly from inherited weights; then a full training of {epochs} epochs{retrain}. Validation
accuracy chose the network, and it was tested once. {whose}:

```
{tree}
```

## Parity with the source network

Relative change of the logits, and images whose largest logit is the same:

```
{parity}
```

## Files

| file | what |
|---|---|
| `model.py` | the network in plain `torch.nn` |
| `model.safetensors` | its weights |
{onnx}| `arch.json` | the tree, the base network's options, sizes, normalization |
"""


def readme(facts: Facts, parities: Sequence[Parity]) -> str:
    """Returns the model card."""
    found, settings = facts.found, facts.settings
    channels, height, width = found.image_shape
    values: dict[str, Any] = {
        "channels": channels,
        "height": height,
        "width": width,
        "classes": found.classes,
        "data": settings.data.name.replace("|", " "),
        "mean": _numbers(found.normalization.mean),
        "std": _numbers(found.normalization.std),
        "fused": FUSED if facts.fused else "",
        "run": settings.name,
        "seed": settings.seed,
        "trials": settings.search.trials,
        "controller": settings.search.controller.name,
        "epochs": settings.final.training.epochs,
        "retrain": RETRAINED if settings.final.retrain else "",
        "whose": EACH if found.tree.merge == "stages" else EVERY,
        "tree": trees.indented(found.tree),
        "parity": "\n".join(map(str, parities)),
        "onnx": ONNX if facts.onnx else "",
    }
    sizes = {"parameters": facts.parameters, "macs": facts.macs}
    accuracies = {"validation": found.validation, "test": found.test}
    return CARD.format(name=facts.name, **values, **sizes, **accuracies)


FUSED = " Batch\nnorms are merged into convolutions: use it in eval mode, or train it without them."
EVERY = "Every cell of the network has this tree"
EACH = "The cells of each stage,\nthose whose outputs are of one size, have its tree"
RETRAINED = ", repeated on training and\nvalidation images together"
ONNX = "| `model.onnx` | the network for ONNX runtimes, with any number of images |\n"


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.4f}" for value in values) + ")"
