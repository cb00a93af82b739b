"""The site: `make site` builds it from docs/ into build/site, and a warning ends it."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))  # the extensions beside this file

project = "metacontrast"
author = copyright = "The metacontrast developers"
version = release = (ROOT / "src/metacontrast/_version.py").read_text().split('"')[-2]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "public_names",
    "code_links",
    "docstrings",
]
exclude_patterns = ["api/README.md"]
suppress_warnings = ["config.cache"]

# Pages are read on GitHub too, so that only plain Markdown is asked for outside the tutorials.
myst_enable_extensions = ["colon_fence", "attrs_block"]
myst_heading_anchors = 3
myst_update_mathjax = False

# The tutorials run as the site is built; an error in one ends it.
nb_execution_mode = "force"
nb_execution_in_temp = True  # tutorials write files
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_execution_show_tb = True

# Docstrings are Google's, with Markdown's backticks: `Contrastive` is a link where it is a name.
default_role = "py:obj"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_rtype, napoleon_use_ivar = False, True
napoleon_preprocess_types = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90

html_theme = "furo"
html_title = f"metacontrast {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#1f5fa8", "color-brand-content": "#1f5fa8"},
    "dark_css_variables": {"color-brand-primary": "#8ab8ee", "color-brand-content": "#8ab8ee"},
}
