"""The command line of reports: ``python -m pathnas.report runs/digits``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pathnas.exits import EXIT_DAMAGED, EXIT_FAILED, EXIT_USAGE, fail


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m pathnas.report",
        description="Write what a run found, or has found so far, as one HTML file.",
        epilog="examples: python -m pathnas.report runs/digits; "
        "python -m pathnas.report --compare runs/a runs/b -o both.html",
    )
    found.add_argument("runs", nargs="+", metavar="FOLDER", help="folder of a run")
    found.add_argument("--compare", action="store_true", help="put several runs side by side")
    found.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="file to write; default: report.html in the run's folder, or comparison.html here",
    )
    found.add_argument("--json", action="store_true", help="print the path as JSON")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = parser().parse_args(arguments)
    from pathnas import report
    from pathnas.database import RecordError

    if options.compare != (len(options.runs) > 1):
        wanted = "several folders" if options.compare else "one folder; --compare takes several"
        return fail(EXIT_USAGE, f"expected {wanted}, got {len(options.runs)}")
    try:
        if options.compare:
            output = options.output or Path("comparison.html")
            path = report.write_comparison(options.runs, output)
        else:
            path = report.write(options.runs[0], options.output)
    except RecordError as error:
        return fail(EXIT_DAMAGED, error)
    except (OSError, ValueError) as error:
        return fail(EXIT_FAILED, f"the report could not be written: {error}")
    print(json.dumps({"report": str(path)}) if options.json else path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
