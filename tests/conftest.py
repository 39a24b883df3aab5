"""What every test shares: quiet TensorFlow, parsed flags, `../shared`.

The real models and images lie in `../shared`, beside the checkout, or where
`DSG_TF_SHARED` points. A test that takes the `shared` fixture is marked
`shared` by that alone, and skips with a reason where the folder is absent.
"""

from __future__ import annotations

import os
import pathlib

import hypothesis
import pytest
from absl import flags

# Read when TensorFlow is first imported, which conftest itself never does.
# The thread counts keep two test processes from fighting over two cores.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "2")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
os.environ.setdefault("OMP_NUM_THREADS", "2")
# As dsg_tf sets it, which many a test imports behind TensorFlow.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# How long examples take says more of the machine's load than of the test.
hypothesis.settings.register_profile(
    "any_load",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("any_load")

# Not resolved: under Bazel this file is a link into the real checkout, and
# `__file__` names the link.
_CHECKOUT = pathlib.Path(__file__).absolute().parent.parent


def _shared_folder() -> pathlib.Path:
    """Where the real models and images should be; it need not exist."""
    return pathlib.Path(
        os.environ.get("DSG_TF_SHARED") or _CHECKOUT.parent / "shared"
    ).absolute()


def pytest_configure(config):
    del config
    # No app.run parses the flags here, and absl refuses to read them unparsed.
    flags.FLAGS.mark_as_parsed()


# Files that take a minute or more run first, so that no worker is left alone
# with one of them at the end (`--dist=loadfile`).
_LONG = frozenset(
    {
        "batch_cli_test.py",
        "faults_test.py",
        "quantize_test.py",
        "reproduce_cli_test.py",
        "shared_models_test.py",
        "transforms_shared_test.py",
    }
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in _LONG)
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)


def pytest_runtest_setup(item):
    if item.get_closest_marker("shared") is None:
        return
    folder = _shared_folder()
    if not (folder / "models").is_dir():
        pytest.skip(
            f"no models in {folder}: put them there, or set DSG_TF_SHARED"
        )


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real models and data: `models/`, `data/`."""
    return _shared_folder()
