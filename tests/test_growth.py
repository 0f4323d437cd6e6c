"""Growing a model of one's own: nothing but the copy changes, and the log replays to the bit."""

from __future__ import annotations

import io
import pickle
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pathnas import cell as cells
from pathnas import growth, networks, ops, receipts, training
from pathnas.cell import Cell
from pathnas.growth import fingerprint, replay, transform
from pathnas.layers import Deepen, Widen
from pathnas.logs import Log
from pathnas.ops import Gate
from pathnas.receipts import Receipt
from pathnas.specs import CellSpec, Conv
from pathnas.steps import Step
from pathnas.transforms import Birth, Branch, Insert, Replace, Transform, grow
from tests.strategies import growths, images, randomize, relative_change, specs
from tests.test_clones import storages

STEPS: list[Transform] = [
    Branch((), "add", 2),
    Insert((0,)),
    Replace((0, 0), "sep_conv5x5"),
    Insert((1,)),
    Replace((1, 0), "max_pool3x3"),
]
PIXELS = images(1, 5, torch.float32, size=8)


class Mine(nn.Module):
    """A user's own module: cells in a list and by name, dropout and a shortcut between."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Cell(CellSpec(Conv(1, 4), "post"))
        self.rest = nn.ModuleList([Cell(CellSpec(Conv(4, 4, bias=True), bare=True)), nn.Identity()])
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.rest[1](self.rest[0](self.drop(x)))
        return self.head(x.mean((2, 3)))


def mine(seed: int = 0) -> Mine:
    torch.manual_seed(seed)
    model = Mine()
    randomize(model, seed)
    return model


def whole_state(model: nn.Module) -> dict[str, object]:
    """All that one can see of a model: tensors and moments, modes, trees, gates."""
    return {
        "hash": fingerprint(model),
        "moments": {name: tensor.tolist() for name, tensor in cells.moments(model).items()},
        "modes": [module.training for module in model.modules()],
        "keys": list(model.state_dict()),
        "repr": repr(model),
        "log": growth.log(model),
    }


@given(data=st.data(), seed=st.integers(0, 10**6))
def test_the_argument_is_left_alone_and_nothing_is_shared(data: st.DataObject, seed: int) -> None:
    spec = data.draw(specs())
    torch.manual_seed(seed)
    model = nn.Sequential(Cell(spec)).double()
    randomize(model, seed)
    x = images(spec.conv.channels_in, seed, torch.float64)
    calibrate = data.draw(st.sampled_from([None, x]))
    done = data.draw(growths(spec))
    before, random = whole_state(model), torch.get_rng_state()
    grown, receipt = transform(model, done, calibrate=calibrate, images=x)
    assert whole_state(model) == before and torch.equal(torch.get_rng_state(), random)
    assert not storages(model) & storages(grown)
    assert receipt.exact and receipt.change is not None and receipt.change.exact
    again = replay(model, growth.log(grown))
    assert whole_state(model) == before and not storages(model) & storages(again)
    assert whole_state(again) == whole_state(grown)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_a_whole_network_answers_as_before(dtype: torch.dtype, tolerance: float) -> None:
    network = networks.build("residual", channels=1, classes=4, widths=(4, 6), cells=2).to(dtype)
    randomize(network, 1)
    x = PIXELS.to(dtype)
    grown, receipt = transform(network, STEPS, calibrate=x)
    assert receipt.change is not None and receipt.change.tolerance == tolerance
    assert relative_change(network.eval()(x), grown.eval()(x)) == receipt.change.relative
    assert receipt.change.relative <= tolerance and receipt.change.top1 == 0
    before, after = network.train()(x), grown.train()(x)
    assert relative_change(before, after) <= (1e-10 if dtype == torch.float64 else 1e-3)
    assert receipt.macs == tuple(networks.macs(n, (1, 8, 8)) for n in (network, grown))
    assert receipt.parameters == tuple(networks.parameters(n) for n in (network, grown))


def test_one_receipt_for_each_step_and_one_in_all() -> None:
    birth = Birth("hard")
    grown, receipt = transform(mine().eval(), STEPS, images=PIXELS, birth=birth, seed=3)
    assert [step.transforms for step in receipt.steps] == [(step,) for step in STEPS]
    assert [step.exact for step in receipt.steps] == [True, True, False, True, False]
    assert not receipt.exact
    for first, second in zip(receipt.steps, receipt.steps[1:], strict=False):
        assert first.parameters[1] == second.parameters[0] and first.macs is not None
        assert second.macs is not None and first.macs[1] == second.macs[0]
    assert receipt.parameters == (receipt.steps[0].parameters[0], receipt.steps[-1].parameters[1])
    assert receipt.macs is not None and receipt.macs[0] < receipt.macs[1]
    assert receipt.cells == ("first", "rest.0") == tuple(cells.cells(grown))
    assert Receipt.from_json(receipt.to_json()) == receipt
    lines = str(receipt).splitlines()
    assert len(lines) == 1 + len(STEPS) and "sep_conv5x5" in lines[3]


def test_without_images_nothing_is_measured_and_the_same_is_grown() -> None:
    blind, receipt = transform(mine(), STEPS, birth=Birth(noise=0.1))
    assert receipt.change is None and receipt.macs is None and not receipt.exact
    seen, _ = transform(mine(), STEPS, images=PIXELS, birth=Birth(noise=0.1))
    assert fingerprint(seen) == fingerprint(blind)


@pytest.mark.parametrize("training_mode", [True, False])
def test_every_part_stays_in_its_mode(training_mode: bool) -> None:
    model = mine().train(training_mode)
    model.first.train(not training_mode)
    grown, _ = transform(model, STEPS, calibrate=PIXELS)
    for name, part in grown.named_modules():
        expected = not training_mode if name.startswith("first") else training_mode
        assert part.training is expected, name


def test_cells_are_chosen_by_name_and_by_glob() -> None:
    for pattern, expected in [
        ("first", {"first"}),
        ("rest.*", {"rest.0"}),
        (["rest.0", "f*"], {"first", "rest.0"}),
        (None, {"first", "rest.0"}),
    ]:
        grown, receipt = transform(mine(), [Branch((), "add", 2)], cells=pattern)
        changed = {n for n, c in cells.cells(grown).items() if len(c.tree.edges) == 2}
        assert changed == expected == set(receipt.cells)
    grown, receipt = transform(Cell(CellSpec(Conv(2, 2))), STEPS)
    assert receipt.cells == ("",) and len(grown.tree.edges) == 2


NOISY = Birth(noise=6e-3)


@pytest.mark.parametrize("birth", [Birth(), NOISY, Birth("hard", 0.1)])
@pytest.mark.parametrize("calibrate", [None, PIXELS])
def test_a_log_of_several_growths_replays_to_the_bit_through_json(
    birth: Birth, calibrate: Tensor | None
) -> None:
    base = mine(3)
    once, _ = transform(base, STEPS[:3], calibrate=calibrate, birth=birth, seed=1)
    twice, _ = transform(once, STEPS[3:], images=PIXELS, cells="rest*", birth=birth, seed=2)
    thrice, _ = transform(twice, [Insert((0, 0))], calibrate=PIXELS[:3], birth=birth)
    log = Log.from_json(growth.log(thrice).to_json())
    assert log == growth.log(thrice) and len(log) == 3
    assert log.transforms == (*STEPS, Insert((0, 0)))
    torch.manual_seed(99)
    again = replay(mine(3), log)
    assert whole_state(again) == whole_state(thrice)
    assert torch.equal(*(deepcopy(model).eval()(PIXELS) for model in (again, thrice)))
    assert whole_state(replay(once, log[1:])) == whole_state(thrice)
    assert "sep_conv5x5" in str(log) and "on rest.0" in str(log)


def test_noise_comes_from_the_seed() -> None:
    hashes = {
        fingerprint(transform(mine(), [Branch((), "add", 2)], birth=NOISY, seed=seed)[0])
        for seed in (0, 0, 1)
    }
    assert len(hashes) == 2


def test_a_users_operation_may_draw_weights_and_replays_all_the_same() -> None:
    class Scaled(ops.Identity):
        """An identity with a weight that stays as it was drawn."""

        def __init__(self, channels: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(channels))

    @ops.register("scaled", macs=lambda i, o, s: 0, parameters=lambda i, o, s: i, splits=True)
    def build(i: int, o: int, spec: CellSpec) -> ops.Primitive:
        return Scaled(i)

    try:
        done = [Insert((0,)), Replace((0, 0), "scaled")]
        grown, _ = transform(mine(), done, seed=4)
        torch.manual_seed(17)
        assert fingerprint(replay(mine(), growth.log(grown))) == fingerprint(grown)
        other, _ = transform(mine(), done, seed=5)
        assert fingerprint(other) != fingerprint(grown)
    finally:
        del ops.OPS["scaled"]


def test_the_log_travels_with_copies_and_pickles_but_not_with_the_state() -> None:
    grown, _ = transform(mine(), STEPS, calibrate=PIXELS, birth=NOISY)
    log = growth.log(grown)
    assert len(log) == 1 and growth.log(mine()) == Log()
    assert growth.log(deepcopy(grown)) is log
    assert growth.log(grow(grown, [])) == log
    assert pickle.loads(pickle.dumps(log)) == log
    plain = grow(mine(), STEPS)
    assert list(grown.state_dict()) == list(plain.state_dict())
    assert all(isinstance(value, Tensor) for value in grown.state_dict().values())
    stream = io.BytesIO()
    torch.save(grown, stream)
    stream.seek(0)
    assert growth.log(torch.load(stream, weights_only=False)) == log  # our own bytes


def test_a_log_is_not_replayed_on_another_model() -> None:
    grown, _ = transform(mine(), STEPS, birth=NOISY)
    log = growth.log(grown)
    with pytest.raises(ValueError, match="the base is not the model that the log began with"):
        replay(mine(1), log)
    moved = mine()
    moved.rest[0].root.edge(0).op.convs[0].bias.data[0] += 1e-6
    with pytest.raises(ValueError, match="the base is not the model"):
        replay(moved, log)
    forged = Log((replace(log.entries[0], seed=8),))
    with pytest.raises(ValueError, match="expected to grow to the model"):
        replay(mine(), forged)
    lost = Log((replace(log.entries[0], cells=("middle",)),))
    with pytest.raises(ValueError, match="the model has no cell 'middle'"):
        replay(mine(), lost)


def test_what_was_trained_between_is_named() -> None:
    grown, _ = transform(mine(), STEPS[:2])
    trained = deepcopy(grown)
    nn.init.ones_(trained.head.weight)
    last, _ = transform(trained, STEPS[2:])
    log = growth.log(last)
    with pytest.raises(ValueError, match=r"entry 1 .* changed in between .* replay log\[1:\]"):
        replay(mine(), log)
    assert whole_state(replay(trained, log[1:])) == whole_state(last)


@pytest.mark.parametrize(
    "text",
    ["[]", "nothing", '{"entries": [1]}', '{"entries": [{}]}', '{"entries": 3}'],
)
def test_what_is_no_log_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Log.from_json(text)


def test_entries_are_checked() -> None:
    grown, _ = transform(mine(), STEPS, calibrate=PIXELS)
    [entry] = growth.log(grown)
    data = entry.to_dict()
    for key, value, message in [
        ("birth", {"mode": "soft"}, "mode must be one of"),
        ("transforms", [{"kind": "melt"}], "kind must be one of"),
        ("statistics", [["a.mean", "int77", [1.0]]], "expected a dtype of torch"),
        ("statistics", [["a.mean"]], "not an entry of a log"),
    ]:
        with pytest.raises(ValueError, match=message):
            type(entry).from_dict({**data, key: value})


def test_fingerprints_see_weights_gates_and_trees_and_not_the_layout() -> None:
    model = mine()
    same = deepcopy(model).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    assert fingerprint(same) == fingerprint(model)
    gated = grow(model, STEPS)
    closed = deepcopy(gated)
    cells.set_gates(closed, 0.5)
    assert len({fingerprint(m) for m in (model, gated, closed, deepcopy(model).double())}) == 4
    assert any(isinstance(module, Gate) for module in gated.modules())


BIRTH_WITH_GENERATOR = Birth(generator=torch.Generator())


@pytest.mark.parametrize(
    ("transforms", "options", "message"),
    [
        ([Insert((7,))], {}, r"cell first: Insert.*path \(7,\) leads nowhere"),
        ([Replace((0,), "conv1x1")], {}, r"cell first: .*an edge that is an identity"),
        ([Insert((0,)), Replace((0, 0), "conv9x9")], {}, "cell first: .*unknown operation 'conv9"),
        ([Branch((), "concat", 5)], {}, r"cell first: Branch\(path=\(\).*at least 5 channels"),
        ([Insert((0,))], {"cells": "layer*"}, r"got 'layer\*', which matches none of first, rest"),
        ([Insert((0,))], {"cells": ["first", "second"]}, "got 'second', which matches none"),
        ([Widen("head", 5)], {}, "expected example inputs to follow the channels, got none"),
        ([Widen("tail", 5)], {"images": PIXELS}, "name of a layer, got 'tail': there is no such"),
        ([Widen("head", 5)], {"images": PIXELS}, "cannot widen 'head' to 5: its channels reach"),
        ([Deepen("drop")], {}, "expected a convolution or linear layer, got 'drop', a Dropout"),
        ([Deepen("head")], {"cells": "x"}, "got 'x', which matches none of first, rest.0"),
        ([Insert((0,))], {"calibrate": PIXELS[0]}, r"calibrate: .* in train mode, got \(1, 8, 8\)"),
        ([Insert((0,))], {"images": PIXELS[:, :, 0]}, r"images: .* in eval mode, got \(4, 1, 8\)"),
        (["branch"], {}, r"transforms\[0\]: expected one of Branch, .*got 'branch'"),
        ([Insert((0,))], {"birth": BIRTH_WITH_GENERATOR}, "drawn from `seed`"),
    ],
)
def test_bad_input_gets_one_message_that_says_where(
    transforms: list[Step], options: dict, message: str
) -> None:
    model = mine()
    before = whole_state(model)
    with pytest.raises(ValueError, match=message):
        transform(model, transforms, **options)
    assert whole_state(model) == before


def test_a_module_without_cells_and_cells_that_cannot_be_split_are_refused() -> None:
    with pytest.raises(ValueError, match="module with cells, got Linear without"):
        transform(nn.Linear(1, 1), STEPS)
    with pytest.raises(ValueError, match=r"cell 0: Branch.*at least 2 channels.*got 1"):
        transform(nn.Sequential(Cell(CellSpec(Conv(3, 1)))), [Branch((), "concat", 2)])
    uneven = nn.Sequential(Cell(CellSpec(Conv(4, 6), groups=4)))
    done = [Insert((0,)), Replace((0, 0), "group_conv3x3")]
    with pytest.raises(ValueError, match=r"cell 0: .*groups must divide the cell's 6 .* got 4"):
        transform(uneven, done)
    grouped = nn.Sequential(Cell(CellSpec(Conv(4, 6, groups=2))))
    with pytest.raises(ValueError, match=r"cell 0: .* in whole groups of 3, got 6"):
        transform(grouped, [Branch((), "concat", 3)])
    names = nn.ModuleList(Cell(CellSpec(Conv(1, 1))) for _ in range(30))
    with pytest.raises(ValueError, match=r"none of 0, 1, .*19, \.\.\."):
        growth.select(names, "x")


def test_calibration_with_dropout_is_seeded_and_leaves_no_trace() -> None:
    model = mine().train()
    first, second = (transform(model, STEPS, calibrate=PIXELS)[0] for _ in range(2))
    assert whole_state(first) == whole_state(second)
    assert cells.moments(first) and not cells.moments(model)


def test_a_measured_growth_looks_only() -> None:
    network = networks.build("chain", channels=1, classes=3, widths=(4,))
    training.calibrate(network, PIXELS)
    kept = cells.moments(network)
    grown, receipt = transform(network, STEPS[:2], images=PIXELS[:1])
    assert receipts.receipt(network, grown, PIXELS[:1], STEPS[:2]).change == receipt.change
    found = cells.moments(grown)
    name = "blocks.0.root.edges.0.mean"
    assert torch.equal(found[name], kept[name])
    assert found[name].data_ptr() != kept[name].data_ptr()


class Mixed(nn.Module):
    """Layers that can be widened before and behind a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(inplace=True))
        self.reduce = nn.Conv2d(5, 4, 1)
        self.cell = Cell(CellSpec(Conv(4, 4)))
        self.last = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.SiLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cell(self.reduce(self.stem(x)))
        return self.head(self.last(x).mean((2, 3)))


MIXED: list[Step] = [
    Widen("stem.0", 8, seed=4),
    Branch((), "add", 2),
    Deepen("last.0"),
    Insert((0,)),
    Deepen("stem.0", kernel=1),
    Widen("last.0", 9),
    Replace((0, 0), "sep_conv3x3"),
]


def mixed(dtype: torch.dtype) -> Mixed:
    torch.manual_seed(0)
    model = Mixed().to(dtype)
    randomize(model, 0)
    return model


@pytest.mark.parametrize("birth", [Birth(), NOISY, Birth("hard", 0.1)])
@pytest.mark.parametrize("calibrated", [True, False])
def test_layers_and_cells_grow_in_one_sequence_that_replays(birth: Birth, calibrated: bool) -> None:
    base, x = mixed(torch.float64), PIXELS.double()
    before = whole_state(base)
    options = {"calibrate": x} if calibrated else {"images": x}
    grown, receipt = transform(base, MIXED, birth=birth, seed=2, **options)  # type: ignore[arg-type]
    assert whole_state(base) == before and not storages(base) & storages(grown)
    assert [step.transforms for step in receipt.steps] == [(step,) for step in MIXED]
    assert [step.cells for step in receipt.steps] == [
        (),
        ("cell",),
        (),
        ("cell",),
        (),
        (),
        ("cell",),
    ]
    noisy, hard = bool(birth.noise), birth.mode == "hard"
    laws = [not noisy, not noisy, not hard, True, not hard, not noisy, not hard]
    assert [step.exact for step in receipt.steps] == laws
    assert Receipt.from_json(receipt.to_json()) == receipt
    assert receipt.change is not None and receipt.change.exact is (not noisy)
    if calibrated and not noisy:
        train = (deepcopy(model).train()(x) for model in (base, grown))
        assert relative_change(*train) <= 1e-10
    log = Log.from_json(growth.log(grown).to_json())
    assert log == growth.log(grown) and "Deepen(layer='last.0'" in str(log)
    torch.manual_seed(99)
    again = replay(mixed(torch.float64), log)
    assert whole_state(again) == whole_state(grown)
    assert torch.equal(*(model.eval()(x) for model in (again, grown)))


def test_layers_of_a_model_without_cells_grow_with_receipt_and_log() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    done = [Widen("0", 7), Deepen("0")]
    grown, receipt = transform(model, done, images=PIXELS)
    assert receipt.exact and receipt.change is not None and receipt.change.exact
    assert receipt.cells == () and receipt.parameters == tuple(
        networks.parameters(network) for network in (model, grown)
    )
    assert fingerprint(replay(model, growth.log(grown))) == fingerprint(grown)
    lost = Log((replace(growth.log(grown).entries[0], norms=()),))
    with pytest.raises(ValueError, match="expected the moments of the norm of Deepen"):
        replay(model, lost)


def test_wrappers_are_taken_off_before_anything_is_copied() -> None:
    """A copy of a compiled model would run the code of the model that it is a copy of."""
    model = mixed(torch.float32).eval()
    log, expected = None, model(PIXELS).detach()
    for wrapped in (torch.compile(model), nn.DataParallel(model)):
        grown, _ = transform(wrapped, MIXED, images=PIXELS, cells="cell")  # type: ignore[type-var]
        assert type(grown) is Mixed and len(grown.cell.tree.edges) == 2
        assert type(replay(wrapped, growth.log(grown))) is Mixed  # type: ignore[type-var]
        assert log in (None, growth.log(grown))
        log = growth.log(grown)
        for one in (grow(wrapped, STEPS), Widen("last.0", 7).grow(wrapped, example=PIXELS)):  # type: ignore[type-var]
            assert type(one) is Mixed and relative_change(expected, one(PIXELS)) < 1e-5
