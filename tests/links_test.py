"""Links between the pages lead somewhere, and every figure is on a page."""

from __future__ import annotations

import os
import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).absolute().parent.parent
_PAGES = sorted([*_ROOT.glob("*.md"), *_ROOT.glob("docs/**/*.md")])
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def _links(page: pathlib.Path) -> list[str]:
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    return [link for link in _LINK.findall(text) if "://" not in link]


def _target(page: pathlib.Path, link: str) -> pathlib.Path:
    return pathlib.Path(os.path.normpath(page.parent / link))


def _anchors(page: pathlib.Path) -> set[str]:
    """What headings are called in links: words in lower case, with hyphens."""
    headings = re.findall(
        r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE
    )
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for link in _links(page):
        name, _, anchor = link.partition("#")
        target = _target(page, name) if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target), link


def test_every_figure_is_on_a_page():
    shown = {_target(page, link) for page in _PAGES for link in _links(page)}
    figures = set((_ROOT / "docs" / "figures").iterdir())
    assert figures
    assert figures <= shown
