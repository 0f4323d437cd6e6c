"""The report: one file that holds all it needs, and that does what its controls say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from pathnas import facts, report, run, transforms
from pathnas import tree as trees
from pathnas.cell import Site
from pathnas.counting import random_trees
from pathnas.database import Database
from pathnas.limits import Limits
from pathnas.report import __main__ as command
from pathnas.report import charts, pages, views
from pathnas.report.family import Family
from pathnas.specs import CellSpec, Conv
from pathnas.store import RECORD
from pathnas.transforms import Branch, Insert, Replace
from tests.test_facts import ended  # noqa: F401

VOID = {"meta", "link", "img", "input", "br", "line", "circle", "path", "rect"}


class Reader(HTMLParser):
    """Checks that tags are closed in order, and gathers what a page holds."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag
        elif tag == "path":
            return

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    return reader


@pytest.fixture
def copy(ended: Path, tmp_path: Path) -> Path:  # noqa: F811
    folder = tmp_path / "smoke"
    shutil.copytree(ended, folder)
    return folder


def changed(folder: Path, statement: str, *values: object) -> None:
    writer = Database(folder / RECORD)
    with writer.transaction():
        writer.execute(statement, *values)
    writer.close()


def test_the_report_of_an_ended_run_answers_first(copy: Path) -> None:
    path = report.write(copy)
    assert path == copy / "report.html" and path.stat().st_size < 3_000_000
    page = path.read_text()
    reader, found = read(page), facts.read(copy)
    text = " ".join(" ".join(reader.text).split())
    assert found.summary is not None
    assert f"{found.summary['networks']['best']['test']:.2%} of" in text
    for what in ("pathnas.export", "pathnas.train", "--extend trials=5"):
        assert what in text
    headings = [title for title in re.findall("<h2>(.*?)</h2>", page)]
    assert headings[:2] == ["What it found", "How it went"]
    keys = [a["data-value"] for t, a in reader.attributes if t == "td" and "data-value" in a]
    assert {row["key"] for rows in found.trials.values() for row in rows} <= set(keys)
    assert page.count("<svg") >= 6


def test_nothing_in_the_page_is_fetched(copy: Path) -> None:
    page = report.write(copy).read_text()
    for _, attributes in read(page).attributes:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "url(" not in page and "@import" not in page
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page


def test_what_the_record_holds_is_escaped(copy: Path) -> None:
    evil = "<script>alert(1)</script>"
    changed(copy, "INSERT INTO events (time, kind, text) VALUES (0, 'changed', ?)", evil)
    changed(
        copy,
        "INSERT INTO errors (time, job, status, reason, traceback) VALUES (0, 'x', ?, ?, ?)",
        *[evil] * 3,
    )
    page = report.write(copy).read_text()
    assert evil not in page and page.count("<script>") == 1
    assert page.count("&lt;script&gt;alert(1)") == 4


def test_a_chart_escapes_names_and_notes() -> None:
    series = charts.Series("<a>", "search", [(0, 1), (2, 3)], notes=["<b>", '"c"'])
    drawn = str(charts.chart("<t>", "<x>", "<y>", [series]))
    assert not re.search("<[abtxy]>", drawn) and "&lt;b&gt;" in drawn
    read(drawn)


@pytest.mark.parametrize(
    "points", [[(0.0, 0.0)], [(1, 5), (1, 5)], [(0, 0), (1e9, 1e-9)], [(-1, -5), (3, 0)]]
)
@pytest.mark.parametrize("kind", ["dots", "line", "steps"])
def test_charts_hold_any_points(points: list[charts.Point], kind: str) -> None:
    drawn = str(charts.chart("t", "x", "y", [charts.Series("s", "search", points, kind)]))
    assert "nan" not in drawn and "inf" not in drawn
    for place in re.findall(r'c[xy]="([-\d.]+)"', drawn):
        assert 0 <= float(place) <= charts.WIDTH


@pytest.mark.parametrize("values", [[2.0, 2.0], [2.5, 1.0, 0.25], [1e-9, 1e9]])
def test_sparklines_hold_any_values(values: list[float]) -> None:
    drawn = str(charts.spark(values, values))
    read(drawn)
    [path] = re.findall(' d="(.*?)"', drawn)
    places = [float(n) for n in re.findall(r"[\d.]+", path)]
    assert len(places) == 2 * len(values)
    assert all(0 <= n <= size for n, size in zip(places, charts.SPARK * len(values), strict=True))
    assert f"<title>{values[0]:.4g} in epoch 1, {values[-1]:.4g} in epoch {len(values)}<" in drawn


def test_one_epoch_is_no_curve(copy: Path) -> None:
    found = facts.read(copy)
    row = found.trials["search"][0]
    found.curves["search", row["number"]] = (0.5,)
    rows, _ = views.table(found, Family(found))
    assert rows[0]["loss"] == 0.5 and not rows[0]["curve"]


def test_each_trial_has_its_curve(copy: Path) -> None:
    found = facts.read(copy)
    sound = [row for name in facts.SEARCHES for row in found.sound(name)]
    assert sound and len(found.curves) == len(sound)
    page = report.write(copy).read_text()
    assert page.count('<svg class="spark"') == len(sound) + len(views.trainings(found))
    for first, last in found.curves.values():
        assert f"<title>{first:.4g} in epoch 1, {last:.4g} in epoch 2</title>" in page
        assert f'data-value="{last}"' in page
    found.curves.clear()
    found.trainings.clear()
    page = pages.run_page(found)
    assert '<svg class="spark"' not in page
    read(page)


def test_each_full_training_has_its_curve(copy: Path) -> None:
    found = facts.read(copy)
    rows = views.trainings(found)
    names = {row["name"] for row in rows}
    assert {"base network", "search, tree 1", "random search, tree 1"} <= names
    assert not any("test of" in name for name in names)
    assert all(row["loss"] is not None and "<svg" in row["curve"] for row in rows)
    assert pages.run_page(found).count('class="spark"') >= len(rows)
    found.trainings["base"]["curve"] = ()  # of a record from before there were curves
    assert views.trainings(found)[0]["loss"] is None


def test_a_curve_is_small_however_long_it_is(copy: Path) -> None:
    found = facts.read(copy)
    row = found.trials["search"][0]
    found.curves["search", row["number"]] = tuple(1 / (n + 1) for n in range(1000))
    rows, _ = views.table(found, Family(found))
    assert len(rows[0]["curve"]) < 800
    assert rows[0]["loss"] == 1 / 1000 and "1 in epoch 1, 0.001 in epoch 1000" in rows[0]["curve"]


def test_ticks_are_round_and_inside() -> None:
    assert charts.ticks(0.86, 0.953) == [0.86, 0.88, 0.9, 0.92, 0.94]
    assert charts.ticks(3, 3) == [3]


@pytest.mark.parametrize("metric", ["accuracy", "likelihood"])
def test_another_metric_of_the_reward_is_named(copy: Path, metric: str) -> None:
    found = facts.read(copy)
    found.config["search"]["reward"]["metric"] = metric
    page = " ".join(pages.run_page(found).split())
    assert ("searched for, was the likelihood of a trial" in page) == (metric == "likelihood")


def test_a_run_that_goes_on_says_so(copy: Path) -> None:
    changed(copy, "DELETE FROM meta WHERE key = 'summary'")
    page = report.write(copy).read_text()
    assert "The best tree so far" in page and "broken off" in page
    assert f"--resume {copy}" in page and "--extend" not in page


def test_a_run_that_has_only_begun_has_a_report(copy: Path) -> None:
    for table in ("trials", "outcomes", "updates", "episodes", "trainings", "clock"):
        changed(copy, f"DELETE FROM {table}")
    changed(copy, "DELETE FROM meta WHERE key = 'summary'")
    page = report.write(copy).read_text()
    assert "No trial has ended well yet." in page and "Nothing to draw yet." in page
    read(page)


def test_front_holds_what_no_other_beats() -> None:
    rows = [{"macs": m, "accuracy": a} for m, a in ((3, 0.9), (1, 0.5), (2, 0.4), (2, 0.7))]
    assert [(r["macs"], r["accuracy"]) for r in views.front(rows)] == [(1, 0.5), (2, 0.7), (3, 0.9)]


def test_operations_of_a_plugin_are_shown_without_it(copy: Path) -> None:
    found = facts.read(copy)
    found.config["plugins"] = ["somebody.elses"]
    row = found.trials["search"][0]
    own = trees.Node((trees.Edge("mine"), trees.Edge("mine")), "concat", "replicate")
    mine = trees.Node((trees.Edge("base", own),))
    found.trees[row["key"]] = trees.to_json(mine)
    [first, *_] = views.table(found, Family(found))[0]
    assert "mine" in first["details"] and "receipt" not in first["details"]
    assert "the wider the more" not in pages.run_page(found)


def test_receipts_add_up_to_what_the_trial_cost(copy: Path) -> None:
    found = facts.read(copy)
    family, base = Family(found, views.Painter(found).sites), found.summary["networks"]["base"]  # type: ignore[index]
    for row in found.sound("search"):
        tree = trees.from_json(found.trees[row["key"]])
        lines = family.receipt(tree)
        if tree == trees.BASE_TREE:
            assert not lines and "itself" in family.line(row, tree)
            continue
        steps = len(transforms.growth(tree))
        assert lines[0].split()[-4:-2] == ["parameters", "multiply-adds"]
        added = [[int(n.replace(",", "")) for n in line.split()[-3:-1]] for line in lines[1:]]
        assert [sum(column) for column in zip(*added[:steps], strict=True)] == added[-1]
        assert base["macs"] + added[-1][1] == row["macs"]


def test_receipts_promise_what_the_birth_keeps(copy: Path) -> None:
    found = facts.read(copy)
    tree = Branch((), "add", 2)(trees.BASE_TREE)
    tree = Replace((0, 0), "max_pool3x3")(Insert((0,))(tree))
    laws = {}
    for birth, noise in (("gated", 0.0), ("gated", 0.1), ("hard", 0.0)):
        found.config["search"]["trial"] |= {"birth": birth, "noise": noise}
        laws[birth, noise] = [line.split()[-1] for line in Family(found).receipt(tree)[1:]]
    assert laws["gated", 0.0] == ["exact", "exact", "exact", "exact"]
    assert laws["gated", 0.1] == ["near", "exact", "exact", "near"]
    assert laws["hard", 0.0] == ["exact", "exact", "near", "near"]


def test_a_family_line_names_the_trials_on_the_way(copy: Path) -> None:
    found = facts.read(copy)
    parent, row = found.trials["search"][:2]
    half = Branch((), "add", 2)(trees.BASE_TREE)
    parent |= {"key": trees.key(half), "accuracy": 0.5}
    grown = Insert((0,))(half)
    whole = Replace((0, 0), "conv1x1")(grown)
    row["key"] = trees.key(whole)
    family = Family(found)
    assert family.line(row, whole) == "base network > trial 0 (50.00%) > this tree"
    assert family.line(parent, half) == "base network > this tree"


def test_what_grew_in_a_later_round_starts_from_the_tree_before(copy: Path) -> None:
    found = facts.read(copy)
    start = trees.canonical(Branch((), "add", 2)(trees.BASE_TREE))
    grown = copy / "best"
    (grown / "tree.json").write_text(trees.to_json(start))
    found.config["base"]["grown"] = str(grown)
    found.ancestors.append({"folder": str(grown), "tree": str(start)})
    _, line = Family(found).receipt(Insert((0,))(start))
    assert line.split()[0] == "Insert((0,))"
    (grown / "tree.json").unlink()
    assert Family(found).receipt(start) == []


def test_where_stages_have_trees_of_their_own_a_receipt_tells_them_apart(copy: Path) -> None:
    found = facts.read(copy)
    spec = Conv(8, 8)
    sites = [Site(CellSpec(spec), 64), Site(CellSpec(spec), 16)]
    double = Branch((), "add", 2)(trees.BASE_TREE)
    tree = trees.staged([trees.BASE_TREE, double])
    family = Family(found, sites)
    _, line = family.receipt(tree)
    assert line.split()[:2] == ["stage2", "Branch((),"]
    assert line.split()[-2] == f"+{16 * spec.weights:,}"  # positions of the second stage alone
    base = trees.staged([trees.BASE_TREE, trees.BASE_TREE])
    row = found.trials["search"][0]
    assert family.receipt(base) == [] and family.line(row, base) == "the base network itself"


@pytest.mark.slow
def test_five_hundred_trials_and_their_control_take_less_than_3_mb(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = facts.read(copy)
    monkeypatch.setattr(views, "_sites", lambda _: Limits().sites)
    drawn = 10 * random_trees(Limits(), 100, torch.Generator().manual_seed(0))
    found.trees.update({trees.key(tree): trees.to_json(tree) for tree in drawn})
    sample = found.sound("search")[0]
    for name, part in (("search", drawn[:500]), ("control", drawn[500:])):
        found.trials[name][:] = [
            {**sample, "search": name, "number": number, "key": trees.key(tree)}
            for number, tree in enumerate(part)
        ]
        for number in range(500):
            found.curves[name, number] = tuple(1 / epoch for epoch in range(1, 21))
    page = pages.run_page(found)
    assert page.count("family   ") == 1000 and len(page.encode()) < 3_000_000


def test_too_many_trials_leave_the_worst_out(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = facts.read(copy)
    whole = sum(map(len, found.trials.values()))
    monkeypatch.setattr(views, "ROWS", 4)
    rows, left_out = views.table(found, Family(found))
    assert len(rows) == 4 and left_out == whole - 4
    assert max(row["accuracy"] or 0 for row in rows) == found.best()[0]["accuracy"]


def test_runs_side_by_side(copy: Path, ended: Path, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "both.html"
    arguments = ["--compare", str(copy), str(ended), "-o", str(path)]
    assert command.main(arguments) == 0
    page = path.read_text()
    read(page)
    assert "2 runs side by side" in page and str(copy) in page and str(ended) in page
    assert "None but the folder." in page
    with pytest.raises(ValueError, match="at least two runs"):
        pages.comparison_page([facts.read(copy)])


def test_the_command(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(copy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(copy / "report.html")}
    assert command.main([str(tmp_path / "none")]) == command.EXIT_DAMAGED
    assert command.main([str(copy), str(copy)]) == command.EXIT_USAGE
    assert command.main([str(copy), "-o", str(copy / RECORD / "x")]) == command.EXIT_FAILED
    assert capsys.readouterr().err.count("\n") == 3


def test_a_report_that_fails_harms_no_run(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(path: Path) -> None:
        raise ZeroDivisionError("no")

    monkeypatch.setattr(report, "write", broken)
    run._report(copy)
    error = capsys.readouterr().err
    assert error.startswith("warning: the report could not be written: ZeroDivisionError: no")
    assert error.count("\n") == 1 and f"pathnas.report {copy}" in error


CHECK = """
<script>
const rows = Array.from(document.querySelectorAll("#trials tbody tr"));
const shown = () => Array.from(rows[0].parentNode.rows).filter(r => !r.hidden);
const column = (n) => shown().map(r => r.cells[n].dataset.value);
const found = { accuracy: column(3), circles: document.querySelectorAll("circle").length };
document.querySelectorAll("#trials th button")[1].click();
found.numbers = column(1);
const words = document.getElementById("words");
words.value = WORDS; words.dispatchEvent(new Event("input"));
found.trees = column(2);
found.count = document.getElementById("count").textContent;
document.body.dataset.found = JSON.stringify(found);
</script>
"""


@pytest.mark.slow
def test_sorting_and_filtering_in_a_browser(copy: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("chromium is not installed")
    page = report.write(copy)
    rows = [row for rows in facts.read(copy).trials.values() for row in rows]
    word = next(
        edge.op for _, edge in trees.walk(trees.from_json(facts.read(copy).trees[rows[0]["key"]]))
    )
    page.write_text(page.read_text() + CHECK.replace("WORDS", json.dumps(word)))
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    words += [f"--user-data-dir={copy}/browser", "--dump-dom", page.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert "CONSOLE" not in done.stderr
    [body] = [attributes for tag, attributes in read_loosely(done.stdout) if tag == "body"]
    found = json.loads(body["data-found"])
    known = [float(value) for value in found["accuracy"] if value]
    assert known == sorted(known, reverse=True) and len(found["accuracy"]) == len(rows)
    numbers = [int(value) for value in found["numbers"]]
    assert numbers == sorted(numbers, reverse=True)
    assert sorted(found["trees"]) == sorted(row["key"] for row in rows if word in row["key"])
    assert found["count"] == f"{len(found['trees'])} of {len(rows)}" and found["circles"] > 0


def read_loosely(page: str) -> list[tuple[str, dict]]:
    reader = Reader()
    reader.handle_endtag = lambda tag: None  # type: ignore[method-assign]
    reader.feed(page)
    return reader.attributes
