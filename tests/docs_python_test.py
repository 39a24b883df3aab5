"""Python in the documentation runs as it stands, in a folder with a model."""

from __future__ import annotations

import pathlib
import re
import shutil

import pytest

_ROOT = pathlib.Path(__file__).absolute().parent.parent
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


def _blocks() -> list[tuple[str, str]]:
    """Page with number, and the code, of every block."""
    pages = [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("**/*.md"))]
    return [
        (f"{page.name}-{number}", code)
        for page in pages
        for number, code in enumerate(
            _BLOCK.findall(page.read_text(encoding="utf-8"))
        )
    ]


_RUN = [(name, code) for name, code in _blocks() if "../shared" not in code]


def test_there_are_blocks_to_run():
    assert len(_RUN) >= 4


@pytest.mark.parametrize(
    "code", [code for _, code in _RUN], ids=[name for name, _ in _RUN]
)
def test_block_runs(code, tmp_path, monkeypatch):
    shutil.copytree(_ROOT / "examples" / "digits_saved_model", tmp_path / "net")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "block", "exec"), {"__name__": "block"})


@pytest.mark.parametrize(
    "code", [code for _, code in _blocks() if "../shared" in code]
)
def test_block_on_shared_data_runs(code, shared, tmp_path, monkeypatch):
    place = tmp_path / "checkout"
    place.mkdir()
    (tmp_path / "shared").symlink_to(shared)
    monkeypatch.chdir(place)
    exec(compile(code, "block", "exec"), {"__name__": "block"})
