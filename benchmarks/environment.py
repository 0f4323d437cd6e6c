"""Microseconds of a step of the environment, and steps a second of a vector of them.

Run it with ``python -m benchmarks.environment``. The environments are made as users make them, with
gymnasium's wrappers. The same random episodes (seed 0) are walked again and again. A step counts
with its observation, but for those that end an episode, which are evaluated; in the vector all
count, with evaluations by the surrogate; one in fifteen of its steps is gymnasium's reset.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

import pathnas.envs  # noqa: F401  (registers the environment)
from benchmarks import table
from benchmarks.machine import facts
from benchmarks.table import Row

ID = "pathnas/PathLevel-v0"
ENVS = 64


def steps(env: gymnasium.Env[Any, Any], count: int = 1000) -> list[float]:
    """Returns the seconds of some steps, the same in each call."""
    choose, found = np.random.default_rng(0), []
    observation, _ = env.reset(seed=0)
    while len(found) < count:
        action = _choice(observation["action_mask"][None], choose)[0]
        start = time.perf_counter()
        observation, _, done, _, _ = env.step(action)
        spent = time.perf_counter() - start
        if done:
            observation, _ = env.reset()
        else:
            found.append(spent)
    return found


def vector(envs: gymnasium.vector.VectorEnv[Any, Any, Any], count: int = 50) -> list[float]:
    """Returns the seconds of some steps of a vector, the same in each call."""
    choose, found = np.random.default_rng(0), []
    observation, _ = envs.reset(seed=0)
    for _ in range(count):
        actions = _choice(observation["action_mask"], choose)
        start = time.perf_counter()
        observation, *_ = envs.step(actions)
        found.append(time.perf_counter() - start)
    return found


def _choice(masks: NDArray[np.int8], choose: np.random.Generator) -> NDArray[np.int64]:
    return (choose.random(masks.shape) * masks).argmax(axis=1)


def passes(walk: Callable[[], list[float]], repetitions: int) -> tuple[float, float]:
    """Returns the mean seconds of a step, undisturbed and in the median pass.

    Of a step's repetitions the fastest is the one that nothing else disturbed.
    """
    walk()
    found = np.array([walk() for _ in range(repetitions)])
    return float(found.min(axis=0).mean()), statistics.median(found.mean(axis=1))


def rows(step: float, together: float) -> list[Row]:
    """Returns the rows of the one table."""
    vectors = f"make_vec: {ENVS} environments"
    return [
        Row("environment: step and observation", "us", step, aim=50.0, most=True),
        Row(vectors, "steps/s", together, aim=10_000.0),
    ]


def main() -> None:
    """Prints the figures, and writes them as rows if asked."""
    parser = argparse.ArgumentParser(description="steps of the environment")
    parser.add_argument("--repetitions", type=int, default=20, help="of each walk (default: 20)")
    table.add_option(parser)
    arguments = parser.parse_args()
    print(facts())
    env, envs = gymnasium.make(ID), gymnasium.make_vec(ID, ENVS)
    alone = [seconds * 1e6 for seconds in passes(lambda: steps(env), arguments.repetitions)]
    together = [ENVS / seconds for seconds in passes(lambda: vector(envs), arguments.repetitions)]
    print("a step: {:.1f} us undisturbed, {:.1f} in the median pass".format(*alone))
    print("a vector of {}: {:,.0f} steps a second, {:,.0f}".format(ENVS, *together))
    table.save(arguments.rows, rows(alone[0], together[0]))


if __name__ == "__main__":
    main()
