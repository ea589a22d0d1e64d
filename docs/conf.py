"""How Sphinx makes the documentation: `nox -s docs`."""

from __future__ import annotations

from importlib import metadata

project = "romancy"
author = "romancy contributors"
project_copyright = "romancy contributors"
release = metadata.version("romancy")
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "changelog.d"]
source_suffix = {".md": "markdown"}
root_doc = "index"
nitpicky = False

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

html_theme = "furo"
html_title = f"romancy {release}"
html_static_path: list[str] = []

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
default_role = "py:obj"
