"""The site: ``make docs``. Pages are Markdown, as the repository shows them; the reference is read from docstrings."""

import quota

project = "quota"
author = copyright = "The quota authors"  # noqa: A001 -- Sphinx's name for it
version = release = quota.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
html_theme = "furo"
html_title = "quota"
myst_heading_anchors = 3
nitpicky = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True  # system_clock, not where it lies in memory
autodoc_type_aliases = {"Cost": "Cost", "Credential": "Credential"}
python_display_short_literal_types = True
copybutton_prompt_text = "$ "
suppress_warnings = ["myst.xref_missing"]  # links out of the site, into the repository; a test follows them
