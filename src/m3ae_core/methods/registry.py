"""Finds a method by its name; a method is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from m3ae_core.errors import ConfigError
from m3ae_core.methods.method import Method
from m3ae_core.plugins import registered

#: Our methods: the module below this package, and the class.
OWN = {
    "cmjp": "cmjp:CMJP",
    "m3ae": "m3ae.method:M3AE",
    "m3ae-vl": "m3ae_vl:M3AEVL",
    "models-genesis": "models_genesis:ModelsGenesis",
    "rfnet": "rfnet:RFNet",
    "segresnet-vae": "segresnet_vae:SegResNetVAE",
    "u-hved": "uhved:UHVED",
    "unet-dropout": "unet_dropout:UNetDropout",
}


def method_named(name: str) -> type[Method]:
    """Return the class of a method, ours or an outside package's.

    Raises
    ------
    ConfigError
        If no installed package registers it (``no-method``), or one takes the name of ours (``plugins``).
    """
    outside: dict[str, type[Method]] = registered("methods")
    if taken := OWN.keys() & outside.keys():
        problem = f"An installed package registers the method {min(taken)!r}, which is ours."
        raise ConfigError(problem, "Uninstall or update it.", code="plugins")
    if name in outside:
        return outside[name]
    if name not in OWN:
        raise ConfigError(
            f"No installed package registers the method {name!r}.",
            f"Install it, or choose from {', '.join(sorted({*OWN, *outside}))}.",
            code="no-method",
        )
    module, kind = OWN[name].split(":")
    method: type[Method] = getattr(import_module(f"m3ae_core.methods.{module}"), kind)
    return method
