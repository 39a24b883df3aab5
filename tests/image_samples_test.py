"""Real images become what dsg_tf.quantize takes as --samples."""

from __future__ import annotations

import command_lines
import numpy as np
import pytest

from dsg_tf import image_samples
from dsg_tf.samples import labelled_images, sample_sets

_PIXELS = np.arange(3 * 8 * 8 * 3, dtype=np.uint8).reshape(3, 8, 8, 3)


def test_samples_are_the_preprocessed_images_under_any_inputs_name(tmp_path):
    np.savez(tmp_path / "x.npz", images=_PIXELS, labels=np.arange(3))
    output = tmp_path / "samples.npz"
    code = command_lines.run(
        image_samples,
        f"--data={tmp_path / 'x.npz'}",
        "--preprocess=symmetric",
        f"--output={output}",
    )
    assert code == 0
    made = sample_sets.read(output, inputs={"serving_x": (8, 8, 3)})
    np.testing.assert_array_equal(
        made.arrays["serving_x"],
        labelled_images.preprocess(_PIXELS, "symmetric"),
    )
    assert not list(tmp_path.glob("*.tmp"))


def _drawn(tmp_path, *argv: str) -> list[int]:
    """Which of seven images, in the order in which they are written."""
    images = np.arange(7 * 4, dtype=np.uint8).reshape(7, 2, 2, 1)
    np.savez(tmp_path / "x.npz", images=images)
    output = tmp_path / "samples.npz"
    data = (f"--data={tmp_path / 'x.npz'}", f"--output={output}")
    assert command_lines.run(image_samples, *data, *argv) == 0
    with np.load(output) as arrays:
        return (arrays["images"][:, 0, 0, 0] // 4).astype(int).tolist()


def test_images_are_drawn_at_random_by_the_seed(tmp_path):
    first = _drawn(tmp_path, "--num_samples=5")
    assert len(set(first)) == 5
    assert first != sorted(first)
    assert _drawn(tmp_path, "--num_samples=5", "--seed=0") == first
    assert _drawn(tmp_path, "--num_samples=5", "--seed=1") != first
    assert _drawn(tmp_path, "--num_samples=3") == first[:3]


@pytest.mark.parametrize(
    "argv", [(), ("--num_samples=7",), ("--num_samples=9",), ("--seed=3",)]
)
def test_all_images_stay_in_their_order(tmp_path, argv):
    assert _drawn(tmp_path, *argv) == list(range(7))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "--data: got nothing"),
        (("--data=x.npz",), "--output: got nothing"),
        (("--data=absent.npz", "--output={}"), "absent.npz: got nothing"),
        (("--data=x.npz", "--output={}", "--std=1"), "--preprocess=none"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_file(tmp_path, capfd, argv, words):
    output = tmp_path / "samples.npz"
    argv = [text.format(output) for text in argv]
    assert command_lines.run(image_samples, *argv) == 1
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 1
    assert words in err
    assert list(tmp_path.iterdir()) == []
