"""Learned group convolution: what it forgets, when, and what it becomes."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pathnas.networks.learned_group import CondensedConv, LearnedGroupConv, condensed, goal


def conv(channels: int = 8, out: int = 8, seed: int = 0, **options: object) -> LearnedGroupConv:
    torch.manual_seed(seed)
    return LearnedGroupConv(channels, out, **options)  # type: ignore[arg-type]


@given(
    channels=st.integers(1, 20),
    groups=st.integers(1, 4),
    wide=st.integers(1, 3),
    condensation=st.integers(1, 5),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_deployed_form_computes_the_same(
    channels: int, groups: int, wide: int, condensation: int, bias: bool, seed: int
) -> None:
    options = dict(groups=groups, condensation=condensation, bias=bias)
    learned = conv(channels, groups * wide, seed, **options).double()
    if learned.bias is not None:
        nn.init.normal_(learned.bias)
    network = nn.Sequential(learned, nn.ReLU())
    learned.advance(0.0)
    learned.advance(1.0)
    before = deepcopy(network.state_dict())
    deployed = condensed(network)
    x = torch.randn(3, channels, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(deployed(x), network(x), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    [inner] = [m for m in deployed.modules() if isinstance(m, nn.Conv2d)]
    assert inner.groups == groups and inner.in_channels == groups * goal(channels, condensation)


def test_a_group_forgets_the_inputs_of_least_weight() -> None:
    learned = conv(4, 4, groups=2, condensation=2)
    with torch.no_grad():
        # Outputs 0 and 2 are of group 0, outputs 1 and 3 of group 1.
        learned.weight[0::2] = torch.tensor([1.0, -4.0, 2.0, 3.0])[:, None, None]
        learned.weight[1::2] = torch.tensor([5.0, 0.1, 0.2, -5.0])[:, None, None]
    learned.advance(1.0)
    assert learned.kept.tolist() == [[False, True, False, True], [True, False, False, True]]


def test_condensation_follows_the_progress_and_ends_with_its_share() -> None:
    learned = conv(8, 12, groups=3, condensation=4)
    kept = {}
    for step in range(13):
        learned.advance(step / 12)
        kept[step] = learned.kept.sum(1).tolist()
    assert kept[0] == kept[1] == [8] * 3
    assert kept[2] == kept[3] == [6] * 3
    assert kept[4] == kept[5] == [4] * 3
    assert kept[6] == kept[12] == [2] * 3
    assert int((learned._masked() != 0).sum()) == learned.weight.numel() // 4


def test_what_is_forgotten_stays_forgotten_and_has_no_gradient() -> None:
    learned = conv(8, 8, groups=2, condensation=4)
    learned.advance(0.2)
    forgotten = ~learned.kept
    with torch.no_grad():
        learned.weight.fill_(1.0)
    learned.advance(1.0)
    assert not (learned.kept & forgotten).any()
    learned(torch.randn(2, 8, 3, 3)).square().sum().backward()
    gradient = learned.weight.grad.view(4, 2, 8)
    assert not gradient[:, ~learned.kept].any()
    assert gradient[:, learned.kept].any()


def test_a_condensed_convolution_is_left_alone_by_the_next_training() -> None:
    learned = conv()
    learned.advance(1.0)
    kept = learned.kept.clone()
    again = conv(seed=1)
    again.load_state_dict(learned.state_dict())
    for progress in (0.0, 0.3, 1.0):
        again.advance(progress)
        assert torch.equal(again.kept, kept) and again.penalty() == 0.0


def test_the_group_lasso_is_the_sum_of_norms_until_the_condensation_ends() -> None:
    learned = conv(3, 4, groups=2, condensation=3, lasso=0.5)
    learned.advance(0.0)
    w = learned.weight.detach().flatten(1)
    by_hand = sum(float(w[g::2, j].norm()) for g in range(2) for j in range(3))
    assert learned.penalty().item() == pytest.approx(0.5 * by_hand)
    learned.advance(0.3)
    learned.penalty().backward()
    assert learned.weight.grad.isfinite().all()  # columns of zeros have norms too
    learned.advance(0.5)
    assert learned.penalty() == 0.0


def test_bad_settings_and_an_early_conversion_are_refused() -> None:
    with pytest.raises(ValueError, match="groups must divide the outputs, got 3 for 8"):
        conv(8, 8, groups=3)
    with pytest.raises(ValueError, match="condensation must be at least 1, got 0"):
        conv(8, 8, condensation=0)
    with pytest.raises(ValueError, match=r"2 inputs for each group of 0, got \[8, 8, 8, 8\]"):
        condensed(nn.Sequential(conv()))


def test_the_deployed_form_can_be_built_and_loaded() -> None:
    learned = conv()
    learned.advance(1.0)
    deployed = condensed(nn.Sequential(learned))
    again = nn.Sequential(CondensedConv(8, 8, groups=4, features=2, bias=False))
    again.load_state_dict(deployed.state_dict())
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(again(x), deployed(x))
    channels_last = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(again(channels_last), deployed(x))
