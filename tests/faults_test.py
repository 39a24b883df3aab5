"""A short sample of `python -m tools.faults`, as a process."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

from tools.faults import __main__ as faults

_ROOT = pathlib.Path(__file__).absolute().parent.parent


def _run(cwd, *argv):
    return subprocess.run(
        [sys.executable, "-m", "tools.faults", "--scratch=scratch", *argv],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path]),
        },
    )


def test_a_sample_of_malformed_and_hostile_inputs_passes(tmp_path):
    done = _run(tmp_path, "--suite=malformed,hostile", "--limit=20")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed 0, 20 cases" in done.stdout
    assert "| all | 20 | 20 | 0 | 0 |" in done.stdout
    # Everything lay in the scratch folder, and it is gone.
    assert [p.name for p in tmp_path.iterdir()] == ["scratch"]
    assert not list((tmp_path / "scratch").iterdir())


def test_what_a_user_can_mend_is_one_line(tmp_path):
    for argv in (("--suite=nothing",), ("--case=nothing",)):
        done = _run(tmp_path, *argv)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "nothing" in done.stderr


def test_there_are_as_many_cases_as_promised():
    count = {name: len(make(20)) for name, make in faults.SUITES.items()}
    assert count["malformed"] >= 400
    assert count["hostile"] >= 40
    assert count["kills"] == 40
    full = [c for c in faults.SUITES["disks"](20) if "full" in c.kind]
    assert len(full) >= 10


def test_names_are_unique_and_a_limit_spreads():
    every = faults.choose(list(faults.SUITES))
    assert len({case.name for case in every}) == len(every)
    few = faults.choose(list(faults.SUITES), limit=20)
    assert len(few) == 20
    assert len({case.kind for case in few}) > 10
    (one,) = faults.choose(["hostile"], prefixes=["hostile/init_op-quantize"])
    assert one.name == "hostile/init_op-quantize"
