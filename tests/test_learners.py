"""Every learner improves on random search on the surrogate, and goes on where it was."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch

from pathnas import controllers
from pathnas import tree as trees
from pathnas.controllers import Learner
from pathnas.controllers.evolution import Evolution, mutated
from pathnas.controllers.policy import Controller
from pathnas.controllers.ppo import Ppo
from pathnas.controllers.random_controller import RandomController
from pathnas.controllers.reinforce import Reinforce
from pathnas.controllers.rollout import replay, rollout
from pathnas.limits import Limits
from pathnas.outcomes import Candidate
from pathnas.surrogate import worth

LIMITS = Limits()
SMALL: dict[str, Any] = {"hidden": 24, "head": 32, "population": 20, "tournament": 5}


def learn(learner: Learner, updates: int, generator: torch.Generator) -> list[float]:
    """Returns the mean reward of each update's episodes."""
    means = []
    for _ in range(updates):
        rolled = learner.propose(LIMITS, 10, generator)
        rewards = [worth(Candidate(episode.tree).tree) for episode in rolled]
        learner.update(rolled, rewards)
        means.append(float(np.mean(rewards)))
    return means


@pytest.mark.parametrize("name", ["reinforce", "ppo", "evolution"])
def test_it_learns_on_the_surrogate(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    chance = np.mean(learn(controllers.make("random", LIMITS.actions), 8, generator))
    learner = controllers.make(name, LIMITS.actions, seed=1, **SMALL)
    assert np.mean(learn(learner, 16, generator)[-3:]) > chance + 0.08


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("reinforce", {"baseline": "self_critical", "entropy_end": 0.0, "entropy_updates": 5}),
        ("reinforce", {"baseline": "moving_average"}),
        ("ppo", {"epochs": 2}),
        ("evolution", {"population": 15}),
        ("random", {}),
    ],
)
def test_a_saved_learner_goes_on_to_the_same_bits(name: str, settings: dict[str, Any]) -> None:
    first, second = (
        controllers.make(name, LIMITS.actions, seed=seed, **(SMALL | settings)) for seed in (1, 2)
    )
    generator = torch.Generator().manual_seed(3)
    learn(first, 3, generator)
    saved = io.BytesIO()
    torch.save(first.state_dict(), saved)
    saved.seek(0)
    second.load_state_dict(torch.load(saved, weights_only=True))
    again = torch.Generator()
    again.set_state(generator.get_state())
    assert learn(first, 3, generator) == learn(second, 3, again)
    assert torch.equal(generator.get_state(), again.get_state())


def test_entropy_follows_its_schedule_by_the_number_of_the_update() -> None:
    learner = Reinforce(
        Controller(hidden=4, head=4), entropy=1.0, entropy_end=0.0, entropy_updates=4
    )
    weights = []
    for _ in range(6):
        weights.append(learner.entropy_weight())
        learn(learner, 1, torch.Generator().manual_seed(0))
    assert weights == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_the_last_episode_of_self_critical_is_greedy() -> None:
    learner = Reinforce(Controller(hidden=8, head=8), baseline="self_critical")
    found = [
        learner.propose(LIMITS, 3, torch.Generator().manual_seed(seed))[-1] for seed in range(2)
    ]
    assert found[0].tree == found[1].tree
    probabilities = learner.controller(found[0].observations).probs
    assert probabilities.argmax(dim=1).tolist() == found[0].actions.tolist()
    with pytest.raises(ValueError, match="at least two episodes"):
        learner.propose(LIMITS, 1, torch.Generator())


def test_the_first_epoch_of_ppo_is_a_step_of_reinforce_and_ratios_stay_near() -> None:
    start = {"hidden": 8, "head": 8, "seed": 5}
    plain, once, often = (
        Reinforce(Controller(**start)),
        Ppo(Controller(**start), epochs=1),
        Ppo(Controller(**start), epochs=30, ratio_clip=0.1, entropy=0.0),
    )
    rolled = rollout(plain.controller, LIMITS, 8, torch.Generator().manual_seed(0))
    rewards = [float(index) for index in range(8)]
    actions = torch.from_numpy(rolled[0].actions)
    before = often.controller(rolled[0].observations).log_prob(actions).detach()
    for learner in (plain, once, often):
        learner.update(rolled, rewards)
    for ours, theirs in zip(
        plain.controller.parameters(), once.controller.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    after = often.controller(rolled[0].observations).log_prob(actions).detach()
    ratios = (after - before).exp()
    assert 0.4 < float(ratios.min()) < 0.95  # moved, but not away
    with pytest.raises(ValueError, match="ratio_clip in"):
        Ppo(Controller(**start), ratio_clip=1.0)


@pytest.mark.parametrize("seed", range(5))
def test_a_mutation_takes_one_decision_otherwise(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    [parent] = rollout(RandomController(), LIMITS, 1, generator)
    for _ in range(20):
        child = replay(mutated(parent.actions.tolist(), LIMITS, generator), LIMITS)
        pairs = zip(parent.actions.tolist(), child.actions.tolist(), strict=False)
        assert any(a != b for a, b in pairs)
        assert trees.depth(child.tree) <= LIMITS.depth


def test_where_nothing_can_be_changed_the_child_is_the_parent() -> None:
    base = Limits(depth=1, macs=LIMITS.cost(trees.BASE_TREE))
    [episode] = rollout(RandomController(), base, 1, torch.Generator())
    generator = torch.Generator().manual_seed(0)
    child = replay(mutated(episode.actions.tolist(), base, generator), base)
    assert base.cost(child.tree) <= base.cost(trees.BASE_TREE)


def test_the_old_leave_the_population_however_good_they_are() -> None:
    learner = Evolution(LIMITS.actions, population=4, tournament=2)
    generator = torch.Generator().manual_seed(0)
    for reward in (9.0, 1.0, 2.0, 3.0, 4.0):
        learner.update(learner.propose(LIMITS, 1, generator), [reward])
    assert [reward for _, reward in learner.members] == [1.0, 2.0, 3.0, 4.0]
    with pytest.raises(ValueError, match="tournament >= 1"):
        Evolution(LIMITS.actions, population=2, tournament=0)
    with pytest.raises(ValueError, match="state of a population"):
        learner.load_state_dict({})
