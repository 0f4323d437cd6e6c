from __future__ import annotations

import math
import os
import pathlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnas import yaml_reader
from pathnas.yaml_reader import YamlError, parse

DETERMINISTIC = settings(deadline=None, derandomize=True, max_examples=150)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
NUMBERS = st.integers(-(10**98), 10**98) | st.floats(allow_nan=False)
# Strings that one version of YAML or another takes for something else.
LOOKALIKES = st.sampled_from(
    "1e-3 1e5 .5 0o17 0x1F 017 1_000 1:30 2026-01-01 no on Yes null ~ True .inf .NaN = << - ? "
    "# %a @b `c` [ ] { } , a:b a:_ 'q \"q !t &a *a | > ... --- _a a_".replace("_", " ").split(" ")
)
STRINGS = TEXT | LOOKALIKES
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | STRINGS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(STRINGS, inner, max_size=4),
    max_leaves=12,
)

SCALARS = [
    ("1e-3", 0.001), ("1E+3", 1000.0), ("1.", 1.0), (".5", 0.5), ("-0.5e1", -5.0), ("1.5", 1.5),
    ("12", 12), ("-3", -3), ("+3", 3), ("017", 17), ("0o17", 15), ("0x1F", 31), ("1e400", math.inf),
    (".inf", math.inf), ("-.INF", -math.inf), ("null", None), ("~", None), ("", None),
    ("true", True), ("False", False), ("TRUE", True),
    ("no", "no"), ("on", "on"), ("Yes", "Yes"), ("1:30", "1:30"), ("2026-01-01", "2026-01-01"),
    ("1_000", "1_000"), ("0b11", "0b11"), ("tRUE", "tRUE"), ("'1'", "1"), ('"null"', "null"),
    ("1e", "1e"), (".", "."), ("-", [None]), ("=", "="), ("<<", "<<"),
]  # fmt: skip

REFUSED = [
    ("a: *b", "aliases (*b) are not allowed", 1),
    ("\na: &b 1", "anchors (&b) are not allowed", 2),
    ("a: &b [*b]", "anchors (&b) are not allowed", 1),
    ("&b {a: 1}", "anchors (&b) are not allowed", 1),
    ("a: 1\nb: !!python/object/apply:os.system [id]",
     "tags (tag:yaml.org,2002:python/object/apply:os.system) are not allowed", 2),
    ("a: !!str 1", "tags (tag:yaml.org,2002:str) are not allowed", 1),
    ("a: ! 1", "tags (!) are not allowed", 1),
    ("", "nothing but blanks and comments, expected a value", 1),
    ("# a\n\n", "nothing but blanks and comments, expected a value", 1),
    ("a: 1\n---\nb: 2", "a second document begins, expected a single one", 2),
    ("a: 1\nb\0: 2", "the character U+0000 is not allowed", 2),
    ("a: 1\nb: c: d", "not valid YAML: mapping values are not allowed here", 2),
    ("a: [1, 2", "not valid YAML: while parsing a flow sequence, expected ',' or ']', but got "
     "'<stream end>'", 1),
    ("a: 1\n\tb: 2", "not valid YAML: while scanning for the next token, found character '\\t' "
     "that cannot start any token", 2),
    ("? [a]\n: 1", "a key must be a string, got a list or a mapping", 1),
    ("a: 1\nb: " + "9" * 5000, "a number with more than 100 digits: " + "9" * 57 + "...", 2),
    ("a: 0." + "9" * 5000, "a number with more than 100 digits: 0." + "9" * 55 + "...", 1),
    (r'a: "\ud800"', "half a surrogate pair is not a character", 1),
    (r'a: "\UFFFFFFFF"', "not valid YAML: an escape that is no character", None),
    ("a: 1\n# b\u2028c: 2", "the character U+2028 is not allowed", 2),
    ("a: 1\x85b: 2", "the character U+0085 is not allowed", 1),
    ("a: x\u202ey", "the character U+202E is not allowed", 1),
    ("# \u2066\na: 1", "the character U+2066 is not allowed", 1),
    ("[" * 21 + "]" * 21, "nested deeper than 20 levels", 1),
    ("- " * 21 + "a", "nested deeper than 20 levels", 1),
]  # fmt: skip

# The larger of what fits into a file, and of what PyYAML alone chokes on.
SIZE = yaml_reader.MAX_BYTES
HOSTILE = {
    "open lists": ("[" * SIZE, "nested deeper"),
    "open mappings": ("{a: " * (SIZE // 4), "nested deeper"),
    "dashes": ("- " * (SIZE // 2), "nested deeper"),
    "keys": ("".join(f"k{line}: 1\n" for line in range(25_000)), "more than 10000 parts"),
    "flat list": ("[" + "a," * (SIZE // 2 - 1), "more than 10000 parts"),
    "laughs": ("a: &a [x, x]\n" + "b: &b [*a, *a]\n" * 15_000, "anchors"),
    "documents": ("---\n" * (SIZE // 4), "a second document"),
    "digits": ("a: " + "9" * (SIZE - 3), "more than 100 digits"),
    "long key": ("a" * (SIZE - 3) + ": b", "not valid YAML"),
}


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_plain_scalars_follow_yaml_1_2(text, value):
    read = parse(f"a: {text}" if text != "-" else "a:\n -").value["a"]
    assert (type(read), read) == (type(value), value)


def test_not_a_number_is_read_as_one():
    assert math.isnan(parse("a: .nan").value["a"])


@pytest.mark.parametrize(("text", "message", "line"), REFUSED)
def test_what_is_refused_is_named_with_its_line(text, message, line):
    with pytest.raises(YamlError) as caught:
        parse(text)
    assert (str(caught.value), caught.value.line) == (message, line)


def test_twenty_levels_are_read():
    assert parse("[" * 20 + "]" * 20).value


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_fast(name):
    text, message = HOSTILE[name]
    assert len(text) <= SIZE
    start = time.process_time()
    with pytest.raises(YamlError, match=message):
        parse(text)
    assert time.process_time() - start < 2


def test_keys_that_are_given_twice_or_are_no_strings_are_faults():
    document = parse("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\na: 2\na: 3\n1: x\nnull: y")
    assert document.faults == [
        (5, "b.c: given twice, on lines 3 and 5"),
        (6, "a: given twice, on lines 1 and 6"),
        (7, "a: given twice, on lines 6 and 7"),
        (8, "1: a key must be a string, got 1; quote it"),
        (9, "null: a key must be a string, got null; quote it"),
    ]


def test_places_are_lines_of_keys_and_items():
    document = parse("# a comment\na:\n  b: 1\n  c: [x,\n    y]\nd:\n- e: 2\n")
    assert document.places == {
        (): 2, ("a",): 2, ("a", "b"): 3, ("a", "c"): 4, ("a", "c", 0): 4, ("a", "c", 1): 5,
        ("d",): 6, ("d", 0): 7, ("d", 0, "e"): 7,
    }  # fmt: skip
    assert document.place(("a", "z", "y")) == 2


@DETERMINISTIC
@given(VALUES)
def test_what_is_dumped_is_read_as_itself(value):
    document = parse(yaml_reader.dump(value))
    assert repr(document.value) == repr(value)
    assert document.faults == []
    assert set(document.places) == set(_paths(value, ()))


def _paths(value, path):
    yield path
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _paths(part, (*path, key))


def test_dump_writes_no_aliases():
    twice = [1, 2]
    assert yaml_reader.dump({"a": twice, "b": twice}) == "a: [1, 2]\nb: [1, 2]\n"


@DETERMINISTIC
@given(st.text("ab01.:-+#&*!%|>'\"\\[]{},? \n\t\0~x", max_size=60) | st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        document = parse(text)
    except YamlError as error:
        assert str(error)
    else:
        document.override("a=1") if isinstance(document.value, dict) else None
        assert all(isinstance(message, str) for _, message in document.faults)


def test_overrides_set_values_and_their_places():
    document = parse("a: {b: 1, c: [1, {d: 2}]}\ne: null\n")
    for text in ("a.b=2", "a.c=[no, 1e-3]", "e.f.g={h: x=y}", "i=null", "a.b = 3"):
        document.override(text)
    assert document.value == {
        "a": {"b": 3, "c": ["no", 0.001]}, "e": {"f": {"g": {"h": "x=y"}}}, "i": None
    }  # fmt: skip
    assert document.faults == []
    assert document.place(("a",)) == 1
    assert document.place(("a", "b")) == "override 'a.b = 3'"
    assert document.place(("a", "c", 1, "d")) == "override 'a.c=[no, 1e-3]'"
    assert document.place(("e", "f")) == "override 'e.f.g={h: x=y}'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "expected key=value with dotted keys, as search.trials=20"),
        ("", "expected key=value with dotted keys, as search.trials=20"),
        ("=1", "expected key=value with dotted keys, as search.trials=20"),
        ("a..b=1", "expected key=value with dotted keys, as search.trials=20"),
        ("a b=1", "expected key=value with dotted keys, as search.trials=20"),
        ("a=", "no value after '='; write null or '' if that is meant"),
        ("a=#", "nothing but blanks and comments, expected a value"),
        ("a=[1", "not valid YAML: while parsing a flow sequence, expected ',' or ']', but got "
         "'<stream end>'"),
        ("a=&b 1", "anchors (&b) are not allowed"),
        ("a={b: 1, b: 2}", "b: given twice, on lines 1 and 1"),
        ("a.b=1", "a: is 1, without keys of its own"),
        ("l.0=1", "l: is a list, without keys of its own"),
        ("m.s.t.u=1", "m.s: is 'x' (a string), without keys of its own"),
    ],
)  # fmt: skip
def test_overrides_that_cannot_be_are_faults(text, message):
    document = parse("a: 1\nl: [1]\nm: {s: x}")
    document.override(text)
    assert document.faults == [(f"override {text!r}", message)]


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.yaml").write_text("a: 1")
    (tmp_path / "cifar10.yml").write_text("a: 1")
    (tmp_path / "big.yaml").write_text("a" * (SIZE + 1))
    (tmp_path / "latin.txt").write_bytes("a: 1\nb: é".encode("latin-1"))
    os.mkfifo(tmp_path / "pipe")
    cases = {
        "digit.yaml": f"no such file; nearest: {tmp_path / 'digits.yaml'}",
        "zzz": "no such file; nearest: "
        + ", ".join(str(tmp_path / name) for name in ("big.yaml", "cifar10.yml", "digits.yaml")),
        "no/digit.yaml": "no such file; nearest: digits.yaml",
        "a\0b": "no such file; nearest: ",
        "big.yaml": "larger than 256 KiB",
        "latin.txt": "not UTF-8 text",
        "pipe": "not a regular file",
        ".": "not a regular file",
    }
    for name, message in cases.items():
        with pytest.raises(YamlError) as caught:
            yaml_reader.read(tmp_path / name)
        assert str(caught.value).startswith(message)
        assert caught.value.line == (2 if name == "latin.txt" else None)


def test_an_empty_folder_has_no_nearest_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(YamlError, match="no such file; there is no YAML file in"):
        yaml_reader.read(tmp_path / "x.yaml")


def test_a_file_is_near_that_stands_among_the_experiments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "smoke.yaml").write_text("a: 1")
    with pytest.raises(YamlError, match=r"no such file; nearest: experiments/smoke\.yaml"):
        yaml_reader.read(pathlib.Path("smok.yaml"))


def test_a_byte_order_mark_is_skipped(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbfa: 1")
    assert yaml_reader.read(tmp_path / "x.yaml").value == {"a": 1}


def test_dotted_paths_stay_on_one_line():
    assert yaml_reader.dotted(("a", 1, "b-c", "d e\n")) == "a[1].b-c.'d e\\n'"
