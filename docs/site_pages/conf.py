"""Sphinx's settings; docs/build.py says what is built."""

from pathlib import Path

from plotly.offline import get_plotlyjs

project = "elide"
author = "the elide authors"
copyright = "Apache-2.0"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"
myst_heading_anchors = 4
myst_enable_extensions = ["smartquotes"]
nitpicky = True
suppress_warnings = ["myst.header"]  # a notebook may begin below its first level
html_theme = "furo"
html_title = "elide"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}


def write_plotly(app, _):
    """Put the drawing library beside the pages that have figures."""
    target = Path(app.outdir) / "_static" / "plotly.min.js"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(get_plotlyjs(), encoding="utf-8")


def with_figures(app, pagename, templatename, context, doctree):
    """Load the drawing library where there is something to draw."""
    if pagename.startswith("notebooks/"):
        app.add_js_file("plotly.min.js")
        app.add_js_file("figures.js")


def setup(app):
    """Hook in."""
    app.connect("html-page-context", with_figures)
    app.connect("build-finished", write_plotly)
