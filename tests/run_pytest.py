"""The main of Bazel's py_test targets: pytest on one file of tests.

Bazel starts it in the runfiles, which hold pyproject.toml and conftest.py.
`--test_filter=EXPRESSION` becomes pytest's `-k`.
"""

import os
import sys

import pytest

if __name__ == "__main__":
    arguments = ["-p", "no:cacheprovider", *sys.argv[1:]]
    if "XML_OUTPUT_FILE" in os.environ:
        arguments.append("--junitxml=" + os.environ["XML_OUTPUT_FILE"])
    if "TESTBRIDGE_TEST_ONLY" in os.environ:
        arguments += ["-k", os.environ["TESTBRIDGE_TEST_ONLY"]]
    sys.exit(pytest.main(arguments))
