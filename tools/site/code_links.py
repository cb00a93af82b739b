"""Names of the library in running text, such as `Contrastive(...)`, link to the API reference."""

from __future__ import annotations

import re
from collections import Counter

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode

NAME = re.compile(r"^(?:mc\.|metacontrast\.)?([A-Za-z_][\w.]*)(\(.*\))?$", re.DOTALL)
# Words of every program, which are names of the library as well.
PLAIN = {"stencil", "contrast", "check", "figure", "report", "net", "tag"}


def link(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Wraps each literal that names one public thing alone in a reference to it."""
    if docname.startswith("api/"):
        return
    objects = app.env.domaindata["py"]["objects"]
    for literal in list(doctree.findall(nodes.literal)):
        found = NAME.match(literal.astext())
        if found is None or isinstance(literal.parent, nodes.reference):
            continue
        target = unique(found[1], bool(found[2]), objects)
        if target is not None:
            entry = objects[target]
            assert app.builder is not None
            node = make_refnode(app.builder, docname, entry.docname, entry.node_id, [], target)
            literal.replace_self(node)
            node += literal


def unique(name: str, called: bool, objects: dict[str, object]) -> str | None:
    """The public thing of this name: at the top of the package, or the only one so called."""
    if name in PLAIN and not called:
        return None
    top = f"metacontrast.{name}"
    if top in objects:
        return top
    ends = [full for full in objects if full.endswith(f".{name}")]
    same = Counter(full.count(".") for full in ends)
    if not ends or same[min(same)] > 1:
        return None
    return min(ends, key=lambda full: full.count("."))


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls it."""
    app.connect("doctree-resolved", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
