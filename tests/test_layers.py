"""Wider and deeper layers of any network: the function stays, and what cannot change says so."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pathnas import flow_rules, layers, networks
from pathnas.layers import Deepen, Widen
from pathnas.ops import Gate
from pathnas.transforms import Birth
from tests.strategies import images, randomize, relative_change

PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 1e-4)]


def unit(i: int, o: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(i, o, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(o), nn.ReLU(inplace=True))


class Residual(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.one, self.two = unit(width, inner), unit(inner, width)[:2]
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.two(self.one(x)) + x)


class Separable(nn.Module):
    """Inverted residual with squeeze and excitation."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.expand, self.depthwise = unit(width, inner, 1), unit(inner, inner, 3, inner)
        self.squeeze, self.excite = nn.Conv2d(inner, 2, 1), nn.Conv2d(2, inner, 1)
        self.project = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.depthwise(self.expand(x))
        scale = torch.sigmoid(self.excite(F.silu(self.squeeze(h.mean((2, 3), keepdim=True)))))
        return x + self.project(h * scale)


class Dense(nn.Module):
    """Two pre-activation layers, each of which reads all before it; then a transition."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(width + n * inner) for n in range(2))
        self.convs = nn.ModuleList(
            nn.Conv2d(width + n * inner, inner, 3, padding=1) for n in range(2)
        )
        self.transition = nn.Conv2d(width + 2 * inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return self.transition(x)


class Grouped(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.one, self.two = unit(width, 2 * inner, 1), unit(2 * inner, 2 * inner, 3, 2)
        self.three, self.slope = nn.Conv2d(2 * inner, width, 1), nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.slope(self.three(self.two(self.one(x)))) + x


class Network(nn.Module):
    def __init__(self, widths: list[int], blocks: list[type[nn.Module]], pooled: bool) -> None:
        super().__init__()
        width = widths[0]
        self.stem = unit(3, width)
        made = [block(width, inner) for block, inner in zip(blocks, widths[1:], strict=True)]
        self.blocks = nn.Sequential(*made)
        self.pool = nn.AdaptiveAvgPool2d(1 if pooled else 2)
        self.hidden = nn.Linear(width * (1 if pooled else 4), 7)
        self.out = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.blocks(F.max_pool2d(self.stem(x), 2)))
        return self.out(F.dropout(F.gelu(self.hidden(torch.flatten(x, 1))), 0.5, self.training))


def random_network(draw: st.DrawFn, dtype: torch.dtype) -> Network:
    kinds = [Residual, Separable, Dense, Grouped]
    blocks = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3))
    widths = draw(st.lists(st.integers(2, 5), min_size=len(blocks) + 1, max_size=len(blocks) + 1))
    torch.manual_seed(0)
    network = Network(widths, blocks, draw(st.booleans())).to(dtype)
    randomize(network, 1)
    for module in network.modules():
        if isinstance(module, nn.PReLU):
            module.weight.data.uniform_(-1, 1)
    return network.eval()


def names(network: nn.Module) -> list[str]:
    kinds = (nn.Conv2d, nn.Linear)
    return [n for n, m in network.named_modules() if isinstance(m, kinds) and n != "out"]


@st.composite
def widenings(draw: st.DrawFn, dtype: torch.dtype) -> tuple[Network, Widen]:
    network = random_network(draw, dtype)
    layer = draw(st.sampled_from(names(network)))
    old = network.get_submodule(layer).weight.shape[0]
    step = 2 if any(isinstance(m, Grouped) for m in network.modules()) else 1
    width = old + step * draw(st.integers(1, 5))
    return network, Widen(layer, width, draw(st.integers(0, 9)))


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@settings(max_examples=20)
@given(data=st.data())
def test_a_wider_network_computes_the_same(
    dtype: torch.dtype, tolerance: float, data: st.DataObject
) -> None:
    network, widen = data.draw(widenings(dtype))
    x = images(3, 2, dtype)
    grown = widen.grow(network, example=x)
    assert grown.get_submodule(widen.layer).weight.shape[0] == widen.width
    assert relative_change(network(x), grown(x)) <= tolerance
    bigger = images(3, 3, dtype, size=8)
    if network.hidden.in_features == network.blocks[-1](network.stem(x)).shape[1]:
        assert relative_change(network(bigger), grown(bigger)) <= tolerance


@settings(max_examples=20)
@given(data=st.data())
def test_a_wider_network_computes_the_same_in_train_mode(data: st.DataObject) -> None:
    network, widen = data.draw(widenings(torch.float64))
    x = images(3, 2, torch.float64, size=9)
    network.train()
    grown = widen.grow(network, example=x)
    assert all(module.training for module in grown.modules())
    assert relative_change(_in_train_mode(network, x), _in_train_mode(grown, x)) <= 1e-10
    assert relative_change(network.eval()(x), grown.eval()(x)) <= 1e-10  # with new statistics
    grown.train()(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in grown.parameters())


def _in_train_mode(network: nn.Module, x: Tensor) -> Tensor:
    """The output without the dropout, which is random."""
    found = []
    hook = network.hidden.register_forward_hook(lambda m, i, o: found.append(o))
    network.train()(x)
    hook.remove()
    return network.out(F.gelu(found[0]))


@settings(max_examples=20)
@given(data=st.data())
def test_growing_leaves_its_argument_alone_and_names_what_they_were(data: st.DataObject) -> None:
    network, widen = data.draw(widenings(torch.float32))
    before, x = deepcopy(network.state_dict()), images(3, 2, torch.float32)
    for transform in (widen, Deepen(widen.layer)):
        state = torch.random.get_rng_state()
        grown = transform.grow(network, example=x)
        assert torch.equal(state, torch.random.get_rng_state())
        now = network.state_dict()
        assert list(now) == list(before)
        assert all(torch.equal(before[k], v) for k, v in now.items())
        mine = {t.data_ptr() for t in network.state_dict().values()}
        assert mine.isdisjoint(t.data_ptr() for t in grown.state_dict().values())
        assert type(grown) is type(network)
        if transform is widen:
            assert list(grown.state_dict()) == list(before)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@settings(max_examples=25)
@given(data=st.data(), flags=st.tuples(st.booleans(), st.booleans()))
def test_a_deeper_network_computes_the_same(
    dtype: torch.dtype, tolerance: float, data: st.DataObject, flags: tuple[bool, bool]
) -> None:
    network = random_network(data.draw, dtype)
    activation, norm = flags
    kernel = data.draw(st.sampled_from([1, 3, 5]))
    deepen = Deepen(data.draw(st.sampled_from(names(network))), activation, norm, kernel)
    x = images(3, 2, dtype, size=9)
    example = x if norm else None
    grown = deepen.grow(network, example=example)
    added = sum(p.numel() for p in grown.parameters()) - sum(
        p.numel() for p in network.parameters()
    )
    layer = network.get_submodule(deepen.layer)
    width, area = layer.weight.shape[0], 1 if isinstance(layer, nn.Linear) else kernel**2
    assert added == width**2 * area + width * (2 if norm else 1)
    assert relative_change(network(x), grown(x)) <= tolerance
    other = images(3, 5, dtype, size=9)
    assert relative_change(network(other), grown(other)) <= tolerance
    if dtype == torch.float64:
        before, after = _in_train_mode(network, x), _in_train_mode(grown, x)
        assert relative_change(before, after) <= 1e-8
    grown.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in grown.parameters())


@settings(max_examples=20)
@given(data=st.data())
def test_wider_and_deeper_in_turn(data: st.DataObject) -> None:
    network, widen = data.draw(widenings(torch.float64))
    x = images(3, 2, torch.float64)
    done: list[layers.LayerTransform] = [widen, Deepen(widen.layer)]
    grown = layers.grow(network, done, example=x)
    new = next(n for n in names(grown) if n not in names(network) and not n.endswith(".0"))
    grown = Widen(new, widen.width + 4).grow(grown, example=x)
    assert grown.get_submodule(new).weight.shape[0] == widen.width + 4
    assert relative_change(network(x), grown(x)) <= 1e-10


def test_the_first_channels_stay_and_the_seed_chooses_the_rest() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(unit(3, 4), nn.Conv2d(4, 2, 3))
    x = images(3, 0, torch.float32)
    one, two, other = (Widen("0.0", 9, seed).grow(network, example=x) for seed in (1, 1, 2))
    weight = network[0][0].weight
    assert torch.equal(one[0][0].weight[:4], weight)
    assert all(any(torch.equal(row, old) for old in weight) for row in one[0][0].weight[4:])
    assert torch.equal(one[0][0].weight, two[0][0].weight)
    assert not torch.equal(one[0][0].weight, other[0][0].weight)
    expected = 9 * 3 * 9 + 2 * 9 + 9 * 9 * 2 + 2
    assert sum(p.numel() for p in one.parameters()) == expected
    assert (one[0][0].out_channels, one[0][1].num_features, one[1].in_channels) == (9, 9, 9)


def test_noise_separates_replicas_alone_and_is_no_law() -> None:
    torch.manual_seed(0)
    network, x = nn.Sequential(unit(3, 4), nn.Conv2d(4, 2, 3)).eval(), images(3, 0, torch.float32)
    widen = Widen("0.0", 8)
    exact, noisy, same = (
        widen.grow(network, Birth(noise=noise), example=x)[0][0].weight for noise in (0, 0.1, 0.1)
    )
    assert torch.equal(exact[:4], noisy[:4]) and torch.equal(noisy, same)
    ratio = float(((noisy - exact)[4:].std() / network[0][0].weight.std()).detach())
    assert 0.05 < ratio < 0.2
    assert widen.is_exact() and not widen.is_exact(Birth(noise=0.1))
    given = Birth(noise=0.1, generator=torch.Generator().manual_seed(5))
    assert not torch.equal(noisy, widen.grow(network, given, example=x)[0][0].weight)


class Popular(nn.Module):
    """Squeeze and excitation as many write it, and a head that flattens by a view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 6, 3), nn.ReLU6()
        self.one, self.two = nn.Linear(6, 2), nn.Linear(2, 6)
        self.head = nn.Linear(6 * 25, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x))
        b, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1).view(b, c)
        y = torch.sigmoid(self.two(F.relu(self.one(y)))).view(b, c, 1, 1)
        x = x * y.expand_as(x)
        return self.head(x.view(x.size(0), -1))


@pytest.mark.parametrize("layer", ["conv", "one", "two"])
def test_views_that_keep_the_channels_are_followed(layer: str) -> None:
    torch.manual_seed(0)
    network, x = Popular().double().eval(), images(3, 0, torch.float64)
    grown = Widen(layer, 11).grow(network, example=x)
    assert relative_change(network(x), grown(x)) <= 1e-12
    tied = {"conv", "two"} if layer != "one" else {"one"}
    for name in ("conv", "one", "two"):
        assert (grown.get_submodule(name).weight.shape[0] == 11) is (name in tied)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.low = nn.Conv1d(3, 4, 3, padding=1), nn.Conv1d(4, 5, 2, 2)
        self.up, self.out = nn.ConvTranspose1d(5, 3, 2, 2), nn.Conv1d(7, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = F.elu(self.down(x))
        return self.out(torch.cat([high, self.up(torch.tanh(self.low(high)))], dim=1))


class Mixer(nn.Module):
    """Tokens `[B, N, C]`: linear layers along the last dimension, residual, layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(3, 4), nn.LayerNorm(4)
        self.one, self.two, self.out = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.out((x + self.two(F.gelu(self.one(self.norm(x))))).mean(dim=1))


@pytest.mark.parametrize(
    ("network", "layer", "shape"),
    [
        *[(UNet, layer, (2, 3, 8)) for layer in ("down", "low", "up")],
        (Mixer, "one", (2, 5, 3)),
    ],
)
def test_other_dimensions_and_directions(
    network: type[nn.Module], layer: str, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    old, x = network().double(), torch.randn(shape, dtype=torch.float64)
    grown = Widen(layer, 9).grow(old, example=x)
    assert grown.get_submodule(layer).weight.numel() > old.get_submodule(layer).weight.numel()
    assert relative_change(old(x), grown(x)) <= 1e-12
    deeper = Deepen(layer, norm=network is UNet).grow(old, example=x)
    assert relative_change(old(x), deeper(x)) <= 1e-12
    if network is Mixer:
        with pytest.raises(ValueError, match=r"norm \(LayerNorm\), whose width cannot change"):
            Widen("embed", 9).grow(old, example=x)


class Fn(nn.Module):
    """Two convolutions with any function between them."""

    def __init__(self, function: object, *, shared: bool = False) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norm, self.scale = nn.GroupNorm(2, 4), nn.Parameter(torch.ones(4, 1, 1))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.function(self, self.one(x)))  # type: ignore[operator]


def shuffled(network: Fn, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda n, x: torch.cat(x.chunk(2, 1), 1), "chunk in the network, which may mix"),
        (shuffled, "which uses their number|which may mix them"),
        (lambda n, x: n.norm(x), r"norm \(GroupNorm\), whose width cannot change"),
        (lambda n, x: x * n.scale, "the tensor scale, whose width is given"),
        (lambda n, x: n.two(x), r"two \(Conv2d\), which is called more than once"),
        (lambda n, x: F.softmax(x, 1), "softmax"),
        (lambda n, x: x[:, [1, 0, 2, 3]], "getitem in the network, which may choose"),
        (lambda n, x: x / x.size(1), "truediv in the network, which uses their number"),
        (lambda n, x: x.view(-1, 4, 7, 7), "view"),
        (lambda n, x: x + n.two.bias.sum() * x.mean(1, keepdim=True), "mean"),
        (lambda n, x: F.pad(x, (0, 0, 0, 0, 1, 1))[:, 1:5], "pad"),
        (lambda n, x: F.conv2d(x, n.two.weight), "conv2d|the tensor two.weight|read from outside"),
    ],
)
def test_steps_that_cannot_follow_are_named(function: object, message: str) -> None:
    network, x = Fn(function), images(3, 0, torch.float32)
    before = deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=f"cannot widen 'one' to 6: .*({message})"):
        Widen("one", 6).grow(network, example=x)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize(
    "function",
    [
        lambda n, x: F.interpolate(x[:, :, ::2], size=x.shape[2:]),
        lambda n, x: torch.cat([x[:, :], x], 2),
        lambda n, x: x.permute(0, 2, 3, 1).relu_().permute(0, 3, 1, 2),
        lambda n, x: x.flatten(2).unsqueeze(3).transpose(1, 2).transpose(2, 1),
        lambda n, x: x.mean(3).unsqueeze(-1).unsqueeze(2).squeeze(2) + x,
        lambda n, x: F.pad(x, (1, 0, 1, 0)) * 2,
        lambda n, x: x.view(x.size(0), -1, 49, 1),
        lambda n, x: torch.maximum(x, -x) + x.amax((2, 3), keepdim=True),
    ],
)
def test_steps_that_keep_channels_apart_are_followed(function: object) -> None:
    torch.manual_seed(0)
    network, x = Fn(function).double(), images(3, 0, torch.float64)
    grown = Widen("one", 7).grow(network, example=x)
    assert relative_change(network(x), grown(x)) <= 1e-12


@pytest.mark.parametrize(
    ("layer", "width", "message"),
    [
        ("one", 4, "larger than the 4 outputs of 'one', got 4"),
        ("one", 3, "larger than the 4 outputs of 'one', got 3"),
        ("two", 9, "the network's output, whose width is given"),
        ("three", 9, "there is no such module"),
        ("norm", 9, "'norm', a GroupNorm"),
    ],
)
def test_what_cannot_be_widened_says_why(layer: str, width: int, message: str) -> None:
    network = Fn(lambda n, x: F.relu(x))
    with pytest.raises(ValueError, match=message):
        Widen(layer, width).grow(network, example=images(3, 0, torch.float32))


def test_networks_that_cannot_be_followed_say_why() -> None:
    x = images(3, 0, torch.float32)
    with pytest.raises(ValueError, match="expected example inputs"):
        Widen("one", 9).grow(Fn(lambda n, x: x))
    with pytest.raises(ValueError, match=r"torch\.fx cannot trace Fn: TraceError: .*control flow"):
        Widen("one", 9).grow(Fn(lambda n, x: x if x.sum() > 0 else -x), example=x)
    with pytest.raises(ValueError, match=r"example does not suit Fn: .*got \(4, 2, 7, 7\)"):
        Widen("one", 9).grow(Fn(lambda n, x: x), example=images(2, 0, torch.float32))
    with pytest.raises(ValueError, match=r"hand its \.module"):
        flow_rules.follow(nn.DataParallel(Fn(lambda n, x: x)), x)
    with pytest.raises(ValueError, match="hand over its _orig_mod"):
        flow_rules.follow(torch.compile(Fn(lambda n, x: x)), x)
    network = Fn(lambda n, x: F.relu(x))
    nn.utils.parametrizations.weight_norm(network.two)
    with pytest.raises(ValueError, match=r"two .*whose weight is computed from others"):
        Widen("one", 9).grow(network, example=x)
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="which shares its weights"):
        Widen("0", 9).grow(tied, example=torch.ones(2, 4))


def test_a_cell_is_a_layer_whose_width_cannot_change() -> None:
    network = networks.build("chain", channels=3, classes=4, widths=(4, 6))
    x = images(3, 0, torch.float32)
    with pytest.raises(ValueError, match=r"blocks\.0 \(Cell\), whose width cannot change"):
        Widen("stem.0", 9).grow(network, example=x)
    grown = Deepen("stem.0").grow(network.eval(), example=x)
    assert relative_change(network(x), grown(x)) <= 1e-5


def test_what_only_one_mode_computes_is_rescaled_too() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)
            self.auxiliary = nn.Linear(4, 2)

        def forward(self, x: Tensor, twice: bool = False) -> Tensor:
            x = F.relu(self.one(x))
            return self.two(x) + (self.auxiliary(x) if self.training else 0)

    network, x = Auxiliary().double(), torch.randn(5, 3, dtype=torch.float64)
    for training in (True, False):
        network.train(training)
        grown = Widen("one", 9).grow(network, example=x)
        assert grown.training is training
        for now in (True, False):
            assert relative_change(network.train(now)(x), grown.train(now)(x)) <= 1e-12


def test_a_deeper_layer_stands_where_it_belongs() -> None:
    x = images(3, 0, torch.float32)
    plain = nn.Sequential(unit(3, 4), nn.Conv2d(4, 2, 3)).eval()
    grown = Deepen("0.0").grow(plain, example=x)
    assert [type(m) for m in grown[0][2]] == [nn.ReLU, nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert set(plain.state_dict()) < set(grown.state_dict())
    assert not any(isinstance(m, Gate) for m in grown.modules())
    functional = Deepen("one").grow(Fn(lambda n, x: F.relu6(x)).eval(), example=x)
    assert [type(m) for m in functional.one] == [nn.Conv2d, nn.ReLU6, nn.Conv2d, nn.BatchNorm2d]
    bare = Deepen("one", norm=False, kernel=1).grow(Fn(lambda n, x: n.norm(x)))
    assert [type(m) for m in bare.one] == [nn.Conv2d, nn.Conv2d, Gate]
    hard = Deepen("one", norm=False).grow(Fn(lambda n, x: n.norm(x)), Birth("hard"))
    assert isinstance(hard.one[2], nn.ReLU)
    assert Deepen("one").is_exact() and not Deepen("one").is_exact(Birth("hard"))
    twice = Deepen("one.1").grow(hard, example=x)
    assert [type(m) for m in twice.one[2]] == [nn.ReLU, nn.Conv2d, nn.BatchNorm2d, nn.ReLU]


def test_what_cannot_be_deepened_says_why() -> None:
    x = images(3, 0, torch.float32)
    network = Fn(lambda n, x: n.two(F.relu(x)))
    with pytest.raises(ValueError, match="a layer that is called once, got 'two': 2 times"):
        Deepen("two").grow(network)
    network = Fn(lambda n, x: F.relu(x))
    with pytest.raises(ValueError, match="'two' with an activation: it yields the network's"):
        Deepen("two").grow(network)
    with pytest.raises(ValueError, match="kernel must be odd and positive, got 2"):
        Deepen("two", kernel=2)
    with pytest.raises(ValueError, match="with a norm: its output has 3 dimensions"):
        Deepen("0").grow(nn.Sequential(nn.Linear(7, 4), nn.Linear(4, 2)), example=x[:, 0])
    with pytest.raises(ValueError, match="one is read from outside of it"):
        Deepen("one").grow(Fn(lambda n, x: n.norm(x) * n.one.bias.sum()), example=x)


def check(name: str, done: list[layers.LayerTransform], *, size: int = 64) -> None:
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(weights=None).double().eval()
    randomize(network, 1)
    x = images(3, 1, torch.float64, size=size)[:2]
    grown = layers.grow(network, done, example=x)
    with torch.no_grad():
        assert relative_change(network(x), grown(x)) <= 1e-10


def test_torchvisions_small_networks() -> None:
    check("squeezenet1_1", [Widen("features.3.squeeze", 17), Deepen("features.4.expand3x3")])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "done"),
    [
        ("resnet18", [Widen("layer1.0.conv1", 67), Widen("layer2.0.conv2", 131), Deepen("conv1")]),
        ("vgg11_bn", [Widen("features.25", 513), Widen("classifier.0", 4097)]),
        (
            "densenet121",
            [
                Widen("features.conv0", 65),
                Widen("features.denseblock2.denselayer3.conv2", 35),
                Deepen("features.denseblock1.denselayer2.conv1"),
            ],
        ),
        (
            "mobilenet_v2",
            [
                Widen("features.3.conv.0.0", 147),
                Widen("features.3.conv.2", 25),
                Deepen("features.18.0"),
            ],
        ),
        ("mobilenet_v3_small", [Widen("features.4.block.0.0", 101), Widen("classifier.0", 1030)]),
        ("resnext50_32x4d", [Widen("layer1.0.conv1", 160), Widen("layer1.1.conv2", 192)]),
    ],
)
def test_torchvisions_networks(name: str, done: list[layers.LayerTransform]) -> None:
    check(name, done)
