"""Nothing in the package loads a model but the guarded loader.

A model, and an array of Python objects, is a program. So a call that could
run one stands in `graph`, behind its checks, and nowhere else.
"""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator

import pytest

_PACKAGE = pathlib.Path(__file__).absolute().parent.parent / "dsg_tf"

# Names of functions and methods that turn a file or bytes into a program.
_LOADERS = frozenset(
    {
        "TFSMLayer",
        "from_json",
        "import_meta_graph",
        "load_from_saved_model",
        "load_library",
        "load_model",
        "load_op_library",
        "model_from_config",
        "model_from_json",
        "parse_from_string",
        "run_path",
        "wrap_function",
    }
)
# Chains of names, where the last one alone would say too little.
_CHAINS = (".saved_model.load", ".saved_model.loader.load", ".models.load")
_MODULES = frozenset(
    {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
)
_BUILTINS = frozenset({"__import__", "compile", "eval", "exec"})

# What may stay, each for its reason.
_ALLOWED = {
    # Behind keras_files.check.
    ("graph.load.keras_models", "keras.models.load_model"),
    ("graph.load.keras_models", "tf_keras.models.load_model"),
    # Behind safety.check_meta_graph of every graph in the file.
    ("graph.load.saved_models", "tf.saved_model.load"),
    # Of graphs that were loaded, checked and frozen before.
    ("graph.frozen", "tf.compat.v1.wrap_function"),
    # Behind safety.check_graph_def.
    ("graph.load.graph_defs", "tf.compat.v1.wrap_function"),
}


def _chain(node: ast.expr) -> str:
    """`a.b.c` of an expression, as far as it is names."""
    if isinstance(node, ast.Attribute):
        return f"{_chain(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def _loading(module: str, source: str) -> Iterator[tuple[str, str]]:
    """Module and name of everything that could load a program."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *names]
            for name in names:
                if name.split(".")[0] in _MODULES or name in _LOADERS:
                    yield module, f"import {name}"
        elif isinstance(node, ast.Attribute):
            chain = _chain(node)
            if node.attr in _LOADERS or f".{chain}".endswith(_CHAINS):
                yield module, chain
        elif isinstance(node, ast.Name) and node.id in _LOADERS:
            yield module, node.id
        elif isinstance(node, ast.Call):
            called = _chain(node.func)
            if called in _BUILTINS:
                yield module, called
            for keyword in node.keywords:
                value = getattr(keyword.value, "value", None)
                if keyword.arg == "allow_pickle" and value is not False:
                    yield module, f"{called}(allow_pickle)"
                if keyword.arg == "safe_mode" and value is not True:
                    yield module, f"{called}(safe_mode)"


def _all() -> set[tuple[str, str]]:
    found = set()
    for path in sorted(_PACKAGE.rglob("*.py")):
        parts = path.relative_to(_PACKAGE).with_suffix("").parts
        found |= set(_loading(".".join(parts), path.read_text("utf-8")))
    return found


def test_only_the_guarded_loader_loads():
    assert _all() == _ALLOWED


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n  import marshal",
        "keras.saving.load_model(path)",
        "from keras.models import load_model",
        "load = tf.saved_model.load",
        "tf.compat.v1.saved_model.load(session, tags, path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "keras.models.load_model(path, safe_mode=False)",
        "keras.models.model_from_json(text)",
        "tf.load_op_library(path)",
        "tf.compat.v1.train.import_meta_graph(path)",
        "eval(text)",
        "keras.layers.TFSMLayer(path)",
    ],
)
def test_a_planted_load_is_found(line):
    assert list(_loading("verify", line))


@pytest.mark.parametrize(
    "line",
    [
        "np.load(path)",
        "np.load(path, allow_pickle=False)",
        "loading.load(path)",
        "re.compile(text)",
        "session.run(tensors)",
        "json.load(file)",
    ],
)
def test_other_loads_are_none(line):
    assert not list(_loading("verify", line))
