"""Real images become what dsg_tf.quantize takes as --samples."""

from __future__ import annotations

import command_lines
import numpy as np
import pytest

from dsg_tf import image_samples, labelled_images, samples

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
    made = samples.read(output, inputs={"serving_x": (8, 8, 3)})
    np.testing.assert_array_equal(
        made.arrays["serving_x"],
        labelled_images.preprocess(_PIXELS, "symmetric"),
    )
    assert not list(tmp_path.glob("*.tmp"))


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
