"""Where a model can be grafted, and why elsewhere not."""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import pathnas
from pathnas.places import Place
from pathnas.specs import Conv
from pathnas.tracing import Surround


def named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


def by_name(model: nn.Module, inputs: Tensor | None = None) -> dict[str, Place]:
    return {place.name: place for place in pathnas.candidates(model, inputs=inputs)}


class OwnForward(nn.Conv2d):
    """A convolution that does something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class OwnTensors(nn.Conv2d):
    """A convolution with a tensor of its own."""

    def __init__(self) -> None:
        super().__init__(3, 3, 3)
        self.register_buffer("scale", torch.ones(1))


class SameForward(nn.Conv2d):
    """A convolution with another start."""

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(cast(Tensor, self.bias))


def hooked() -> nn.Conv2d:
    conv = nn.Conv2d(3, 3, 3)
    conv.register_forward_hook(lambda module, args, output: None)
    return conv


def replaced() -> nn.Conv2d:
    conv = nn.Conv2d(3, 3, 3)
    conv.forward = lambda x: x  # type: ignore[method-assign]
    return conv


REFUSED = [
    (nn.ConvTranspose2d(3, 3, 3), "it is a ConvTranspose2d, no Conv2d"),
    (nn.Conv1d(3, 3, 3), "it is a Conv1d, no Conv2d"),
    (nn.Conv3d(3, 3, 3), "it is a Conv3d, no Conv2d"),
    (nn.LazyConv2d(3, 3), "it is a LazyConv2d without weights yet: run the model once"),
    (OwnForward(3, 3, 3), r"its forward is its own, not Conv2d's \(OwnForward\)"),
    (replaced(), "its forward is its own"),
    (OwnTensors(), r"it has other tensors than weight and bias \(OwnTensors\)"),
    (parametrizations.weight_norm(nn.Conv2d(3, 3, 3)), "its weight is parametrized"),
    (parametrizations.spectral_norm(nn.Conv2d(3, 3, 3)), "its weight is parametrized"),
    (prune.random_unstructured(nn.Conv2d(3, 3, 3), "weight", 0.5), "it has hooks"),
    (hooked(), "it has hooks"),
    (nn.Conv2d(3, 3, 3, dtype=torch.complex64), "its weight is of torch.complex64"),
]


@pytest.mark.filterwarnings("ignore:.*complex:UserWarning", "ignore:Lazy modules:UserWarning")
@pytest.mark.parametrize(("conv", "reason"), REFUSED)
def test_what_cannot_be_a_cell_is_listed_with_its_reason(conv: nn.Module, reason: str) -> None:
    model = named(good=nn.Conv2d(3, 3, 1), bad=conv)
    places = by_name(model)
    assert places["good"].reason is None
    with pytest.raises(ValueError, match=reason):
        raise ValueError(places["bad"].reason)
    with pytest.raises(ValueError, match=f"can become cells; bad: {reason}"):
        pathnas.graft(model, ["good", "bad"])
    assert f"bad: cannot be grafted: {places['bad'].reason}" == str(places["bad"])


def test_a_subclass_that_computes_the_same_can_be_a_cell() -> None:
    model = named(conv=SameForward(3, 4, 3))
    x = torch.randn(1, 3, 5, 5)
    assert torch.equal(pathnas.graft(model, "conv")(x), model(x))


def test_one_message_names_all_that_cannot() -> None:
    model = named(a=nn.Conv1d(3, 3, 3), b=nn.Conv2d(3, 3, 3), c=nn.ConvTranspose2d(3, 3, 3))
    expected = r"a: it is a Conv1d, no Conv2d; c: it is a ConvTranspose2d, no Conv2d"
    with pytest.raises(ValueError, match=expected):
        pathnas.graft(model, "*")
    alone = nn.Conv2d(3, 3, 3)
    with pytest.raises(ValueError, match="it is the whole model"):
        pathnas.graft(alone, "*")


def test_shared_modules_and_shared_weights_are_refused() -> None:
    one, other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    other.weight = one.weight
    block = named(conv=nn.Conv2d(3, 3, 1))
    model = named(a=one, b=one, c=other, d=block, e=block, f=nn.Conv2d(3, 3, 1))
    places = by_name(model)
    assert list(places) == ["a", "b", "c", "d.conv", "e.conv", "f"]
    for name, twin in {
        "a": "b",
        "b": "a",
        "c": "a",
        "d.conv": "e.conv",
        "e.conv": "d.conv",
    }.items():
        reason = places[name].reason
        assert reason == f"it is the same as {twin}, or shares its weights"
        with pytest.raises(ValueError, match=f"{name}: it is the same as {twin}"):
            pathnas.graft(model, name)
    assert places["f"].reason is None


class Recurrent(nn.Module):
    """Calls a convolution `times` times, in a loop that torch.fx can or cannot trace."""

    def __init__(self, times: int, *, traceable: bool) -> None:
        super().__init__()
        self.conv, self.unused = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.times, self.traceable = times, traceable

    def forward(self, x: Tensor) -> Tensor:
        if not self.traceable and x.sum() > 1e9:
            return x
        for _ in range(self.times):
            x = self.conv(x)
        return x


@pytest.mark.parametrize("traceable", [True, False])
def test_calls_are_counted_by_tracing_or_on_inputs(traceable: bool) -> None:
    x = torch.ones(1, 3, 4, 4)
    for times in (1, 3):
        model = Recurrent(times, traceable=traceable)
        place = by_name(model)["conv"]
        assert place.calls == (times if traceable else None)
        seen = by_name(model, x)
        assert (seen["conv"].calls, seen["unused"].calls) == (times, 0)
        assert model.training and not model.conv._forward_hooks
        if times == 3:
            with pytest.raises(ValueError, match="conv: a forward pass calls it 3 times"):
                pathnas.graft(model, "conv", inputs=x)
        else:
            assert torch.equal(pathnas.graft(model, "conv", inputs=x)(x), model(x))
    assert isinstance(place.post, str) and (not traceable) == ("cannot trace it" in place.post)


class Reader(nn.Module):
    """Uses a convolution's weight itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + F.conv2d(x, self.conv.weight)


def test_weights_that_the_model_reads_itself_are_refused() -> None:
    with pytest.raises(ValueError, match="conv: the model's code reads its weights directly"):
        pathnas.graft(Reader(), "conv")


class Pattern(nn.Module):
    """A convolution among what a test says."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3, affine=kind != "plain norm")
        self.act: nn.Module = nn.ReLU6() if kind == "relu6" else nn.ReLU(inplace=True)
        if kind == "hooks":
            self.norm.register_forward_hook(lambda module, args, output: None)

    def forward(self, x: Tensor) -> Tensor:
        x = y = self.conv(x)
        if self.kind == "no norm":
            return self.act(y)
        y = self.norm(y)
        if self.kind == "function":
            return F.relu(y)
        if self.kind == "function in place":
            return F.relu(y, inplace=True)
        if self.kind == "method in place":
            return y.relu_()
        z = self.act(y)
        if self.kind == "norm twice":
            return self.norm(z)
        if self.kind == "act twice":
            return self.act(z + 1)
        if self.kind in ("conv read", "norm read"):
            return z + (x if self.kind == "conv read" else y)
        return (z, y) if self.kind == "norm returned" else z  # type: ignore[return-value]


AFTER = {
    "all": Surround("norm", "act", True),
    "act twice": Surround("norm", "act", False),
    "function": Surround("norm", None, False),
    "function in place": "after its batch norm comes relu, no ReLU out of place",
    "method in place": "after its batch norm comes relu_, no ReLU out of place",
    "no norm": "act is a ReLU, no BatchNorm2d",
    "plain norm": "norm is no batch norm with weights and statistics of 3",
    "relu6": "act is a ReLU6, no ReLU",
    "hooks": "norm has hooks",
    "norm twice": "norm is used elsewhere too",
    "conv read": "its output is read 2 times, not once",
    "norm read": "the output of its batch norm is read 2 times, not once",
    "norm returned": "the output of its batch norm is an output of the model",
}


@pytest.mark.parametrize("kind", AFTER)
def test_what_stands_after_is_absorbed_if_it_serves_nothing_else(kind: str) -> None:
    model = Pattern(kind).double().eval()
    model.norm.running_mean.fill_(0.3)
    [place] = pathnas.candidates(model)
    assert place.post == AFTER[kind]
    if isinstance(place.post, str):
        with pytest.raises(ValueError) as caught:
            pathnas.graft(model, "conv", activation="post", absorb=True)
        assert str(caught.value).endswith(f"; conv: {place.post}")
    else:
        assert "post-activation, it could absorb norm" in str(place)
        grafted = pathnas.graft(model, "conv", activation="post", absorb=True)
        assert isinstance(grafted.norm, nn.Identity)
        x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
        assert torch.equal(grafted(x), model(x))
        grafted.train()(x).square().sum().backward()
        assert isinstance(model.norm, nn.BatchNorm2d) and model.act.inplace
        grafted.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    first, second = (m(x) for m in (model, pathnas.graft(model, "conv")))
    pairs = zip(first, second, strict=True) if isinstance(first, tuple) else [(first, second)]
    assert all(torch.equal(one, other) for one, other in pairs)


class Before(nn.Module):
    """What a pre-activation convolution may follow."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.norm, self.act, self.conv = (
            nn.BatchNorm2d(3),
            nn.ReLU(inplace=True),
            Conv(3, 3).build(),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "function":
            return self.conv(F.relu(self.norm(x)))
        if self.kind == "no norm":
            return self.conv(self.act(x + 1))
        y = self.norm(x)
        z = self.act(y)
        if self.kind == "act twice":
            return self.act(self.conv(z))
        if self.kind == "act read":
            return self.conv(z) + z
        if self.kind == "norm read":
            return self.conv(z) + y
        return self.conv(z)


BEFORE = {
    "all": Surround("norm", "act", True),
    "function": "its input does not come from a module, but a ReLU must be one to move",
    "no norm": "add stands where a batch norm would",
    "act twice": "its ReLU act serves others too",
    "act read": "its input is read 2 times, not once",
    "norm read": "the output of its batch norm is read 2 times, not once",
}


@pytest.mark.parametrize("kind", BEFORE)
def test_what_stands_before_is_absorbed_if_it_serves_nothing_else(kind: str) -> None:
    model = Before(kind).double().eval()
    model.norm.running_mean.fill_(0.3)
    [place] = pathnas.candidates(model)
    assert place.pre == BEFORE[kind]
    if isinstance(place.pre, str):
        with pytest.raises(ValueError) as caught:
            pathnas.graft(model, "conv", absorb=True)
        assert str(caught.value).endswith(f"; conv: {place.pre}")
        return
    grafted = pathnas.graft(model, "conv", absorb=True)
    assert isinstance(grafted.norm, nn.Identity) and isinstance(grafted.act, nn.Identity)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    kept = x.clone()
    assert torch.equal(grafted(x), model(x)) and torch.equal(x, kept)


class Auxiliary(Pattern):
    """Reads the norm's output once more, in train mode alone."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return y * 2 + self.act(y) if self.training else self.act(y)


def test_what_is_proven_holds_in_train_mode_and_in_eval_mode() -> None:
    for training in (False, True):
        [place] = pathnas.candidates(Auxiliary("all").train(training))
        assert place.post == "the output of its batch norm is read 2 times, not once"


class Asking(nn.Module):
    """Wants more of its convolution than a call, or calls it by another way than its name."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.hidden, self.kind = [self.conv], kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "list":
            return self.hidden[0](x)
        return self.conv(x) * self.conv.out_channels


@pytest.mark.parametrize("inputs", [None, torch.ones(1, 3, 4, 4)])
@pytest.mark.parametrize(
    ("kind", "message"), [("list", "it calls it 0 times"), ("attribute", "'out_channels'")]
)
def test_code_that_needs_a_convolution_there_is_refused(
    kind: str, message: str, inputs: Tensor | None
) -> None:
    expected = f"the model's code cannot use a cell.*: .*{message}"
    with pytest.raises(ValueError, match=expected):
        pathnas.graft(Asking(kind), "conv", inputs=inputs)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_model_that_cannot_be_copied_is_listed_and_not_grafted() -> None:
    model = named(old=torch.nn.utils.weight_norm(nn.Conv2d(3, 3, 1)), new=nn.Conv2d(3, 3, 1))
    places = by_name(model)
    assert places["old"].reason is not None and "it has hooks" in places["old"].reason
    assert places["new"].reason is None and "deepcopy cannot copy it" in str(places["new"].pre)
    with pytest.raises(ValueError, match="expected a model that deepcopy can copy"):
        pathnas.graft(model, "new")


class Counter(nn.Module):
    """Changes its own buffer when it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.register_buffer("count", torch.zeros(()))
        self.lines: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.lines.append("called")
        return self.conv(x)


def test_looking_at_a_model_leaves_it_alone() -> None:
    model = Counter()
    [place] = pathnas.candidates(model)
    assert place.reason is None and place.calls == 1
    assert float(model.count) == 0 and not model.lines
    assert not pathnas.graft(model, "conv").lines
    assert str(place).startswith("conv: 3 -> 3 channels, kernel 1, stride 1, groups 1")
