"""The command of a full training: what it writes, that it goes on, and several processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pathnas import best, checkpoints, config, data, evaluators, train, training
from pathnas import tree as trees
from pathnas.cell import cells
from pathnas.export.__main__ import main as export_command
from pathnas.transforms import Branch, Insert, Replace
from pathnas.tree import BASE_TREE
from tests.test_own_network import Small

ROOT = Path(__file__).parent.parent
TREE = BASE_TREE
for transform in (Branch((), "add", 2), Insert((0,)), Replace((0, 0), "sep_conv3x3")):
    TREE = transform(TREE)
SETTINGS = """
data: {name: synthetic, train: 90, validation: 40, test: 30}
network: {name: chain, widths: [4, 8], cells: 1}
recipe:
  epochs: 3
  batch_size: 32
  learning_rate: 0.1
  augment: {crop: 1, flip: true, cutout: 2}
"""
STAGES = "layers: [2, 2], growth: [8, 8], cells: [0, 2], groups: 2"
VARIANTS = [
    *("average=0", "average=0.9", "recipe.drop_path=0.5"),
    f"network={{name: condensenet, {STAGES}}}",
]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "tree.json").write_text(trees.to_json(TREE))
    (tmp_path / "train.yaml").write_text(SETTINGS)
    return tmp_path


def words(files: Path, to: str, *overrides: str) -> list[str]:
    config = ["--config", str(files / "train.yaml"), "--to", str(files / to)]
    return [str(files / "tree.json"), *config, "--quiet", *overrides]


def command(files: Path, to: str, *overrides: str) -> int:
    return train.main(words(files, to, *overrides))


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "network.safetensors")


def same(one: Path, other: Path) -> bool:
    return (one / "network.safetensors").read_bytes() == (
        other / "network.safetensors"
    ).read_bytes()


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]


def test_it_writes_a_folder_that_loads_as_a_best_network(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.random.get_rng_state()
    assert command(files, "out") == 0
    assert torch.equal(torch.random.get_rng_state(), state)
    folder = files / "out"
    result = json.loads((folder / "result.json").read_text())
    found = best.load(folder)
    assert found.tree == TREE and found.test == result["test"]
    setting = evaluators.Setting(folder / "data", found.normalization, found.image_shape, 4)
    for name, key in (("validation", "validation"), ("test", "test")):
        batches = setting.evaluation_batches(setting.source(name))
        assert training.accuracy(found.network, batches) == result[key]
    assert result["images"] == 3 * 90 and result["test_images"] == 30
    assert [row["epoch"] for row in rows(folder)] == [1, 2, 3]
    assert rows(folder)[-1]["loss"] < rows(folder)[0]["loss"]
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3 and printed[0] == f"tree {trees.key(TREE)}"


def test_scalars_of_every_epoch(files: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert command(files, "out") == 0
    reader = EventAccumulator(str(files / "out" / "tensorboard")).Reload()
    tags = {"train/loss", "train/learning_rate", "validation/accuracy", "time/images_per_second"}
    assert set(reader.Tags()["scalars"]) == {*tags, "test/accuracy"}
    for tag in tags:
        assert [event.step for event in reader.Scalars(tag)] == [1, 2, 3]
    page = (ROOT / "docs" / "train.md").read_text()
    assert all(f"`{tag}`" in page for tag in (*tags, "test/accuracy"))


def test_a_second_time_nothing_is_done(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(files, "out") == 0
    before = {path: path.stat().st_mtime_ns for path in (files / "out").rglob("*")}
    first = capsys.readouterr().out
    assert command(files, "out") == 0
    assert capsys.readouterr().out == f"already trained\n{first}"
    assert {path: path.stat().st_mtime_ns for path in (files / "out").rglob("*")} == before


def forget(folder: Path, *, damage: bool) -> None:
    """Makes a folder look as if the training had been killed in its third epoch, or damaged."""
    for name in ("result.json", "network.safetensors", "about.json", "config.yaml"):
        (folder / name).unlink()
    newest = folder / "checkpoints" / "epoch-00003.pt"
    if damage:
        newest.write_bytes(newest.read_bytes()[:-1])
    else:
        newest.unlink()


@pytest.mark.parametrize("damage", [False, True])
@pytest.mark.parametrize("override", VARIANTS)
def test_it_goes_on_to_the_same_bits(
    files: Path, damage: bool, override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for to in ("out", "again"):
        assert command(files, to, override) == 0
    assert same(files / "out", files / "again")
    forget(files / "again", damage=damage)
    capsys.readouterr()
    arguments = [word for word in words(files, "again", override) if word != "--quiet"]
    assert train.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "going on after epoch 2 of 3" in printed
    assert ("damaged checkpoint passed over" in printed) is damage
    assert same(files / "out", files / "again")
    whole, again = (rows(files / to) for to in ("out", "again"))
    for one, other in zip(whole, again, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_checkpoints_may_be_rarer(files: Path) -> None:
    assert command(files, "often") == 0
    assert command(files, "rare", "checkpoint_epochs=2") == 0
    names = sorted(path.name for path in (files / "rare" / "checkpoints").iterdir())
    assert names == ["epoch-00002.pt", "epoch-00003.pt"]
    assert same(files / "often", files / "rare")


def test_the_average_of_the_weights_is_what_is_kept(files: Path) -> None:
    assert command(files, "plain") == 0
    assert command(files, "averaged", "average=0.5") == 0
    trained, averaged = (
        checkpoints.of_epoch(files / to / "checkpoints", 3) for to in ("plain", "averaged")
    )
    torch.testing.assert_close(averaged["network"], trained["network"], rtol=0, atol=0)
    kept = averaged["average"]["network"]
    torch.testing.assert_close(weights(files / "averaged"), kept, rtol=0, atol=0)
    assert not same(files / "plain", files / "averaged")


OWN = (
    "network={name: grafted, model: tests.test_own_network:small, cells: blocks.*.conv, "
    "options: {width: 4}}"
)


def test_a_network_of_ones_own_is_trained_goes_on_and_loads(files: Path) -> None:
    whole, broken = files / "whole", files / "broken"
    assert command(files, "whole", OWN) == 0 == command(files, "broken", OWN)
    forget(broken, damage=False)
    assert command(files, "broken", OWN) == 0
    assert same(whole, broken)
    found = best.load(whole)
    assert type(found.network) is Small and found.tree == TREE
    assert {trees.key(cell.tree) for cell in cells(found.network).values()} == {trees.key(TREE)}
    batches = evaluators.Setting(whole / "data", found.normalization, found.image_shape, 4)
    source = batches.source("test")
    accuracy = training.accuracy(found.network, batches.evaluation_batches(source))
    assert accuracy == json.loads((whole / "result.json").read_text())["test"]
    assert export_command([str(whole), "--to", str(files / "plain")]) == 0
    assert "class Small" in (files / "plain" / "model.py").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("model: tests.test_own_network:nobody, cells: x", "has no function 'nobody'"),
        (
            "model: tests.test_own_network:small, cells: x",
            "no convolution is named 'x'",
        ),
        ("model: tests.test_own_network:pairs, cells: '*.conv'", "got tuple"),
        ("model: small, cells: x", "expected package.module:function; got 'small'"),
        ("model: a:b", "network.cells: missing"),
    ],
)
def test_a_network_of_ones_own_that_does_not_suit_is_said(
    files: Path, capsys: pytest.CaptureFixture[str], overrides: str, message: str
) -> None:
    assert command(files, "out", f"network={{name: grafted, {overrides}}}") == 2
    assert message in capsys.readouterr().err and not (files / "out").exists()


def test_validation_images_are_trained_on_if_asked(files: Path) -> None:
    assert command(files, "out", "everything=true", "recipe.epochs=1") == 0
    assert json.loads((files / "out" / "result.json").read_text())["images"] == 90 + 40


def test_no_epochs_give_the_fresh_network(files: Path) -> None:
    assert command(files, "out", "recipe.epochs=0") == 0
    assert best.load(files / "out").tree == TREE


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["recipe.epochs=-1"], "recipe.epochs: must be >= 0"),
        (["recipe.batch_sise=4"], "did you mean 'batch_size'?"),
        (["network.widths=[3, 8]", "network.groups=2"], "must divide"),
        (["data.name=nowhere"], "unknown dataset"),
        (["data.train=100000"], "were asked of a set"),
        (["recipe.batch_size=1"], "at least twice the processes"),
        (["device=cuda:99"], "device must be one"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2_and_nothing_is_written(
    files: Path, overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(files, "out", *overrides) == train.EXIT_USAGE
    assert message in capsys.readouterr().err
    assert not (files / "out").exists()


def test_a_folder_of_another_training_is_refused_with_the_difference(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(files, "out", "recipe.epochs=1") == 0
    before = (files / "out" / "result.json").read_bytes()
    assert command(files, "out", "recipe.epochs=2", "seed=1") == train.EXIT_USAGE
    assert "others for recipe.epochs, seed" in capsys.readouterr().err
    (files / "tree.json").write_text(trees.to_json(BASE_TREE))
    assert command(files, "out", "recipe.epochs=1") == train.EXIT_USAGE
    assert "the tree" in capsys.readouterr().err
    assert (files / "out" / "result.json").read_bytes() == before


def test_a_strange_folder_is_left_alone(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "out").mkdir()
    (files / "out" / "thesis.tex").write_text("years of work")
    assert command(files, "out") == train.EXIT_USAGE
    assert "thesis.tex" in capsys.readouterr().err
    assert len(list((files / "out").iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_said(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "out").write_text("a file")
    assert command(files, "out") == train.EXIT_FAILED
    assert "out" in capsys.readouterr().err


def test_a_folder_in_use_is_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pathnas.train_folder import TrainFolder

    with TrainFolder(files / "out").locked():
        assert command(files, "out") == train.EXIT_IN_USE
    assert "in use" in capsys.readouterr().err
    assert command(files, "out") == 0


def test_if_no_checkpoint_is_good_nothing_begins_anew(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(files, "out") == 0
    forget(files / "out", damage=True)
    (files / "out" / "checkpoints" / "epoch-00002.pt").write_bytes(b"")
    assert command(files, "out") == train.EXIT_DAMAGED
    assert "got 2 damaged" in capsys.readouterr().err


def test_a_training_that_diverges_says_so(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["recipe.learning_rate=100", "recipe.weight_decay=1.0", "recipe.epochs=30"]
    assert command(files, "out", *overrides) == train.EXIT_FAILED
    assert "the loss became" in capsys.readouterr().err
    assert not (files / "out" / "result.json").exists()


def test_images_from_files_go_on_to_the_same_bits(files: Path) -> None:
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 12), ("val", 4)):
        for label in ("a", "b"):
            folder = files / "images" / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(256, (20, 20, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    images = f"name: imagefolder, root: {files / 'images'}, validation: 4, options: {{size: 16}}"
    overrides = [
        f"data={{{images}}}",
        "recipe={epochs: 3, batch_size: 8, augment: {crop: 1, flip: true}}",
        "loaders=0",
    ]
    for to in ("out", "again"):
        assert command(files, to, *overrides) == 0
    forget(files / "again", damage=False)
    assert command(files, "again", *overrides) == 0
    assert same(files / "out", files / "again")


# In processes of their own -------------------------------------------------------------------


def start(files: Path, to: str, *overrides: str, processes: int = 1) -> subprocess.Popen[bytes]:
    alone = [sys.executable, "-m", "pathnas.train"]
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    together += ["--nproc-per-node", str(processes), "-m", "pathnas.train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(files / f"{to}.output", "ab") as output:
        return subprocess.Popen(
            [*(alone if processes == 1 else together), *words(files, to, *overrides)],
            cwd=ROOT,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )


def finish(files: Path, to: str, *overrides: str, processes: int = 1) -> None:
    done = start(files, to, *overrides, processes=processes)
    try:
        assert done.wait(timeout=300) == 0, (files / f"{to}.output").read_text()
    finally:
        end(done)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills all processes of a command's own session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for_epoch(files: Path, to: str, epoch: int, process: subprocess.Popen[bytes]) -> None:
    path = files / to / "epochs.jsonl"
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if path.exists() and len(path.read_text().splitlines()) >= epoch:
            return
        time.sleep(0.005)
    raise AssertionError((files / f"{to}.output").read_text())


def kill_at(files: Path, to: str, epochs: Sequence[int], *overrides: str, processes: int) -> None:
    """Starts a training again and again, and kills it a moment after each of some epochs."""
    for number, epoch in enumerate(epochs):
        process = start(files, to, *overrides, processes=processes)
        try:
            wait_for_epoch(files, to, epoch, process)
            time.sleep(0.007 * number)  # at other places of an epoch, or of writing
        finally:
            end(process)
        assert not (files / to / "result.json").exists()


LONG = ("recipe.epochs=40", "data.train=300")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_any_moment_it_ends_with_the_same_bits(files: Path, processes: int) -> None:
    finish(files, "whole", *LONG, processes=processes)
    kill_at(files, "killed", (1, 12, 25), *LONG, processes=processes)
    finish(files, "killed", *LONG, processes=processes)
    assert same(files / "whole", files / "killed")
    assert [row["epoch"] for row in rows(files / "killed")] == list(range(1, 41))


@pytest.mark.slow
def test_two_processes_see_what_one_sees(files: Path) -> None:
    assert command(files, "one") == 0
    finish(files, "two", "sync_norm=true", processes=2)
    finish(files, "apart", processes=2)
    one, two = rows(files / "one"), rows(files / "two")
    assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in one], abs=1e-4)
    torch.testing.assert_close(weights(files / "two"), weights(files / "one"), atol=1e-3, rtol=1e-3)
    # Without synced norms each process has statistics of its own: near, and not the same.
    apart = rows(files / "apart")
    assert apart[-1]["loss"] == pytest.approx(one[-1]["loss"], abs=0.2)
    result = json.loads((files / "apart" / "result.json").read_text())
    assert result["processes"] == 2 and result["images"] == 270
    found = best.load(files / "apart")
    setting = evaluators.Setting(files / "apart" / "data", found.normalization, (1, 8, 8), 4)
    batches = setting.evaluation_batches(setting.source("test"))
    assert training.accuracy(found.network, batches) == result["test"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_the_same_command_goes_on(
    files: Path, number: signal.Signals, code: int
) -> None:
    process = start(files, "out", *LONG)
    try:
        wait_for_epoch(files, "out", 2, process)
        process.send_signal(number)
        assert process.wait(timeout=30) == code
    finally:
        end(process)
    output = (files / "out.output").read_text()
    assert "the same command goes on" in output and "Traceback" not in output
    finish(files, "out", *LONG)
    assert [row["epoch"] for row in rows(files / "out")] == list(range(1, 41))


@pytest.mark.slow
def test_bad_input_of_several_processes_is_said_once(files: Path) -> None:
    process = start(files, "out", "data.train=100000", processes=2)
    try:
        assert process.wait(timeout=120) != 0
    finally:
        end(process)
    output = (files / "out.output").read_text()
    assert output.count("were asked of a set") == 1
    assert not (files / "out").exists()


@pytest.mark.slow
def test_a_runs_folder_is_trained_as_the_run_says(files: Path) -> None:
    from pathnas import run

    quick = ("search.trials=2", "search.control=false", "final.top=1", "final.wider=false")
    arguments = [str(ROOT / "experiments" / "smoke.yaml"), f"runs={files}", "--quiet", *quick]
    assert run.main([*arguments, "workers.kind=inline"]) == 0
    assert train.main([str(files / "smoke"), "--to", str(files / "full"), "--quiet"]) == 0
    found, searched = best.load(files / "full"), best.load(files / "smoke" / "best")
    assert found.tree == searched.tree and found.normalization == searched.normalization
    for name in ("train", "validation", "test"):
        sets = [data.open_source(files / run / "data" / name) for run in ("full", "smoke")]
        one, other = (s for s in sets if isinstance(s, data.Images))
        assert torch.equal(one.pixels, other.pixels)
    settings = config.load(files / "full" / "config.yaml")
    assert settings.final.training.epochs == 2
