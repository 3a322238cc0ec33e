"""The memory allocator of the process, tuned for large tensors on the CPU."""

from __future__ import annotations

import ctypes
import sys

#: glibc's mallopt parameters (malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Tell glibc to reuse large freed blocks instead of returning them; return whether that worked.

    By default every large tensor is mapped anew and its pages are zeroed again by the kernel, which took a third to
    a half of a training step's time on the CPU. A setting of the whole process, hence for programs to call, not for
    libraries; elsewhere than on glibc it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 << 20))
    return all(mallopt(name, value) == 1 for name, value in settings)
