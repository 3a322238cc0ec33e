"""Random damage to the bytes of a file, the same every time for the same generator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Rng = np.random.Generator


def flipped(content: bytes, rng: Rng) -> bytes:
    """One to three bytes changed."""
    damaged = bytearray(content)
    for position in rng.integers(len(content), size=rng.integers(1, 4)):
        damaged[position] ^= int(rng.integers(1, 256))
    return bytes(damaged)


def truncated(content: bytes, rng: Rng) -> bytes:
    return content[: rng.integers(len(content))]


def zeroed(content: bytes, rng: Rng) -> bytes:
    start, stop = _block(content, rng)
    return content[:start] + bytes(stop - start) + content[stop:]


def deleted(content: bytes, rng: Rng) -> bytes:
    start, stop = _block(content, rng)
    return content[:start] + content[stop:]


def inserted(content: bytes, rng: Rng) -> bytes:
    start, stop = _block(content, rng)
    return content[:start] + rng.bytes(stop - start) + content[start:]


def doubled(content: bytes, rng: Rng) -> bytes:
    """A block written twice, as by a copy that was resumed at the wrong place."""
    start, stop = _block(content, rng)
    return content[:stop] + content[start:]


DAMAGES: tuple[Callable[[bytes, Rng], bytes], ...] = (flipped, truncated, zeroed, deleted, inserted, doubled)


def damaged(content: bytes, rng: Rng) -> tuple[str, bytes]:
    """The kind of the damage and the damaged bytes, which are not `content`."""
    while True:
        damage = DAMAGES[rng.integers(len(DAMAGES))]
        if (result := damage(content, rng)) != content:
            return damage.__name__, result


def _block(content: bytes, rng: Rng) -> tuple[int, int]:
    """A place of 1 to 4096 bytes, short ones as likely as long ones."""
    length = int(2 ** rng.uniform(0, 12))
    start = int(rng.integers(len(content)))
    return start, min(start + length, len(content))
