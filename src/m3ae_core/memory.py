"""The memory allocator of the process, tuned for large tensors on the CPU.

By default glibc maps every large block anew and gives it back when it is freed, so that the kernel zeroes the same
pages again and again: a fifth of the built-in model's training step, and up to two fifths of the time of a 1 mm
network on the CPU. Elsewhere than on glibc nothing is done here.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: glibc's mallopt parameters (malloc.h): what keeps freed blocks (-1: however large), and the defaults.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: 64 << 20}
_DEFAULT = {_MMAP_MAX: 65536, _TRIM_THRESHOLD: 128 << 10, _TOP_PAD: 128 << 10}

#: Bytes of the largest tensor for which keeping pays in training: beyond, holes in the heap cost half as much memory
#: again (4×128³, two views, 16 channels: 7.8 against 5.3 GiB for a step 15 % faster).
LARGEST = 64 << 20


class _Users:
    """How many contexts of :func:`freed_memory_kept` are open."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0


_users = _Users()


def keep_freed_memory(largest: int) -> bool:
    """Tell glibc, for the rest of the process, to reuse freed blocks instead of returning them; return whether it does.

    For programs to call, not for libraries. For tensors beyond :data:`LARGEST` bytes it does nothing.
    """
    return largest <= LARGEST and _set(_KEEP)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let freed blocks be reused within the context; after it (after the last, if several run) all are returned.

    Blocks above 64 MiB are reused only if the thread that asks for them is the main thread.
    """
    with _users.lock:
        _users.count += 1
        _set(_KEEP)
    try:
        yield
    finally:
        with _users.lock:
            _users.count -= 1
            if not _users.count and _set(_DEFAULT):
                ctypes.CDLL(None).malloc_trim(0)


def _set(settings: dict[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return all(mallopt(name, value) == 1 for name, value in settings.items())
