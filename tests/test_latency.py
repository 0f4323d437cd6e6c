"""A table of latencies adds up, survives its file, and limits that rest on it cannot be broken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pathnas import config, counting, decisions, evaluators, facts, latency, networks, space
from pathnas import tree as trees
from pathnas.cell import Site
from pathnas.database import RecordError
from pathnas.latency import Latencies, Row
from pathnas.limits import Limits
from pathnas.plan import Plan
from pathnas.specs import CellSpec, Conv
from pathnas.tree import BASE_TREE, Edge, Node
from tests import stub_run

WIDE, NARROW = Site(CellSpec(Conv(8, 8)), 64), Site(CellSpec(Conv(8, 16, stride=2)), 16)
MILD = Limits().ops


def made_up(sites: tuple[Site, ...] = (WIDE, NARROW)) -> Latencies:
    """A table in which each operation takes as many hundred nanoseconds as its name has letters."""
    names = ("base", *(op for op in MILD if op != "identity"), *latency.MERGES)
    rows = [
        Row(place, name, (4, 8, 16), (25 * len(name), 50 * len(name), 100 * len(name)))
        for place in range(len(sites))
        for name in names
    ]
    return Latencies(sites, tuple(rows), 1000, 1, "cpu")


def test_a_tree_takes_the_sum_of_its_operations_and_merges() -> None:
    table = made_up()
    assert table.of(BASE_TREE, [WIDE]) == 50 * len("base")
    assert table.of(BASE_TREE, [WIDE, NARROW]) == 150 * len("base")
    chain = Node((Edge("base", Node((Edge("conv1x1", Node((Edge("identity"),))),))),))
    assert table.of(chain, [WIDE]) == 50 * len("base" + "conv1x1")
    twice = Node((Edge("base"), Edge("base"), Edge("base")), "add", "replicate")
    assert table.of(twice, [WIDE]) == 50 * (3 * len("base") + 2 * len("add"))
    halves = Node((Edge("base"), Edge("base")), "concat", "replicate")
    assert table.of(halves, [WIDE]) == 2 * 25 * len("base") + 50 * len("concat")


def test_widths_between_those_that_were_measured_are_interpolated() -> None:
    row = Row(0, "base", (4, 8), (100, 300))
    for width, expected in ((3, 100), (4, 100), (6, 200), (8, 300)):
        site = Site(CellSpec(Conv(8, width)), 1)
        assert Latencies((site,), (row,), 1, 1, "cpu").of(BASE_TREE, [site]) == expected


def test_what_the_table_lacks_is_named() -> None:
    table = made_up((WIDE,))
    with pytest.raises(ValueError, match="lacks a cell of 16 positions"):
        table.of(BASE_TREE, [NARROW])
    other = Node((Edge("base", Node((Edge("dilated"),))),))
    with pytest.raises(ValueError, match="lacks 'dilated' at cell 0"):
        table.of(other, [WIDE])
    with pytest.raises(ValueError, match="need a table of latencies"):
        Limits(nanoseconds=10)


@pytest.mark.parametrize("stages", [False, True])
def test_a_limit_on_latency_cannot_be_broken(stages: bool) -> None:
    start = trees.staged([BASE_TREE, BASE_TREE]) if stages else BASE_TREE
    free = Limits(sites=(WIDE, NARROW), latencies=made_up(), start=start)
    limits = replace(free, nanoseconds=3 * free.costs(start).latency)
    generator = torch.Generator().manual_seed(0)
    longest = 0
    for _ in range(150):
        state = decisions.begin(limits)
        while not state.done:
            legal = [a for a, allowed in enumerate(decisions.mask(state, limits)) if allowed]
            assert legal  # never stuck
            drawn = int(torch.randint(len(legal), (), generator=generator))
            state = decisions.step(state, legal[drawn], limits)
        longest = max(longest, free.costs(state.tree).latency)
    assert limits.nanoseconds is not None
    assert 0.8 * limits.nanoseconds < longest <= limits.nanoseconds
    over = [not limits.allows(tree) for tree in counting.random_trees(limits, 50, generator)]
    assert any(over)  # these are drawn without the limit


def test_a_measured_table_survives_its_file_and_fits_its_network_alone(tmp_path: Path) -> None:
    network = networks.build("chain", channels=1, classes=4, widths=(4, 8))
    sites = networks.sites(network, (1, 8, 8))
    threads = torch.get_num_threads()
    before = torch.get_rng_state()
    table = latency.measure(network, (1, 8, 8), sites, MILD)
    assert torch.get_num_threads() == threads and torch.equal(before, torch.get_rng_state())
    assert network.training and table.network > 0
    assert {row.name for row in table.rows} == {"base", *MILD, *latency.MERGES} - {"identity"}
    assert all(one > 0 for row in table.rows for one in row.nanoseconds)
    assert all(list(row.nanoseconds) == sorted(row.nanoseconds) for row in table.rows)
    path = tmp_path / "latencies.json"
    table.write(path)
    assert Latencies.read(path, sites, MILD) == table
    with pytest.raises(ValueError, match="latencies of this network's cells"):
        Latencies.read(path, sites[:1], MILD)
    with pytest.raises(ValueError, match="got none of conv3x3"):
        Latencies.read(path, sites, [*MILD, "conv3x3"])
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "network": -1}))
    with pytest.raises(ValueError, match="whole numbers >= 0"):
        Latencies.read(path, sites, MILD)
    path.write_text("[]")
    with pytest.raises(ValueError, match="expected a table of latencies"):
        Latencies.read(path, sites, MILD)


def test_a_run_keeps_its_table_and_no_tree_is_over_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluators, "train", stub_run.train)
    monkeypatch.setattr(evaluators, "score", stub_run.score)
    words = ("search.max_latency=2", "search.trials=6")
    stub_run.run(tmp_path, *words)
    kept = tmp_path / "smoke" / "latencies.json"
    settings = config.load(
        stub_run.SMOKE, [f"runs={tmp_path}", *stub_run.TINY, *words, f"search.latencies={kept}"]
    )
    plan = Plan.of(settings)
    assert plan.limits.nanoseconds is not None and not plan.untimed
    found = facts.read(tmp_path / "smoke")
    assert len(found.trees) >= 6
    assert all(plan.limits.allows(trees.from_json(text)) for text in found.trees.values())


def test_a_resume_has_the_table_that_the_run_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(job: evaluators.Training) -> evaluators.Trained:
        if job.save is None:
            raise KeyboardInterrupt
        return stub_run.train(job)

    words = ("search.max_latency=2", "search.trials=3", "search.control=false")
    monkeypatch.setattr(evaluators, "score", stub_run.score)
    with monkeypatch.context() as patch:
        patch.setattr(evaluators, "train", breaks)
        with pytest.raises(KeyboardInterrupt):
            stub_run.run(tmp_path, *words)
    monkeypatch.setattr(evaluators, "train", stub_run.train)
    kept = tmp_path / "smoke" / latency.NAME
    table = kept.read_bytes()
    kept.write_bytes(table.replace(b'"network": ', b'"network": 9'))
    with pytest.raises(RecordError, match=r"latencies\.json: expected the table .* got another"):
        stub_run.run(tmp_path, *words)
    kept.unlink()
    with pytest.raises(RecordError, match="got no file"):
        stub_run.run(tmp_path, *words)
    kept.write_bytes(table)
    assert stub_run.run(tmp_path, *words)["searches"]["search"]["distinct_trees"] >= 3


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("search.latencies=x.json",), "search.latencies: must be null without search.max_latency"),
        (("search.latencies=x.json", "search.max_latency=2"), "search.latencies: [Errno 2]"),
        (("search.latencies=x.json", "search.max_latency=2", "search.rounds=2"), "rounds > 1"),
        (("search.max_latency=0.5",), "search.max_latency: must be >= 1"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_measured(
    words: tuple[str, ...], error: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        Plan.of(config.load(stub_run.SMOKE, [*stub_run.TINY, *words]))
    assert error in str(raised.value)


def test_several_runs_need_one_table() -> None:
    plan = Plan.of(config.load(stub_run.SMOKE, [*stub_run.TINY, "search.max_latency=2"]))
    with pytest.raises(ValueError, match=r"search\.latencies: expected the latencies\.json"):
        plan.check_timed()


def test_the_size_of_a_space_is_told_with_its_latencies(capsys: pytest.CaptureFixture[str]) -> None:
    assert space.main([str(stub_run.SMOKE), *stub_run.TINY, "search.max_latency=2"]) == 0
    found = capsys.readouterr().out
    assert "microseconds" in found and len(found.split("limit ")[1].split()) > 2
