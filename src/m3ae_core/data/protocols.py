"""Published splits: what is known of their lists, so that those a user supplies can be checked. None is shipped."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: First digits of the MD5 of RFNet's second BraTS 2018 training list, which lies beside the third in its releases.
SECOND_TRAINING_LIST = "163eebcc"


@dataclass(frozen=True)
class Protocol:
    """What a published split must be.

    Attributes
    ----------
    counts
        Number of cases in each part (``train``, ``val``, ``test``).
    md5
        First digits of the MD5 of each published list (:func:`list_md5`), where they are known.
    """

    counts: Mapping[str, int]
    md5: Mapping[str, str] = field(default_factory=dict)


#: By name: RFNet's third split of BraTS 2018, which the paper uses, and RFNet's split of BraTS 2020.
PROTOCOLS: Mapping[str, Protocol] = {
    "brats2018-rfnet3": Protocol(
        {"train": 199, "val": 29, "test": 57}, {"train": "b9128f9e", "val": "82bf3b1b", "test": "1092a0a5"}
    ),
    "brats2020": Protocol({"train": 219, "val": 50, "test": 100}),
}


def list_md5(names: Sequence[str]) -> str:
    """Return the MD5 of a list as the published ones are stored: in its order, each line ended by a line feed."""
    content = "".join(f"{name}\n" for name in names)
    return hashlib.md5(content.encode("utf-8"), usedforsecurity=False).hexdigest()


def list_sha256(names: Sequence[str]) -> str:
    """Return the SHA-256 of a list of cases, in whichever order they come: sorted, one a line."""
    content = "".join(f"{name}\n" for name in sorted(names))
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
