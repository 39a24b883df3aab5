"""Runs an untrusted .tflite once in a child process that may crash.

The LiteRT interpreter does not validate the file: invalid offsets or huge
shapes crash the process. A file that dsg_tf did not write is therefore first
read and run in a child process; a crash of the child becomes an error of one
line.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys

from dsg_tf.core import child_process, errors

_SECONDS = 300
# Offsets in a .tflite are of 31 bits.
_MAX_BYTES = 2**31 - 1
_EXPECTED = "a .tflite file that the LiteRT interpreter runs"
_REMEDY = "the file is damaged; convert or download it again"


def require_runs(path: str | os.PathLike) -> None:
    """Refuses a .tflite that cannot be read and run once.

    Args:
      path: the file; it must be there.

    Raises:
      errors.UserError: the file is damaged, the interpreter rejects it, or
        the process that runs it crashes or does not end in time.
    """
    size = os.path.getsize(path)
    if size > _MAX_BYTES:
        raise _damaged(path, f"a file of {size:,} bytes")
    ended = child_process.run(
        "dsg_tf.tflite.rehearsal", [os.fspath(path)], limit_s=_SECONDS
    )
    if ended.fault:
        got = f"a file that ends its interpreter ({ended.fault})"
        raise _damaged(path, got)
    if ended.code:
        got = "a file that its interpreter does not take"
        with contextlib.suppress(ValueError, KeyError):
            got = json.loads(ended.said)["got"]
        raise _damaged(path, got)


def run_once(path: str) -> None:
    """Reads a .tflite and runs it on zeros.

    Args:
      path: the file.

    Raises:
      errors.UserError: not a .tflite file, or one that the kernels reject.
    """
    import numpy as np

    from dsg_tf.tflite import interpreter

    model = interpreter.Interpreter(pathlib.Path(path).read_bytes())
    zeros = {
        name: np.zeros(tensor.shape[1:], np.float32)
        for name, tensor in model.view.input_names().items()
    }
    model.run({name: value[np.newaxis] for name, value in zeros.items()})


def _damaged(path: str | os.PathLike, got: str) -> errors.UserError:
    return errors.UserError(
        os.fspath(path), got=got[:300], expected=_EXPECTED, remedy=_REMEDY
    )


def _main(path: str) -> int:
    # The parent process reports a crash in one line.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        run_once(path)
    except errors.UserError as error:
        got = error.got
    except Exception as error:  # Each kind of damage raises another one.
        said = errors.first_line(error)
        got = f"a damaged file ({type(error).__name__}: {said})"
    else:
        return 0
    sys.stdout.write(json.dumps({"got": got}) + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
