"""The command that draws trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathnas import draw
from pathnas import tree as trees
from pathnas.treecells import TREES

TREE = TREES["treecell_b"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tree.json"
    path.write_text(trees.to_json(TREE))
    return path


def test_without_a_file_it_prints_the_tree(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert draw.main([str(file)]) == 0
    assert capsys.readouterr().out == trees.indented(TREE) + "\n"


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_pictures_are_written(file: Path, kind: str, tmp_path: Path) -> None:
    picture = tmp_path / f"new/x.{kind}"
    assert draw.main([str(file), "-o", str(picture), "--width", "16", "--title", "<a & b>"]) == 0
    assert picture.stat().st_size > 5000


def test_json_is_json_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["treecell_b", "--json", "-o", str(tmp_path / "b.svg")]
    assert draw.main(arguments) == 0
    assert trees.from_json(capsys.readouterr().out) == TREE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.json"], "nowhere.json: expected a tree"),
        (["treecell_a", "-o", "x.gif"], "expected a name that ends in .svg, .png, .pdf, got x.gif"),
        (["treecell_a", "--width", "0"], "expected at least 1 channel, got 0"),
        (["treecell_a", "--width", "1"], "at least 2 channels"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draw.main(arguments) == draw.EXIT_USAGE
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
