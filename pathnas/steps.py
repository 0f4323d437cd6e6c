"""Steps of growth: transforms of every kind, path-level and layer-level, as values.

What receipts and logs say of a transform, they say of both kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pathnas.layers import Deepen, Widen
from pathnas.transforms import EXACT, Birth, Branch, Insert, Replace

Step = Branch | Insert | Replace | Widen | Deepen
KINDS: dict[str, type[Step]] = {
    kind.__name__.lower(): kind for kind in (Branch, Insert, Replace, Widen, Deepen)
}
"""Every kind of step by the name that dictionaries call it."""


def to_dict(step: Step) -> dict[str, Any]:
    """Returns the step as a dictionary that JSON can hold."""
    return {"kind": type(step).__name__.lower(), **asdict(step)}


def from_dict(data: dict[str, Any]) -> Step:
    """Returns the step that :func:`to_dict` wrote.

    Raises:
        ValueError: if the data is none.
    """
    fields = dict(data)
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {sorted(KINDS)}, got {kind!r}")
    try:
        return KINDS[kind](**fields)
    except TypeError as error:
        raise ValueError(f"not the fields of a {kind} transform: {data} ({error})") from None


def is_exact(steps: Sequence[Step], birth: Birth = EXACT) -> bool:
    """Tells whether steps leave the output unchanged on every input in eval mode, by law."""
    return all(step.is_exact(birth) for step in steps)
