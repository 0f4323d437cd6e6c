"""Trains an agent of Stable-Baselines3 on the environment, and compares it with random decisions.

python examples/agent.py [--steps 4096] [--picture best.png]

Needs sb3-contrib. The evaluator is the surrogate, so that this takes a minute; hand
`gymnasium.make` an `evaluator` of yours to search with real trainings.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

import gymnasium
from sb3_contrib import MaskablePPO

from pathnas import drawing
from pathnas import tree as trees
from pathnas.limits import Limits

ENV = "pathnas.envs:pathnas/PathLevel-v0"


def random_rewards(env: gymnasium.Env, episodes: int) -> list[float]:
    """Returns the rewards of random episodes."""
    env.action_space.seed(0)
    rewards = []
    for _ in range(episodes):
        observation, _ = env.reset()
        done, reward = False, 0.0
        while not done:
            action = env.action_space.sample(observation["action_mask"])
            observation, reward, done, _, _ = env.step(action)
        rewards.append(float(reward))
    return rewards


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4096, help="of the environment")
    parser.add_argument("--picture", type=Path, help="file for the picture of the last tree")
    options = parser.parse_args()
    env = gymnasium.make(ENV, limits=Limits(depth=2))
    agent = MaskablePPO(
        "MultiInputPolicy",
        env,
        n_steps=256,
        batch_size=64,
        learning_rate=2e-3,
        gamma=1.0,
        gae_lambda=1.0,
        seed=0,
        device="cpu",
    )
    agent.learn(options.steps)
    rewards = [episode["r"] for episode in agent.ep_info_buffer or ()]
    print(f"random decisions: mean reward {fmean(random_rewards(env, 100)):.3f}")
    print(f"the agent's last {len(rewards)} episodes: {fmean(rewards):.3f}")

    observation, info = env.reset()
    done = False
    while not done:
        mask = env.get_wrapper_attr("action_masks")()
        action, _ = agent.predict(observation, action_masks=mask, deterministic=True)
        observation, _, done, _, info = env.step(int(action))
    tree = trees.from_dict(info["tree"])
    print(trees.indented(tree))
    if options.picture is not None:
        kind = options.picture.suffix[1:]
        options.picture.write_bytes(drawing.render(tree, kind))


if __name__ == "__main__":
    main()
