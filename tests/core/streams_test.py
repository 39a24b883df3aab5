"""A reader that goes away, and a terminal of few characters, end no work."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).absolute().parent.parent.parent
_STUB = str(_ROOT / "tests/stub_command.py")


def _shell(redirect: str, act: str, **environment) -> tuple[int, str, str]:
    """Exit code of the stub, and what a shell's redirection lets through."""
    done = subprocess.run(
        [
            "bash",
            "-o",
            "pipefail",
            "-c",
            f'"$0" "$1" --act={act} {redirect}',
            sys.executable,
            _STUB,
        ],
        capture_output=True,
        timeout=60,
        text=True,
        errors="replace",
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path]),
            **environment,
        },
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("redirect", ["| head -1", "2>&1 | head -1"])
def test_reader_that_goes_away_changes_no_exit_code(redirect):
    code, out, err = _shell(redirect, "print")
    assert (code, out, err) == (0, "Maße\n", "")


def test_both_streams_may_lead_nowhere():
    assert _shell("2>&1 | true", "value")[0] == 70
    assert _shell(">&- 2>&- <&-", "print") == (0, "", "")
    assert _shell(">&- 2>&- <&-", "value")[0] == 70


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_full_disk_behind_standard_output_is_one_line():
    code, _, err = _shell("> /dev/full", "print")
    assert code == 1
    assert err == (
        "error: standard output: got No space left on device; expected room"
        " for what is printed\n"
    )
    # There is nowhere left to say so.
    assert _shell("2> /dev/full", "value")[0] == 70


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
    ],
)
def test_terminal_of_few_characters_gets_escapes(environment):
    code, out, err = _shell("| tail -3", "print", **environment)
    assert (code, err) == (0, "")
    assert out == "Ma\\xdfe\n\ndone\n"
