"""What `import dsg_tf` offers, and that it is what the docs name."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys

import pytest

import dsg_tf


@pytest.mark.parametrize("name", dsg_tf.__all__)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(dsg_tf, name)
    assert value.__doc__
    # A module's name, or the module that a class or function is from.
    home = getattr(value, "__module__", value.__name__)
    assert home.startswith("dsg_tf.")


def test_public_names_are_those_of_their_modules():
    assert set(dsg_tf.__all__) == {*dsg_tf._MODULE_OF, *dsg_tf._MODULES}
    for name, module in dsg_tf._MODULE_OF.items():
        owner = importlib.import_module(module)
        assert getattr(dsg_tf, name) is getattr(owner, name)
    for name, module in dsg_tf._MODULES.items():
        assert getattr(dsg_tf, name) is importlib.import_module(module)


def test_no_module_hides_a_public_name():
    # Importing dsg_tf.x sets dsg_tf.x to the module, whatever was there.
    modules = {module.name for module in pkgutil.iter_modules(dsg_tf.__path__)}
    assert modules.isdisjoint(dsg_tf._MODULE_OF)


def test_dir_lists_public_names_before_they_are_loaded():
    assert set(dsg_tf.__all__) <= set(dir(dsg_tf))
    assert "__version__" in dir(dsg_tf)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'dsg_tf' has no .* 'nonsense'"):
        _ = dsg_tf.nonsense


def test_unknown_submodule_is_an_import_error():
    with pytest.raises(ImportError):
        importlib.import_module("dsg_tf.nonsense")


@pytest.mark.parametrize(("own", "wanted"), [(None, "1"), ("0", "0")])
def test_importing_turns_on_fast_kernels_unless_told_otherwise(own, wanted):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TF_ENABLE_ONEDNN_OPTS", None)
    if own is not None:
        environment["TF_ENABLE_ONEDNN_OPTS"] = own
    asked = (
        "import os, sys, dsg_tf; print(os.environ['TF_ENABLE_ONEDNN_OPTS'],"
        " 'tensorflow' in sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-c", asked],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    # TensorFlow reads it when it is imported: not before the package is.
    assert told.split() == [wanted, "False"]
