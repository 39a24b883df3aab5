"""What a run leaves open is decided by its widths; what it says is kept."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from absl import flags

from dsg_tf.batch import batch_flags, batch_models, batch_points
from dsg_tf.command_line import quantize_flags
from dsg_tf.config import export_config, needs, run_config, synthesis_config

_COUNTS = ("num_samples", "batch_size", "steps", "tolerance", "most_steps")
_RECIPES = ("fast", "balanced", "best")
_WIDTHS = [*itertools.product((2, 4, 8), (4, 7, 8, 16, 32))]


def _exports(recipe, widths, **changes):
    """The export of a recipe and widths; skips what there is not."""
    weight_bits, activation_bits = widths
    return export_config.ExportConfig(
        recipe=recipe,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        **changes,
    )


def _counts(synthesis):
    return {name: getattr(synthesis, name) for name in _COUNTS}


def _amount(amount):
    values = dataclasses.asdict(amount)
    del values["verify_samples"]
    return values


def _complete(export=None, **given):
    synthesis = synthesis_config.SynthesisConfig.of(
        given.pop("method", "dsg"), **given
    )
    return needs.complete(
        run_config.PipelineConfig(
            synthesis=synthesis,
            export=export or export_config.ExportConfig(),
        )
    )


@pytest.mark.parametrize("widths", _WIDTHS, ids=str)
@pytest.mark.parametrize("recipe", _RECIPES)
class TestOfEveryRecipeAndWidth:
    def test_few_are_for_weights_of_8_bits_rounded_to_nearest(
        self, recipe, widths
    ):
        export = _exports(recipe, widths)
        # Eight bits that are not learned, and a file that holds integers.
        few = widths[0] == 8 and widths[1] >= 8 and recipe != "best"
        amount = needs.FEW if few else needs.FULL
        assert needs.of(export) is amount
        found = _complete(export)
        assert _counts(found.synthesis) == _amount(amount)
        assert found.verify_samples == amount.verify_samples
        assert found.export is export

    def test_a_second_time_changes_nothing(self, recipe, widths):
        found = _complete(_exports(recipe, widths))
        assert needs.complete(found) == found

    def test_a_tolerance_of_0_asks_for_the_full_amount(self, recipe, widths):
        found = _complete(_exports(recipe, widths), tolerance=0)
        assert _counts(found.synthesis) == _amount(needs.FULL)
        assert found.verify_samples == needs.FULL.verify_samples

    @pytest.mark.parametrize(
        "given",
        [
            {"num_samples": 5},
            {"batch_size": 3},
            {"most_steps": 77},
            {"most_steps": 7},
            {"tolerance": 0.25},
            {"num_samples": 1, "batch_size": 1, "tolerance": 2.5},
        ],
        ids=str,
    )
    def test_what_is_said_wins_and_the_rest_stays(self, recipe, widths, given):
        export = _exports(recipe, widths)
        found = _complete(export, **given)
        expected = _counts(_complete(export).synthesis) | given
        assert _counts(found.synthesis) == expected

    @pytest.mark.parametrize("steps", [0, 1, 40, 500])
    def test_who_says_how_many_steps_gets_so_many(self, recipe, widths, steps):
        export = _exports(recipe, widths)
        found = _complete(export, steps=steps)
        expected = _counts(_complete(export).synthesis) | {
            "steps": steps,
            "most_steps": steps,
            "tolerance": 0.0,
        }
        assert _counts(found.synthesis) == expected


def test_learned_rounding_asks_for_the_full_amount_at_8_bits():
    export = export_config.ExportConfig(
        recipe="fast", weight_rounding="adaround"
    )
    assert needs.of(export) is needs.FULL


def test_a_tolerance_beside_steps_is_kept():
    found = _complete(steps=10, tolerance=0.5, most_steps=90)
    assert _counts(found.synthesis) == {
        **_amount(needs.FEW),
        "steps": 10,
        "tolerance": 0.5,
        "most_steps": 90,
    }


@pytest.mark.parametrize(("method", "steps"), [("zeroq", 500), ("noise", 0)])
def test_other_methods_have_the_full_amount_and_steps_of_their_own(
    method, steps
):
    found = _complete(method=method)
    assert _counts(found.synthesis) == {
        **_amount(needs.FULL),
        "steps": steps,
        "most_steps": steps,
    }
    assert found.synthesis.method == method
    assert found.verify_samples == needs.FULL.verify_samples


def test_verify_samples_that_are_said_win():
    config = run_config.PipelineConfig(verify_samples=3)
    assert needs.complete(config).verify_samples == 3


def test_samples_of_the_user_s_own_hold_out_the_full_amount():
    config = run_config.PipelineConfig(samples="mine.npz")
    assert needs.complete(config).verify_samples == needs.FULL.verify_samples


def test_nothing_else_is_changed():
    synthesis = synthesis_config.SynthesisConfig(seed=7, jitter=0.5)
    config = run_config.PipelineConfig(
        synthesis=synthesis, input_range=(-1.0, 1.0), min_agreement=0.5
    )
    found = needs.complete(config)
    blank = dict.fromkeys(_COUNTS)
    assert (
        dataclasses.replace(
            found,
            synthesis=dataclasses.replace(found.synthesis, **blank),
            verify_samples=None,
        )
        == config
    )


_ARGUMENTS = [
    (),
    ("--weight_bits=4",),
    ("--activation_bits=4",),
    ("--recipe=best",),
    ("--method=zeroq",),
    ("--method=noise",),
    ("--samples=mine.npz",),
    ("--steps=40",),
    ("--num_samples=5", "--batch_size=2", "--verify_samples=3"),
    ("--synthesis=tolerance=0",),
    ("--synthesis=tolerance=0.5", "--weight_bits=4"),
    ("--synthesis=most_steps=60",),
    ("--synthesis=most_steps=60", "--steps=20", "--synthesis=tolerance=2"),
]


class TestLines:
    @pytest.mark.parametrize("arguments", _ARGUMENTS, ids=" ".join)
    def test_replayed_give_the_same_config(self, arguments):
        config = quantize_flags.parse(arguments)
        again = quantize_flags.parse([*arguments, *needs.lines(config)])
        assert needs.complete(again) == needs.complete(config)
        # With nothing left open, by whatever other code completes it.
        assert None not in _counts(again.synthesis).values()
        assert again.verify_samples is not None

    @pytest.mark.parametrize("arguments", _ARGUMENTS, ids=" ".join)
    def test_say_nothing_that_the_flags_say(self, arguments):
        names = {argument.rpartition("=")[0] for argument in arguments}
        lines = needs.lines(quantize_flags.parse(arguments))
        assert names.isdisjoint(line.rpartition("=")[0] for line in lines)

    def test_of_a_complete_config_are_none(self):
        assert needs.lines(_complete()) == []

    @pytest.mark.parametrize("arguments", _ARGUMENTS, ids=" ".join)
    def test_decide_the_samples_without_the_widths(self, arguments):
        """The command that makes samples knows no widths."""
        config = quantize_flags.parse(arguments)
        of_widths = {"--weight_bits", "--activation_bits", "--recipe"}
        own = [a for a in arguments if a.rpartition("=")[0] not in of_widths]
        again = quantize_flags.parse([*own, *needs.lines(config)])
        wanted = needs.complete(config)
        assert needs.complete(again).synthesis == wanted.synthesis
        assert needs.complete(again).verify_samples == wanted.verify_samples


class TestOfABatch:
    def _points(self, *arguments):
        values = flags.FlagValues()
        batch_flags.define(values)
        values(["", *arguments])
        return batch_points.points(batch_models.Model("net", "net", values))

    def test_each_width_has_what_it_needs(self):
        points = self._points("--bits=w8a8,w4a8,w4a4,w8a4")
        found = [_counts(point.config.synthesis) for point in points]
        few, full = _amount(needs.FEW), _amount(needs.FULL)
        assert found == [few, full, full, full]

    def test_its_lines_say_it_all(self):
        for point in self._points("--bits=w8a8,w4a8"):
            config = quantize_flags.parse(point.lines)
            assert needs.complete(config) == config == point.config

    def test_what_the_batch_says_holds_for_every_width(self):
        points = self._points(
            "--bits=w8a8,w4a8", "--num_samples=12", "--steps=7"
        )
        for point in points:
            synthesis = point.config.synthesis
            assert (synthesis.num_samples, synthesis.steps) == (12, 7)
            assert synthesis.tolerance == 0


def test_one_scale_a_layer_asks_for_some_and_learned_rounding_for_all():
    export = export_config.ExportConfig(granularity="tensor")
    assert needs.of(export) is needs.SOME
    assert needs.FEW.num_samples < needs.SOME.num_samples
    learned = export_config.ExportConfig(granularity="tensor", weight_bits=4)
    assert needs.of(learned) is needs.FULL
