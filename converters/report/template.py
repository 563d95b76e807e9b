"""Pages from templates: everything is escaped but figures, which `plots` made of our own values."""

from __future__ import annotations

import importlib.resources
from typing import Any

PACKAGE = "converters.report"


def render(template: str, **values: Any) -> str:
    """The template of this package with `values`; a name that is not there is an error."""
    import jinja2

    files = importlib.resources.files(PACKAGE)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (files / name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template).render(**values) + "\n"


def raw(svg: str) -> Any:
    """A figure that goes into the page as it is."""
    import markupsafe

    return markupsafe.Markup(svg)
