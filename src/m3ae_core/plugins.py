"""The extension point: outside packages add backbones, methods, models and metrics without touching this one.

A package declares an entry point in the group ``m3ae.plugins`` that names a module, and in that module::

    from m3ae_core.plugins import hook_implementation

    @hook_implementation
    def m3ae_backbones():
        return {"my-net": build}      # build(in_channels: int, config: NetworkConfig) -> torch.nn.Module

    @hook_implementation
    def m3ae_methods():
        return {"my-method": MyMethod}    # a class after m3ae_core.methods.method.Method

    @hook_implementation
    def m3ae_models():
        return {"my model": Path("/where/its/bundle/is")}    # a folder that m3ae finetune made

    @hook_implementation
    def m3ae_metrics():
        return {"my_metric": Metric(name="my_metric", ...)}    # m3ae_core.evaluation.registry.Metric

    @hook_implementation
    def m3ae_preprocessing():
        return {"my-scale": MyStep}     # a subclass of m3ae_core.intensity.Step

A backbone maps (B, N, D, H, W) to :class:`m3ae_core.nn.unet.Features` and has `widths`, the channels of its four
levels. The mechanism is napari-plugin-engine, which is deprecated upstream and hidden behind this module so that it
can be replaced; a plugin that raises or answers with anything but a dictionary is reported, and does not break the
others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

from napari_plugin_engine import HookImplementationMarker, HookSpecificationMarker, PluginError, PluginManager

from m3ae_core.errors import ConfigError

hook_specification = HookSpecificationMarker("m3ae")
hook_implementation = HookImplementationMarker("m3ae")

BackboneFactory = Callable[..., Any]
Kind = Literal["backbones", "methods", "models", "metrics", "preprocessing"]


class Specification:
    """The hooks a plugin may implement."""

    @hook_specification  # type: ignore[untyped-decorator]
    def m3ae_backbones(self) -> dict[str, BackboneFactory]:  # type: ignore[empty-body]
        """Return backbone factories by name."""

    @hook_specification  # type: ignore[untyped-decorator]
    def m3ae_methods(self) -> dict[str, type[Any]]:  # type: ignore[empty-body]
        """Return methods by name: subclasses of :class:`m3ae_core.methods.method.Method`."""

    @hook_specification  # type: ignore[untyped-decorator]
    def m3ae_models(self) -> dict[str, Path]:  # type: ignore[empty-body]
        """Return folders of trained bundles by name."""

    @hook_specification  # type: ignore[untyped-decorator]
    def m3ae_metrics(self) -> dict[str, Any]:  # type: ignore[empty-body]
        """Return entries of the table of metrics (:class:`m3ae_core.evaluation.registry.Metric`) by name."""

    @hook_specification  # type: ignore[untyped-decorator]
    def m3ae_preprocessing(self) -> dict[str, type[Any]]:  # type: ignore[empty-body]
        """Return preprocessing steps by name: subclasses of :class:`m3ae_core.intensity.Step`."""


@cache
def plugin_manager() -> PluginManager:
    """Return the manager with all installed plugins discovered."""
    manager = PluginManager("m3ae", discover_entry_point="m3ae.plugins")
    manager.add_hookspecs(Specification)
    manager.discover()
    return manager


def register_own(name: str, plugin: type) -> None:
    """Register a plugin of this package, once."""
    if not plugin_manager().is_registered(name):
        plugin_manager().register(plugin(), name=name)


def registered(kind: Kind) -> dict[str, Any]:
    """Return all that plugins register of a kind, by name: what ``m3ae_KIND`` of :class:`Specification` returns.

    Raises
    ------
    ConfigError
        If two plugins register the same name.
    """
    hook = f"m3ae_{kind}"
    found: dict[str, Any] = {}
    owners: dict[str, str] = {}
    answer = getattr(plugin_manager().hook, hook).call_with_result_obj()
    for offered, plugin in zip(answer.result, answer.implementation, strict=True):
        if not isinstance(offered, dict):
            # To make such an error is to report it.
            PluginError(f"{hook}() returns {offered!r}, not a dictionary.", plugin_name=plugin.plugin_name)
            continue
        if repeated := sorted(found.keys() & offered.keys()):
            raise ConfigError(
                f"{owners[repeated[0]]} and {plugin.plugin_name} both register {repeated[0]!r} among the {kind}.",
                "Uninstall one.",
                code="plugins",
            )
        found.update(offered)
        owners.update(dict.fromkeys(offered, plugin.plugin_name))
    return found


def plugin_errors() -> list[str]:
    """Return what went wrong in plugins so far, one line each, however often it went wrong."""
    errors = plugin_manager().get_errors()
    return list(dict.fromkeys(f"{error.plugin_name}: {error.__cause__ or error}" for error in errors))
