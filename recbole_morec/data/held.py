"""A place that one process works in; the lock ends with the process, however it ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold a folder, or a file that is made for it; yields False where another process holds it.

    Raises:
        OSError: it cannot be opened, or the file system has no such locks (NFS has them for files
            that can be written, and none for folders).
    """
    if fcntl is None:
        yield True
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)
