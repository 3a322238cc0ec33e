"""The former name of :mod:`m3ae_core.io.volume`, kept for those who import it."""

from m3ae_core.io.volume import *  # noqa: F403
