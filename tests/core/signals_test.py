"""Signals end a command at its stage, in one line, with their exit code."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

_ROOT = pathlib.Path(__file__).absolute().parent.parent.parent
_STUB = str(_ROOT / "tests/stub_command.py")
_GRACE_S = 20


def _start(*argv: str, before: str = "", **options) -> subprocess.Popen:
    """A Python process; `before` stands first where modules are looked for."""
    return subprocess.Popen(
        [sys.executable, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                p for p in (before, str(_ROOT), *sys.path) if p
            ),
        },
        **options,
    )


def _act(name: str, *argv: str, **options) -> subprocess.Popen:
    """The stub, once it is at it."""
    process = _start(_STUB, f"--act={name}", *argv, **options)
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


def _end(process: subprocess.Popen) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


_SIGNALS = [
    (signal.SIGINT, 130, "interrupted"),
    (signal.SIGTERM, 143, "terminated"),
    (signal.SIGHUP, 143, "terminated"),
]


@pytest.mark.parametrize(("number", "code", "word"), _SIGNALS)
def test_signal_closes_what_is_under_way_and_is_told(number, code, word):
    process = _act("sleep")
    process.send_signal(number)
    told = "; the same command goes on from there\n"
    assert _end(process) == (
        code,
        "closed\n",
        f"{word} in stage 'work'{told}",
    )


def test_resumption_is_promised_only_where_it_holds():
    process = _act("sleep", "--noresume")
    process.send_signal(signal.SIGTERM)
    assert _end(process)[2] == "terminated in stage 'work'\n"


@pytest.mark.parametrize("act", ["swallow", "swallow_in_steps"])
@pytest.mark.parametrize(("number", "code", "word"), _SIGNALS[:2])
def test_swallowed_signal_ends_the_command_all_the_same(
    act, number, code, word
):
    process = _act(act)
    process.send_signal(number)
    ended, out, err = _end(process)
    assert (ended, out) == (code, "swallowed\n")
    assert err.startswith(f"{word} in stage 'work'")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(("number", "code", "word"), _SIGNALS)
def test_signal_that_native_code_makes_another_error_is_told_as_a_signal(
    number, code, word
):
    process = _act("translate")
    process.send_signal(number)
    ended, _, err = _end(process)
    assert ended == code
    assert err.startswith(f"{word} in stage 'work'")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_after_the_end_of_the_work_changes_nothing(number):
    process = _act("end_slowly")
    time.sleep(0.7)  # Python itself is gone by now.
    process.send_signal(number)
    assert _end(process)[0] == 0


@pytest.mark.parametrize(("number", "code", "word"), _SIGNALS)
def test_while_tensorflow_is_imported_nobody_can_swallow_it(number, code, word):
    process = _act("importing")
    process.send_signal(number)
    assert _end(process) == (
        code,
        "",
        f"{word} in stage 'import TensorFlow'; nothing was written\n",
    )


def test_second_ctrl_c_ends_at_once_in_native_code_too():
    process = _act("native")
    time.sleep(0.5)  # For it to be in there.
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None  # Python gets no turn.
    process.send_signal(signal.SIGINT)
    code, out, err = _end(process)
    assert (code, out) == (130, "")
    assert err == "interrupted again: ended at once\n"


def test_second_ctrl_c_ends_what_closes_slowly():
    process = _act("close_slowly")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "closing\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    code, out, _ = _end(process)
    assert (code, out) == (130, "")


def test_second_termination_lets_it_close():
    # `timeout` sends it to the process and then to its group.
    process = _act("close_slowly")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "closing\n"
    process.send_signal(signal.SIGTERM)
    code, out, err = _end(process)
    assert (code, out) == (143, "closed\n")
    assert len(err.splitlines()) == 1


def test_signal_that_was_ignored_before_stays_ignored():
    process = _act(
        "sleep",
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    assert _end(process)[0] == 143


def _slow_module(folder: pathlib.Path, name: str) -> str:
    """A package that sleeps when it is imported, and swallows what comes."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(
        "import os, time\n"
        "try:\n"
        "    os.write(1, b'ready\\n')\n"
        "    time.sleep(60)\n"
        "except BaseException:\n"
        "    os.write(1, b'swallowed\\n')\n"
    )
    return str(folder)


@pytest.mark.parametrize(("number", "code", "word"), _SIGNALS)
@pytest.mark.parametrize("module", ["quantize", "batch", "evaluate"])
def test_signal_before_the_first_import_is_one_line(
    tmp_path, module, number, code, word
):
    before = _slow_module(tmp_path, "absl")
    process = _start("-m", f"dsg_tf.{module}", before=before)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    line = f"{word} in stage 'start'; nothing was written\n"
    assert _end(process) == (code, "", line)


@pytest.mark.parametrize("module", ["quantize", "synthetic_samples"])
def test_signal_in_the_import_of_tensorflow_is_one_line(tmp_path, module):
    before = _slow_module(tmp_path, "tensorflow")
    # A path without a model is refused before TensorFlow is imported.
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "saved_model.pb").touch()
    process = _start(
        "-m",
        f"dsg_tf.{module}",
        "--saved_model=net",
        before=before,
        cwd=tmp_path,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert _end(process) == (
        130,
        "",
        "interrupted in stage 'import TensorFlow'; nothing was written\n",
    )
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["net", "tensorflow"]


def test_importing_the_library_changes_no_handler():
    code = (
        "import signal; before = [signal.getsignal(n) for n in (2, 15, 1)];"
        "import dsg_tf; dsg_tf.PipelineConfig();"
        "assert before == [signal.getsignal(n) for n in (2, 15, 1)]"
    )
    assert _end(_start("-c", code)) == (0, "", "")
