"""The former name of :mod:`m3ae_core.io.folders.naming`, kept for those who import it."""

from m3ae_core.io.folders.naming import *  # noqa: F403
