"""What runs, in which order, and what the record says of it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging as python_logging
import os
import pathlib

import pytest
from absl import logging

from dsg_tf.batch import run_record, runner, schedule
from dsg_tf.core import files, progress

_EVALUATION = {"classes": [1], "top1_percent": 1, "standard_error_percent": 0}
_REPORT = {
    "outputs": {},
    "agreement": 0.5,
    "size_bytes": {"integer": 3},
    "seconds": {"total": 1},
}


def _write_results(folder: pathlib.Path) -> None:
    """Whatever a run of any kind writes; each time other files."""
    run_folder = folder / "model.tflite.run"
    run_folder.mkdir(exist_ok=True)
    for file, content in (
        (folder / "model.tflite", b"net"),
        (run_folder / "report.json", json.dumps(_REPORT).encode()),
        (folder / "evaluation.json", json.dumps(_EVALUATION).encode()),
    ):
        files.write_atomically(file, content)


class _Workers:
    """A runner in which what started last ends first, when collected."""

    def __init__(
        self, jobs: int = 1, *, broken=(), idle=(), act=lambda task: None
    ):
        self._jobs, self._act = jobs, act
        # Which of them fail, and which end well and have done nothing.
        self._broken, self._idle = set(broken), set(idle)
        self._tasks: list[runner.Task] = []
        self.order: list[str] = []
        self.most = 0
        self.stopped = False

    def free(self) -> int:
        return self._jobs - len(self._tasks)

    def submit(self, task: runner.Task) -> None:
        assert self.free() > 0
        self._tasks.append(task)
        self.most = max(self.most, len(self._tasks))

    def collect(self, timeout_s: float) -> list[runner.Outcome]:
        del timeout_s
        if not self._tasks:
            return []
        task = self._tasks.pop()
        if task.key not in self._broken | self._idle:
            _write_results(pathlib.Path(task.log).parent)
        self._act(task)
        self.order.append(task.key)
        error = "it broke" if task.key in self._broken else None
        return [runner.Outcome(task.key, error, 2.0, 1 << 20, {"host": "far"})]

    def stop(self) -> None:
        self.stopped = True


def _run(key: str, *needs: str, kind: str = "quantize", **fields):
    return schedule.Run(
        key,
        kind,
        folder=f"net/{key}",
        config={},
        artifact=f"net/{key}/model.tflite",
        commands=[("module", "--flag")],
        needs=needs,
        **fields,
    )


def _drive(
    folder, workers, runs
) -> tuple[list[str], dict[str, run_record.Row]]:
    record = run_record.RunRecord(folder)
    failed = schedule.Driver(folder, record, workers).drive(runs)
    return [run.key for run in failed], {row.key: row for row in record.rows()}


def test_runs_wait_for_what_they_need(tmp_path):
    workers = _Workers(jobs=3)
    samples = _run("s", kind="samples")
    failed, rows = _drive(
        tmp_path, workers, [samples, _run("a", "s"), _run("b", "s"), _run("c")]
    )
    assert failed == []
    assert workers.order.index("s") < workers.order.index("a")
    assert sorted(workers.order) == ["a", "b", "c", "s"]
    assert workers.most == 2  # s and c, then a and b.
    assert {row.status for row in rows.values()} == {"done"}
    assert rows["a"].host == "far"
    assert rows["a"].metrics["peak_bytes"] == 1 << 20
    assert rows["a"].metrics["seconds"] == 2.0


def test_failure_stops_only_what_needs_it(tmp_path):
    workers = _Workers(broken=["s"])
    failed, rows = _drive(
        tmp_path,
        workers,
        [_run("s", kind="samples"), _run("a", "s"), _run("b")],
    )
    assert failed == ["s", "a"]
    assert workers.order == ["s", "b"]
    status = {key: row.status for key, row in rows.items()}
    assert status == {"s": "failed", "a": "failed", "b": "done"}
    assert rows["a"].error == "net/s: it broke"


def test_row_is_running_while_its_run_runs(tmp_path):
    seen = []

    def look(task):
        del task
        rows = run_record.RunRecord(tmp_path, create=False).rows()
        seen.append([(row.key, row.status) for row in rows])

    _drive(tmp_path, _Workers(act=look), [_run("a"), _run("b")])
    assert seen == [
        [("a", "running")],
        [("a", "done"), ("b", "running")],
    ]


def test_interrupt_leaves_the_rows_of_what_was_done(tmp_path):
    def interrupt(task):
        if task.key == "b":
            raise KeyboardInterrupt

    workers = _Workers(act=interrupt)
    record = run_record.RunRecord(tmp_path)
    driver = schedule.Driver(tmp_path, record, workers)
    with pytest.raises(KeyboardInterrupt):
        driver.drive([_run("a"), _run("b"), _run("c")])
    assert [(row.key, row.status) for row in record.rows()] == [("a", "done")]
    assert workers.stopped


def test_flagfile_is_there_before_the_run(tmp_path):
    seen = []

    def look(task):
        del task
        seen.append((tmp_path / "net/a/run.flags").read_text())

    run = _run("a", flagfile="--seed=1\n")
    for _ in range(2):  # The second time it is there already.
        _drive(tmp_path, _Workers(act=look, idle=["a"]), [run])
    assert seen == ["--seed=1\n"] * 2


def _evaluation(key: str, *needs: str, kind: str = "evaluate", floats=""):
    run = _run(key, *needs, kind=kind, floats=floats)
    return dataclasses.replace(run, artifact=f"net/{key}/evaluation.json")


def test_metrics_are_those_of_this_run_not_of_one_before(tmp_path):
    folder = tmp_path / "net/a"
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(json.dumps(_EVALUATION))
    _, rows = _drive(tmp_path, _Workers(idle=["a"]), [_evaluation("a")])
    assert "top1_percent" not in rows["a"].metrics
    assert rows["a"].status == "failed"


@pytest.mark.parametrize("kind", ["quantize", "samples", "evaluate", "float"])
def test_exit_code_0_without_a_file_is_no_success(tmp_path, kind):
    run = _run("a", kind=kind)
    failed, rows = _drive(tmp_path, _Workers(idle=["a"]), [run])
    assert failed == ["a"]
    assert rows["a"].status == "failed"
    assert rows["a"].error == "it ended without net/a/model.tflite"


def test_files_of_a_run_before_are_no_success(tmp_path):
    assert _drive(tmp_path, _Workers(), [_run("a")])[0] == []
    failed, rows = _drive(tmp_path, _Workers(idle=["a"]), [_run("a")])
    assert failed == ["a"]
    assert rows["a"].error == "it ended without a new report.json"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", '{"agreement": 1}', "[" * 100_000, '{"outputs": {"a": 1}}'],
)
def test_report_that_is_not_whole_fails_its_run_alone(tmp_path, text):
    def spoil(task):
        if task.key == "a":
            path = tmp_path / "net/a/model.tflite.run/report.json"
            path.write_text(text)

    failed, rows = _drive(tmp_path, _Workers(act=spoil), [_run("a"), _run("b")])
    assert failed == ["a"]
    assert "without a whole report.json" in rows["a"].error
    assert rows["b"].status == "done"


def test_evaluations_of_other_images_fail_alone(tmp_path):
    def write(task):
        if task.key == "e":
            file = tmp_path / "net/e/evaluation.json"
            file.write_text(json.dumps({**_EVALUATION, "classes": [1, 2]}))

    floats = _evaluation("f", kind="float")
    evaluation = _evaluation("e", "f", floats=floats.folder)
    failed, rows = _drive(tmp_path, _Workers(act=write), [floats, evaluation])
    assert failed == ["e"]
    assert "without a whole evaluation.json" in rows["e"].error


def test_run_whose_folder_is_a_file_fails_alone(tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net/a").write_text("somebody's")
    failed, rows = _drive(tmp_path, _Workers(), [_run("a"), _run("b", "a")])
    assert failed == ["a", "b"]
    assert "net/a: " in rows["a"].error
    assert "net/a: " in rows["b"].error
    assert (tmp_path / "net/a").read_text() == "somebody's"


def test_full_disk_ends_the_batch(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_atomically", full)
    workers = _Workers()
    with pytest.raises(OSError, match="No space"):
        _drive(tmp_path, workers, [_run("a", flagfile="--seed=1")])
    assert workers.stopped


def test_evaluation_is_compared_with_the_float_models(tmp_path):
    def write(task):
        if task.key in ("f", "e"):
            file = tmp_path / "net" / task.key / "evaluation.json"
            found = {**_EVALUATION, "top1_percent": {"f": 3, "e": 2}[task.key]}
            file.write_text(json.dumps(found))

    floats = _evaluation("f", kind="float")
    evaluation = _evaluation("e", "a", "f", floats=floats.folder)
    _, rows = _drive(
        tmp_path, _Workers(act=write), [floats, _run("a"), evaluation]
    )
    assert "top1_percent" not in rows["a"].metrics
    assert rows["f"].metrics["top1_percent"] == 3
    assert rows["e"].metrics["top1_percent"] == 2
    assert rows["e"].metrics["float_top1_percent"] == 3
    assert rows["e"].metrics["same_class_percent"] == 100


def test_failing_evaluation_leaves_the_model_done_and_is_run_again(tmp_path):
    runs = [
        _evaluation("f", kind="float"),
        _run("a"),
        _evaluation("e", "a", "f", floats="net/f"),
    ]
    failed, rows = _drive(tmp_path, _Workers(broken=["e"]), runs)
    assert failed == ["e"]
    assert {key: row.status for key, row in rows.items()} == {
        "f": "done",
        "a": "done",
        "e": "failed",
    }
    for rerun_failed, todo in ((False, []), (True, ["e"])):
        planned = schedule.plan(
            runs, rows, rerun_failed=rerun_failed, exists=lambda path: True
        )
        assert [run.key for run in planned.todo] == todo


def test_every_step_moves_the_bar_once(tmp_path, monkeypatch):
    tasks = []

    @contextlib.contextmanager
    def task(name, total, *, unit):
        tasks.append((progress.Task(name, total), total, unit))
        yield tasks[0][0]

    monkeypatch.setattr(progress, "task", task)
    record = run_record.RunRecord(tmp_path)
    schedule.Driver(tmp_path, record, _Workers(broken=["s"])).drive(
        [_run("s", kind="samples"), _run("a", "s"), _evaluation("e", "a")],
        skipped=2,
    )
    ((stage, total, unit),) = tasks
    assert (stage.done, total, unit) == (5, 5, "steps")


def _plan(rows: dict[str, str], *, rerun_failed=False, there=True):
    runs = [_run("s", kind="samples"), _run("a", "s"), _run("b", "s")]
    known = {
        key: run_record.Row(
            key, "quantize", key, status, {}, {}, None, "here", "now"
        )
        for key, status in rows.items()
    }
    planned = schedule.plan(
        runs, known, rerun_failed=rerun_failed, exists=lambda path: there
    )
    return tuple(
        "".join(run.key for run in part)
        for part in (planned.todo, planned.done, planned.failed)
    )


def test_plan_skips_what_is_done_and_leaves_what_failed():
    done, failed = "done", "failed"
    assert _plan({}) == ("sab", "", "")
    assert _plan({"s": done, "a": done}) == ("b", "sa", "")
    assert _plan({"s": done, "a": done, "b": done}) == ("", "ab", "")
    assert _plan({"s": done, "a": failed, "b": done}) == ("", "b", "a")
    assert _plan({"s": failed, "a": failed}) == ("b", "", "sa")


def test_plan_takes_up_what_failed_when_asked_to():
    rows = {"s": "failed", "a": "failed", "b": "done"}
    assert _plan(rows, rerun_failed=True) == ("sa", "b", "")


def test_plan_makes_again_what_is_gone():
    rows = {"s": "done", "a": "done", "b": "done"}
    assert _plan(rows, there=False) == ("sab", "", "")


def test_samples_that_serve_nobody_are_not_made_again():
    planned = schedule.plan(
        [_run("s", kind="samples"), _run("a", "s")],
        {
            "a": run_record.Row(
                "a", "quantize", "a", "done", {}, {}, None, "here", "now"
            )
        },
        rerun_failed=False,
        exists=lambda path: True,
    )
    assert planned.todo == ()


def test_log_says_what_came_of_each_run(tmp_path, caplog):
    logging.get_absl_logger().setLevel(python_logging.INFO)
    caplog.set_level(python_logging.INFO, logger="absl")
    logging.get_absl_logger().addHandler(caplog.handler)
    try:
        _drive(tmp_path, _Workers(broken=["b"]), [_run("a"), _run("b")])
    finally:
        logging.get_absl_logger().removeHandler(caplog.handler)
    assert "done net/a: agreement 0.500, 2 s" in caplog.text
    assert "failed net/b: it broke" in caplog.text
