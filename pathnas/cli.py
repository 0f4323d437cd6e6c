"""The command ``pathnas``: one word for each thing that it does.

``pathnas run ...`` is ``python -m pathnas.run ...``, and so for the others. A command's module is
imported only when it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from types import ModuleType

import pathnas
from pathnas.exits import EXIT_INTERRUPTED, EXIT_PIPE, EXIT_USAGE, fail

"""What a shell says of a process that SIGPIPE ended."""

COMMANDS = {
    "run": "search for a better network, from a YAML file",
    "resume": "continue a run that was broken off, or enlarge its budget",
    "status": "how runs are getting on",
    "report": "write what a run found as one HTML file",
    "compare": "compare ways of searching",
    "space": "measure a search space",
    "audit": "measure whether short trials rank trees as full trainings do",
    "draw": "draw a tree",
    "train": "train a found tree in full",
    "export": "write a found network as plain PyTorch",
    "doctor": "what this machine has, and what to do about what it lacks",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            return _main(words)
        finally:  # argparse ends by SystemExit; and what is buffered fails only now
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage(), file=sys.stdout if words else sys.stderr)
        return 0 if words else EXIT_USAGE
    if words[0] == "--version":
        print(pathnas.__version__)
        return 0
    if words[0] == "--completion":
        return _completion(words[1:])
    if words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else "see pathnas --help"
        return fail(EXIT_USAGE, f"unknown command {words[0]!r}; {hint}")
    try:
        return int(module(words[0]).main(words[1:]))
    except KeyboardInterrupt:
        return fail(EXIT_INTERRUPTED, "interrupted")


def module(command: str) -> ModuleType:
    """Returns the module that does a command: it has `main`, and perhaps `parser`."""
    name = f"pathnas.{command}"
    package = importlib.import_module(name)
    if hasattr(package, "__path__"):
        return importlib.import_module(f"{name}.__main__")
    return package


def usage() -> str:
    """Returns what ``pathnas --help`` prints."""
    commands = "\n".join(f"  {name:<9} {does}" for name, does in COMMANDS.items())
    return (
        f"usage: pathnas COMMAND [arguments]\n\n"
        f"Grow a trained network into a better one.\n\n"
        f"commands:\n{commands}\n\n"
        f"options:\n"
        f"  --help, --version\n"
        f"  --completion bash|zsh   print a script for the shell: source <(pathnas --completion "
        f"bash)\n\n"
        f"examples:\n"
        f"  pathnas run experiments/digits.yaml seed=1\n"
        f"  pathnas status\n"
        f"  pathnas run --help"
    )


def _completion(words: Sequence[str]) -> int:
    if len(words) != 1 or words[0] not in ("bash", "zsh"):
        return fail(EXIT_USAGE, "expected --completion bash or --completion zsh")
    cases = "\n".join(f'    {name}) words="{" ".join(_options(name))}" ;;' for name in COMMANDS)
    if words[0] == "zsh":
        print("autoload -U +X bashcompinit && bashcompinit")
    print(
        f"_pathnas() {{\n"
        f'  local word="${{COMP_WORDS[COMP_CWORD]}}" words\n'
        f'  case "${{COMP_WORDS[1]}}" in\n{cases}\n  esac\n'
        f'  [ "$COMP_CWORD" -eq 1 ] && words="{" ".join(COMMANDS)} --help --version"\n'
        f'  COMPREPLY=($(compgen -W "$words" -- "$word"))\n'
        f"}}\n"
        f"complete -o default -F _pathnas pathnas"
    )
    return 0


def _options(command: str) -> list[str]:
    make = getattr(module(command), "parser", None)
    parser = make() if make is not None else None
    if not isinstance(parser, ArgumentParser):
        return []
    options = [name for action in parser._actions for name in action.option_strings]
    return [name for name in options if name.startswith("--")]


if __name__ == "__main__":
    sys.exit(main())
