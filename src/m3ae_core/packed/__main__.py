"""``python -m m3ae_core.packed``: train from packed cases where there is nothing but torch, numpy and safetensors."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from m3ae_core.errors import M3AEError
from m3ae_core.packed.train import train_packed


def main(arguments: list[str] | None = None) -> int:
    """Run a stage, or its next part; prints what ``result.json`` says."""
    parser = argparse.ArgumentParser(prog="python -m m3ae_core.packed", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of parts, made by m3ae pack")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for what is learned; resumes if it holds a run"
    )
    parser.add_argument("--stage", type=int, choices=(1, 2), required=True)
    parser.add_argument(
        "--minutes", type=float, required=True, help="of the whole stage, which its schedule is made for"
    )
    parser.add_argument("--now", type=float, help="minutes of this call; all that are left if not stated")
    parser.add_argument("--pretrained", type=Path, help="output of stage 1, to start stage 2 from")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    given = parser.parse_args(arguments)
    try:
        result = train_packed(
            given.folder,
            given.output,
            given.stage,
            given.minutes,
            now=given.now,
            pretrained=given.pretrained,
            device=given.device,
            precision=given.precision,
        )
    except M3AEError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    told = {name: result[name] for name in ("stage", "steps", "seconds", "terms")}
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
