"""The report is strict JSON, and its last lines say what to do."""

from __future__ import annotations

import dataclasses
import json
import math
import types

import pytest

import dsg_tf
from dsg_tf.config import export_config, run_config, synthesis_config
from dsg_tf.diversity import diversity
from dsg_tf.export import export_result, writers
from dsg_tf.fidelity import verify
from dsg_tf.quant import qtypes
from dsg_tf.report import run_report, terminal
from dsg_tf.transforms import pass_report


def _fidelity(**changes) -> verify.Fidelity:
    fields = {
        "sqnr_db": 30.0,
        "cosine": 0.99,
        "top1_agreement": 0.9,
        "max_abs_error": 0.1,
        "kind": "logits",
        "agreement": 0.9,
        "sqnr_mean_db": 29.0,
        "samples": 16,
    }
    return verify.Fidelity(**{**fields, **changes})


def _report(*, float_operations=(), layers=None, **fields):
    """A report with the given fields, and fields of its verdict."""
    if layers is None:
        layers = [
            {"layer": name, "op": "CONV_2D", "sqnr_db": 20.0, "cosine": 0.99}
            for name in ("worst", "b", "c", "d", "e", "best")
        ]
    built = _build(
        written=export_result.ExportResult(
            b"ints",
            1200,
            bytes(4000),
            float_ops=tuple((op, tensor) for op, tensor, _ in float_operations),
            float_reasons={t: reason for _, t, reason in float_operations},
        ),
        prepared=types.SimpleNamespace(reports=(), untreated=()),
        outputs={
            "scores": _fidelity(),
            "boxes[0]": _fidelity(
                kind="values",
                top1_agreement=None,
                agreement=0.5,
                sqnr_mean_db=math.inf,
                worst_channel=3,
                worst_channel_db=12.25,
                median_channel_db=20.0,
            ),
        },
        seconds={"load": 2.3, "samples": 10.0},
    )
    verdict = {"doubts": (), "notes": (), "missed": ()} | fields
    output = verdict.pop("output", built.output)
    return dataclasses.replace(
        built,
        output=output,
        layers=tuple(layers),
        verdict=dataclasses.replace(built.verdict, **verdict),
    )


def test_summary_names_files_sizes_and_time():
    first, second, *rest = terminal.summary(_report())
    assert first == "net.tflite: 1 kB (float 4 kB), 12 s"
    assert "net.tflite.run/" in second
    assert rest == []


def test_summary_lists_what_stays_float_once_and_sorted():
    lines = terminal.summary(
        _report(
            float_operations=[
                ("SIN", "s", ""),
                ("ERF", "t", "ERF: no integer form"),
                ("SIN", "u", "ERF: no integer form"),
            ]
        )
    )
    assert lines[-2:] == [
        "still float (3): ERF, SIN",
        "float because of ERF: no integer form",
    ]


def test_summary_below_the_threshold_names_the_worst_layer():
    missed = "agreement 0.5 is below 0.8"
    *_, line, command = terminal.summary(
        _report(passed=False, missed=(missed,))
    )
    assert line == f"{missed}; look at layer worst first"
    assert command.startswith("next to try: python -m dsg_tf.quantize")
    assert command.endswith(" --activation_bits=16")
    assert "look at" not in " ".join(terminal.summary(_report()))


def test_doubts_are_told_first_and_last_and_notes_after_them(capsys):
    doubts = tuple(f"[d] {k}" for k in range(7))
    terminal.show(_report(passed=False, doubts=doubts, notes=("one class",)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [f"doubtful: [d] {k}" for k in range(5)]
    assert lines[5] == "doubtful: 2 more (report.json)"
    assert lines[6] == "note: one class"
    assert "Against the float model" in lines[7]
    last = " ".join(lines[-3:])
    assert "doubtful, as said on top; look at layer worst first" in last
    assert "next to try: " in last


def test_screen_shows_outputs_and_the_worst_layers(capsys):
    terminal.show(_report())
    shown = capsys.readouterr().out
    for word in ("scores", "boxes[0]", "90.0 %", "29.0", "worst", "CONV_2D"):
        assert word in shown
    # Each output by what it is judged, and where it is worst.
    for word in ("top-1", "variance", "50.0 %", "3: 12.2 dB"):
        assert word in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "best" not in shown  # The sixth layer of five.


def test_screen_does_without_layers(capsys):
    terminal.show(_report(layers=[]))
    assert "Worst layers" not in capsys.readouterr().out


def test_screen_keeps_lines_whole_and_brackets_as_they_are(capsys):
    terminal.show(_report(output="[bold]" + "x" * 200))
    assert "[bold]" + "x" * 200 + ": 1 kB" in capsys.readouterr().out


_PASS = pass_report.PassReport(
    "bias_absorption",
    (
        pass_report.Row("a", True, measured={"relative_change": 0.01}),
        pass_report.Row("b", False, "no bias"),
    ),
)
_RANGES = {
    "alone": (qtypes.TensorRange(0, 1), None),
    "alike": (qtypes.TensorRange(0, 1), qtypes.TensorRange(0, 1.9)),
    "apart": (qtypes.TensorRange(-1, 1), qtypes.TensorRange(-0.4, 0.5)),
}


class _Source:
    """What `report.build` reads of a model."""

    fingerprint = "f" * 8
    domains: dict = {}  # noqa: RUF012
    layers = (1, 2)
    head = None
    graph = types.SimpleNamespace(outputs=("a",))


def _build(**changes):
    fields = {
        "source": _Source(),
        "config": run_config.PipelineConfig(min_agreement=0.5),
        "model": "folder/net",
        "output": "net.tflite",
        "samples": run_report.SampleCounts(64, 16),
        "sample_metadata": {"edges": {"fill": "black"}},
        "diverse": diversity.Diversity(64, 0, ()),
        "prepared": types.SimpleNamespace(
            reports=(_PASS,), untreated=(("mix", "Einsum"),)
        ),
        "written": export_result.ExportResult(
            b"ints",
            4,
            b"0123456789",
            float_ops=(("SIN", "a/Sin"),),
            ranges=_RANGES,
            unmatched=("scaled",),
        ),
        "outputs": {"a": _fidelity(), "b": _fidelity(agreement=0.6)},
        "layers": [],
        "measurements": writers.FileMeasurements({}, ()),
        "seconds": {"load": 1.25, "samples": 2.5},
    }
    return run_report.build(**{**fields, **changes})


def test_report_holds_the_version_and_the_whole_config():
    built = json.loads(_build().to_json())
    assert built["dsg_tf"] == dsg_tf.__version__
    assert built["config"] == json.loads(
        run_config.to_json(run_config.PipelineConfig(min_agreement=0.5))
    ) | {
        "input_range": None,
        "tags": [],
        "input_names": [],
        "output_names": [],
        "input_shapes": [],
    }
    assert built["float_operations"] == [
        {"operation": "SIN", "tensor": "a/Sin", "reason": ""}
    ]
    assert built["seconds"]["total"] == 3.75


def test_report_holds_the_rows_of_the_passes_and_what_they_cannot_treat():
    built = _build()
    (rows,) = [p["rows"] for p in built.to_dict()["passes"]]
    assert rows == [
        {"layer": "a", "applied": True, "reason": "", "relative_change": 0.01},
        {"layer": "b", "applied": False, "reason": "no bias"},
    ]
    names = [row.layer for row in built.untreated_layers]
    assert names == ["mix", "scaled"]
    (line,) = [t for t in terminal.summary(built) if "mix, scaled" in t]
    assert "rounded to nearest" in line


def test_diversity_is_reported_whole_and_in_one_line():
    row = diversity.LayerDiversity("bn", 4, 1, 0.5, 0.25, 0.1, None, 0.125)
    built = _build(diverse=diversity.Diversity(64, 32, (row,)))
    plain = json.loads(built.to_json())
    assert plain["diversity"]["samples"] == 64
    assert plain["diversity"]["real_samples"] == 32
    assert plain["edges"] == {"fill": "black"}
    assert plain["diversity"]["layers"] == [dataclasses.asdict(row)]
    assert plain["diversity"]["median"]["mean_dispersion"] == 0.5
    assert plain["diversity"]["median"]["mean_coverage"] is None
    (line,) = [t for t in terminal.summary(built) if "diversity" in t]
    assert "0.50 sigma" in line
    assert "0.12" in line


def test_without_batch_norm_there_is_no_diversity():
    built = _build()
    assert built.diversity is None
    assert "diversity" not in " ".join(terminal.summary(built))


def test_ranges_that_differ_by_more_than_a_factor_of_2_are_flagged():
    built = _build()
    assert built.ranges["alone"].to_dict() == {"samples": [0, 1]}
    flags = {t: row.disagree for t, row in built.ranges.items()}
    assert flags == {"alone": None, "alike": False, "apart": True}
    assert "in 1 of 3 tensors" in " ".join(terminal.summary(built))


def test_a_simulation_says_why_it_is_no_tflite():
    settings = run_config.PipelineConfig(
        export=export_config.ExportConfig(activation_bits=4)
    )
    built = _build(config=settings, written=export_result.ExportResult(b"", 4))
    assert "8 and 16 bits only" in " ".join(terminal.summary(built))
    assert built.size_bytes == run_report.SizeBytes(None, 4)


def test_least_output_decides():
    built = _build()
    assert built.agreement == 0.6
    assert built.passed
    worse = _build(outputs={"a": _fidelity(agreement=0.4)})
    assert not worse.passed
    assert _build(outputs={"a": _fidelity(agreement=0.5)}).passed


def test_verdict_survives_what_json_has_no_number_for():
    dead = _fidelity(sqnr_db=-math.inf, sqnr_mean_db=-math.inf, finite=False)
    built = json.loads(_build(outputs={"a": dead}).to_json())
    assert not built["passed"]
    assert not built["verdict"]["passed"]
    assert built["verdict"]["doubts"] == ["output 'a' has NaN or infinity"]
    assert built["verdict"]["sqnr_db"] is None


def test_live_model_is_named_by_its_type():
    assert _build(model=object()).model == "object"


@pytest.mark.parametrize(
    ("settings", "head", "cover"),
    [
        (run_config.PipelineConfig(), 7, "labels of 7 classes"),
        (run_config.PipelineConfig(), None, "output spread"),
        (run_config.PipelineConfig(samples="a.npz"), 7, "the user's samples"),
        (
            run_config.PipelineConfig(
                synthesis=synthesis_config.SynthesisConfig.of("noise")
            ),
            7,
            "none: noise",
        ),
        (
            run_config.PipelineConfig(
                synthesis=synthesis_config.SynthesisConfig.of("zeroq")
            ),
            7,
            "none",
        ),
        (
            run_config.PipelineConfig(
                synthesis=synthesis_config.SynthesisConfig(spread_weight=0)
            ),
            None,
            "none",
        ),
    ],
)
def test_report_says_how_tensors_behind_the_last_bn_were_covered(
    settings, head, cover
):
    class Head:
        num_classes = head

    source = _Source()
    source.head = Head() if head else None
    made_with = dataclasses.asdict(settings.synthesis)
    metadata = {} if settings.samples else {"synthesis": made_with}
    built = _build(source=source, config=settings, sample_metadata=metadata)
    assert built.cover_behind_last_batch_norm == cover


def _round(**changes):
    row = {"steps": 25, "settled": True, "bits_off": 0.5, "label_share": 0.25}
    return row | changes


class TestRounds:
    def _line(self, rounds):
        built = _build(sample_metadata={"rounds": rounds})
        found = [
            x for x in terminal.summary(built) if x.startswith("samples: ")
        ]
        return found[0] if found else None

    def test_the_summary_says_why_there_were_no_more_steps(self):
        line = self._line({"0": _round(), "1": _round(steps=75)})
        assert line == (
            "samples: settled after 25, 75 steps (ranges within 0.5 bits of"
            " BatchNorm's, 25 % of the labels' cross-entropy left)"
        )

    def test_a_batch_that_never_settled_is_told(self):
        line = self._line({"0": _round(settled=False, bits_off=None)})
        assert line.startswith("samples: not settled after 25 steps")
        assert "within inf bits" in line

    def test_nothing_is_said_where_nobody_asked(self):
        assert self._line({"0": _round(settled=None)}) is None
        assert self._line(None) is None
