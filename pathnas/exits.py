"""Exit codes of the commands, and the line that goes with one."""

from __future__ import annotations

import sys

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_DAMAGED = 3
EXIT_IN_USE = 4
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141


def fail(code: int, why: object) -> int:
    """Says on standard error why a command ends, and returns its exit code."""
    print(why, file=sys.stderr)
    return code
