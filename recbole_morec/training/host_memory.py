"""Keeps the memory that a process frees, for training on a CPU."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have glibc reuse freed memory instead of giving it back to the system.

    PyTorch's large tensors come and go in every operation; by default each is mapped anew, and
    the system fills its pages with zeros first, which costs about as much as a cheap operation on
    it. Elsewhere than on Linux with glibc nothing happens.

    Returns:
        Whether it was done.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
