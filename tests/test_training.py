"""Fit, accuracy, calibration."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from pathnas import data, networks, training
from pathnas.cell import cells
from pathnas.networks.learned_group import LearnedGroupConv, condensed
from pathnas.ops import Gate
from pathnas.transforms import Birth, Branch, Insert, Replace, grow
from tests.strategies import TINY, relative_change


def source(images: int = 96) -> data.Images:
    """Bright left half or bright right half."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % 2
    pixels = torch.rand(images, 1, 8, 8, generator=generator)
    pixels[labels == 0, :, :, :4] += 1
    pixels[labels == 1, :, :, 4:] += 1
    pixels[:, :, ::2] += labels[:, None, None, None]  # survives global pooling
    return data.Images(pixels, labels)


def batches(seed: int = 0) -> data.Batches:
    images = source()
    return data.batches(
        images,
        batch_size=16,
        normalization=data.measure(images),
        generator=torch.Generator().manual_seed(seed),
        shuffle=True,
    )


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return networks.build("chain", channels=1, classes=2, widths=(4,), cells=1)


def test_fit_learns_and_counts_the_images() -> None:
    trained = network()
    assert training.accuracy(trained, batches()) < 0.9
    assert training.fit(trained, batches(), epochs=5, learning_rate=0.1) == 5 * 96
    assert training.accuracy(trained, batches()) > 0.95


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fit_is_a_function_of_its_seeds(precision: str) -> None:
    states = []
    for _ in range(2):
        trained = network()
        training.fit(trained, batches(), epochs=2, learning_rate=0.1, precision=precision)  # type: ignore[arg-type]
        states.append(trained.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True)
    )


def test_no_epochs_change_nothing() -> None:
    trained = network()
    before = deepcopy(trained.state_dict())
    assert training.fit(trained, batches(), epochs=0, learning_rate=0.1) == 0
    assert all(torch.equal(before[k], v) for k, v in trained.state_dict().items())


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    with pytest.raises(FloatingPointError, match=r"the loss became (nan|inf) in epoch"):
        training.fit(network(), batches(), epochs=3, learning_rate=1e30)


def test_gates_fall_over_their_share_of_the_steps_and_are_gone() -> None:
    grown = grow(network(), [Insert((0,)), Replace((0, 0), "max_pool3x3")])
    gate = next(m for m in grown.modules() if isinstance(m, Gate))
    seen: list[float] = []
    gate.register_forward_hook(lambda module, inputs, output: seen.append(gate.a))
    training.fit(grown, batches(), epochs=5, learning_rate=0.01, gate_fraction=0.5)
    assert seen[0] == 1.0 and seen == sorted(seen, reverse=True)
    assert len(seen) == 15 and seen[-1] == pytest.approx(1 / 15)  # 30 steps: half of them gated
    assert not any(isinstance(m, Gate) for m in grown.modules())


@pytest.mark.parametrize(("schedule", "first"), [("linear", 0.0), ("constant", 0.5)])
def test_drop_path_follows_its_schedule_and_ends_with_the_training(
    schedule: str, first: float
) -> None:
    grown = grow(network(), [Branch((), "add", 2)])
    root = next(iter(cells(grown).values())).root
    seen: list[float] = []
    root.register_forward_pre_hook(lambda module, inputs: seen.append(module.drop))
    options = dict(drop_path=0.5, drop_path_schedule=schedule)
    training.fit(grown, batches(), epochs=5, learning_rate=0.01, **options)  # type: ignore[arg-type]
    assert seen[0] == first and seen[-1] == pytest.approx(first or 0.5 * 29 / 30)
    assert seen == sorted(seen) and root.drop == 0.0


def test_a_learned_group_convolution_condenses_over_the_first_half() -> None:
    torch.manual_seed(0)
    model = networks.build("condensenet", channels=1, classes=2, **TINY["condensenet"])
    learned = [m for m in model.modules() if isinstance(m, LearnedGroupConv)]
    seen: list[int] = []
    learned[0].register_forward_hook(lambda m, inputs, output: seen.append(int(m.kept[0].sum())))
    training.fit(model, batches(), epochs=2, learning_rate=0.05)
    assert seen == [8, 8, 6, 6, 4, 4, 2, 2, 2, 2, 2, 2]
    assert all(m.kept.sum(1).tolist() == [m.goal] * m.groups for m in learned)
    x, _ = next(iter(batches()))
    deployed = condensed(model.eval())
    torch.testing.assert_close(deployed(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_training_of_one_step_condenses_too() -> None:
    model = networks.build("condensenet", channels=1, classes=2, **TINY["condensenet"])
    training.fit(model, list(batches())[:1], epochs=1, learning_rate=0.05)
    condensed(model)


def test_a_penalty_is_part_of_the_loss() -> None:
    weights = []
    for lasso in (0.0, 1.0):
        torch.manual_seed(0)
        model = networks.build(
            "condensenet", channels=1, classes=2, **{**TINY["condensenet"], "lasso": lasso}
        )
        learned = next(m for m in model.modules() if isinstance(m, LearnedGroupConv))
        training.fit(model, list(batches())[:1], epochs=1, learning_rate=0.01, momentum=0.0)
        weights.append(float(learned.weight.detach().abs().sum()))
    assert weights[1] < weights[0]


def test_schedules_rise_and_fall() -> None:
    rates = [training._Rates(1.0, 10, 0, True).at(step) for step in range(10)]
    assert rates[0] == 1.0 and rates == sorted(rates, reverse=True)
    assert rates[5] == pytest.approx(0.5) and 0 < rates[-1] < 0.05
    warm = [training._Rates(1.0, 10, 4, True).at(step) for step in range(10)]
    assert warm[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert {training._Rates(1.0, 10, 0, False).at(step) for step in range(10)} == {1.0}


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1.0]]).expand(len(x), 2)


def test_accuracy_is_the_share_of_right_answers_and_keeps_the_mode() -> None:
    for mode in (True, False):
        model = Constant().train(mode)
        assert training.accuracy(model, batches()) == 0.5
        assert model.training is mode


def test_the_loss_of_an_evaluation_is_the_mean_over_all_images() -> None:
    few = [
        (torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 1])),
        (torch.zeros(1, 1, 2, 2), torch.tensor([0])),
    ]
    found = training.evaluate(Constant(), few)
    right, wrong = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    assert found.accuracy == 0.5 and found.loss == pytest.approx((2 * right + 2 * wrong) / 4)


def test_a_part_that_was_put_into_eval_mode_stays_in_it() -> None:
    model = network().train()
    model.stem.eval()
    x, _ = next(iter(batches()))
    training.accuracy(model, batches())
    training.calibrate(model, x)
    networks.macs(model, (1, 8, 8))
    assert model.training and not model.stem[1].training


def test_calibration_measures_moments_and_changes_nothing_else() -> None:
    model = network().eval()
    x, _ = next(iter(batches()))
    before = deepcopy(model.state_dict())
    training.calibrate(model, x)
    assert not model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    [cell] = cells(model).values()
    moments = cell.root.edges[0].moments
    output = cell.train()(model.stem.train()(x))
    torch.testing.assert_close(moments.mean, output.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(moments.var, output.var(dim=(0, 2, 3), correction=0))


def test_a_grown_network_trains_from_where_the_old_one_stood() -> None:
    model = network()
    training.fit(model, batches(), epochs=3, learning_rate=0.1)
    x, y = next(iter(batches()))
    training.calibrate(model, x)
    grown = grow(model, [Insert((0,)), Replace((0, 0), "sep_conv3x3")])
    old, new = model.train()(x), grown.train()(x)
    assert relative_change(old, new) < 1e-3
    assert math.isfinite(float(nn.functional.cross_entropy(new, y).detach()))


def test_fit_goes_on_after_any_epoch_to_the_same_bits() -> None:
    whole, states = network(), []

    def keep(epoch: training.Epoch) -> None:
        assert whole.training and math.isfinite(epoch.loss) and epoch.learning_rate > 0
        states.append(deepcopy((whole.state_dict(), epoch.state())))

    options = {"epochs": 4, "learning_rate": 0.1, "warmup_epochs": 1.5}
    order = batches()
    seen = training.fit(whole, order, hooks=training.Hooks(epoch_end=keep), **options)  # type: ignore[arg-type]
    assert [state["epoch"] for _, state in states] == [1, 2, 3, 4]
    assert [state["images"] for _, state in states] == [96, 192, 288, 384] and seen == 384
    for done, (weights, state) in enumerate(states, start=1):
        again, rest = network(7), batches()
        again.load_state_dict(weights)
        for _ in range(done):
            list(rest)  # epochs that are over
        assert training.fit(again, rest, hooks=training.Hooks(resume=state), **options) == 384  # type: ignore[arg-type]
        assert all(
            torch.equal(a, b)
            for a, b in zip(again.state_dict().values(), whole.state_dict().values(), strict=True)
        )


def test_hooks_count_steps_sum_over_processes_and_weigh_the_loss() -> None:
    steps: list[int] = []
    hooks = training.Hooks(step_end=lambda: steps.append(1), across=lambda tensor: 3 * tensor)
    assert training.fit(network(), batches(), epochs=2, learning_rate=0.1, hooks=hooks) == 6 * 96
    assert len(steps) == 2 * 6
    frozen = network()
    before = deepcopy(dict(frozen.named_parameters()))
    hooks = training.Hooks(weight=lambda: 0.0)
    training.fit(frozen, batches(), epochs=1, learning_rate=0.1, weight_decay=0.0, hooks=hooks)
    assert all(torch.equal(before[name], p) for name, p in frozen.named_parameters())


def test_distilling_brings_a_grown_network_back_to_its_base_without_labels() -> None:
    teacher = network()
    training.fit(teacher, batches(), epochs=3, learning_rate=0.1)
    teacher.stem.eval()
    before = deepcopy(teacher.state_dict())
    done = [Insert((0,)), Replace((0, 0), "max_pool3x3")]
    x, _ = next(iter(batches()))

    def distance(student: nn.Module) -> float:
        with torch.no_grad():
            change = deepcopy(student).eval()(x) - deepcopy(teacher).eval()(x)
        return float(change.square().mean())

    student = grow(teacher, done, Birth("hard"))
    born = distance(student)
    unlabelled = data.batches(
        data.Images(source().pixels, torch.zeros(96, dtype=torch.int64)),
        batch_size=16,
        normalization=data.measure(source()),
    )
    seen = training.distill(student, teacher, unlabelled, epochs=4, learning_rate=0.05)
    assert seen == 4 * 96
    assert born > 0.1 and distance(student) < born / 4
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())
    assert teacher.training and not teacher.stem.training


def test_an_optimizer_that_is_handed_in_goes_on_with_what_it_remembers() -> None:
    states = []
    for momentum in (0.0, 1.0):
        trained = network()
        optimizer = training.sgd(trained)
        for parameter in trained.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.full_like(parameter, momentum)
        training.fit(trained, batches(), epochs=1, learning_rate=0.1, optimizer=optimizer)
        states.append(trained.state_dict()["head.2.bias"])
    assert (states[0] - states[1]).min() > 0.1
