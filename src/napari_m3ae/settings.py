"""What the user set in File > Preferences > M3AE; napari keeps it, ``napari.yaml`` declares it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from m3ae_core.inference.predictor import Predictor

Side = Literal["radiological", "neurological"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Settings:
    """The user's settings.

    Attributes
    ----------
    device
        What models run on.
    scheme
        Label numbers of saved files: the name of a label scheme.
    view
        How a case is shown at first: the patient's right on the left (radiological) or on the right.
    autosave_seconds
        How often unsaved edits are kept on disk (s).
    models_folder
        A folder whose subfolders are further models, if any.
    """

    device: Device = "auto"
    scheme: str = "brats2023"
    view: Side = "radiological"
    autosave_seconds: int = 25
    models_folder: Path | None = None


def settings() -> Settings:
    """Return the settings as they are now; the defaults where napari does not know the plugin."""
    from napari.settings import get_plugin_settings

    try:
        found = get_plugin_settings("napari-m3ae").general
    except KeyError:  # the plugin is disabled, or used without being installed
        return Settings()
    return Settings(
        device=found.device,
        scheme=found.scheme,
        view=found.view,
        autosave_seconds=found.autosave_seconds,
        models_folder=Path(found.folder).expanduser() if found.folder else None,
    )


def load_predictor(folder: Path) -> Predictor:
    """Return a predictor with the model in `folder`, on the device of the settings."""
    from m3ae_core.bundle import load_bundle
    from m3ae_core.inference.predictor import Predictor

    return Predictor(load_bundle(folder), settings().device)
