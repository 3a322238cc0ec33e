"""The former name of :mod:`m3ae_core.io.case`, kept for those who import it."""

from m3ae_core.io.case import *  # noqa: F403
