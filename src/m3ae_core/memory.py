"""The memory allocator of the process, tuned for large tensors on the CPU.

By default glibc maps every large block anew and gives it back when it is freed, so that the kernel zeroes the same
pages again and again: a fifth of the built-in model's training step, and up to two fifths of the time of a 1 mm
network on the CPU. Elsewhere than on glibc nothing is done here.
"""

from __future__ import annotations

import ctypes
import sys

#: glibc's mallopt parameters (malloc.h): map no block of its own, keep freed blocks however large, grow in big steps.
_KEEP = {-4: 0, -1: -1, -2: 64 << 20}  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD

#: Bytes of the largest tensor for which keeping pays in training: beyond, holes in the heap cost half as much memory
#: again (4×128³, two views, 16 channels: 7.8 against 5.3 GiB for a step 15 % faster).
LARGEST = 64 << 20


def keep_freed_memory(largest: int = 0) -> bool:
    """Tell glibc, for the rest of the process, to reuse freed blocks instead of returning them; return whether it does.

    For programs to call, once, not for libraries. For tensors beyond :data:`LARGEST` bytes it does nothing. Blocks
    above 64 MiB are reused only if the thread that asks for them is the main thread.
    """
    if largest > LARGEST or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    return all(mallopt(name, value) == 1 for name, value in _KEEP.items())
