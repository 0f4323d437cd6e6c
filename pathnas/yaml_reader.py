"""YAML as plain values with their places, and overrides; hostile or ambiguous text is refused.

The text is read event by event, before anything is built: aliases, anchors, tags, deep nesting,
endless text and keys given twice never become values. Plain scalars follow the core schema of
YAML 1.2, so ``1e-3`` is a number and ``no``, ``on``, ``1:30`` and dates are strings.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

KeyPath: TypeAlias = tuple[str | int, ...]
"""The keys and list positions that lead from the root of a document to a value."""

Place: TypeAlias = int | str
"""A line of the text, from 1, or the name of an override."""

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
MAX_EVENTS = 10_000
MAX_DIGITS = 100

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | float | None] = {"": None, "~": None}
for _word, _value in (("null", None), ("true", True), ("false", False)):
    _WORDS |= dict.fromkeys((_word, _word.capitalize(), _word.upper()), _value)
for _word in (".inf", ".Inf", ".INF"):
    _WORDS |= {_word: float("inf"), f"+{_word}": float("inf"), f"-{_word}": float("-inf")}
_WORDS |= dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan"))


_UNSEEN = re.compile("[\x85\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Line breaks that editors do not show as such, and marks that turn the direction of writing: with
them a text would be read otherwise than it is shown."""


class YamlError(ValueError):
    """Text that cannot be read; ``line`` counts from 1, None where no line is to blame."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


@dataclass
class Document:
    """A value read from YAML, and where its parts stand.

    Attributes:
        value: dicts with string keys, lists, str, int, float, bool and None.
        places: where every key and list item stands, by its path; the root's path is ().
        faults: what is wrong although the text can be read: (place, message).
    """

    value: Any = None
    places: dict[KeyPath, Place] = field(default_factory=dict)
    faults: list[tuple[Place, str]] = field(default_factory=list)

    def place(self, path: KeyPath) -> Place:
        """Where the value of a path stands, or else what should hold it."""
        while path not in self.places:
            path = path[:-1]
        return self.places[path]

    def override(self, text: str) -> None:
        """Sets the value of a dotted key from ``a.b.c=value``; what cannot be set is a fault.

        The value follows the rules of the file. Mappings on the way are made where none is.
        """
        name = f"override {shorten(ascii(text))}"
        key, equals, source = text.partition("=")
        keys = key.strip().split(".")
        if not equals or not all(re.fullmatch(r"\S+", part) for part in keys):
            self.faults.append((name, "expected key=value with dotted keys, as search.trials=20"))
            return
        if not source.strip():
            self.faults.append((name, "no value after '='; write null or '' if that is meant"))
            return
        try:
            value = parse(source)
        except YamlError as error:
            self.faults.append((name, str(error)))
            return
        self.faults += [(name, message) for _, message in value.faults]
        self._set(tuple(keys), value.value, name)

    def _set(self, path: tuple[str, ...], value: Any, name: str) -> None:
        node = self.value
        for depth, key in enumerate(path[:-1], 1):
            if node.get(key) is None:
                node[key] = {}
                self.places[path[:depth]] = name
            node = node[key]
            if not isinstance(node, dict):
                message = f"{dotted(path[:depth])}: is {shown(node)}, without keys of its own"
                self.faults.append((name, message))
                return
        node[path[-1]] = value
        self.places = {old: at for old, at in self.places.items() if old[: len(path)] != path}
        self.places[path] = name


def read(path: Path) -> Document:
    """Reads a YAML file.

    Raises:
        YamlError: the file is missing, unreadable or larger than 256 KiB, or its text is refused.
    """
    try:
        if not path.exists():
            raise YamlError(f"no such file; {_files_near(path)}")
        # A pipe or a device may never end, or never begin.
        if not path.is_file():
            raise YamlError("not a regular file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise YamlError(f"cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise YamlError(f"larger than {MAX_BYTES // 1024} KiB")
    try:
        return parse(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise YamlError("not UTF-8 text", line) from error


def parse(text: str) -> Document:
    """Reads a single YAML document.

    Raises:
        YamlError: the text is not YAML, holds no document or several, or uses what is refused
            (aliases, anchors, tags, more than 20 levels, 10,000 parts or 100 digits a number).
    """
    document = Document()
    if unseen := _UNSEEN.search(text):
        line = text.count("\n", 0, unseen.start()) + 1
        raise YamlError(f"the character U+{ord(unseen[0]):04X} is not allowed", line)
    try:
        _Builder(yaml.parse(text, Loader=yaml.SafeLoader), document).build()
    except YamlError:
        raise
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = f"U+{ord(text[error.position]):04X}"
        raise YamlError(f"the character {character} is not allowed", line) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = ", ".join(word for word in (error.context, error.problem) if word)
        raise YamlError(f"not valid YAML: {words}", mark.line + 1 if mark else None) from error
    # PyYAML lets these through for escapes and version numbers beyond all bounds.
    except RecursionError as error:
        raise YamlError("not valid YAML: nested too deep") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML lets chr() fail on an escape that is no character; Pythons word that differently.
        what = "an escape that is no character" if r"\U" in text else error
        raise YamlError(f"not valid YAML: {what}") from error
    return document


class _Builder:
    """Builds a document from the events of PyYAML's parser."""

    def __init__(self, events: Iterator[yaml.Event], document: Document) -> None:
        self.events, self.document, self.count = events, document, 0

    def build(self) -> None:
        self.next()
        if isinstance(self.next(), yaml.StreamEndEvent):
            raise YamlError("nothing but blanks and comments, expected a value", 1)
        self.document.value = self.value(self.next(), ())
        self.next()
        if not isinstance(event := self.next(), yaml.StreamEndEvent):
            raise YamlError("a second document begins, expected a single one", line_of(event))

    def next(self) -> yaml.Event:
        event = next(self.events)
        self.count += 1
        if self.count > MAX_EVENTS:
            raise YamlError(f"more than {MAX_EVENTS} parts", line_of(event))
        refused = ""
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            kind, sign = (
                ("aliases", "*") if isinstance(event, yaml.AliasEvent) else ("anchors", "&")
            )
            refused = f"{kind} ({sign}{shorten(event.anchor)})"
        elif isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and event.tag:
            refused = f"tags ({shorten(event.tag)})"
        if refused:
            raise YamlError(f"{refused} are not allowed", line_of(event))
        return event

    def value(self, event: yaml.Event, path: KeyPath) -> Any:
        self.document.places.setdefault(path, line_of(event))
        if isinstance(event, yaml.ScalarEvent):
            return scalar(event)
        if len(path) >= MAX_DEPTH:
            raise YamlError(f"nested deeper than {MAX_DEPTH} levels", line_of(event))
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(path)
        items: list[Any] = []
        while not isinstance(event := self.next(), yaml.SequenceEndEvent):
            items.append(self.value(event, (*path, len(items))))
        return items

    def mapping(self, path: KeyPath) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not isinstance(event := self.next(), yaml.MappingEndEvent):
            line = line_of(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise YamlError("a key must be a string, got a list or a mapping", line)
            key, place = scalar(event), (*path, event.value)
            if not isinstance(key, str):
                message = f"{dotted(place)}: a key must be a string, got {shown(key)}; quote it"
                self.document.faults.append((line, message))
            elif key in items:
                first = self.document.places[place]
                message = f"{dotted(place)}: given twice, on lines {first} and {line}"
                self.document.faults.append((line, message))
            self.document.places[place] = line
            value = self.value(self.next(), place)
            if isinstance(key, str):
                items[key] = value
        return items


def line_of(event: yaml.Event) -> int:
    """The line, from 1, on which an event begins."""
    return event.start_mark.line + 1 if event.start_mark else 1


def scalar(event: yaml.ScalarEvent) -> str | int | float | bool | None:
    """The value of a scalar: quoted and block scalars are strings, plain ones are resolved."""
    try:
        event.value.encode()
    except UnicodeEncodeError as error:
        raise YamlError("half a surrogate pair is not a character", line_of(event)) from error
    if not event.implicit[0]:
        return str(event.value)
    try:
        return resolve(event.value)
    except YamlError as error:
        raise YamlError(str(error), line_of(event)) from error


def resolve(text: str) -> str | int | float | bool | None:
    """The value of a plain scalar by the core schema of YAML 1.2.

    Raises:
        YamlError: a number with more than 100 digits.
    """
    if text in _WORDS:
        return _WORDS[text]
    integer = _INT.fullmatch(text)
    if not integer and not _FLOAT.fullmatch(text):
        return text
    if len(text) > MAX_DIGITS:
        raise YamlError(f"a number with more than {MAX_DIGITS} digits: {shorten(text)}")
    if not integer:
        return float(text)
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


class _Dumper(yaml.SafeDumper):
    """Writes no aliases, and quotes every string that `resolve` would not read as itself."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, data: str) -> yaml.ScalarNode:
        plain = len(data) <= MAX_DIGITS and isinstance(resolve(data), str)
        return self.represent_scalar("tag:yaml.org,2002:str", data, None if plain else '"')


_Dumper.add_representer(str, _Dumper.text)


def dump(value: Any) -> str:
    """YAML text that `parse` reads as an equal value; keys keep their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=10**6)


def dotted(path: KeyPath) -> str:
    """A path as people write it: ``base.network.widths[1]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            plain = re.fullmatch(r"[\w-]{1,60}", part, re.ASCII)
            name = part if plain else shorten(ascii(part))
            text += f".{name}" if text else name
    return text


def shown(value: Any) -> str:
    """A value as a message shows it: letters that only look like Latin ones are told apart."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"{shorten(ascii(value))} (a string)"
    if isinstance(value, (int, float)):
        return shorten(repr(value))
    return "a mapping" if isinstance(value, dict) else "a list"


def shorten(text: str) -> str:
    """The text, or its beginning where it is long."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def hint(word: object, known: Iterable[str], label: str) -> str:
    """Names the known word nearest to the given one; where none is near, all known words."""
    words = list(known)
    near = difflib.get_close_matches(str(word)[:100], words, n=1)
    return f"did you mean {near[0]!r}?" if near else f"{label}: {', '.join(words)}"


def _files_near(path: Path) -> str:
    """Names YAML files that may have been meant: beside it, in ``experiments``, or here."""
    folders = {folder.resolve(): folder for folder in (Path("."), Path("experiments"), path.parent)}
    folders = {place: folders[place] for place in reversed(folders) if place.is_dir()}
    found = [file for folder in folders.values() for file in sorted(folder.iterdir())]
    files = [file for file in found if file.suffix in (".yaml", ".yml")]
    stems = difflib.get_close_matches(path.stem, {file.stem for file in files})
    near = [file for stem in stems for file in files if file.stem == stem] or files
    if not near:
        return f"there is no YAML file in {shorten(str(path.parent))!r} either"
    return f"nearest: {', '.join(map(str, near[:3]))}"
