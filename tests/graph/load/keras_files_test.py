"""Keras files: nothing in them runs, reaches out of them, or grows."""

from __future__ import annotations

import json
import os
import pathlib
import re
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from dsg_tf.core import errors, memory
from dsg_tf.graph.load import (
    hdf5_files,
    keras_config,
    keras_files,
    keras_models,
    loading,
)


def _net(library):
    inputs = library.Input((3,), name="x")
    return library.Model(inputs, library.layers.Dense(2, name="y")(inputs))


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("keras") / "m.keras"
    _net(keras).save(path)
    return path


@pytest.fixture(scope="module")
def hdf5(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("hdf5") / "m.h5"
    _net(tf_keras).save(path)
    return path


def _refused(path, **kwargs) -> str:
    with pytest.raises(errors.UserError) as caught:
        loading.load(path, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 900
    return text


def _rewrite(source, path, changes=(), *, more=(), compression=0):
    """A copy of an archive with members changed by name, or added."""
    with zipfile.ZipFile(source) as old:
        members = {name: old.read(name) for name in old.namelist()}
    members.update(changes)
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, content in (*members.items(), *more):
            new.writestr(name, content)
    return path


def _copy(source, path) -> pathlib.Path:
    path.write_bytes(source.read_bytes())
    return path


def _config_of(path) -> dict:
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    with h5py.File(path) as file:
        return json.loads(file.attrs["model_config"])


def _with_layer(source, path, layer: dict) -> pathlib.Path:
    """A copy with one more layer behind the input."""
    config = _config_of(source)
    layer = {"inbound_nodes": [], **layer}
    layer["config"].setdefault("name", "odd")
    layer["name"] = layer["config"]["name"]
    last = config["config"]["layers"][-1]
    layer["inbound_nodes"] = last["inbound_nodes"]
    config["config"]["layers"].append(layer)
    if path.suffix == ".keras":
        return _rewrite(source, path, {"config.json": json.dumps(config)})
    _copy(source, path)
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = json.dumps(config)
    return path


class _Sentinel:
    """Ways to write a file, as a layer, of Keras 2 and of Keras 3."""

    def __init__(self, folder: pathlib.Path):
        self.path = folder / "sentinel"
        text = str(self.path)
        function = {"function_type": "function", "output_shape": None}
        self.layers = {
            "a function of os": {
                "class_name": "Lambda",
                "config": {
                    **function,
                    "function": "mkdir",
                    "module": "os",
                    "arguments": {"path": text},
                },
            },
            "an operation on constants": {
                "class_name": "TFOpLambda",
                "config": {"name": "odd", "function": "io.write_file"},
                "inbound_nodes": [["_CONSTANT_VALUE", -1, text, {}]],
            },
            "one operation as a NodeDef": {
                "class_name": "TensorFlowOpLayer",
                "config": {
                    "name": "odd",
                    "node_def": {
                        "name": "w",
                        "op": "WriteFile",
                        "input": ["filename", "contents"],
                    },
                    "constants": {"0": text, "1": "x"},
                },
            },
            "an activation of subprocess": {
                "class_name": "Dense",
                "module": "keras.layers",
                "registered_name": None,
                "config": {
                    "units": 2,
                    "activation": {
                        "class_name": "function",
                        "module": "os",
                        "config": "system",
                        "registered_name": "system",
                    },
                },
            },
            "an initializer of another module": {
                "class_name": "Dense",
                "module": "keras.layers",
                "registered_name": None,
                "config": {
                    "units": 2,
                    "kernel_initializer": {
                        "class_name": "FileHandler",
                        "module": "logging",
                        "config": {"filename": text},
                        "registered_name": None,
                    },
                },
            },
            "a download": {
                "class_name": "Activation",
                "module": "keras.layers",
                "registered_name": None,
                "config": {
                    "activation": {
                        "class_name": "function",
                        "module": "keras.utils",
                        "config": "get_file",
                        "registered_name": "get_file",
                    }
                },
            },
            "a SavedModel as a layer": {
                "class_name": "TFSMLayer",
                "module": "keras.layers",
                "registered_name": None,
                "config": {"filepath": text, "call_endpoint": "serve"},
            },
            "a vocabulary": {
                "class_name": "StringLookup",
                "module": "keras.layers",
                "registered_name": None,
                "config": {"vocabulary": "/etc/hostname"},
            },
            "dropout with a function": {
                "class_name": "RNN",
                "config": {
                    "cell": {
                        "class_name": "DropoutWrapper",
                        "config": {
                            "cell": {"class_name": "LSTMCell", "config": {}},
                            "dropout_fn": "mkdir",
                            "dropout_fn_type": "function",
                            "dropout_fn_module": "os",
                        },
                    }
                },
            },
        }


class TestNothingRuns:
    WAYS = tuple(_Sentinel(pathlib.Path()).layers)

    @pytest.mark.parametrize("suffix", [".keras", ".h5"])
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("unsafe", [False, True])
    def test_a_layer_that_would_run_code_is_refused_before_a_loader_sees_it(
        self, archive, hdf5, tmp_path, monkeypatch, suffix, way, unsafe
    ):
        def never(*args, **kwargs):
            raise AssertionError("a loader saw it")

        monkeypatch.setattr(keras.models, "load_model", never)
        monkeypatch.setattr(tf_keras.models, "load_model", never)
        sentinel = _Sentinel(tmp_path)
        source = archive if suffix == ".keras" else hdf5
        path = tmp_path / f"m{suffix}"
        _with_layer(source, path, sentinel.layers[way])
        _refused(path, allow_unsafe_ops=unsafe)
        assert not sentinel.path.exists()

    def test_a_file_with_a_lambda_in_its_loss_only_is_loaded(self, tmp_path):
        model = _net(keras)
        model.compile(loss=lambda t, p: p)
        model.save(tmp_path / "m.keras")
        assert "__lambda__" in str(_config_of(tmp_path / "m.keras"))
        loading.load(tmp_path / "m.keras")

    def test_an_archive_behind_an_hdf5_file_is_not_what_is_judged(
        self, archive, hdf5, tmp_path
    ):
        """A file may be both; the loaders go by its name."""
        layer = _Sentinel(tmp_path).layers["a function of os"]
        path = _with_layer(hdf5, tmp_path / "m.h5", layer)
        path.write_bytes(path.read_bytes() + archive.read_bytes())
        assert zipfile.is_zipfile(path)
        assert "Lambda" in _refused(path)

    def test_a_model_that_changes_while_it_is_loaded_is_refused(
        self, archive, tmp_path, monkeypatch
    ):
        path = _copy(archive, tmp_path / "m.keras")
        check = keras_files.check

        def check_and_swap(*args):
            check(*args)
            path.write_bytes(path.read_bytes() + b" ")

        monkeypatch.setattr(keras_files, "check", check_and_swap)
        assert "changed while it was loaded" in _refused(path)


class TestArchives:
    def test_a_config_of_700_mb_is_not_read(
        self, archive, tmp_path, monkeypatch
    ):
        path = _copy(archive, tmp_path / "m.keras")
        infolist = zipfile.ZipFile.infolist

        def claim(self):
            found = infolist(self)
            for info in found:
                if info.filename == "config.json":
                    info.file_size = info.compress_size = 700 << 20
            return found

        def never(*args):
            raise AssertionError("it was read")

        monkeypatch.setattr(zipfile.ZipFile, "infolist", claim)
        monkeypatch.setattr(zipfile.ZipFile, "read", never)
        assert "a config of 734,003,200 bytes" in _refused(path)

    def test_a_member_that_grows_is_refused(self, archive, tmp_path):
        bomb = [("assets/a", b"\0" * (8 << 20))]
        path = _rewrite(
            archive,
            tmp_path / "m.keras",
            more=bomb,
            compression=zipfile.ZIP_DEFLATED,
        )
        assert "grows to 8,388,608" in _refused(path)

    def test_an_archive_that_was_compressed_is_loaded(self, archive, tmp_path):
        path = _rewrite(
            archive, tmp_path / "m.keras", compression=zipfile.ZIP_DEFLATED
        )
        loading.load(path)

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("config.json", "two members 'config.json'"),
            ("model.weights.h5", "two members"),
            ("../config.json", "leaves its folder"),
            ("/etc/cron.d/x", "leaves its folder"),
            ("assets\\..\\x", "leaves its folder"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_names_of_members_are_each_one_file_inside(
        self, archive, tmp_path, name, words
    ):
        path = _rewrite(archive, tmp_path / "m.keras", more=[(name, b"{}")])
        assert words in _refused(path)

    def test_an_encrypted_member_is_refused(self, archive, tmp_path):
        content = bytearray(archive.read_bytes())
        for mark, at in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
            for found in re.finditer(re.escape(mark), bytes(content)):
                content[found.start() + at] |= 1
        path = tmp_path / "m.keras"
        path.write_bytes(content)
        assert "which is encrypted" in _refused(path)

    @pytest.mark.parametrize(
        "config", [b"", b"[]", b"{", b'{"a": NaN}', b"[" * 10**5, b"\xff\xfe"]
    )
    def test_a_config_that_is_none_is_one_line(self, archive, tmp_path, config):
        path = _rewrite(archive, tmp_path / "m.keras", {"config.json": config})
        assert "config" in _refused(path)
        folder = tmp_path / "m"
        with zipfile.ZipFile(path) as packed:
            packed.extractall(folder)
        assert "config" in _refused(folder)

    def test_more_units_than_the_file_has_weights_are_refused(
        self, archive, tmp_path
    ):
        config = _config_of(archive)
        config["config"]["layers"][1]["config"]["units"] = 10**12
        path = _rewrite(
            archive, tmp_path / "m.keras", {"config.json": json.dumps(config)}
        )
        assert "units=1000000000000 in the layer 'y'" in _refused(path)

    def test_a_sample_that_fits_into_no_memory_is_refused(
        self, archive, tmp_path
    ):
        config = _config_of(archive)
        config["config"]["layers"][0]["config"]["batch_shape"] = [None, 2**50]
        path = _rewrite(
            archive, tmp_path / "m.keras", {"config.json": json.dumps(config)}
        )
        text = _refused(path)
        assert "batch_shape of the layer 'x': 4,503,599,627,370,496" in text


def _in_file(path, change) -> None:
    with h5py.File(path, "a") as file:
        change(file)


def _in_archive(path, change) -> None:
    inner = path.with_suffix(".weights")
    with zipfile.ZipFile(path) as archive:
        inner.write_bytes(archive.read("model.weights.h5"))
    _in_file(inner, change)
    _rewrite(path, path, {"model.weights.h5": inner.read_bytes()})


class TestHdf5:
    @staticmethod
    def _external(file):
        file.create_dataset(
            "odd", (4,), "f4", external=[("/etc/hostname", 0, 16)]
        )

    @staticmethod
    def _virtual(file):
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource("/elsewhere/other.h5", "x", (4,))
        file.create_virtual_dataset("odd", layout)

    @staticmethod
    def _external_link(file):
        file["odd"] = h5py.ExternalLink("/elsewhere/other.h5", "/x")

    @staticmethod
    def _soft_link(file):
        file["odd"] = h5py.SoftLink("/nowhere")

    @staticmethod
    def _inner_link(file):
        file.create_group("deep/er")["odd"] = h5py.SoftLink("/")

    @staticmethod
    def _bomb(file):
        file.create_dataset(
            "odd", (1 << 40,), "f4", chunks=(1 << 20,), compression="gzip"
        )

    @pytest.mark.parametrize("place", ["archive", "file"])
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ("_external", "whose numbers lie in '/etc/hostname'"),
            ("_virtual", "whose numbers lie in other files"),
            ("_external_link", "a file at '/elsewhere/other.h5'"),
            ("_soft_link", "a link to '/nowhere'"),
            ("_inner_link", "a link to '/' in place of '/deep/er/odd'"),
            ("_bomb", "promises 4,398,046,511,104 bytes and holds 0"),
        ],
    )
    def test_weights_lie_in_the_file_itself(
        self, archive, hdf5, tmp_path, place, change, words
    ):
        change = getattr(self, change)
        if place == "archive":
            path = _copy(archive, tmp_path / "m.keras")
            _in_archive(path, change)
        else:
            path = _copy(hdf5, tmp_path / "m.h5")
            _in_file(path, change)
        assert words in _refused(path)

    def test_a_cycle_of_hard_links_ends(self, hdf5, tmp_path):
        path = _copy(hdf5, tmp_path / "m.h5")
        _in_file(path, lambda f: f["model_weights"].__setitem__("top", f["/"]))
        with h5py.File(path) as file:
            size = path.stat().st_size
            # Kernel and bias of one dense layer, 3 to 2.
            assert hdf5_files.check(file, "m.h5", size=size) == 8

    def test_an_attribute_beyond_the_limit_is_not_read(self, tmp_path):
        with h5py.File(tmp_path / "m.h5", "w", libver="latest") as file:
            file.attrs["model_config"] = np.bytes_(b" " * 2000)
        with (
            h5py.File(tmp_path / "m.h5") as file,
            pytest.raises(OverflowError),
        ):
            hdf5_files.attribute(file, "model_config", limit=1999)

    def test_text_beside_the_weights_has_a_limit(self, hdf5, monkeypatch):
        monkeypatch.setattr(hdf5_files, "_MAX_BESIDE", 1000)
        assert "bytes beside the weights" in _refused(hdf5)

    def test_weights_that_do_not_fit_into_memory_are_refused(
        self, hdf5, monkeypatch
    ):
        monkeypatch.setattr(memory, "available", lambda: 31)
        text = _refused(hdf5)
        assert "its weights: 32 bytes" in text
        assert "31 bytes of memory" in text

    def test_a_config_that_is_an_array_is_damage(self, hdf5, tmp_path):
        path = _copy(hdf5, tmp_path / "m.h5")
        for value in (np.zeros((3,), np.float32), 7, [b"a", b"b"]):
            _in_file(path, lambda f, v=value: f.attrs.create("model_config", v))
            assert "damaged" in _refused(path) or "config" in _refused(path)


def test_every_keras_file_there_is_passes(shared):
    kinds = {".keras": "KERAS", ".h5": "HDF5", ".hdf5": "HDF5"}
    found = [
        path
        for path in sorted((shared / "models").rglob("*"))
        if path.suffix in kinds and path.name != "slim_reshape.h5"
    ]
    assert len(found) >= 12
    from dsg_tf.graph.load import formats

    for path in found:
        keras_files.check(path, formats.Format[kinds[path.suffix]])


def test_the_one_with_lambdas_is_refused_by_name(shared):
    path = shared / "models/zoo/slimnet_seg/slim_reshape.h5"
    assert "the Lambda layer 'lambda'" in _refused(path)


def test_the_limit_of_a_config_is_the_same_in_all_containers(
    archive, hdf5, tmp_path, monkeypatch
):
    folder = tmp_path / "m"
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    monkeypatch.setattr(keras_config, "MAX_BYTES", 100)
    for path in (archive, hdf5, folder):
        assert "expected at most 100" in _refused(path)


def test_a_tf_keras_model_is_read_without_leave_to_write(hdf5, tmp_path):
    path = _copy(hdf5, tmp_path / "m.h5")
    os.chmod(path, 0o400)
    graph = loading.load(path)
    assert graph.inputs[0].dtype == tf.float32


def test_the_version_that_wrote_a_file_is_told(archive, hdf5, tmp_path):
    assert keras_files.version(archive) == keras.__version__
    assert keras_files.version(hdf5).startswith("2.")
    (tmp_path / "x").write_bytes(b"damaged")
    assert not keras_files.version(tmp_path / "x")


def test_the_library_that_wrote_a_file_has_the_word(archive, hdf5, monkeypatch):
    for library in (keras, tf_keras):

        def fail(*_, said=f"{library.__name__} says no", **__):
            raise ValueError(f"{said}\nand half a page more")

        monkeypatch.setattr(library.models, "load_model", fail)
    for path, said in ((archive, "keras says no"), (hdf5, "tf_keras says no")):
        with pytest.raises(errors.UserError, match=rf"read \({said}\);"):
            keras_models._load_checked(path)
