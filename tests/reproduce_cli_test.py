"""A table and a figure as a user makes them: the command, as a process."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tools import digits

_ROOT = pathlib.Path(__file__).absolute().parent.parent


def _run(cwd: pathlib.Path, *argv: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "tools.reproduce", *argv],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path]),
        },
    )


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with images, and flags for a model and images of one's own."""
    folder = tmp_path_factory.mktemp("own")
    _, held_out = digits.load_split()
    np.savez(
        folder / "val.npz",
        images=held_out.images[:50],
        labels=held_out.labels[:50],
    )
    np.savez(folder / "calibration.npz", images=held_out.images[50:80])
    flagfile = folder / "own.flags"
    flagfile.write_text(
        f"--models=digits={_ROOT / 'examples/digits_saved_model'}\n"
        "--eval_data=val.npz\n--calibration_data=calibration.npz\n"
        "--method=real,zeroq,dsg\n--bits=W8A8\n--seed=0\n"
        "--num_samples=4\n--batch_size=4\n--steps=4\n--verify_samples=2\n"
        "--output_dir=out\n"
    )
    return folder


def test_table_and_figure_of_a_model_of_ones_own(own):
    done = _run(own, "--table=1", f"--flagfile={own / 'own.flags'}")
    # Of four samples and four steps: a result may be doubtful.
    assert done.returncode in (0, 2), done.stderr
    table = (own / "out/table1.md").read_text()
    assert "| digits | DSG | ✓ | ✓ | ✓ | ✗ | 8 | 8 |" in table
    assert "DSG - real data" in table
    assert (own / "out/table1.csv").read_text().count("\n") == 5
    assert table in done.stdout

    pytest.importorskip("matplotlib")
    done = _run(own, "--figure=2", f"--flagfile={own / 'own.flags'}")
    assert done.returncode in (0, 2), done.stderr
    # All samples are those of the table.
    assert "to quantize: 0 to do" in done.stderr
    figures = own / "out/figures-digits"
    assert (figures / "moment_boxes.png").stat().st_size > 1000
    assert "| zeroq |" in (figures / "dispersion.md").read_text()


def test_what_a_user_can_mend_is_one_line(tmp_path):
    done = _run(tmp_path, "--table=1", "--models=nowhere.keras")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "nowhere.keras" in done.stderr
    assert not list(tmp_path.iterdir())
