"""The command line ``m3ae``; the only place that prints.

Heavy imports happen inside the commands, so that ``m3ae --help`` answers at once.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import tyro

from m3ae_core.cli import commands
from m3ae_core.errors import M3AEError

DESCRIPTION = (
    "Brain-tumour segmentation from any subset of FLAIR, T1, T1c and T2 (M3AE, AAAI 2023). "
    "Research use only. Not a medical device."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code: 0, or 2 with one message on standard error after a user's mistake.

    Where nobody takes what is printed any more (``m3ae info | head``), it ends quietly, with 1.
    """
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands.COMMANDS, prog="m3ae", description=DESCRIPTION, args=arguments, use_underscores=False
        )
        sys.stdout.flush()
    except M3AEError as error:
        print(f"m3ae: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("m3ae: stopped", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        return _unheard()
    return 0


def _unheard() -> int:
    """Keep the interpreter from complaining at its end that standard output cannot be written to; return 1."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


if __name__ == "__main__":
    sys.exit(main())
