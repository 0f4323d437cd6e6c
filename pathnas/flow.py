"""Which channels of a network must change together, and which cannot change.

Every layer with weights yields channels of its own. They are followed through the graph: what adds
two tensors ties their channels pairwise, what concatenates them lines them up, what could mix them
unseen holds them fixed. A widening replicates whole classes of tied channels; where the replicas
stand follows from the classes alone (:meth:`Flow.maps`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pathnas.channels import Channels


class Layout(NamedTuple):
    """The channels of a tensor.

    Attributes:
        channels: their numbers, in order; `Flow` says which are tied.
        dim: the dimension along which they lie.
        span: how many consecutive features along `dim` each channel owns.
    """

    channels: tuple[int, ...]
    dim: int = 1
    span: int = 1


class Fixed(NamedTuple):
    """A tensor whose channels cannot change, and why."""

    why: str


class Flow:
    """The channels of a network.

    Attributes:
        outputs: by the name of a layer with weights, the channels that it yields.
        inputs: the channels that it reads, where these are not fixed.
    """

    def __init__(self) -> None:
        self.outputs: dict[str, Layout] = {}
        self.inputs: dict[str, Layout] = {}
        self._parents: list[int] = []
        self._fixed: dict[int, str] = {}
        self._seen: set[tuple[int, ...]] = set()
        self._blocks: list[tuple[str, tuple[int, ...], int]] = []

    def fresh(self, n: int) -> tuple[int, ...]:
        """Returns `n` new channels, tied to none."""
        start = len(self._parents)
        self._parents.extend(range(start, start + n))
        return tuple(range(start, start + n))

    def root(self, channel: int) -> int:
        """Returns the number of the class of tied channels."""
        while self._parents[channel] != channel:
            self._parents[channel] = self._parents[self._parents[channel]]
            channel = self._parents[channel]
        return channel

    def roots(self, channels: Sequence[int]) -> tuple[int, ...]:
        """Returns the class of every channel."""
        parents = self._parents
        above = tuple(map(parents.__getitem__, channels))
        # Most classes are one step away, and this is where following channels spends its time.
        while (higher := tuple(map(parents.__getitem__, above))) != above:
            above = higher
        return above

    def fix(self, channels: Sequence[int], why: str) -> None:
        """Holds channels fixed; the first reason stays."""
        for root in self.roots(channels):
            self._fixed.setdefault(root, why)

    def tie(self, one: Sequence[int], two: Sequence[int]) -> None:
        """Ties channels pairwise."""
        for a, b in zip(one, two, strict=True):
            first, second = self.root(a), self.root(b)
            if first != second:
                self._parents[second] = first
                if second in self._fixed:
                    self._fixed.setdefault(first, self._fixed[second])

    def blocks(self, name: str, channels: tuple[int, ...], n: int) -> None:
        """Notes that a grouped convolution divides these channels into `n` equal blocks."""
        self._blocks.append((name, channels, n))

    def why_fixed(self, channels: Sequence[int]) -> str | None:
        """Returns the reason why some of the channels cannot change, if there is one."""
        return next((self._fixed[r] for r in self.roots(channels) if r in self._fixed), None)

    def groups(self, channels: Sequence[int]) -> dict[str, int]:
        """Returns the grouped convolutions that read or yield the channels, and their groups."""
        mine = set(self.roots(channels))
        return {n: g for n, found, g in self._blocks if not mine.isdisjoint(self.roots(found))}

    def see(self, layout: Layout) -> None:
        """Notes that a tensor of this layout exists."""
        self._seen.add(layout.channels)

    def maps(self, replicated: Sequence[int]) -> dict[str, tuple[Channels | None, Channels | None]]:
        """Returns the new channels of every layer that changes: its outputs and its inputs.

        Replicas stand, in the order given, at the end of each run of channels that follow each
        other in every tensor: at the end of a plain layer's channels, behind a layer's own part in
        a concatenation, within each group of a grouped convolution.

        Args:
            replicated: channels; one that comes twice gets two replicas.
        """
        extra = self.roots(replicated)
        linked = self._links()
        outs, ins = (
            {name: self._map(layout, extra, linked) for name, layout in side.items()}
            for side in (self.outputs, self.inputs)
        )
        found = {name: (outs.get(name), ins.get(name)) for name in (*outs, *ins)}
        return {name: pair for name, pair in found.items() if pair != (None, None)}

    def _links(self) -> set[tuple[int, int]]:
        """The pairs of classes of which the second follows the first wherever either appears."""
        after: dict[int, set[int]] = {}
        before: dict[int, set[int]] = {}
        for roots in {self.roots(channels) for channels in self._seen}:
            for one, two in zip((-1, *roots), (*roots, -1), strict=True):
                after.setdefault(one, set()).add(two)
                before.setdefault(two, set()).add(one)
        for _, channels, n in self._blocks:
            roots, each = self.roots(channels), len(channels) // n
            for start in range(0, len(roots), each):
                after[roots[start + each - 1]].add(-1)
                before[roots[start]].add(-1)
        pairs = {(a, next(iter(bs))) for a, bs in after.items() if len(bs) == 1}
        return {(a, b) for a, b in pairs if before[b] == {a}}

    def _map(
        self, layout: Layout, extra: Sequence[int], linked: set[tuple[int, int]]
    ) -> Channels | None:
        roots = self.roots(layout.channels)
        if set(roots).isdisjoint(extra):
            return None
        index: list[int] = []
        start = 0
        for end in range(1, len(roots) + 1):
            if end < len(roots) and (roots[end - 1], roots[end]) in linked:
                continue
            places = {root: place for place, root in enumerate(roots[start:end], start)}
            index += range(start, end)
            index += [places[root] for root in extra if root in places]
            start = end
        return Channels(tuple(index), len(roots)).spread(layout.span)
