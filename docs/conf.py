"""Configuration of the documentation: Sphinx with MyST and Furo."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import api_pages  # noqa: E402
import docstrings  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

from hf_simplex.version import __version__  # noqa: E402

project = "hf-simplex"
author = "The hf-simplex contributors"
project_copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "notebook_pages",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_use_ivar = True
napoleon_use_rtype = False

# Docstrings write `name`. A name of this package becomes a link; any other text stays code.
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [("py:obj", ".*"), ("py:.*", r"(?!hf_simplex\.).*")]
# Type variables, aliases and private classes appear in signatures and have no entry of their own.
nitpick_ignore = [("py:class", name) for name in api_pages.names()]

html_theme = "furo"
html_title = f"hf-simplex {__version__}"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b63a5", "color-brand-content": "#0b63a5"},
    "dark_css_variables": {"color-brand-primary": "#6db3f2", "color-brand-content": "#6db3f2"},
}
html_static_path = ["static"]
html_css_files = ["tables.css"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

api_pages.write(HERE / "api")


def keep_errors_beside_their_figures(app: Sphinx, page: str, source: list[str]) -> None:
    """Write figures and their standard errors with spaces at which no table cell breaks."""
    source[0] = source[0].replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")


def setup(app: Sphinx) -> None:
    """Connect what pages and docstrings pass through before Sphinx reads them."""
    app.connect("source-read", keep_errors_beside_their_figures)
    app.connect("autodoc-process-docstring", docstrings.as_restructured_text, priority=100)
