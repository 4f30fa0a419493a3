"""Jinja2 for pages, without the plots that most of them have: a server's page needs none."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def make_environment() -> Environment:
    """Return what renders the templates; every text that they show is escaped."""
    return Environment(
        loader=PackageLoader("distilkit.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
