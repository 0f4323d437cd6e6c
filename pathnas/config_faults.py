"""What is wrong with a config: reading one with all its faults, in words, from pydantic's."""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from pathnas import yaml_reader
from pathnas.yaml_reader import Document, KeyPath, Place, YamlError, dotted, hint, shorten, shown

Model = TypeVar("Model", bound=BaseModel)


class ConfigError(ValueError):
    """A config that cannot be used.

    Attributes:
        faults: all that is wrong, a line each, beginning with its place.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = list(faults)
        super().__init__("\n".join(self.faults))


def read(path: Path, model: type[BaseModel]) -> Document:
    """Reads a YAML file that is to hold a mapping; its keys are not looked at yet.

    Raises:
        ConfigError: if it cannot be read or is no mapping.
    """
    try:
        document = yaml_reader.read(path)
        if not isinstance(document.value, dict):
            message = f"expected a mapping of {', '.join(model.model_fields)}"
            raise YamlError(f"{message}; got {shown(document.value)}", 1)
    except YamlError as error:
        raise ConfigError([f"{_at(path, error.line)}: {error}"]) from error
    return document


def checked(document: Document, model: type[Model], path: Path) -> Model:
    """Returns the model of a document's mapping.

    Args:
        document: with its overrides.
        model: strict, with a docstring for each field.
        path: of the file, for the messages.

    Raises:
        ConfigError: with all faults of the document at once.
    """
    found = document.faults
    try:
        config = model.model_validate(document.value)
    except ValidationError as error:
        for key_path, message in faults(error, model):
            found.append((document.place(key_path), f"{dotted(key_path)}: {message}"))
    if found:
        found.sort(key=lambda fault: fault[0] if isinstance(fault[0], int) else float("inf"))
        raise ConfigError([f"{_at(path, place)}: {message}" for place, message in found])
    return config


def _at(path: Path, place: Place | None) -> str:
    if isinstance(place, str):
        return place
    return str(path) if place is None else f"{path}:{place}"


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
