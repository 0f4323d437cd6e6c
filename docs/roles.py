"""Docstrings name code in the way of Sphinx; the site shows it as code without the role."""

from __future__ import annotations

import re
from typing import Any

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):(<code>)")


def on_page_content(html: str, **_: Any) -> str:
    """Takes the roles out of a page; called by MkDocs."""
    return ROLE.sub(r"\1", html)
