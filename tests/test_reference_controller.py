"""The fast controller computes what the one written from the paper computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import controller as benchmark
from benchmarks.reference_controller import ReferenceController
from pathnas.controllers.policy import Controller
from pathnas.controllers.reinforce import Reinforce
from pathnas.controllers.rollout import rollout
from pathnas.decisions import Limits
from pathnas.envs.observation import Observed

SPACES = {
    "default": Limits(),
    "deep": Limits(depth=4, ops=("identity", "conv1x1", "max_pool3x3")),
    "limited": Limits(macs=2 * 147_456),
}


def tall(limits: Limits) -> Controller:
    """A controller whose embeddings are larger than they start, so that a wrong term shows."""
    controller = Controller(limits.actions, hidden=20, head=16, seed=3)
    with torch.no_grad():
        controller.tree_lstm.ops.mul_(10)
        controller.tree_lstm.nodes.mul_(10)
    return controller


@pytest.mark.parametrize("limits", SPACES.values(), ids=SPACES.keys())
def test_log_probabilities_entropies_and_gradients_are_the_references(limits: Limits) -> None:
    learner = Reinforce(tall(limits), clip=1e6, entropy=0.3, baseline="batch_mean")
    reference = ReferenceController(tall(limits), limits)
    rolled = rollout(learner.controller, limits, 6, torch.Generator().manual_seed(5))
    walks = [reference.follow(episode.actions.tolist()) for episode in rolled]
    assert [walk.state.tree for walk in walks] == [episode.tree for episode in rolled]
    seen = [state for episode in rolled for state in episode.observations.states]
    found = learner.controller(Observed(seen, limits))
    actions = torch.from_numpy(np.concatenate([episode.actions for episode in rolled]))
    exact = {"rtol": 1e-5, "atol": 1e-5}
    log_probs = torch.stack([one for walk in walks for one in walk.log_probs])
    entropies = torch.stack([one for walk in walks for one in walk.entropies])
    torch.testing.assert_close(found.log_prob(actions), log_probs, **exact)
    torch.testing.assert_close(found.entropy(), entropies, **exact)
    rewards = [0.0, 1.0, 0.5, 0.2, 0.9, 0.4]
    learner.update(rolled, rewards)
    reference.learn(walks, [reward - 0.5 for reward in rewards], 0.3)
    for ours, theirs in zip(
        learner.controller.named_parameters(), reference.weights.items(), strict=True
    ):
        assert ours[0] == theirs[0]
        torch.testing.assert_close(ours[1].grad, theirs[1].grad, **exact)


def test_a_sampled_walk_follows_its_own_actions() -> None:
    limits = SPACES["default"]
    reference = ReferenceController(tall(limits), limits)
    walk = reference.sample(torch.Generator().manual_seed(0))
    again = reference.follow(walk.actions)
    assert again.state == walk.state and walk.state.done
    assert torch.equal(torch.stack(again.log_probs), torch.stack(walk.log_probs))


def test_the_benchmark_measures_pairs() -> None:
    row = benchmark.measure(2, 1)
    assert all(value > 0 for value in row.values())
    assert row["ratio"] == pytest.approx(row["reference"] / row["controller"])
