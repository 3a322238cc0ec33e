"""The extras that parts of this package need, checked before anything is computed."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Literal

from m3ae_core.errors import ConfigError

Extra = Literal["napari", "report", "train"]
#: What is imported of each extra.
PACKAGES: dict[Extra, tuple[str, ...]] = {
    "napari": ("napari", "qtpy"),
    "report": ("matplotlib", "jinja2"),
    "train": ("lightning_fabric", "monai", "einops"),
}


def require_extra(extra: Extra) -> None:
    """Check that an extra of napari-m3ae is installed, without importing it.

    Raises
    ------
    ConfigError
        If one of its packages is missing (``missing-extra``).
    """
    missing = [
        name for name in PACKAGES[extra] if sys.modules.get(name, name) is None or find_spec(name) is None
    ]
    if missing:
        raise ConfigError(
            f"This needs {' and '.join(missing)}, which the extra {extra!r} installs.",
            f"Run: pip install 'napari-m3ae[{extra}]'.",
            code="missing-extra",
        )
