"""Fit, accuracy, calibration."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from pathnas import data, networks, training
from pathnas.cell import cells
from pathnas.ops import Gate
from pathnas.transforms import Birth, Insert, Replace, grow
from tests.strategies import relative_change


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


def test_schedules_rise_and_fall() -> None:
    rates = [training._rate(1.0, step, 10, 0, cosine=True) for step in range(10)]
    assert rates[0] == 1.0 and rates == sorted(rates, reverse=True)
    assert rates[5] == pytest.approx(0.5) and 0 < rates[-1] < 0.05
    warm = [training._rate(1.0, step, 10, 4, cosine=True) for step in range(10)]
    assert warm[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert {training._rate(1.0, step, 10, 0, cosine=False) for step in range(10)} == {1.0}


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1.0]]).expand(len(x), 2)


def test_accuracy_is_the_share_of_right_answers_and_keeps_the_mode() -> None:
    for mode in (True, False):
        model = Constant().train(mode)
        assert training.accuracy(model, batches()) == 0.5
        assert model.training is mode


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
