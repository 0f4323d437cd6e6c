"""The oldest releases that setup.cfg claims, for pip: ``python -m tests.minimum``."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

SETUP = Path(__file__).parent.parent / "setup.cfg"


def constraints() -> list[str]:
    """One line ``name==version`` for each requirement and extra that has a lower bound."""
    config = configparser.ConfigParser()
    config.read(SETUP)
    lines = config["options"]["install_requires"].splitlines()
    for extra in config["options.extras_require"].values():
        lines += extra.splitlines()
    found: dict[str, str] = {}
    for line in lines:
        bound = re.fullmatch(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?>=([0-9.]+)", line.strip())
        if bound and found.setdefault(bound[1], bound[2]) != bound[2]:
            raise ValueError(f"{SETUP}: {bound[1]}: expected one lower bound, got {bound[2]} too")
    return [f"{name}=={version}" for name, version in found.items()]


if __name__ == "__main__":
    print("\n".join(constraints()))
