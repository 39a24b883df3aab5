"""docs/reference/options.md is what the configs declare."""

from __future__ import annotations

from tools import reference


def test_the_page_is_current():
    wanted = reference.text()
    assert reference.PAGE.read_text(encoding="utf-8") == wanted, (
        "python -m tools.reference writes it anew"
    )


def test_every_field_is_on_it_with_what_it_takes():
    page = reference.text()
    for line in (
        "| `weight_bits` | `--weight_bits` | `8` | 2, 3, 4, 5, 6, 7, 8 |",
        "| `jitter` | `--synthesis=jitter` | `0.125` | number, 0 to 1 |",
        "| `learning_rate` | `--synthesis=learning_rate` | `0.1` | number > 0",
        "| `input_shapes` | `--input_shape` |  |  | Shape of one sample",
        "| `resume` | `--resume` | `True` | true, false |",
    ):
        assert line in page
