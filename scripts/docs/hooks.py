"""What the site adds to the pages of docs/: a page for each file outside docs/ that one of them links to, and the changelog.

Pages link to code as `../testbed/planners/base.py`, which is right in a checkout. In the site that file becomes a page,
`source/testbed/planners/base.py.html`, so that no link leads out of the site. A link to nothing fails the build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent.parent
CHANGELOG = "changelog.md"
_LINK = re.compile(r"\]\((?P<target>(?:\.\./)[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
_LANGUAGES = {".py": "python", ".toml": "toml", ".sh": "bash", ".h": "c"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every file that a page of docs/ links to."""
    linked = {
        path
        for file in files.documentation_pages()
        for found in _LINK.finditer(file.content_string)
        if (path := _outside(file.src_uri, found["target"])) is not None
    }
    for path in sorted(linked):
        files.append(File.generated(config, f"source/{path}.md", content=_shown(path)))
    files.append(File.generated(config, CHANGELOG, content=(ROOT / "CHANGELOG.md").read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links out of docs/ to those pages."""

    def redirected(found: re.Match[str]) -> str:
        path = _outside(page.file.src_uri, found["target"])
        if path is None:
            return found[0]
        return f"]({posixpath.relpath(f'source/{path}.md', posixpath.dirname(page.file.src_uri) or '.')})"

    return _LINK.sub(redirected, markdown)


def _outside(page: str, target: str) -> str | None:
    """Path below the project's root of a file outside docs/ that a link means; None for pages of docs/ and what is not there."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.startswith(("docs/", "../")) or not (ROOT / path).is_file() else path


def _shown(path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    language = _LANGUAGES.get(posixpath.splitext(path)[1], "text")
    head = f"---\ntitle: {path}\nsearch:\n  exclude: true\nhide: [toc]\n---\n\n# {path}\n\n"
    return f'{head}```` {{.{language} linenums="1"}}\n{text}````\n'
