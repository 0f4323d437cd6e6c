"""The connection of this process to Ray: to a cluster that exists, or to a local one."""

from __future__ import annotations

import math
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from typing import Any

from pathnas.executors import reaper, server
from pathnas.executors.worker import THREADS

_STORE_BYTES = 100 << 20
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@dataclass
class _Session:
    address: str | None
    reaper: subprocess.Popen[bytes] | None = None
    users: int = 0


_session: _Session | None = None


def connect(address: str | None, cpus: float) -> Any:
    """Connects to Ray, unless that is done, and returns the module.

    All executors of a process share one connection, since Ray has no more; the first decides.
    A connection that others made with ``ray.init`` is used, and left alone.

    Args:
        address: Of a cluster; None: start a local one, which ends with this process.
        cpus: Number of CPUs that a local cluster counts.

    Raises:
        RuntimeError: If Ray is not installed.
        ValueError: If the process is connected to another cluster.
        ConnectionError: If there is no cluster at the address.
    """
    global _session
    ray = _module(address)
    if _session is None and ray.is_initialized():
        return ray
    if _session is None:
        _session = _start(ray, cpus) if address is None else _join(ray, address)
    if _session.address != address:
        raise ValueError(
            f"`address` must be that of the cluster this process is connected to, "
            f"{_session.address!r}, but got {address!r}"
        )
    _session.users += 1
    return ray


def disconnect() -> None:
    """Gives a connection back; the last one ends it, and a local cluster with it."""
    global _session
    if _session is None:  # somebody else's
        return
    _session.users -= 1
    if _session.users == 0:
        ended, _session = _session, None
        _module(ended.address).shutdown()
        if ended.reaper is not None:
            ended.reaper.communicate(b"closed")


def _module(address: str | None) -> Any:
    """Imports Ray.

    When it is imported, it reads from the environment whether a token is asked for, and whether it
    is alone on this machine; then it listens on the loopback interface only.
    """
    alone = {}
    if address is None and "ray" not in sys.modules:
        alone = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        with server.environment(alone):
            import ray
    except ImportError as error:
        raise RuntimeError(
            "workers of the kind ray need Ray: pip install 'pathnas[ray]'"
        ) from error
    return ray


def _start(ray: Any, cpus: float) -> _Session:
    """Starts a cluster of this machine alone, ``local`` whatever RAY_ADDRESS says.

    Its folder has a short path of its own, since the path of a socket must not exceed 107 bytes.
    """
    folder = tempfile.mkdtemp(prefix="pn-", dir="/tmp")
    watcher = subprocess.Popen(
        [sys.executable, reaper.__file__, str(os.getpid()), folder],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    path = {"PYTHONPATH": server.import_path()}
    try:
        with server.environment({**THREADS, **_QUIET, **path}):
            _init(
                ray,
                "local",
                num_cpus=max(1, math.ceil(cpus)),
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                _temp_dir=folder,
            )
    except BaseException:
        watcher.communicate()
        raise
    return _Session(None, watcher)


def _join(ray: Any, address: str) -> _Session:
    with server.environment(_QUIET):
        _init(ray, address)
    return _Session(address)


def _init(ray: Any, address: str, **options: Any) -> None:
    """Calls `ray.init`, which replaces the handler of SIGTERM, and does not leave it so."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", **options)
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
    # It prints a paragraph for each process that dies, even so. How jobs end is told by results.
    ray._private.worker._worker_logs_enabled = False
