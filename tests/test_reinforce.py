from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnas import controllers
from pathnas import tree as trees
from pathnas.actions import Actions
from pathnas.controllers.baselines import BASELINES
from pathnas.controllers.policy import Controller
from pathnas.controllers.random_controller import RandomController
from pathnas.controllers.reinforce import MAX_REWARD, NoLearning, Reinforce
from pathnas.controllers.rollout import Episode, rollout
from pathnas.limits import Limits

LIMITS = Limits()


def small(seed: int = 0, **settings: float | str) -> Reinforce:
    return Reinforce(Controller(hidden=12, head=16, seed=seed), **settings)


def episodes_of(learner: Reinforce, count: int, seed: int = 0) -> list[Episode]:
    return rollout(learner.controller, LIMITS, count, torch.Generator().manual_seed(seed))


def weights(learner: Reinforce) -> list[torch.Tensor]:
    return [p.detach().clone() for p in learner.controller.parameters()]


def is_finite(learner: Reinforce) -> bool:
    return all(bool(w.isfinite().all()) for w in weights(learner))


def gradients(learner: Reinforce) -> list[torch.Tensor]:
    found = [p.grad for p in learner.controller.parameters()]
    return [torch.zeros(()) if g is None else g.clone() for g in found]


def surrogate(tree: trees.Node) -> float:
    """Between 0 and 1.5: the share of one op below the root, and a bonus for a concat there."""
    ops = [edge.op for path, edge in trees.walk(tree) if len(path) > 1]
    return ops.count("sep_conv5x5") / len(ops) + 0.5 * (tree.merge == "concat")


@pytest.mark.parametrize("seed", range(4))
def test_it_learns_what_random_search_does_not_find(seed):
    control = rollout(RandomController(), LIMITS, 200, torch.Generator().manual_seed(seed))
    by_chance = np.mean([surrogate(episode.tree) for episode in control])
    learner = controllers.make("reinforce", LIMITS.actions, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    means = []
    for _ in range(22):
        rolled = rollout(learner.controller, LIMITS, 10, generator)
        rewards = [surrogate(episode.tree) for episode in rolled]
        means.append(np.mean(rewards))
        learner.update(rolled, rewards)
    assert np.mean(means[-4:]) > by_chance + 0.6


@pytest.mark.slow
@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("seed", range(2))
def test_every_baseline_learns(baseline, seed):
    learner = controllers.make("reinforce", LIMITS.actions, seed=seed, baseline=baseline)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(80):
        rolled = learner.propose(LIMITS, 10, generator)
        rewards = [surrogate(episode.tree) for episode in rolled]
        learner.update(rolled, rewards)
    assert np.mean(rewards) > 1.2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("paper", [2.0, 2.0 + 0.9 * 4.0, 5.6 + 0.9 * (1.0 - 5.6)]),
        ("batch_mean", [2.0, 6.0, 1.0]),
        ("moving_average", [2.0, 2.0, 0.9 * 2.0 + 0.1 * 6.0]),
        ("self_critical", [3.0, 8.0, 1.0]),
        ("none", [0.0, 0.0, 0.0]),
    ],
)
def test_baselines_by_hand(name, expected):
    learner = small(baseline=name, decay=0.9, learning_rate=1e-9)
    rolled = episodes_of(learner, 2)
    for rewards, baseline in zip(([1, 3], [4, 8], [1, 1]), expected, strict=True):
        metrics = learner.update(rolled, rewards)
        assert metrics["baseline"] == pytest.approx(baseline)
        assert metrics["advantage_mean"] == pytest.approx(np.mean(rewards) - baseline)
        assert metrics["advantage_std"] == pytest.approx(np.std(rewards))


def test_loss_and_gradient_are_the_formulas():
    learner = small(baseline="batch_mean", entropy=0.3)
    rolled = episodes_of(learner, 3)
    rewards = [1.0, 4.0, -2.0]
    expected = []
    for episode, reward in zip(rolled, rewards, strict=True):
        for step, action in enumerate(episode.actions):
            seen = {name: array[step : step + 1] for name, array in episode.observations.items()}
            distribution = learner.controller(seen)
            log_prob = distribution.log_prob(torch.tensor([action]))
            expected.append(-((reward - 1.0) * log_prob + 0.3 * distribution.entropy()))
    loss = torch.cat(expected).sum() / 3
    loss.backward()
    by_hand = gradients(learner)
    norm = math.sqrt(sum(float((g**2).sum()) for g in by_hand))
    metrics = learner.update(rolled, rewards)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert metrics["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    for ours, theirs in zip(gradients(learner), by_hand, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_gradient_is_clipped_by_its_norm():
    learner = small(clip=0.5, baseline="none")
    rolled = episodes_of(learner, 4)
    full = learner.update(rolled, [100.0, 0.0, 50.0, 3.0])["gradient_norm"]
    clipped = math.sqrt(sum(float((g**2).sum()) for g in gradients(learner)))
    assert full > 10 and clipped == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("reward", [0.0, 3.7, -1e6])
def test_equal_rewards_change_nothing_but_for_the_entropy(reward):
    learner = small(baseline="batch_mean", entropy=0.0)
    before = weights(learner)
    metrics = learner.update(episodes_of(learner, 5), [reward] * 5)
    assert metrics["gradient_norm"] == 0
    for old, new in zip(before, weights(learner), strict=True):
        assert torch.equal(old, new)
    with_entropy = small(baseline="batch_mean")
    assert with_entropy.update(episodes_of(with_entropy, 5), [reward] * 5)["gradient_norm"] > 0


@given(
    st.sampled_from(sorted(BASELINES)),
    st.lists(
        st.lists(
            st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([1e308, -1.0, 0.0]),
            min_size=3,
            max_size=3,
        ),
        min_size=1,
        max_size=3,
    ),
)
@settings(max_examples=40)
def test_no_reward_makes_a_weight_that_is_not_finite(baseline, batches):
    learner = small(baseline=baseline, entropy=100.0)
    rolled = episodes_of(learner, 3)
    for rewards in batches:
        before, value = weights(learner), learner.value
        if all(abs(reward) <= MAX_REWARD for reward in rewards):
            metrics = learner.update(rolled, rewards)
            assert all(math.isfinite(metric) for metric in metrics.values())
        else:
            with pytest.raises(ValueError, match="rewards must be finite"):
                learner.update(rolled, rewards)
            assert learner.value == value
            assert all(map(torch.equal, before, weights(learner)))
        assert is_finite(learner)


def test_large_rewards_still_point_the_right_way():
    learner = small(baseline="batch_mean", entropy=0.0)
    rolled = episodes_of(learner, 4)
    learner.update(rolled, [MAX_REWARD, 0, -MAX_REWARD, 5])
    large = gradients(learner)
    other = small(baseline="batch_mean", entropy=0.0, clip=1e-3)
    other.update(rolled, [1, 0, -1, 0])
    for a, b in zip(large, gradients(other), strict=True):
        torch.testing.assert_close(a / 40, b / 1e-3, rtol=1e-3, atol=1e-5)


def test_action_frequencies_are_shares_of_their_kind():
    learner = small()
    rolled = episodes_of(learner, 8)
    metrics = learner.update(rolled, range(8))
    chosen = np.concatenate([episode.actions for episode in rolled])
    merges = chosen[chosen < 4]
    assert metrics["frequency/add2"] == pytest.approx(np.mean(merges == 1))
    names = LIMITS.actions.names
    for kind, answers in LIMITS.actions.of.items():
        total = sum(metrics[f"frequency/{names[action]}"] for action in answers)
        assert total == pytest.approx(1), kind
    flat = Limits(depth=1)
    control = NoLearning(RandomController(), flat.actions)
    rolled = rollout(control.controller, flat, 2, torch.Generator().manual_seed(0))
    assert control.update(rolled, [0, 0])["frequency/insert"] == 0


def test_entropy_is_the_mean_of_a_decision():
    learner = small()
    rolled = episodes_of(learner, 3)
    entropies = [learner.controller(episode.observations).entropy() for episode in rolled]
    expected = torch.cat(entropies).mean().item()
    assert learner.update(rolled, [1, 2, 3])["entropy"] == pytest.approx(expected, rel=1e-5)


def test_two_runs_with_one_seed_are_equal():
    histories = []
    for _ in range(2):
        learner, history = small(seed=4), []
        for update in range(3):
            rolled = episodes_of(learner, 5, seed=update)
            history.append(learner.update(rolled, [surrogate(e.tree) for e in rolled]))
        histories.append((history, weights(learner)))
    assert histories[0][0] == histories[1][0]
    assert all(map(torch.equal, histories[0][1], histories[1][1]))


def test_a_saved_learner_goes_on_as_if_it_had_not_stopped():
    learner = small(baseline="moving_average")
    for update in range(2):
        rolled = episodes_of(learner, 4, seed=update)
        learner.update(rolled, [surrogate(e.tree) for e in rolled])
    buffer = io.BytesIO()
    torch.save(learner.state_dict(), buffer)
    buffer.seek(0)
    resumed = small(seed=9, baseline="moving_average")
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    rolled = episodes_of(learner, 4, seed=7)
    assert [e.tree for e in rolled] == [e.tree for e in episodes_of(resumed, 4, seed=7)]
    assert learner.update(rolled, [1, 2, 3, 4]) == resumed.update(rolled, [1, 2, 3, 4])
    assert all(map(torch.equal, weights(learner), weights(resumed)))
    with pytest.raises(ValueError, match="baseline 'moving_average', this one has 'paper'"):
        small().load_state_dict(learner.state_dict())


def test_faults_are_named_and_change_nothing():
    learner = small()
    rolled = episodes_of(learner, 2)
    before = weights(learner)
    for rewards in ([1.0], [1.0, 2.0, 3.0], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="one reward for each"):
            learner.update(rolled, rewards)
    with pytest.raises(ValueError, match="at least one episode"):
        learner.update([], [])
    [other] = rollout(learner.controller, Limits(depth=2), 1, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="under the same limits"):
        learner.update([rolled[0], other], [1.0, 2.0])
    forbidden = Episode(rolled[0].observations, rolled[0].actions.copy(), rolled[0].tree)
    forbidden.actions[0] = 12
    with pytest.raises(ValueError, match="mask forbids"):
        learner.update([forbidden, rolled[1]], [1.0, 2.0])
    assert all(map(torch.equal, before, weights(learner)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"baseline": "mean"}, "baseline must be one of .*'paper'.*got 'mean'"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"entropy": math.nan}, "entropy=nan"),
        ({"clip": math.inf}, "clip=inf"),
        ({"decay": 1.5}, r"decay must be in \[0, 1\], got 1.5"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        small(**settings)


def test_the_control_learns_nothing():
    learner = controllers.make("random", Actions(), seed=3, hidden=100, baseline="paper")
    rolled = rollout(learner.controller, LIMITS, 3, torch.Generator().manual_seed(0))
    metrics = learner.update(rolled, [1.0, 2.0, 3.0])
    assert set(metrics) == {f"frequency/{name}" for name in LIMITS.actions.names}
    with pytest.raises(ValueError, match="rewards must be finite"):
        learner.update(rolled, [1.0, math.nan, 3.0])
    assert learner.state_dict() == {}
    learner.load_state_dict({})
    with pytest.raises(ValueError, match="no state"):
        learner.load_state_dict(small().state_dict())


def test_learners_by_name():
    learner = controllers.make("reinforce", Actions(), seed=2, embedding=4, hidden=6, head=8)
    assert learner.controller.tree_lstm.ops.shape == (9, 4)
    assert learner.entropy == 1e-2 and learner.clip == 40 and learner.baseline == "paper"
    with pytest.raises(
        ValueError, match="unknown controller 'magic'; known: evolution, ppo, random, reinforce"
    ):
        controllers.make("magic", Actions())
    with pytest.raises(TypeError):
        controllers.make("reinforce", Actions(), hiden=3)
