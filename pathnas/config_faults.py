"""Words for what is wrong with a config, from pydantic's faults."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from pathnas.yaml_reader import KeyPath, hint, shorten, shown


def faults(error: ValidationError, model: type[BaseModel]) -> list[tuple[KeyPath, str]]:
    """Returns the key and the message of every fault of a mapping that a model refused."""
    return [_wording(fault, model) for fault in error.errors(include_url=False)]


_MESSAGES = {
    "missing": "missing ({description}: {expected})",
    "greater_than": "must be > {gt}, got {value}",
    "greater_than_equal": "must be >= {ge}, got {value}",
    "less_than": "must be < {lt}, got {value}",
    "less_than_equal": "must be <= {le}, got {value}",
    "finite_number": "must be a finite number, got {value}",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters, got {value}",
    "value_error": "{error}",
}
_EXPECTED = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a string",
    tuple: "a list",
}


def _wording(error: Any, model: type[BaseModel]) -> tuple[KeyPath, str]:
    """The path and the message of one of pydantic's faults."""
    name, context, value = error["type"], error.get("ctx", {}), error["input"]
    path, kind, description = _follow(error["loc"], model)
    if name == "extra_forbidden":
        [owner] = _members(_follow(error["loc"][:-1], model)[1])
        return path, f"unknown key; {hint(path[-1], owner.model_fields, 'known keys')}"
    if name.startswith("union_tag"):
        return (*path, "name"), _network_wording(value, kind)
    message = _MESSAGES.get(name, "expected {expected}, got {value}")
    words = {"description": description, "expected": _expected(kind), "value": shown(value)}
    return path, message.format(**{**context, **words})


def _network_wording(value: dict[str, Any], networks: Any) -> str:
    fields = [network.model_fields["name"] for network in _members(networks)]
    known = [field.default for field in fields]
    expected = f"one of {', '.join(map(repr, known))}"
    if "name" not in value:
        return f"missing ({fields[0].description}: {expected})"
    if not isinstance(value["name"], str):
        return f"expected {expected}, got {shown(value['name'])}"
    unknown = shorten(repr(value["name"]))
    return f"unknown network {unknown}; {hint(value['name'], known, 'known networks')}"


def _follow(
    location: tuple[str | int, ...], model: type[BaseModel]
) -> tuple[KeyPath, Any, str | None]:
    """The path of a pydantic location, and the type and the description of what stands there.

    In a location a discriminated union puts the name of its member between two keys.
    """
    path: KeyPath = ()
    kind: Any = model
    description: str | None = None
    for part in location:
        members = _members(kind)
        if len(members) > 1:
            kind = next(one for one in members if one.model_fields["name"].default == part)
            continue
        [owner] = members
        if _is_model(owner):
            field = owner.model_fields.get(part)
            kind = field.annotation if field else None
            description = (field.description or str(part)) if field else None
        else:
            kind = get_args(owner)[1 if get_origin(owner) is dict else 0]
        path = (*path, part)
    return path, kind, description


def _members(kind: Any) -> list[Any]:
    """The types that a union allows, without None; any other type alone."""
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [one for arg in get_args(kind) if arg is not type(None) for one in _members(arg)]
    return [kind]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _expected(kind: Any) -> str:
    """What a field takes, in words."""
    first = _members(kind)[0]
    if get_origin(first) is Literal:
        words = f"one of {', '.join(map(repr, get_args(first)))}"
    else:
        words = _EXPECTED.get(get_origin(first) or first, "a mapping")
    return f"{words} or null" if type(None) in get_args(kind) else words
