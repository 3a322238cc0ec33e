"""The sub-commands about splits: to make one, and to check one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from m3ae_core.cli.arguments import OptionalFolder
from m3ae_core.errors import printable

ProtocolName = Literal["brats2018-rfnet3", "brats2020"]


def split(
    cases: Positional[Path],
    *,
    output: Path,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
) -> None:
    """Split cases at random into lists that train, validate and test; visits of one patient stay together.

    Args:
        cases: Folder of case folders.
        output: Folder to write train.txt, val.txt and test.txt to.
        validation: Fraction of the cases that validate.
        test: Fraction of the cases that are kept for testing.
        seed: Another seed, another split; the same seed and cases, the same split.
    """
    from m3ae_core.data.splits import draw_split, write_split
    from m3ae_core.io.case import find_cases

    drawn = draw_split((case.name for case in find_cases(cases)), validation, test, seed)
    folder = write_split(drawn, output)
    print(f"train {len(drawn.train)}  val {len(drawn.val)}  test {len(drawn.test)}")
    print(f"sha256 {drawn.sha256}\nsplit {printable(folder)}")


def check_split(
    folder: Positional[Path], *, protocol: ProtocolName | None = None, cases: OptionalFolder = None
) -> None:
    """Check a split: no case twice, none in two parts, and, if asked, a published split's numbers and known names.

    Args:
        folder: Folder of train.txt, val.txt and test.txt.
        protocol: The published split that it should be: the paper's BraTS 2018 (RFNet's split 3), or BraTS 2020.
        cases: Folder of case folders in which every name must be found.
    """
    from m3ae_core.data.protocols import PROTOCOLS, list_md5
    from m3ae_core.data.splits import PARTS, check_protocol, read_split, select
    from m3ae_core.io.case import find_cases

    found = read_split(folder)
    if protocol:
        check_protocol(found, protocol, folder)
    if cases:
        select(find_cases(cases), [name for part in PARTS for name in found.part(part)])
    published = PROTOCOLS[protocol].md5 if protocol else {}
    for part in PARTS:
        names, note = found.part(part), ""
        if part in published:
            same = list_md5(names).startswith(published[part])
            note = "  the published list" if same else "  NOT the published list, or in another order"
        print(f"{part:5} {len(names)}{note}")
    print(f"sha256 {found.sha256}")
