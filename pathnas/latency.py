"""How long trees take: a table of what each operation takes at each cell, measured once.

The latency of a tree is the sum over its operations and merges, cell by cell; what a device does
beside, such as starting kernels together, is left out. It is a limit to search within, not a
measurement of the network.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pathnas import files, ops
from pathnas.cell import Site, edge_ranges
from pathnas.executors.worker import one_thread
from pathnas.probing import mode
from pathnas.specs import CellSpec, Range
from pathnas.tree import BASE_OP, Node

NAME = "latencies.json"
"""Of the table in the folder of a run."""

ROUNDS, REPEATS = 12, 3
"""A time is that of the fastest of so many rounds of so many calls each: others only add to it."""

MERGES = ("add", "concat")
"""Of two branches; more take as much more for each."""


@dataclass(frozen=True)
class Row:
    """What an operation or a merge takes at a cell.

    Attributes:
        site: the cell's place in :attr:`Latencies.sites`.
        name: of the operation, or of :data:`MERGES`.
        widths: output channels, rising.
        nanoseconds: for each of them; between them it is interpolated.
    """

    site: int
    name: str
    widths: tuple[int, ...]
    nanoseconds: tuple[int, ...]


@dataclass(frozen=True)
class Latencies:
    """The table.

    Attributes:
        sites: distinct cells of the network.
        rows: of each of them.
        network: nanoseconds of the whole base network.
        batch: images at a time.
        device: on which it was measured.
    """

    sites: tuple[Site, ...]
    rows: tuple[Row, ...]
    network: int
    batch: int
    device: str

    @cached_property
    def _rows(self) -> dict[tuple[int, str], Row]:
        return {(row.site, row.name): row for row in self.rows}

    @cached_property
    def _places(self) -> dict[Site, int]:
        return {site: place for place, site in enumerate(self.sites)}

    def __reduce__(self) -> tuple[type[Latencies], tuple[Any, ...]]:
        return Latencies, (self.sites, self.rows, self.network, self.batch, self.device)

    def of(self, tree: Node, sites: Sequence[Site]) -> int:
        """Returns the nanoseconds of a tree in all of some cells.

        Raises:
            ValueError: if a cell or an operation is not in the table, or a cell cannot hold the
                tree.
        """
        total = 0
        for site in sites:
            if site not in self._places:
                raise ValueError(
                    f"the table of latencies lacks a cell of {site.positions} positions"
                )
            conv, place = site.spec.conv, self._places[site]
            for name, width in _parts(tree, conv.channels_in, conv.channels_out, site.spec):
                total += self._look_up(place, name, width)
        return total

    def _look_up(self, site: int, name: str, width: int) -> int:
        if name == "identity":
            return 0
        row = self._rows.get((site, name))
        if row is None:
            raise ValueError(f"the table of latencies lacks {name!r} at cell {site}")
        return round(float(np.interp(width, row.widths, row.nanoseconds)))

    def write(self, path: Path) -> None:
        """Writes the table as JSON."""
        specs = [{"spec": repr(site.spec), "positions": site.positions} for site in self.sites]
        files.write_json(path, {**asdict(self), "sites": specs})

    @classmethod
    def read(cls, path: Path, sites: Sequence[Site], searched: Sequence[str]) -> Latencies:
        """Reads a table that was written for some cells.

        Args:
            path: of the file.
            sites: of the network.
            searched: the operations.

        Raises:
            ValueError: if the file is no table of these cells with these operations.
            FileNotFoundError: if there is none.
        """
        own = distinct(sites)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            named = [(one["spec"], one["positions"]) for one in found["sites"]]
            rows = tuple(
                Row(r["site"], r["name"], tuple(r["widths"]), tuple(r["nanoseconds"]))
                for r in found["rows"]
            )
            numbers = [n for row in rows for n in (row.site, *row.widths, *row.nanoseconds)]
            sound = all(type(n) is int and n >= 0 for n in (*numbers, found["network"]))
            sound = sound and all(0 < len(r.widths) == len(r.nanoseconds) for r in rows)
            sound = sound and all(a < b for r in rows for a, b in pairwise(r.widths))
            table = cls(own, rows, found["network"], int(found["batch"]), str(found["device"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: expected a table of latencies, got {error!r}") from error
        if not sound:
            raise ValueError(
                f"{path}: expected whole numbers >= 0 and rising widths in a table of latencies"
            )
        if named != [(repr(site.spec), site.positions) for site in own]:
            raise ValueError(f"{path}: expected the latencies of this network's cells, got others")
        for place in range(len(own)):
            missing = [name for name in _names(searched) if (place, name) not in table._rows]
            if missing:
                raise ValueError(
                    f"{path}: expected the latencies of all operations that are searched, got none "
                    f"of {', '.join(missing)}"
                )
        return table


def _names(searched: Sequence[str]) -> list[str]:
    """Returns what rows a cell has; an identity takes no time."""
    return [name for name in (BASE_OP, *searched, *MERGES) if name != "identity"]


def distinct(sites: Sequence[Site]) -> tuple[Site, ...]:
    """Returns the cells that differ, in order."""
    return tuple(dict.fromkeys(sites))


def _parts(
    node: Node, channels_in: int, channels_out: int, spec: CellSpec
) -> Iterator[tuple[str, int]]:
    """Yields the name and the width of each operation and of each merge of two."""
    for _ in node.edges[1:]:
        yield str(node.merge), channels_out
    ranges = edge_ranges(node, channels_in, channels_out, spec)
    for edge, (_, outputs) in zip(node.edges, ranges, strict=True):
        width = outputs.stop - outputs.start
        yield edge.op, width
        yield from _parts(edge.child, width, width, spec)


def measure(
    network: nn.Module,
    image_shape: Sequence[int],
    sites: Sequence[Site],
    searched: Sequence[str],
    *,
    batch: int = 1,
) -> Latencies:
    """Measures the table on the network's device; takes a second or so. On a CPU: of one thread.

    Args:
        network: the base network, in the layout of a training (channels_last).
        image_shape: `[C, H, W]`.
        sites: of its cells.
        searched: the operations.
        batch: images at a time.
    """
    device = next(network.parameters()).device
    own = distinct(sites)
    images = torch.zeros(batch, *image_shape, device=device)
    images = images.to(memory_format=torch.channels_last)  # as in a training
    with one_thread(), mode(network, training=False):
        rows = [
            _row(place, site, name, batch, device)
            for place, site in enumerate(own)
            for name in _names(searched)
        ]
        whole = _time(lambda: network(images), device)
    return Latencies(own, tuple(rows), whole, batch, str(device))


def _row(place: int, site: Site, name: str, batch: int, device: torch.device) -> Row:
    timed: list[tuple[int, int]] = []
    width = site.spec.conv.channels_out
    with torch.random.fork_rng(devices=[]):
        while width:
            try:
                call = _call(site, name, width, batch, device)
            except ValueError:  # such as a width that does not divide into groups
                if not timed:
                    raise
                break
            timed.append((width, _time(call, device)))
            width //= 2
    widths, nanoseconds = zip(*reversed(timed), strict=True)
    # Noise must not make what is narrower dearer than what is wider.
    return Row(place, name, widths, tuple(np.maximum.accumulate(nanoseconds).tolist()))


def _call(
    site: Site, name: str, width: int, batch: int, device: torch.device
) -> Callable[[], Tensor]:
    spec = site.spec
    height = next(n for n in range(math.isqrt(site.positions), 0, -1) if site.positions % n == 0)
    size = height, site.positions // height
    like: dict[str, Any] = {"device": device}
    x = torch.zeros(batch, width, *size, **like).to(memory_format=torch.channels_last)
    if name == "add":
        return lambda: (x + x) / 2
    if name == "concat":
        parts = x[:, : (width + 1) // 2], x[:, (width + 1) // 2 :]
        return lambda: torch.cat(parts, dim=1)
    if name == BASE_OP:
        op: nn.Module = ops.build_base(spec, Range(0, width))
        stride = spec.conv.stride
        rows, columns = (stride, stride) if isinstance(stride, int) else stride
        size = size[0] * rows, size[1] * columns
        x = torch.zeros(batch, spec.conv.channels_in, *size, **like)
        x = x.to(memory_format=torch.channels_last)
    else:
        op = ops.get(name).build(width, width, spec)
    op = op.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return lambda: op(x)


@torch.no_grad()
def _time(call: Callable[[], Tensor], device: torch.device) -> int:
    """Returns the nanoseconds of a call."""

    def wait() -> None:
        if device.type != "cpu":
            getattr(torch, device.type).synchronize()

    call()
    found = []
    for _ in range(ROUNDS):
        wait()
        start = time.perf_counter_ns()
        for _ in range(REPEATS):
            call()
        wait()
        found.append((time.perf_counter_ns() - start) / REPEATS)
    return round(min(found))
