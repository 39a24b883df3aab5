"""Tables are flagfiles of the batch, and what stands behind them overrides."""

from __future__ import annotations

import pathlib

import pytest
from absl import flags

from dsg_tf.batch import batch_flags
from dsg_tf.core import errors
from tools import paper, reproduce

_ROOT = pathlib.Path(__file__).absolute().parent.parent


def _values(*argv: str) -> flags.FlagValues:
    values = flags.FlagValues()
    reproduce.define(values)
    values(["", *argv])
    return values


def _asked(*argv: str) -> flags.FlagValues:
    """The batch that the tool would run."""
    asked = flags.FlagValues()
    batch_flags.define(asked)
    asked(["", *reproduce.batch_lines(_values(*argv))])
    return asked


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    monkeypatch.chdir(_ROOT)


class TestFlags:
    @pytest.mark.parametrize("number", paper.TABLES)
    def test_every_table_has_a_flagfile_with_its_widths(self, number):
        asked = _asked(f"--table={number}")
        widths = {f"W{w}A{a}" for w, a in paper.TABLES[number].top1}
        assert set(asked.bits) == widths
        assert asked.num_samples == ["256"]
        assert {"real", "zeroq", "dsg", "noise"} == set(asked.method)
        for model in asked.models:
            assert pathlib.Path(model).exists()
        batch_flags.check_axes(asked)

    def test_table_2_is_table_1_of_another_model(self):
        first, second = _asked("--table=1"), _asked("--table=2")
        assert first.models != second.models
        for name in ("bits", "method", "range_method", "bias_correction"):
            assert first[name].value == second[name].value

    def test_figures_take_samples_of_table_1(self):
        table, figure = _asked("--table=1"), _asked("--figure=1")
        for name in ("models", "num_samples", "recipe", "range_method"):
            assert table[name].value == figure[name].value
        assert figure.seed == ["0"]

    def test_what_is_given_overrides_the_flagfile(self):
        asked = _asked("--table=1", "--models=a.keras", "--seed=5", "--jobs=2")
        assert (asked.models, asked.seed) == (["a.keras"], ["5"])
        assert asked.jobs == 2
        assert asked.bits == ["W4A4", "W6A6", "W8A8"]

    @pytest.mark.parametrize(
        ("flag", "field", "weight"),
        [
            ("--labels", "label_weight", 1.0),
            ("--nolabels", "label_weight", 0.0),
            ("--image_prior", "prior_weight", 0.1),
            ("--noimage_prior", "prior_weight", 0.0),
        ],
    )
    def test_switches_are_weights_of_the_synthesis(self, flag, field, weight):
        asked = _asked("--table=4", flag)
        # The last one counts.
        last = [t for t in asked.synthesis if t.startswith(field)][-1]
        assert last == f"{field}={weight}"

    def test_without_switches_a_table_is_as_its_flagfile(self):
        # Every width on the same samples.
        assert _asked("--table=1").synthesis == ["tolerance=0"]

    @pytest.mark.parametrize("argv", [(), ("--table=1", "--figure=1")])
    def test_wants_a_table_or_a_figure(self, argv):
        with pytest.raises(errors.UserError, match="one of them"):
            reproduce.batch_lines(_values(*argv))
