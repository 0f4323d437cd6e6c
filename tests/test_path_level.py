from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import time

import gymnasium
import networkx as nx
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from pathnas import decisions
from pathnas import tree as trees
from pathnas.cell import Site
from pathnas.envs import PATH_LEVEL
from pathnas.envs.path_level import PathLevelEnv
from pathnas.limits import Limits
from pathnas.outcomes import Outcome, Reward
from pathnas.specs import CellSpec, Conv
from pathnas.surrogate import Surrogate

ID = f"pathnas.envs:{PATH_LEVEL}"
SMALL = Limits(depth=2, ops=("identity", "conv1x1", "max_pool3x3"))
# What the written-out episode answers; it ends with the tree base > concat(identity, conv1x1).
ANSWERS = ("keep", "insert", "concat2", "identity", "conv1x1")


def number(name, limits=SMALL):
    return limits.actions.names.index(name)


def allowed(env, rng):
    return rng.choice(np.flatnonzero(env.unwrapped.action_masks()).tolist())


def play(env, answers):
    """Resets and takes actions by name; returns the last step's five."""
    env.reset()
    for name in answers:
        found = env.step(number(name, env.unwrapped.limits))
    return found


# Gymnasium's contract


@pytest.mark.parametrize("render_mode", [None, "ansi", "rgb_array"])
def test_check_env(render_mode):
    env = gymnasium.make(ID, render_mode=render_mode)
    check_env(env.unwrapped)
    env.close()


def test_check_env_with_settings():
    limits = Limits(depth=2, sites=(Site(CellSpec(Conv(3, 5)), 16),), macs=16 * 300)
    check_env(gymnasium.make(ID, limits=limits, reward=Reward(), invalid_penalty=0.0).unwrapped)


def test_make_works_alone():
    code = (
        "import gymnasium\n"
        f"env = gymnasium.make({ID!r})\n"
        "env.reset(seed=0); env.step(0)\n"
        "assert env.spec.max_episode_steps == 500\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


def test_spec_round_trip():
    settings = {
        "evaluator": Surrogate(SMALL),
        "limits": SMALL,
        "reward": Reward(ceiling=0.9),
        "invalid_penalty": -0.5,
    }
    env = gymnasium.make(ID, render_mode="ansi", **settings)
    again = gymnasium.make(pickle.loads(pickle.dumps(env.spec)))
    assert again.spec == env.spec
    for name, value in settings.items():
        assert getattr(again.unwrapped, name) == value
    assert again.render_mode == "ansi"
    plain = gymnasium.make(ID).spec
    assert gymnasium.envs.registration.EnvSpec.from_json(plain.to_json()) == plain


def rollout(env, seed, steps=50):
    """Fifty steps of sampled actions, forbidden ones among them, with everything that came back."""
    env.action_space.seed(seed)
    found = [env.reset(seed=seed)]
    for _ in range(steps):
        found.append(env.step(env.action_space.sample()))
        if found[-1][2]:
            found.append(env.reset())
    return found


def test_two_seeded_copies_are_equal():
    one, two = (rollout(gymnasium.make(ID), 5) for _ in range(2))
    assert data_equivalence(one, two, exact=True)


def test_another_process_sees_the_same():
    code = (
        "import gymnasium; from tests import test_path_level as here\n"
        "print(repr(here.rollout(gymnasium.make(here.ID), 5)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        timeout=120,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == repr(rollout(gymnasium.make(ID), 5))


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))],
    ids=["copy", "pickle"],
)
def test_a_copy_made_in_mid_episode_goes_on_equally(duplicate):
    env, rng = gymnasium.make(ID), random.Random(0)
    env.reset(seed=1)
    while env.unwrapped.state.tree == decisions.State().tree:
        env.step(allowed(env, rng))
    other, terminated = duplicate(env), False
    assert other.unwrapped.state == env.unwrapped.state
    while not terminated:
        before, action = env.unwrapped.state, allowed(env, rng)
        mine = env.step(action)
        assert other.unwrapped.state == before  # it shares nothing
        assert data_equivalence(mine, other.step(action), exact=True)
        terminated = mine[2]


def test_reset_starts_anew_whatever_the_seed():
    env = gymnasium.make(ID).unwrapped
    first = env.reset(seed=1)
    env.step(1)
    assert data_equivalence(first, env.reset(seed=2, options={}), exact=True)
    assert env.state == decisions.State()
    with pytest.raises(TypeError):
        env.reset(1)


def test_seed_rules_the_random_stream():
    env = PathLevelEnv()
    env.reset(seed=3)
    drawn = env.np_random.random(2)
    env.reset(seed=3)
    assert env.np_random.random() == drawn[0]
    env.reset()
    assert env.np_random.random() == drawn[1]


# An episode


def test_episode_by_hand():
    env = gymnasium.make(ID, limits=SMALL)
    observation, info = env.reset(seed=0)
    assert info == {} and observation in env.observation_space
    for name in ANSWERS[:-1]:
        observation, reward, terminated, truncated, info = env.step(number(name))
        assert (reward, terminated, truncated, info) == (0, False, False, {"invalid_action": False})
        assert observation in env.observation_space
        assert (observation["action_mask"] == env.unwrapped.action_masks()).all()
    observation, reward, terminated, truncated, info = env.step(number(ANSWERS[-1]))
    assert (terminated, truncated) == (True, False)
    assert observation in env.observation_space and observation["action_mask"].all()
    tree = env.unwrapped.state.tree
    assert str(tree) == "base > concat(identity, conv1x1)"
    assert info == {
        "invalid_action": False,
        "candidate": str(tree),
        "tree": trees.to_dict(tree),
        "status": "ok",
        "accuracy": reward,
    }
    assert 0 < reward < Surrogate(SMALL).optimum


def test_candidate_is_canonical():
    env = gymnasium.make(ID)
    answers = ("keep", "insert", "add2", "sep_conv3x3", "conv1x1", "stop", "stop")
    info = play(env, answers)[4]
    assert str(env.unwrapped.state.tree) == "base > add(sep_conv3x3, conv1x1)"
    assert info["candidate"] == "base > add(conv1x1, sep_conv3x3)"
    assert trees.key(trees.from_dict(info["tree"])) == info["candidate"]


def test_best_tree_earns_the_optimum():
    env, best = PathLevelEnv(), Surrogate().best_tree
    env.reset()
    terminated = False
    while not terminated:
        kind, path = env.state.agenda[0]
        node = trees.node_at(best, path)
        if kind == "merge":
            name = f"{node.merge}{len(node.edges)}" if node.merge else "keep"
        elif kind == "insert":
            name = "stop" if node.is_leaf else "insert"
        else:
            name = trees.edge_at(best, path).op
        _, reward, terminated, _, _ = env.step(number(name, env.limits))
    assert reward == Surrogate().optimum


def test_forbidden_action_changes_nothing_but_costs():
    env = PathLevelEnv(limits=SMALL, invalid_penalty=-0.25)
    before, _ = env.reset()
    mask = env.action_masks()
    assert mask.dtype == np.bool_
    for action in np.flatnonzero(~mask):
        after, *rest = env.step(action)
        assert rest == [-0.25, False, False, {"invalid_action": True}]
        assert data_equivalence(before, after, exact=True) and env.state == decisions.State()
    assert env.step(0)[4] == {"invalid_action": False} and env.state != decisions.State()


def test_forbidden_actions_end_by_the_time_limit():
    env = gymnasium.make(ID, max_episode_steps=7)
    env.reset()
    found = [env.step(12) for _ in range(7)]
    assert [truncated for _, _, _, truncated, _ in found] == [False] * 6 + [True]
    assert not any(terminated for _, _, terminated, _, _ in found)
    assert gymnasium.make(ID).spec.max_episode_steps == 500


@pytest.mark.parametrize("action", [-1, 9, 1.0, "keep", None])
def test_action_outside_of_the_space(action):
    env = PathLevelEnv(limits=SMALL)
    env.reset()
    with pytest.raises(InvalidAction, match=r"expected an action in Discrete\(9\), got"):
        env.step(action)
    assert env.state == decisions.State()


def test_order_is_enforced():
    env = PathLevelEnv(limits=SMALL, render_mode="ansi")
    for ask in (lambda: env.step(0), env.render, env.action_masks, lambda: env.graph):
        with pytest.raises(ResetNeeded, match=r"expected reset\(\) before"):
            ask()
    play(env, ANSWERS)
    with pytest.raises(ResetNeeded, match="the episode has ended"):
        env.step(0)
    env.reset()
    env.step(0)


def test_graph_is_the_tree_so_far():
    env = gymnasium.make(ID, limits=SMALL)
    env.reset()
    assert nx.utils.graphs_equal(env.unwrapped.graph, trees.to_networkx(decisions.State().tree))
    play(env, ANSWERS)
    graph = env.unwrapped.graph
    assert isinstance(graph, nx.DiGraph) and nx.is_arborescence(graph)
    assert graph.edges[(0,), (0, 1)]["op"] == "conv1x1"
    assert graph.nodes[(0,)]["merge"] == "concat"


# Evaluators and rewards


def test_evaluator_is_asked_once_with_the_candidate():
    asked = []

    def evaluator(candidate):
        asked.append(candidate.key)
        return Outcome("ok", accuracy=0.5)

    env = PathLevelEnv(evaluator, SMALL, Reward(shape="tan"))
    _, reward, _, _, info = play(env, ANSWERS)
    assert asked == ["base > concat(identity, conv1x1)"]
    assert reward == pytest.approx(1.0) and info["accuracy"] == 0.5


def test_failed_evaluation_earns_the_failure_reward():
    reward = Reward(shape="accuracy", failure=-1.0)
    env = PathLevelEnv(lambda _: Outcome("diverged", error="loss is nan"), SMALL, reward)
    _, found, terminated, _, info = play(env, ANSWERS)
    assert (found, terminated, info["status"]) == (-1.0, True, "diverged")
    assert "accuracy" not in info


def test_cost_term_has_what_it_needs():
    target = 2 * SMALL.cost(decisions.State().tree)
    plain = play(PathLevelEnv(limits=SMALL), ANSWERS)[1]
    costly = Reward(shape="accuracy", cost_weight=-0.5, cost_target=target)
    env = PathLevelEnv(limits=SMALL, reward=costly)
    reward = play(env, ANSWERS)[1]
    assert reward == pytest.approx(plain * (SMALL.cost(env.state.tree) / target) ** -0.5)
    assert reward != plain


def test_errors_of_the_evaluator_are_not_swallowed():
    def evaluator(candidate):
        raise RuntimeError(f"no disk for {candidate.key}")

    with pytest.raises(RuntimeError, match="no disk for base"):
        play(PathLevelEnv(evaluator, SMALL), ANSWERS)


@pytest.mark.parametrize("penalty", [0.1, float("nan"), float("-inf")])
def test_penalty_out_of_range(penalty):
    with pytest.raises(ValueError, match="invalid_penalty must be finite and at most 0, got"):
        PathLevelEnv(invalid_penalty=penalty)


# Rendering


def test_ansi():
    env = gymnasium.make(ID, limits=SMALL, render_mode="ansi")
    env.reset()
    assert env.render() == "cell\n└─ base\nmerge at ()?\n"
    env.step(number("add2"))
    assert env.render() == "cell  [add]\n├─ base\n└─ base\ninsert at (0,)?\n"
    play(env, ANSWERS)
    assert env.render().endswith("└─ conv1x1\ndone\n")


def test_rgb_array():
    env = gymnasium.make(ID, render_mode="rgb_array")
    env.reset()
    pictures = [env.render()]
    for name in ("add3", "insert"):
        env.step(number(name, Limits()))
        pictures.append(env.render())
    assert all(p.shape == (480, 720, 3) and p.dtype == np.uint8 for p in pictures)
    assert (pictures[0] != pictures[1]).any() and (pictures[1] != pictures[2]).any()


def test_render_modes():
    env = PathLevelEnv()
    env.reset()
    with pytest.warns(UserWarning, match="without a render mode"):
        assert env.render() is None
    with pytest.raises(ValueError, match="render_mode must be None or one of"):
        PathLevelEnv(render_mode="human")


# Vectors


def singles(number_of, mode, steps):
    """What a vector must return, from single environments reset by hand."""
    envs = [gymnasium.make(ID, limits=SMALL) for _ in range(number_of)]
    rng, over = random.Random(0), [False] * number_of
    seen = [env.reset(seed=0)[0] for env in envs]
    for _ in range(steps):
        actions = [rng.choice(np.flatnonzero(s["action_mask"]).tolist()) for s in seen]
        rewards = [0.0] * number_of
        for index, env in enumerate(envs):
            if over[index]:
                seen[index], over[index] = env.reset()[0], False
                if mode == AutoresetMode.NEXT_STEP:
                    continue
            seen[index], rewards[index], over[index], _, _ = env.step(actions[index])
        ends = list(over)
        if mode == AutoresetMode.SAME_STEP:
            for index in np.flatnonzero(over):
                seen[index], over[index] = envs[index].reset()[0], False
        yield np.array(actions), list(seen), rewards, ends


def tree_of(infos, index):
    """The tree that an environment reported, out of the arrays that a vector makes of it."""
    parts = infos["tree"].items()
    return trees.from_dict(
        {name: part[index] for name, part in parts if name[0] != "_" and part[index] is not None}
    )


def assert_vector_equals_singles(vector, mode, steps=40):
    vector.reset(seed=0)
    over, finals = np.zeros(2, dtype=bool), 0
    for actions, seen, rewards, ends in singles(2, mode, steps):
        if mode == AutoresetMode.DISABLED and over.any():
            vector.reset(options={"reset_mask": over})
        observations, found, over, truncated, infos = vector.step(actions)
        for name, values in observations.items():
            assert (values == np.stack([one[name] for one in seen])).all()
        assert found.tolist() == rewards and over.tolist() == ends and not truncated.any()
        last = infos.get("final_info", infos)
        for index in np.flatnonzero(ends):
            finals += 1
            assert last["accuracy"][index] == found[index]
            assert trees.key(tree_of(last, index)) == last["candidate"][index]
    assert finals > 4
    vector.close()


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_sync_vector(mode):
    vector = gymnasium.make_vec(
        ID,
        num_envs=2,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        limits=SMALL,
    )
    assert isinstance(vector, SyncVectorEnv)
    assert_vector_equals_singles(vector, mode)


@pytest.fixture(scope="module")
def forkserver():
    """One server that has imported the environment, so that its children start at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pathnas.envs.path_level"])
    return "forkserver"


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_async_vector(mode, forkserver):
    vector = gymnasium.make_vec(
        ID,
        num_envs=2,
        vectorization_mode="async",
        vector_kwargs={"autoreset_mode": mode, "context": forkserver},
        limits=SMALL,
    )
    assert isinstance(vector, AsyncVectorEnv)
    assert_vector_equals_singles(vector, mode)


def test_a_dead_environment_is_an_error_and_no_hang(forkserver):
    settings = {"context": forkserver}
    vector = gymnasium.make_vec(ID, 2, vectorization_mode="async", vector_kwargs=settings)
    vector.reset(seed=0)
    vector.processes[1].kill()
    vector.processes[1].join(10)
    start = time.monotonic()
    with pytest.raises((EOFError, OSError)):
        vector.step([0, 0])
    assert time.monotonic() - start < 5
    vector.close(terminate=True)


@pytest.mark.slow
def test_async_vector_spawned():
    vector = gymnasium.make_vec(
        ID,
        num_envs=2,
        vectorization_mode="async",
        vector_kwargs={"context": "spawn"},
        limits=SMALL,
    )
    assert_vector_equals_singles(vector, AutoresetMode.NEXT_STEP)


# Other people's agents


def mean_of_random(env, episodes):
    env.action_space.seed(0)
    rewards = []
    for _ in range(episodes):
        observation, _ = env.reset()
        terminated = False
        while not terminated:
            action = env.action_space.sample(observation["action_mask"])
            observation, reward, terminated, _, _ = env.step(action)
        rewards.append(reward)
    return float(np.mean(rewards))


def test_maskable_ppo_learns():
    """By 0.07, which is almost the standard deviation of a random tree."""
    sb3 = pytest.importorskip("sb3_contrib")
    env = gymnasium.make(ID, limits=Limits(depth=2))
    agent = sb3.MaskablePPO(
        "MultiInputPolicy",
        env,
        n_steps=256,
        batch_size=64,
        n_epochs=4,
        learning_rate=2e-3,
        gamma=1.0,
        gae_lambda=1.0,
        policy_kwargs={"net_arch": [64]},
        seed=0,
        device="cpu",
    )
    agent.learn(2048)
    learned = [episode["r"] for episode in agent.ep_info_buffer]
    assert len(learned) == 100
    assert np.mean(learned) > mean_of_random(env, 200) + 0.07
    assert min(learned) >= 0  # it never met the penalty
