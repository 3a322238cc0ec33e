"""Pages and tables filled into the templates beside this file: the one place that finds jinja2 (extra ``report``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from m3ae_core.extras import require_extra

if TYPE_CHECKING:
    from jinja2 import Environment

_TEX = {"●": r"$\bullet$", "○": r"$\circ$", "±": r"$\pm$", "−": "$-$", "³": "$^3$", "×": r"$\times$"}
_TEX |= {"<": "$<$", ">": "$>$"}
_TEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"\\": r"\textbackslash{}"}


def environment() -> Environment:
    """Return jinja2's environment of the templates; what a page shows is escaped.

    Raises
    ------
    ConfigError
        If jinja2 is not installed.
    """
    require_extra("report")
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    made = Environment(
        loader=PackageLoader("m3ae_core.report"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["tex"] = tex
    return made


def render(template: str, **facts: object) -> str:
    """Return a template of the folder ``templates`` filled with facts.

    Raises
    ------
    ConfigError
        If jinja2 is not installed.
    """
    return environment().get_template(template).render(facts)


def tex(text: str) -> str:
    """Return text with what LaTeX would read as commands written out."""
    return "".join(_TEX.get(sign, sign) for sign in text)
