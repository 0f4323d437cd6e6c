"""Gymnasium environments; importing this package registers them.

``gymnasium.make("pathnas.envs:pathnas/PathLevel-v0")`` works without importing it first.
"""

import gymnasium

PATH_LEVEL = "pathnas/PathLevel-v0"

if PATH_LEVEL not in gymnasium.registry:
    gymnasium.register(
        id=PATH_LEVEL,
        entry_point="pathnas.envs.path_level:PathLevelEnv",
        max_episode_steps=500,
    )
