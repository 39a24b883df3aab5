"""Reports and evaluations become the numbers of a table."""

from __future__ import annotations

from dsg_tf.batch import run_metrics


def test_report_gives_the_worst_output_and_the_seconds_by_stage():
    report = {
        "outputs": {
            "a": {"sqnr_db": 30.0},
            "b": {"sqnr_db": 12.5},
            "c": {"sqnr_db": None},
        },
        "verdict": {"doubts": ["a", "b"], "low_sqnr": ["b"], "sqnr_db": 9.5},
        "agreement": 0.9,
        "size_bytes": {"float": 400, "integer": 100},
        "seconds": {"load": 1.0, "export": 2.0, "total": 3.0},
    }
    assert run_metrics.of_report(report) == {
        "agreement": 0.9,
        "sqnr_db": 12.5,
        "sqnr_mean_db": 9.5,
        "doubts": 2,
        "doubt_texts": ["a", "b"],
        "low_sqnr": ["b"],
        "size_bytes": 100,
        "seconds": 3.0,
        "stage_seconds": {"load": 1.0, "export": 2.0},
    }


def test_infinite_noise_is_no_number_and_old_reports_have_no_verdict():
    report = {
        "outputs": {
            "a": {"sqnr_db": 30.0, "finite": True},
            "b": {"sqnr_db": None, "finite": False},
        },
        "agreement": 0.9,
        "size_bytes": {"float": 400, "integer": 100},
        "seconds": {},
    }
    found = run_metrics.of_report(report)
    assert found["sqnr_db"] is None
    assert (found["doubts"], found["sqnr_mean_db"]) == (0, None)


def _evaluation(classes: list[int], percent: float) -> dict:
    return {
        "classes": classes,
        "top1_percent": percent,
        "standard_error_percent": 1.5,
    }


def test_evaluation_is_compared_with_the_float_model_image_by_image():
    ours, floats = _evaluation([1, 2, 3, 3], 50), _evaluation([1, 2, 3, 4], 75)
    assert run_metrics.of_evaluation(ours, floats) == {
        "top1_percent": 50,
        "top1_standard_error_percent": 1.5,
        "float_top1_percent": 75,
        "same_class_percent": 75.0,
    }
    assert "same_class_percent" not in run_metrics.of_evaluation(floats, None)


def test_file_that_is_not_whole_is_none(tmp_path):
    file = tmp_path / "report.json"
    assert run_metrics.read(file) is None
    file.write_text('{"a": ')
    assert run_metrics.read(file) is None
    file.write_text('{"a": 1}')
    assert run_metrics.read(file) == {"a": 1}
