"""Layer-level transforms of any network: wider layers, and more of them.

:class:`Widen` replicates channels of a layer and rescales whatever reads them (Net2WiderNet),
:class:`Deepen` inserts a layer that is born as an identity (Net2DeeperNet; Chen, Goodfellow and
Shlens, "Net2Net", ICLR 2016; as actions of a search: Cai et al., "Efficient Architecture Search by
Network Transformation", AAAI 2018). A transform is a value; :meth:`grow` returns a new network, of
the same class and modules, that computes the same function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from pathnas import deepening, flow_rules
from pathnas.channels import CONVS, TRANSPOSED, Channels, rewire, wider
from pathnas.clones import clone
from pathnas.flow import Flow, Layout
from pathnas.graphs import Example
from pathnas.ops import BatchNorm
from pathnas.transforms import EXACT, Birth
from pathnas.wrappers import unwrapped

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Widen:
    """Gives a convolution or linear layer more outputs, and rescales what reads them.

    The old channels come first, then copies of channels chosen at random (with groups: group by
    group). All channels that are added to those of the layer, multiplied with them or tied to
    them by a depthwise convolution are replicated alike, whatever layer computes them.

    Exact in eval mode and in train mode, dropout aside: a copy has the statistics of its channel.

    Attributes:
        layer: its name in the network, as in ``network.named_modules()``.
        width: its new number of outputs, larger than before.
        seed: of the choice, and of the birth's noise where that has no generator.
    """

    layer: str
    width: int
    seed: int = 0

    def grow(
        self, network: Network, birth: Birth = EXACT, *, example: Example | None = None
    ) -> Network:
        """Returns a wider copy of the network, which shares no tensor with it.

        Args:
            network: any network that torch.fx can trace.
            birth: its noise goes on the weights that compute the copies; its mode does not matter.
            example: images `[B, C, H, W]`, or all inputs of the network; only the shapes count.

        Raises:
            ValueError: if there is no such layer, the width is not larger, or the channels reach a
                step that cannot be made wider; the message names it.
        """
        grown = clone(unwrapped(network))
        self.apply(grown, birth, example)
        return grown

    def apply(self, grown: nn.Module, birth: Birth, example: Example | None) -> None:
        """Does what :meth:`grow` does to a network in place; what fails may leave it half done."""
        if example is None:
            raise ValueError(f"expected example inputs to follow the channels, got none for {self}")
        deepening.layer_at(grown, self.layer)
        flow = flow_rules.follow(grown, example)
        if self.layer not in flow.outputs:
            raise ValueError(f"expected a layer that the network calls, got {self.layer!r}")
        generator = torch.Generator().manual_seed(self.seed)
        found = flow.maps(self._drawn(flow, flow.outputs[self.layer], generator))
        for name, (outputs, inputs) in found.items():
            try:
                rewire(grown.get_submodule(name), outputs, inputs)
            except ValueError as error:
                raise self._refusal(f"{name}: {error}") from None
        if birth.noise:
            for name, (outputs, _) in found.items():
                if outputs is not None:
                    _shake(grown.get_submodule(name), outputs, birth, generator)

    def is_exact(self, birth: Birth = EXACT) -> bool:
        """Tells whether the output does not change on any input, by law."""
        return not birth.noise

    def _drawn(self, flow: Flow, layout: Layout, generator: torch.Generator) -> tuple[int, ...]:
        """Draws which channels are replicated."""
        channels, span = layout.channels, layout.span
        old = len(channels) * span
        if self.width <= old:
            raise ValueError(
                f"width must be larger than the {old} outputs of {self.layer!r}, got {self.width}"
            )
        why = flow.why_fixed(channels)
        if why is not None:
            raise self._refusal(f"its channels reach {why}")
        if len(set(flow.roots(channels))) < len(channels):
            raise self._refusal("its channels are tied to each other")
        extra, rest = divmod(self.width - old, span)
        if rest:
            raise self._refusal(f"the width must be a multiple of {span}, got {self.width}")
        groups = flow.groups(channels)
        try:
            places = wider(len(channels), extra, math.lcm(*groups.values()), generator)
        except ValueError as error:
            raise self._refusal(f"{error}, because of {', '.join(groups)}") from None
        return tuple(channels[place] for place in places)

    def _refusal(self, why: str) -> ValueError:
        return ValueError(f"cannot widen {self.layer!r} to {self.width}: {why}")


@dataclass(frozen=True)
class Deepen:
    """Inserts a layer after a convolution or linear layer that returns its input.

    It stands behind the layer's norm and activation where these alone follow it. The module before
    it becomes ``nn.Sequential(module, inserted...)``, so that its weights get another name, if it
    has any. Where the activation is a function or a module that other layers use too, a copy of
    it and the new layer are inserted before it.

    Exact on any input in eval mode, if born gated; in train mode too on the example, with which
    the norm is calibrated. An activation that stands behind its like is no gate, as it changes
    nothing.

    Attributes:
        layer: its name in the network, as in ``network.named_modules()``.
        activation: whether the new layer has one: that of the layer, by default ReLU.
        norm: whether the new layer has a batch norm; it has a bias otherwise.
        kernel: of a new convolution, odd; a linear layer has none.
    """

    layer: str
    activation: bool = True
    norm: bool = True
    kernel: int = 3

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and positive, got {self.kernel}")

    def grow(
        self, network: Network, birth: Birth = EXACT, *, example: Example | None = None
    ) -> Network:
        """Returns a deeper copy of the network, which shares no tensor with it.

        Args:
            network: any network that torch.fx can trace.
            birth: ``"gated"`` or ``"hard"``; nothing is replicated, so noise does not matter.
            example: images `[B, C, H, W]`, or all inputs of the network, to calibrate the norm;
                without, the new layer is an identity in eval mode alone.

        Raises:
            ValueError: if there is no such layer, or nothing can be inserted after it.
        """
        grown = clone(unwrapped(network))
        norm = self.apply(grown, birth, example)
        if norm is not None:
            deepening.calibrate(grown, norm, example)
        return grown

    def apply(self, grown: nn.Module, birth: Birth, example: Example | None) -> BatchNorm | None:
        """Does what :meth:`grow` does to a network in place, and returns the norm, if it has one.

        The norm is fresh, and nothing is an identity before it is calibrated
        (:func:`pathnas.deepening.calibrate`, or :func:`pathnas.ops.undo_norm` of known moments).
        """
        place = deepening.find(grown, self.layer, example)
        if self.activation and place.ends and place.activation is None:
            raise ValueError(
                f"cannot deepen {self.layer!r} with an activation: it yields the network's output"
            )
        if self.norm and place.rank not in (None, 2):
            raise ValueError(
                f"cannot deepen {self.layer!r} with a norm: its output has {place.rank} dimensions"
            )
        return deepening.insert(
            grown,
            place,
            activation=self.activation,
            norm=self.norm,
            kernel=self.kernel,
            birth=birth.mode,
        )

    def is_exact(self, birth: Birth = EXACT) -> bool:
        """Tells whether the output does not change on any input in eval mode, by law."""
        return birth.mode == "gated" or not self.activation


LayerTransform = Widen | Deepen


def grow(
    network: Network,
    done: Sequence[LayerTransform],
    birth: Birth = EXACT,
    *,
    example: Example | None = None,
) -> Network:
    """Returns a copy of the network with all the transforms done, one after the other.

    Raises:
        ValueError: if one does not fit; the network stays as it was.
    """
    grown = network if done else clone(unwrapped(network))
    for transform in done:
        grown = transform.grow(grown, birth, example=example)
    return grown


@torch.no_grad()
def _shake(layer: nn.Module, outputs: Channels, birth: Birth, generator: torch.Generator) -> None:
    """Puts the birth's noise on the weights that compute replicas."""
    if not isinstance(layer, (*CONVS, *TRANSPOSED, nn.Linear)):
        return
    weight = layer.weight
    rows = weight.transpose(0, 1) if isinstance(layer, TRANSPOSED) else weight
    replicas = torch.tensor(outputs.replicas, device=weight.device)
    shape = rows[replicas].shape
    noise: Tensor = torch.randn(shape, generator=birth.generator or generator, dtype=weight.dtype)
    rows[replicas] += birth.noise * weight.std() * noise.to(weight.device)
