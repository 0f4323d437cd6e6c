"""Jobs for the tests of executors; module-level, so that workers can import them by name.

Each job imports torch for itself, so that a coordinator which only names it starts at once.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import hashlib
import os
import pickle
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path


def square(number):
    return number * number


def tensor_sum(values):
    return values.sum()


def train(seed):
    """Three SGD steps of a small convolutional network; the digest tells every bit of it."""
    import torch

    random = torch.Generator().manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, padding=1, groups=2),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 16 * 16, 10),
    )
    for parameter in network.parameters():
        parameter.data.normal_(0.0, 0.1, generator=random)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, nesterov=True)
    for _ in range(3):
        images = torch.randn(32, 3, 16, 16, generator=random)
        labels = torch.randint(10, (32,), generator=random)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    weights = b"".join(value.numpy().tobytes() for value in network.state_dict().values())
    return hashlib.sha256(weights).hexdigest()


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("this exception cannot describe itself")


ERRORS = {
    "value": ValueError("two\nlines"),
    "mute": Mute(),
    "system exit": SystemExit(3),
    "floating point": FloatingPointError("the loss is nan"),
    "memory": MemoryError(),
    "no memory for a map": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "interrupt": KeyboardInterrupt(),
}


def fail(kind):
    """Raises the error of this name; any other argument is handed back."""
    if kind in ERRORS:
        raise ERRORS[kind]
    if kind == "torch memory":
        import torch

        raise torch.OutOfMemoryError("no room")
    if kind == "too large":
        import torch

        torch.empty(1 << 60, dtype=torch.uint8)
    return kind


def recurse(depth):
    return recurse(depth + 1)


def thread_count(_):
    import torch

    return torch.get_num_threads()


def surroundings(names):
    """What a job finds: its server, the server's environment, which modules it has already."""
    server = os.getppid()
    environment = Path(f"/proc/{server}/environ").read_bytes().decode().split("\0")
    return {
        "server": server,
        "environment": dict(entry.split("=", 1) for entry in environment if entry),
        "modules": [name for name in names if name in sys.modules],
    }


def misbehave(kind):
    """Ends, hangs or lies in the way named; any other argument is handed back."""
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind.startswith("exit "):
        os._exit(int(kind.removeprefix("exit ")))
    if kind == "hang":
        time.sleep(60)
    if kind == "local value":
        return lambda: None
    if kind == "unreadable value":
        return Unreadable()
    if kind == "signal":
        os.kill(os.getpid(), signal.SIGINT)
    if kind.startswith("send "):
        send(kind.removeprefix("send "))
    return fail(kind)


class Unreadable:
    def __reduce__(self):
        return fail, ("value",)


def complain(kind):
    """Writes to standard error, from Python and from below it, and perhaps dies."""
    print("complaint of Python", file=sys.stderr, flush=True)
    os.write(2, b"complaint from below\n" + b"x" * 10_000 + b"\nlast words\n")
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "exit":
        os._exit(3)
    return kind


def send(what):
    """Writes past the executor's back into the pipe for the answer."""
    [pipe] = [item for item in gc.get_objects() if isinstance(item, Connection) and item.writable]
    if what == "garbage":
        os.write(pipe.fileno(), b"\xff" * 100)
    if what == "garbage and end":
        os.write(pipe.fileno(), b"\xff" * 100)
        os._exit(0)
    if what == "another type and end":
        os.write(pipe.fileno(), pickle.dumps({"value": 1}))
        os._exit(0)
    if what == "a part and hang":
        os.write(pipe.fileno(), b"\x00\x00\x10\x00")
        time.sleep(60)
    while what == "without end":
        os.write(pipe.fileno(), b"\x80" * 65536)


def exhaust(limit):
    """Asks for twice as much memory as the process may have."""
    import torch

    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return torch.ones(2 * limit, dtype=torch.uint8)


def allocate(mebibytes):
    """Asks for so much memory at once and says how much it was."""
    return len(bytearray(mebibytes << 20)) >> 20


def allocate_tensors(mebibytes):
    """Asks for so much memory in tensors of half a mebibyte."""
    import torch

    kept = [torch.empty(1 << 19, dtype=torch.uint8) for _ in range(2 * mebibytes)]
    return len(kept) // 2


def allocate_inline(mebibytes):
    """Has the inline executor allocate tensors in this process: what became of each."""
    from pathnas import executors

    with executors.Inline(memory=64) as inline:
        return [result for _, result in inline.run(allocate_tensors, mebibytes)]


def crash_at_first(how):
    """Crashes as often as the number says, counted by files in the folder, and then succeeds."""
    folder, times = how
    tries = len(list(folder.iterdir()))
    (folder / str(tries)).touch()
    if tries < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return tries + 1


def variable(name):
    time.sleep(0.2)  # so that two workers share the jobs
    return os.environ.get(name)


class SlowToLoad:
    """An argument that takes so many seconds to arrive."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __setstate__(self, state):
        time.sleep(state["seconds"])
        self.__dict__.update(state)


def seconds_to_load(argument):
    return argument.seconds


def wait_unless_tried(folder):
    """Says by a file who it and its parent are, and waits to be killed; does so only once."""
    if not list(folder.iterdir()):
        (folder / f"{os.getpid()}-{os.getppid()}").touch()
        time.sleep(120)
    return os.getpid()


def copy_file(paths):
    """Writes the content of the first file into the second."""
    read, written = paths
    written.write_text(read.read_text() + " copied")
    return os.getcwd()


def occupy(path):
    """Makes a file of its own."""
    path.write_text("precious")


def large(size):
    return b"x" * size


def await_file(path):
    while not path.exists():
        time.sleep(0.01)


def signal_and_wait(paths):
    """Makes the first file, if any, then waits for the second, if any."""
    made, awaited = paths
    if made is not None:
        made.touch()
    if awaited is not None:
        await_file(awaited)
    return os.getpid()


def crowd(folder):
    """How many of these jobs run at this moment, this one included."""
    mark = folder / str(os.getpid())
    mark.touch()
    time.sleep(0.1)
    seen = len(list(folder.iterdir()))
    mark.unlink()
    return seen


def sleep_known(folder):
    """Leaves its process id as a file's name, then sleeps for a minute; does nothing for None."""
    if folder is not None:
        (folder / str(os.getpid())).touch()
        time.sleep(60)


def kill_server(_):
    """Kills the process that forks the workers, which knows how they end."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
