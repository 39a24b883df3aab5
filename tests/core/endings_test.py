"""Whatever is raised ends in one line, with its exit code and its log."""

from __future__ import annotations

import errno
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

from dsg_tf.core import endings, errors, quiet, stages

_ROOT = pathlib.Path(__file__).absolute().parent.parent.parent
_STUB = str(_ROOT / "tests/stub_command.py")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> pathlib.Path:
    """The folder of a run; that of temporary files lies beside it."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.delenv(endings.ENVIRONMENT, raising=False)
    stages.set_folder(tmp_path / "run")
    yield tmp_path / "run"
    stages.set_folder(None)


def _stub(
    *argv: str | bytes, python=(), **options
) -> subprocess.CompletedProcess:
    environment = options.pop("environment", {})
    return subprocess.run(
        [sys.executable, *python, _STUB, *argv],
        capture_output=True,
        timeout=60,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path]),
            **environment,
        },
        **options,
    )


def _failed(error: BaseException, stage: str = "export") -> BaseException:
    """The error, as it comes out of a stage."""
    with pytest.raises(type(error)), stages.within(stage):
        raise error
    return error


# ---- what an exception becomes


def test_defect_names_stage_exception_and_log_in_the_run_folder(folder):
    ending = endings.of(_failed(ValueError("two\nlines")))
    assert ending.code == 70
    assert len(ending.line.splitlines()) == 1
    assert ending.line.startswith(
        "error: unexpected ValueError: two lines; in stage 'export'; "
    )
    log = folder / "error.log"
    assert f"report it to its maintainers with {log}" in ending.line
    text = log.read_text()
    assert "Traceback" in text
    assert "stage: export" in text
    assert "in _failed" in text
    assert [p.name for p in folder.iterdir()] == ["error.log"]
    assert list((folder.parent / "tmp").iterdir()) == []


def test_log_has_what_libraries_said(folder, monkeypatch):
    monkeypatch.setattr(quiet._screen, "kept", None)
    quiet.keep()

    def convert():
        with quiet.captured_stderr(show_on_error=True):
            os.write(2, b"the converter's cause\n")
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        convert()
    endings.of(ValueError("x"))
    assert "the converter's cause" in (folder / "error.log").read_text()


@pytest.mark.parametrize("how", ["none", "gone", "file", "refusing"])
def test_log_goes_to_temporary_files_where_the_run_takes_none(
    folder, monkeypatch, how
):
    if how == "none":
        stages.set_folder(None)
    elif how == "gone":
        folder.rmdir()
    elif how == "file":
        folder.rmdir()
        folder.write_text("")
    else:  # As root is refused nothing, a read-only folder is acted.
        real = tempfile.mkstemp

        def refuse(suffix, prefix, where):
            if where is not None:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return real(suffix, prefix, where)

        monkeypatch.setattr(tempfile, "mkstemp", refuse)
    line = endings.of(_failed(KeyError("k"))).line
    (log,) = (folder.parent / "tmp").iterdir()
    assert str(log) in line
    assert "KeyError" in log.read_text()


def test_without_any_place_for_a_log_there_is_a_line(folder, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    ending = endings.of(_failed(KeyError("k")))
    assert ending.code == 70
    assert f"with what {endings.ENVIRONMENT}=1 shows" in ending.line


def test_log_replaces_a_link_and_not_what_it_leads_to(folder):
    mine = folder.parent / "mine.txt"
    mine.write_text("the user's")
    (folder / "error.log").symlink_to(mine)
    endings.of(_failed(KeyError("k")))
    assert mine.read_text() == "the user's"
    assert not (folder / "error.log").is_symlink()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.UserError("a", got="b", expected="c"), "a: got b; expected c"),
        (MemoryError(), "stage 'export': got too little memory"),
        (MemoryError("3 GiB for"), "(MemoryError: 3 GiB for)"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "stage 'export': got No space left on device; expected",
        ),
        (PermissionError(errno.EACCES, "Denied", "net"), "net: got Denied in"),
        (
            UnicodeEncodeError("utf-8", "a\udcffb", 1, 2, "no"),
            r"the name 'a\udcffb'; expected",
        ),
    ],
)
def test_what_a_user_can_mend_has_exit_code_1_and_no_log(folder, error, words):
    ending = endings.of(_failed(error))
    assert ending.code == 1
    assert ending.line.startswith("error: ")
    assert words in ending.line
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError("without a number"),
        OSError(errno.EBADF, "Bad file descriptor"),
        SystemExit(0),
        GeneratorExit(),
        UserWarning("as an error"),
    ],
)
def test_all_else_is_a_defect(folder, error):
    assert endings.of(_failed(error)).code == 70
    assert (folder / "error.log").exists()


def test_innermost_stage_is_told():
    with (
        pytest.raises(ValueError, match="x") as raised,
        stages.within("outer"),
        stages.within("inner"),
    ):
        raise ValueError("x")
    assert stages.of(raised.value) == "inner"
    assert stages.current() == stages.START


# ---- of a whole process


@pytest.mark.parametrize(
    ("act", "code", "words"),
    [
        ("user", 1, "error: a: got b; expected c"),
        ("value", 70, "unexpected ValueError: two lines; in stage 'work'"),
        ("long", 70, "unexpected ValueError: xxx"),
        ("wordless", 70, "unexpected _Wordless; in stage 'work'"),
        ("exit", 70, "unexpected SystemExit: 0;"),
        ("exit_text", 70, "unexpected SystemExit: a library's words;"),
        ("memory", 1, "too little memory (MemoryError: Unable to allocate"),
        ("tensor_memory", 1, "too little memory (ResourceExhaustedError:"),
        ("recursion", 70, "unexpected RecursionError: "),
        ("key", 70, "unexpected KeyError: 'k'"),
        ("warning", 70, "unexpected UserWarning: as an error"),
        ("missing", 1, "no such file: got No such file or directory"),
        ("space", 1, "got No space left on device"),
        ("bad_descriptor", 70, "unexpected OSError: [Errno 9]"),
        ("surrogate", 1, r"the name '\udcff'"),
    ],
)
def test_process_ends_in_one_line(folder, act, code, words):
    done = _stub(f"--act={act}", f"--folder={folder}")
    assert (done.returncode, done.stdout) == (code, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert words in done.stderr
    assert len(done.stderr) < 2100
    assert (folder / "error.log").exists() == (code == 70)
    assert list((folder.parent / "tmp").iterdir()) == []


def test_traceback_is_shown_to_who_asks_for_it(folder):
    done = _stub("--act=value", environment={endings.ENVIRONMENT: "1"})
    assert done.returncode == 70
    assert "\nTraceback (most recent call last):\n" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: unexpected")


@pytest.mark.parametrize(("act", "lines"), [("thread", 1), ("del", 0)])
def test_what_fails_beside_the_work_does_not_end_it(folder, act, lines):
    done = _stub(f"--act={act}", f"--folder={folder}")
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert len(done.stderr.splitlines()) == lines, done.stderr
    assert "Traceback" not in done.stderr
    assert ("in the thread" in done.stderr) == (act == "thread")


def test_warnings_as_errors_leave_a_command_as_it_is():
    done = _stub(python=["-W", "error"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--number=" + "9" * 30], "--number: got 0x"),
        (["--number=" + "9" * 5000], "--number"),
        (["--number=-9223372036854775808"], "--number: got -0x8000"),
        (["--number="], "--number"),
        (["--number=1.5"], "--number"),
        (["--share=nan"], "--share: got nan; expected a finite number"),
        (["--share=1e999"], "--share: got inf"),
        (["--folder=a\nb"], "--folder: got 'a\\nb'; expected text without"),
        (["--names=a,b\x1b[31m"], "--names: got 'b\\x1b[31m'"),
        ([b"--folder=\xff"], "--folder: got '\\udcff'; expected text in UTF-8"),
        (["--numbr=1"], "number"),
        (['--names="a,b'], "--names"),
        (["argument"], "got argument 'argument'; expected only flags"),
        (["--flagfile"], "--flagfile: got no name of a file"),
        (["--flagfile=absent"], "absent: got No such file or directory"),
    ],
)
def test_flags_that_cannot_be_are_one_line(folder, argv, words):
    done = _stub(*argv)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert words in done.stderr
    assert len(done.stderr) < 2100
