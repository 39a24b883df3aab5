"""Caches results of analyses per graph; graphs are immutable."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import TypeVar

from dsg_tf.graph import ir

_Found = TypeVar("_Found")


def per_graph(
    function: Callable[[ir.Graph], _Found],
) -> Callable[[ir.Graph], _Found]:
    """A function of a graph alone that remembers its results.

    They are forgotten with the graph. What is returned must not be changed.

    Examples:
      >>> @per_graph
      ... def size(graph):
      ...     print("counted")
      ...     return len(graph)
      >>> graph = ir.Graph({}, (), ())
      >>> size(graph), size(graph)
      counted
      (0, 0)
    """
    known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    @functools.wraps(function)
    def remembering(graph: ir.Graph) -> _Found:
        if graph not in known:
            known[graph] = function(graph)
        return known[graph]

    return remembering
