from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnas import decisions
from pathnas.actions import MERGES, Actions
from pathnas.cell import Site
from pathnas.controllers.policy import Controller, masked
from pathnas.decisions import Limits, State
from pathnas.envs import observation
from pathnas.specs import CellSpec, Conv

LIMITS = Limits()
NARROW = Limits(sites=(Site(CellSpec(Conv(3, 3)), 16),))
COSTLY = Limits(sites=(Site(CellSpec(Conv(8, 8)), 16),), macs=int(16 * 576 * 2.5))


def small(seed: int = 0, limits: Limits = LIMITS) -> Controller:
    return Controller(limits.actions, hidden=16, head=32, seed=seed)


def states_of(seed: int, limits: Limits = LIMITS, episodes: int = 3) -> list[State]:
    choose, states = random.Random(seed), []
    for _ in range(episodes):
        state = State()
        while not state.done:
            states.append(state)
            legal = np.flatnonzero(decisions.mask(state, limits)).tolist()
            state = decisions.step(state, choose.choice(legal), limits)
    choose.shuffle(states)
    return states


def encode(states: list[State], limits: Limits = LIMITS) -> dict:
    return dict(observation.Observed(states, limits))


def by_hand(controller: Controller, state: State, limits: Limits) -> dict[int, torch.Tensor]:
    """Log-probabilities of the legal actions of one state, decision by decision."""
    seen = encode([state], limits)
    [features] = controller.tree_lstm(seen)
    legal = [bool(allowed) for allowed in seen["action_mask"][0]]
    kind = state.agenda[0].kind
    answers = limits.actions.of[kind]
    if kind != "merge":
        logits = controller.heads[kind](features)
        chosen = [action for action in answers if legal[action]]
        total = torch.logsumexp(torch.stack([logits[a - answers.start] for a in chosen]), 0)
        return {action: logits[action - answers.start] - total for action in chosen}
    counts = {m: [p for p, (x, _) in enumerate(MERGES) if x == m] for m in ("add", "concat")}
    counts = {m: [p for p in places if legal[1 + p]] for m, places in counts.items()}
    merge, number = controller.heads["merge"](features), controller.heads["number"](features)
    first = {"keep": merge[0], "add": merge[1], "concat": merge[2]}
    first = {m: logit for m, logit in first.items() if m == "keep" or counts[m]}
    total = torch.logsumexp(torch.stack(list(first.values())), 0)
    found = {0: first["keep"] - total}
    for name, places in counts.items():
        for place in places:
            given_merge = number[place] - torch.logsumexp(number[places], 0)
            found[1 + place] = first[name] - total + given_merge
    return found


@pytest.mark.parametrize("limits", [LIMITS, NARROW, COSTLY], ids=["default", "narrow", "costly"])
@given(st.integers(0, 10**6))
@settings(max_examples=8)
def test_log_probabilities_and_gradients_are_those_of_one_state_at_a_time(limits, seed):
    states = states_of(seed, limits, 2)
    ours, theirs = small(limits=limits), small(limits=limits)
    distribution = ours(encode(states, limits))
    chosen, expected = [], []
    for row, state in enumerate(states):
        found = by_hand(theirs, state, limits)
        for action in range(len(limits.actions)):
            if action not in found:
                assert distribution.probs[row, action] == 0
                assert distribution.logits[row, action] == -math.inf
                continue
            torch.testing.assert_close(
                distribution.logits[row, action], found[action], rtol=0, atol=1e-5
            )
        action = random.Random(seed + row).choice(sorted(found))
        chosen.append(action)
        expected.append(found[action])
    distribution.log_prob(torch.tensor(chosen)).sum().backward()
    torch.stack(expected).sum().backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None and b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)


def test_probabilities_sum_to_one_and_answer_the_question_alone():
    states = states_of(1, episodes=10)
    probabilities = small()(encode(states)).probs
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(len(states)))
    kinds = set()
    for row, state in zip(probabilities, states, strict=True):
        kind = state.agenda[0].kind
        kinds.add(kind)
        legal = decisions.mask(state, LIMITS)
        assert [p > 0 for p in row.tolist()] == list(legal)
    assert kinds == {"merge", "insert", "op"}


def test_entropy_is_that_of_the_joint_distribution():
    distribution = small()(encode(states_of(2)))
    p = distribution.probs
    expected = -torch.where(p > 0, p * p.log(), torch.zeros(())).sum(dim=1)
    torch.testing.assert_close(distribution.entropy(), expected, rtol=1e-5, atol=1e-6)


@given(
    st.lists(st.lists(st.booleans(), min_size=5, max_size=5).filter(any), min_size=1, max_size=4),
    st.integers(0, 1000),
    st.sampled_from([1.0, 1e3]),
)
def test_masked_actions_have_probability_and_gradient_zero(rows, seed, weight):
    allowed = torch.tensor(rows)
    generator = torch.Generator().manual_seed(seed)
    logits = (10 * torch.randn(allowed.shape, generator=generator)).requires_grad_()
    distribution = masked(logits, allowed)
    assert (distribution.probs[~allowed] == 0).all()
    actions = allowed.int().argmax(dim=1)
    loss = distribution.log_prob(actions).sum() + weight * distribution.entropy().sum()
    loss.backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[~allowed] == 0).all()
    assert allowed.gather(1, distribution.sample((200,)).T).all()


def test_a_single_allowed_action_has_entropy_zero_and_no_gradient():
    seen = encode([State()])
    seen["action_mask"][:] = 0
    seen["action_mask"][:, 0] = 1
    controller = small()
    distribution = controller(seen)
    assert distribution.entropy().tolist() == [0.0]
    assert distribution.probs[0].tolist() == [1.0] + [0.0] * 12
    (distribution.entropy() + distribution.log_prob(torch.tensor([0]))).sum().backward()
    for parameter in controller.parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all() and parameter.grad.abs().max() < 1e-6


def test_a_mask_without_an_answer_is_an_error():
    seen = encode([State(), State()])
    seen["action_mask"][1] = 0
    with pytest.raises(ValueError, match=r"at least one action, got none in rows \[1\]"):
        small()(seen)
    seen["action_mask"][1, -1] = 1  # an op does not answer a merge question
    with pytest.raises(ValueError, match="at least one action"):
        small()(seen)


def test_a_mask_of_another_table_is_an_error():
    other = Limits(ops=("identity", "conv1x1"))
    with pytest.raises(ValueError, match=r"masks \[B, 13\].*got \[1, 8\]"):
        small()(encode([State()], other))


def test_a_finished_episode_gets_an_even_distribution():
    state = State(agenda=())
    distribution = small()(encode([State(), state]))
    torch.testing.assert_close(distribution.probs[1], torch.full((13,), 1 / 13))
    assert (distribution.probs[0] > 0).sum() == 4


@given(st.integers(0, 10**6))
@settings(max_examples=10)
def test_a_row_does_not_depend_on_the_rest_of_the_batch(seed):
    states = states_of(seed)
    controller = Controller()
    together = controller(encode(states)).probs
    for index in range(0, len(states), 9):
        alone = controller(encode([states[index]])).probs
        torch.testing.assert_close(together[index : index + 1], alone, rtol=0, atol=1e-6)


def test_a_frozen_policy_acts_as_the_controller_does():
    controller, states = small(), states_of(4)
    policy = controller.frozen()
    for start in range(0, len(states), 5):
        seen = encode(states[start : start + 5])
        acted, learnt = torch.from_numpy(policy(seen)), controller(seen)
        torch.testing.assert_close(acted, learnt.probs.detach(), rtol=0, atol=1e-6)
        assert learnt.logits.requires_grad


def test_weights_follow_from_the_seed_and_leave_the_global_state_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = Controller(seed=1), Controller(seed=1), Controller(seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    for (name, a), b, c in zip(
        one.named_parameters(), same.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(a, b), name
        assert not torch.equal(a, c), name


def test_sizes_are_the_papers_by_default():
    controller = Controller()
    assert controller.tree_lstm(encode([State()])).shape == (1, 200)
    assert controller.tree_lstm.ops.shape == (9, 10)
    for kind, outputs in {"merge": 3, "number": 3, "insert": 2, "op": 7}.items():
        head = controller.heads[kind]
        assert [tuple(p.shape) for p in head.parameters()][::2] == [(500, 200), (outputs, 500)]


def test_other_ops_change_the_table():
    actions = Actions(("identity", "conv3x3"))
    limits = Limits(ops=actions.ops)
    assert Controller(limits.actions, hidden=8, head=8)(encode([State()], limits)).probs.shape == (
        1,
        8,
    )


def test_a_whole_tree_is_encoded_by_itself_and_by_the_weights():
    controller, others = small(), [state.tree for state in states_of(3)][:6]
    found = controller.encode(others, LIMITS)
    assert found.shape == (6, 16) and not found.requires_grad
    for tree, row in zip(others, found, strict=True):
        assert torch.allclose(controller.encode([tree], LIMITS)[0], row, atol=1e-6)
    same = {tree: row for tree, row in zip(others, found, strict=True)}
    assert len({tuple(row.tolist()) for row in same.values()}) == len(same) > 1
    assert not torch.equal(small(seed=1).encode(others, LIMITS), found)
