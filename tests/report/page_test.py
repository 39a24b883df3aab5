"""The page shows a report, safely, alone, and in a browser."""

from __future__ import annotations

import copy
import html
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny_models

import dsg_tf
from dsg_tf.config import run_config, synthesis_config
from dsg_tf.report import page


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    config = run_config.PipelineConfig(
        synthesis=synthesis_config.SynthesisConfig(
            num_samples=4, batch_size=4, steps=4
        ),
        verify_samples=4,
    )
    folder = tmp_path_factory.mktemp("page")
    return dsg_tf.quantize_model(
        tiny_models.classifier(), output=folder / "net.tflite", config=config
    )


@pytest.fixture(scope="module")
def report(result):
    return json.loads((result.run_folder / "report.json").read_text())


@pytest.fixture(scope="module")
def text(result):
    return (result.run_folder / "report.html").read_text()


def test_run_writes_the_page_with_what_the_report_holds(report, text):
    for row in report["layers"]:
        assert html.escape(row["layer"]) in text
    for name in report["outputs"]:
        assert html.escape(name) in text
    for words in (
        f"fingerprint {report['model_fingerprint']}",
        report["passes"][0]["summary"],
        "that did not calibrate",
        "data:image/png;base64,",
        "python -m dsg_tf.quantize",
        f"tensorflow {report['machine']['versions']['tensorflow']}",
    ):
        assert words in text
    # The charts of layers, samples' scatter, loss, seconds, and histograms.
    histograms = sum(
        1 + (row["weights"] is not None) for row in report["histograms"]
    )
    assert text.count("<svg") == 4 + histograms


def test_page_asks_for_nothing_else(text):
    # Names of XML's own namespaces are no requests.
    links = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')> ]*)', text)
    assert links
    assert all(x.startswith(("data:", "#")) for x in links), links
    assert "@import" not in text


def test_texts_of_a_model_are_no_markup(report):
    hostile = copy.deepcopy(report)
    hostile["layers"][0]["layer"] = "<script>alert(1)</script>"
    hostile["output"] = "</title><img src=x>"
    hostile["verdict"]["notes"] = ["<b>bold</b>"]
    shown = page.render(hostile)
    assert "<script>alert" not in shown
    assert "<img src=x>" not in shown
    assert "<b>bold</b>" not in shown
    assert "&lt;b&gt;bold" in shown


def test_report_of_a_version_before_is_shown(report):
    old = {k: v for k, v in report.items() if k in page.NEEDED}
    old["machine"] = {
        k: v for k, v in report["machine"].items() if k != "versions"
    }
    old["layers"] = [
        {k: v for k, v in row.items() if k != "position"}
        for row in report["layers"]
    ]
    assert report["layers"][0]["layer"] in page.render(old)


def test_what_is_not_finite_is_shown_as_such(report):
    broken = copy.deepcopy(report)
    for row in broken["outputs"].values():
        row["sqnr_db"] = row["sqnr_mean_db"] = row["max_abs_error"] = None
        row["finite"] = False
    broken["layers"][0]["sqnr_db"] = None
    broken["layers"][0]["input_sqnr_db"] = None
    assert "not finite" in page.render(broken)
    for row in broken["outputs"].values():
        row["finite"] = True  # Equal to the float model's: infinite.
    assert "not finite" not in page.render(broken)


def test_loss_of_its_own_is_what_the_inputs_do_not_explain(report):
    rows = copy.deepcopy(report)
    rows["layers"] = [
        {**report["layers"][0], "sqnr_db": own, "input_sqnr_db": before}
        for own, before in ((10.0, None), (10.0, 10.0), (7.0, 10.0))
    ]
    found = [row["added_db"] for row in page._rows(rows)]
    # 10^-0.7 - 10^-1 = 0.0995.
    assert found == [10.0, None, pytest.approx(10.02, abs=0.01)]


def test_samples_that_are_no_images_have_no_picture():
    arrays = {
        "image": np.zeros((2, 8, 8, 3)),
        "sound": np.zeros((2, 100, 1)),
        "seven": np.zeros((2, 8, 8, 7)),
    }
    assert list(page._images(arrays)) == ["image"]


def _command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "dsg_tf.report", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_draws_a_run_again(result, text):
    target = result.run_folder / "report.html"
    target.unlink()
    done = _command(str(result.run_folder))
    assert done.returncode == 0, done.stderr
    assert target.read_text() == text


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), ("{", "Expecting"), ("[]", "JSON without")],
)
def test_command_refuses_what_is_no_report(tmp_path, content, words):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    done = _command(str(tmp_path))
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "report.html").exists()


_CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(not _CHROMIUM, reason="no Chromium")
@pytest.mark.parametrize("width", [390, 1200])
def test_page_opens_in_a_browser_without_errors(result, tmp_path, width):
    picture = tmp_path / "page.png"
    done = subprocess.run(
        [
            *(_CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"),
            *("--enable-logging=stderr", f"--window-size={width},1200"),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--screenshot={picture}",
            (result.run_folder / "report.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert picture.stat().st_size > 5000
    assert "CONSOLE" not in done.stderr
