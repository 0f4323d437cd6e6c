"""Checkpoints: what was written comes back, and nothing else is ever believed."""

from __future__ import annotations

import io
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnas import checkpoints


def state(epoch: int) -> dict[str, Any]:
    network = torch.nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.ones(1, 2, 4, 4)).sum().backward()
    optimizer.step()
    return {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rows": [{"epoch": epoch, "loss": 0.5}],
    }


def test_a_state_comes_back_bit_for_bit_with_its_memory_layout(tmp_path: Path) -> None:
    saved = state(1)
    checkpoints.save(tmp_path / "c", 1, saved)
    found = checkpoints.newest(tmp_path / "c")
    assert found is not None and found[0] == 1
    loaded = found[1]
    for name, tensor in saved["network"].items():
        assert torch.equal(loaded["network"][name], tensor)
        assert loaded["network"][name].stride() == tensor.stride()
    momentum = saved["optimizer"]["state"][0]["momentum_buffer"]
    assert torch.equal(loaded["optimizer"]["state"][0]["momentum_buffer"], momentum)
    assert loaded["rows"] == saved["rows"]


def test_memory_that_held_a_larger_state_holds_the_next() -> None:
    memory = io.BytesIO()
    with checkpoints.packed({"w": torch.ones(1000)}, memory) as content:
        longer = bytes(content)
    for value in (1.0, 2.0):
        saved = {"w": torch.full((10,), value)}
        with checkpoints.packed(saved, memory) as content:
            assert len(content) < len(longer)
            loaded = torch.load(io.BytesIO(content), weights_only=True)
        assert torch.equal(loaded["w"], saved["w"])
    with checkpoints.packed({"w": torch.ones(1000)}, memory) as content:
        assert content == longer


def test_only_the_newest_are_kept_and_none_is_no_fault(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path) is None
    for epoch in (9, 10, 11, 100):
        checkpoints.save(tmp_path, epoch, state(epoch))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-00011.pt", "epoch-00100.pt"]
    found = checkpoints.newest(tmp_path)
    assert found is not None and found[0] == 100
    assert checkpoints.of_epoch(tmp_path, 11)["rows"] == [{"epoch": 11, "loss": 0.5}]


@given(st.data())
@settings(max_examples=40)
def test_any_changed_byte_and_any_cut_is_seen(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("c")
    path = checkpoints.save(folder, 1, {"x": torch.arange(8)})
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[place:]
    path.write_bytes(content)
    # A flip may make another version of the first line, which is a fault of its own.
    with pytest.raises(ValueError, match=re.escape(str(path))):
        checkpoints.load(path)


def test_a_damaged_one_is_passed_over_and_said(tmp_path: Path) -> None:
    for epoch in (1, 2):
        checkpoints.save(tmp_path, epoch, state(epoch))
    newest = tmp_path / "epoch-00002.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    said: list[str] = []
    found = checkpoints.newest(tmp_path, said.append)
    assert found is not None and found[0] == 1
    [line] = said
    assert "epoch-00002.pt" in line and "damaged" in line


def test_if_all_are_damaged_nothing_begins_anew_in_silence(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 1, state(1)).write_bytes(b"")
    with pytest.raises(checkpoints.Damaged, match="got 1 damaged"):
        checkpoints.newest(tmp_path)


def test_a_later_version_is_refused_not_passed_over(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 1, state(1))
    path = checkpoints.save(tmp_path, 2, state(2))
    path.write_bytes(path.read_bytes().replace(b"checkpoint 1 ", b"checkpoint 2 ", 1))
    with pytest.raises(ValueError, match="expected version 1"):
        checkpoints.newest(tmp_path)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_a_good_hash_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = checkpoints.save(tmp_path, 1, {"x": Payload(marker)})
    with pytest.raises(pickle.UnpicklingError):
        checkpoints.load(path)
    assert not marker.exists()
