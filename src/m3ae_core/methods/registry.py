"""Finds a method by its name; ours are registered like anybody else's."""

from __future__ import annotations

from m3ae_core.errors import ConfigError
from m3ae_core.methods.m3ae.method import M3AE
from m3ae_core.methods.method import Method
from m3ae_core.methods.segresnet_vae import SegResNetVAE
from m3ae_core.methods.unet_dropout import UNetDropout
from m3ae_core.plugins import hook_implementation, register_own, registered


class OwnMethods:
    """The plugin of this package itself."""

    @hook_implementation  # type: ignore[untyped-decorator]
    def m3ae_methods(self) -> dict[str, type[Method]]:
        """Return our methods."""
        return {"m3ae": M3AE, "segresnet-vae": SegResNetVAE, "unet-dropout": UNetDropout}


def method_named(name: str) -> type[Method]:
    """Return the class of a method.

    Raises
    ------
    ConfigError
        If no installed package registers it (``no-method``).
    """
    register_own("m3ae-core methods", OwnMethods)
    known: dict[str, type[Method]] = registered("methods")
    if name not in known:
        raise ConfigError(
            f"No installed package registers the method {name!r}.",
            f"Install it, or choose from {', '.join(sorted(known))}.",
            code="no-method",
        )
    return known[name]
