"""M3AE: brain-tumour segmentation from any subset of MRI sequences (Liu et al., AAAI 2023). Research use only.

The public names are those of ``__all__``. Each is imported when it is asked for: ``import m3ae_core`` loads no torch.

Examples
--------
>>> import m3ae_core
>>> m3ae_core.BRATS.names
('FLAIR', 'T1', 'T1c', 'T2')
>>> m3ae_core.__version__.split(".")[0]
'0'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "BRATS",
    "Bundle",
    "Case",
    "Method",
    "Modality",
    "ModalitySet",
    "Plan",
    "Prediction",
    "Predictor",
    "__version__",
    "benchmark",
    "find_case",
    "find_cases",
    "load_bundle",
    "read_case",
    "save_prediction",
    "segment",
    "train",
]

if TYPE_CHECKING:
    from m3ae_core.bundle import Bundle, load_bundle
    from m3ae_core.evaluation.benchmark import run as benchmark
    from m3ae_core.inference.predictor import Prediction, Predictor, save_prediction
    from m3ae_core.inference.segment import segment
    from m3ae_core.io.case import Case, find_case, find_cases, read_case
    from m3ae_core.methods.method import Method
    from m3ae_core.modalities import BRATS, Modality, ModalitySet
    from m3ae_core.training.run import Plan, train
else:
    _MODULES = {
        "bundle": "Bundle load_bundle",
        "evaluation.benchmark": "benchmark",
        "inference.predictor": "Prediction Predictor save_prediction",
        "inference.segment": "segment",
        "io.case": "Case find_case find_cases read_case",
        "methods.method": "Method",
        "modalities": "BRATS Modality ModalitySet",
        "training.run": "Plan train",
    }
    _HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(f"{__name__}.{_HOMES[name]}")
        return getattr(module, "run" if name == "benchmark" else name)

    def __dir__() -> list[str]:
        return [*globals(), *_HOMES]
