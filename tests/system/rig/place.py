# SPDX-License-Identifier: Apache-2.0
"""Places: the cache that tools/setup fills, the folder of this test run, free ports."""
import fcntl
import os
import random
import shutil
import socket
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[3]


def cache():
    """The same rule as in tools/common.sh."""
    if os.environ.get("FORESHADOW_CACHE"):
        return Path(os.environ["FORESHADOW_CACHE"])
    if os.geteuid() == 0:
        return Path("/var/cache/foreshadow")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foreshadow"


_root = None


def root():
    """The folder below which everything of this run lies; user postgres can enter it."""
    global _root
    if _root is None:
        _root = Path(tempfile.mkdtemp(prefix="foreshadow-"))
        _root.chmod(0o755)
    return _root


def folder(name):
    """A new folder below root(), called name or name-2, name-3…"""
    number = 1
    while True:
        path = root() / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()
            return path
        except FileExistsError:
            number += 1


def remove_root():
    global _root
    if _root is not None:
        shutil.rmtree(_root, ignore_errors=True)
        _root = None


_locks = []  # open for the life of the process, so that no other run is given the same port


def free_port():
    """A port that stays ours while its server is down.

    Below the range the kernel gives to outgoing connections: otherwise a client of another server
    could sit on the port when a killed server comes back. A file lock keeps parallel runs apart.
    """
    locks = Path(tempfile.gettempdir()) / "foreshadow-ports"
    locks.mkdir(exist_ok=True)
    if locks.stat().st_uid == os.geteuid():
        locks.chmod(0o1777)
    chooser = random.SystemRandom()  # not the seeded one: ports are no part of a test's story
    while True:
        port = chooser.randrange(20000, 32000)
        try:
            lock = os.open(locks / str(port), os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            os.close(lock)
            continue
        _locks.append(lock)
        return port
