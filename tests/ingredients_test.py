"""The rows of the ablation are what their titles say."""

from __future__ import annotations

import dataclasses
import itertools

from benchmarks import ingredients
from dsg_tf.config import synthesis_config

_COUNTS = {"num_samples": 32, "steps": 20}


def _rows(study):
    return ingredients.variants(study, **_COUNTS)


def _differences(one, other) -> set[str]:
    pairs = zip(
        dataclasses.asdict(one).items(),
        dataclasses.asdict(other).values(),
        strict=True,
    )
    return {name for (name, value), wanted in pairs if value != wanted}


def test_the_ladder_leads_from_zeroq_to_the_default():
    rows = _rows("ladder")
    of = synthesis_config.SynthesisConfig.of
    assert rows["ZeroQ"] == of("zeroq", **_COUNTS)
    (last,) = (row for title, row in rows.items() if "the default" in title)
    assert last == of("dsg", **_COUNTS)


def test_every_rung_changes_something():
    rungs = list(_rows("ladder").values())
    for one, other in itertools.pairwise(rungs):
        assert _differences(one, other)


def test_without_leaves_out_one_ingredient_at_a_time():
    rows = _rows("without")
    default = rows.pop("default")
    assert default == synthesis_config.SynthesisConfig.of("dsg", **_COUNTS)
    for title in ("zeroq", "noise of the domain", "no bias correction"):
        del rows[title]
    # Without a domain there are no bounds either, and one of the two kinds of
    # moments is needed in full.
    together = ("no domain", "no batch moments")
    for title, row in rows.items():
        changed = _differences(row, default)
        assert len(changed) == (2 if title in together else 1), title
    assert rows["half the steps"].steps == 10
    assert rows["twice the samples"].num_samples == 64


def test_slack_has_every_source_at_every_percentile():
    rows = _rows("slack")
    found = {(r.slack_source, r.slack_percentile) for r in rows.values()}
    for source in synthesis_config.SLACK_SOURCES:
        assert {p for s, p in found if s == source} >= {0.5, 0.9, 0.99}
    assert rows["none"].slack_percentile == 0
