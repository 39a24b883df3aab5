"""Versions of the libraries whose arithmetic results depend on."""

from __future__ import annotations

import functools
from importlib import metadata

import dsg_tf

_COMPUTING = (
    *("tensorflow", "keras", "numpy"),
    *("litert-quantizer", "ai-edge-litert"),
)


@functools.cache
def computing() -> dict[str, str]:
    """By name of the distribution; dsg_tf first.

    Examples:
      >>> list(computing())[:2]
      ['dsg_tf', 'tensorflow']
    """
    versions = {name: metadata.version(name) for name in _COMPUTING}
    # Bazel runs it without having it installed.
    return {"dsg_tf": dsg_tf.__version__, **versions}
