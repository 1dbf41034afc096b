"""How Sphinx builds these pages into a site: `make docs`."""

project = "Tailorbird"
copyright = "Tailorbird's authors, Apache-2.0"  # noqa: A001
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "Tailorbird"
html_show_sphinx = False
myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]
nitpicky = True
suppress_warnings = ["misc.highlighting_failure"]
