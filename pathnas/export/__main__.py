"""The command line of an export: ``python -m pathnas.export runs/digits --to digits``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pathnas.exits import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, fail


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m pathnas.export",
        description="Write a network that a run found as a folder that needs nothing of pathnas.",
        epilog="example: python -m pathnas.export runs/digits --to digits_net --onnx",
    )
    found.add_argument("folder", type=Path, help="folder of a run, or its best folder")
    found.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to be made")
    found.add_argument("--name", help="name of the function in model.py; default: the run's name")
    found.add_argument(
        "--fuse", action="store_true", help="merge batch norms into convolutions (for eval mode)"
    )
    found.add_argument("--onnx", action="store_true", help="write model.onnx too")
    found.add_argument("--force", action="store_true", help="replace an earlier export")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = parser().parse_args(arguments)
    from pathnas.export import folder

    try:
        request = folder.load(
            options.folder, name=options.name, fuse=options.fuse, onnx=options.onnx
        )
        folder.check_target(options.to, force=options.force)
    except (ValueError, OSError, ImportError) as error:
        return fail(EXIT_USAGE, _one_line(error))
    try:
        parities = folder.write(request, options.to, force=options.force)
    except (ValueError, OSError, RuntimeError) as error:
        return fail(EXIT_FAILED, f"the export failed: {_one_line(error)}")
    except KeyboardInterrupt:
        return fail(EXIT_INTERRUPTED, "interrupted")
    print(f"relative change of the logits from the source's on {len(request.images)} images, and")
    print("images whose largest logit is the same:")
    for found in parities:
        print(found)
    print(f"{request.name} is in {options.to}")
    return 0


def _one_line(error: BaseException) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())


if __name__ == "__main__":
    sys.exit(main())
