"""Source text of a network made of torch's own modules: its classes and a function to make it.

Nothing from outside gets into the text but identifiers, constants written by ``repr`` and comments
reduced to harmless characters.
"""

from __future__ import annotations

import builtins
import keyword
import re

import torch
from torch import nn

from pathnas.export.classes import IMPORTED, Source, docstring, harmless
from pathnas.export.lowering import identifier
from pathnas.export.parameters import CLASSES


def check_name(name: str) -> str:
    """Returns a name for the entry function.

    Raises:
        ValueError: if it is no identifier or means something already.
    """
    taken = IMPORTED | set(dir(builtins)) | {"kwargs", "model", "pretrained", "weights", CLASSES}
    if identifier(name) != name or keyword.iskeyword(name) or name.startswith("__"):
        raise ValueError(f"name must be a Python identifier of ASCII letters, got {name!r:.60}")
    if name in taken:
        raise ValueError(f"name must not be one that the source uses otherwise, got {name!r}")
    return name


ENTRY = '''\
def {name}(pretrained: bool = False, num_classes: int = {classes}, **kwargs) -> {root}:
    """Returns the network, in train mode.

    Args:
        pretrained: whether to load the weights of model.safetensors, beside this file.
        num_classes: number of logits. {note}
        kwargs: of {root}.
    """
    {make}
    if pretrained:
        weights = load_file(Path(__file__).with_name("model.safetensors"))
{fresh}        model.load_state_dict(weights)
    return model
'''

FRESH = """\
        if num_classes != {classes}:
            own = model.state_dict()
            weights.update({{key: own[key] for key in own if key.startswith("{layer}.")}})
"""


def write(model: nn.Module, name: str, *, classes: int, about: str = "") -> str:
    """Returns the text of a module with the network's classes and a function that makes it.

    Args:
        model: of torch's own modules, as :func:`pathnas.export.plain` returns; its root a
            ``GraphModule`` or ``Sequential``.
        name: of the function.
        classes: number of logits.
        about: a line for the module's docstring.

    Raises:
        ValueError: if the name cannot be one, or a module cannot be written.
    """
    found = Source(model, classes, {check_name(name)})
    layer = found.classifier
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    cast = f".to({dtypes.pop()})" if dtypes else ""
    if layer is not None:
        make = f"model = {found.root}(num_classes=num_classes, **kwargs){cast}"
        note = "With another, the last layer starts afresh."
    else:
        make = (
            f"if num_classes != {classes}:\n"
            f'        raise ValueError(f"num_classes must be {classes}, got {{num_classes}}")\n'
            f"    model = {found.root}(**kwargs){cast}"
        )
        note = "No other is possible."
    entry = ENTRY.format(
        name=name,
        classes=classes,
        root=found.root,
        note=note,
        make=make,
        fresh=FRESH.format(classes=classes, layer=layer) if layer is not None else "",
    )
    imports = [
        *(["from collections import OrderedDict"] if "OrderedDict(" in found.text else []),
        "from pathlib import Path",
        "",
        "import torch",
        *(["import torch.nn.functional as F"] if re.search(r"\bF\.", found.text) else []),
        "from safetensors.torch import load_file",
        "from torch import nn",
    ]
    head = docstring(harmless(about) or "A network.")
    return "\n".join([head, "", *imports, "", "", found.text, "", "", entry])
