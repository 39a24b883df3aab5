"""Runs a module as `python -m` does: the main of Bazel's py_binary targets.

A module of dsg_tf as the main file itself would put dsg_tf/ first on
`sys.path`, where its own modules hide those of Python's library.
"""

import os
import runpy
import sys

if __name__ == "__main__":
    # `bazel run` starts in the runfiles; paths are meant from the user's shell.
    os.chdir(os.environ.get("BUILD_WORKING_DIRECTORY", "."))
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
