"""Native chatter is collected, and comes out only where it is wanted."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dsg_tf.core import quiet


def test_native_and_python_writes_are_collected(capfd, monkeypatch):
    with open(2, "w", closefd=False) as stderr:
        # As outside of pytest, which puts a file of its own in its place.
        monkeypatch.setattr(sys, "stderr", stderr)
        stderr.write("before\n")
        with quiet.captured_stderr() as collected:
            os.write(2, b"from C++\n")
            sys.stderr.write("from Python\n")
        monkeypatch.undo()
    assert capfd.readouterr().err == "before\n"
    assert collected == ["from C++\nfrom Python\n"]


def test_stderr_works_again_afterwards(capfd):
    with quiet.captured_stderr():
        pass
    os.write(2, b"heard\n")
    assert capfd.readouterr().err == "heard\n"


@pytest.mark.parametrize("show", [False, True])
def test_failure_shows_the_chatter_only_on_request(capfd, show):
    def fail():
        with quiet.captured_stderr(show_on_error=show) as collected:
            chatter.append(collected)
            os.write(2, b"the cause\n")
            raise OSError

    chatter: list[list[str]] = []
    with pytest.raises(OSError):  # noqa: PT011  (any will do)
        fail()
    (collected,) = chatter
    assert collected == ["the cause\n"]
    assert capfd.readouterr().err == ("the cause\n" if show else "")


def test_blocks_may_be_nested(capfd):
    with quiet.captured_stderr() as outer:
        os.write(2, b"a")
        with quiet.captured_stderr() as inner:
            os.write(2, b"b")
        os.write(2, b"c")
    assert (outer, inner) == (["ac"], ["b"])
    assert capfd.readouterr().err == ""


def test_no_descriptor_is_left_open():
    with quiet.captured_stderr():
        pass
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with quiet.captured_stderr():
            pass
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_interruption_right_after_the_redirection_is_undone(
    capfd, monkeypatch
):
    redirect, calls = os.dup2, []

    def interrupted(source, target):
        redirect(source, target)
        calls.append(target)
        if len(calls) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(quiet.os, "dup2", interrupted)
        with pytest.raises(KeyboardInterrupt), quiet.captured_stderr():
            pass
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"


def test_a_command_finds_the_screen_again():
    code = (
        "import os; from dsg_tf.core import quiet; quiet.keep();"
        "os.dup2(os.open(os.devnull, os.O_WRONLY), 2);"
        "os.write(2, b'lost'); quiet.restore(); os.write(2, b'seen')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True
    )
    assert done.stderr == b"seen"
