from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import rollout as benchmark
from pathnas import decisions
from pathnas import tree as trees
from pathnas.controllers.policy import Controller
from pathnas.controllers.random_controller import RandomController
from pathnas.controllers.rollout import distinct, rollout
from pathnas.decisions import Limits, State
from pathnas.envs import observation

LIMITS = Limits()


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def replay(actions) -> State:
    state = State()
    for action in actions.tolist():
        state = decisions.step(state, action, LIMITS)
    return state


@given(st.integers(0, 10**6), st.integers(1, 8), st.booleans())
@settings(max_examples=15)
def test_an_episode_holds_what_was_seen_and_done(seed, episodes, learns):
    controller = Controller(hidden=8, head=8) if learns else RandomController()
    rolled = rollout(controller, LIMITS, episodes, generator(seed))
    assert len(rolled) == episodes
    for episode in rolled:
        end = replay(episode.actions)
        assert end.done and end.tree == episode.tree
        state = State()
        for row, action in enumerate(episode.actions.tolist()):
            expected = observation.encode(state, LIMITS)
            for name, seen in episode.observations.items():
                assert len(seen) == len(episode.actions)
                assert np.array_equal(seen[row], expected[name])
            state = decisions.step(state, action, LIMITS)


def test_action_zero_is_an_action():
    rolled = rollout(RandomController(), LIMITS, 40, generator(0))
    kept = [episode for episode in rolled if episode.actions[0] == 0]
    assert kept
    for episode in kept:
        assert episode.tree.merge is None and trees.depth(episode.tree) > 1


def test_equal_seeds_give_equal_episodes_and_others_do_not():
    controller = Controller(seed=3)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    runs = [rollout(controller, LIMITS, 12, generator(seed)) for seed in (1, 1, 2)]
    assert torch.equal(torch.random.get_rng_state(), before)
    trees_of = [[episode.tree for episode in run] for run in runs]
    assert trees_of[0] == trees_of[1] != trees_of[2]


def test_choices_follow_the_distribution():
    controller = Controller(seed=1)
    with torch.no_grad():
        controller.heads["merge"][-1].bias.copy_(torch.tensor([0.0, 2.0, -2.0]))
    rolled = rollout(controller, LIMITS, 500, generator(0))
    first = np.bincount([episode.actions[0] for episode in rolled], minlength=13) / len(rolled)
    seen = {name: array[:1] for name, array in rolled[0].observations.items()}
    expected = controller(seen).probs[0].detach().numpy()
    assert np.abs(first - expected).max() < 4 * np.sqrt(0.25 / len(rolled))
    assert expected.max() > 0.3


def test_acting_and_learning_see_the_same_distribution():
    controller = Controller()
    acted: list[torch.Tensor] = []

    class Spy:
        def frozen(self):
            policy = controller.frozen()

            def spy(observations):
                probabilities = policy(observations)
                acted.append(torch.from_numpy(probabilities.copy()))
                return probabilities

            return spy

    [episode] = rollout(Spy(), LIMITS, 1, generator(4))
    learnt = controller(episode.observations).probs.detach()
    torch.testing.assert_close(torch.cat(acted), learnt, rtol=0, atol=1e-6)


def test_choices_are_those_of_torchs_multinomial():
    controller = Controller(seed=3)
    [episode] = rollout(controller, LIMITS, 1, generator(7))
    again = generator(7)
    for probabilities, action in zip(
        torch.from_numpy(controller.frozen()(episode.observations)), episode.actions, strict=True
    ):
        assert torch.multinomial(probabilities, 1, generator=again).item() == action


def test_a_controller_that_has_diverged_is_named():
    controller = Controller()
    with torch.no_grad():
        controller.heads["merge"][-1].bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="expected finite probabilities"):
        rollout(controller, LIMITS, 2, generator(0))


def test_at_least_one_episode():
    with pytest.raises(ValueError, match="at least one episode, got 0"):
        rollout(RandomController(), LIMITS, 0, generator(0))


def test_the_benchmark_measures_decisions_and_both_halves(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["rollout", "--repetitions", "1"])
    monkeypatch.setattr(benchmark, "EPISODES", (1, 3))
    benchmark.main()
    machine, header, *rows = capsys.readouterr().out.splitlines()
    assert "torch" in machine and "1 thread" in machine and "together" in header
    for row, episodes in zip(rows, (1, 3), strict=True):
        count, decisions_made, sampling, gradient, together = map(float, row.split())
        assert count == episodes and decisions_made >= 2 * episodes
        assert 0 < sampling < together and gradient > 0


def test_distinct_keeps_one_of_equal_states_and_says_where_it_is():
    first, other = State(), decisions.step(State(), 1, LIMITS)
    found, places = distinct([first, other, State(), decisions.step(first, 1, LIMITS), first])
    assert found == [first, other]
    assert places == [0, 1, 0, 1, 0]
