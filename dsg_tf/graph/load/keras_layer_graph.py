"""Checks that the layers of a Keras config can be called in some order.

A Keras 2 config lists, for each call of a layer, the calls that produce its
inputs. tf_keras retries until every call has been made, so it loops forever if
a call depends on itself or on a call that the file does not contain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dsg_tf.core import errors

# Stands in the place of a layer's name in front of a constant.
_CONSTANT = "_CONSTANT_VALUE"
_MODELS = frozenset({"Functional", "Model", "Sequential"})
_INPUT = "InputLayer"

# A call of a layer, by the layer's name and the number of the call.
_Call = tuple[str, object]


def check(config: Mapping, subject: str) -> None:
    """Refuses a model with a call whose inputs are never produced.

    Args:
      config: of a Keras file, checked by `keras_config` before.
      subject: what errors call the file.

    Raises:
      errors.UserError: naming one of the layers.

    Examples:
      >>> layers = [
      ...     {"name": "a", "inbound_nodes": [[["b", 0, 0, {}]]]},
      ...     {"name": "b", "inbound_nodes": [[["a", 0, 0, {}]]]},
      ... ]
      >>> try:
      ...     check({"config": {"layers": layers}}, "net.h5")
      ... except errors.UserError as error:
      ...     print(error.got)
      the layer 'a', whose input from 'b' never comes
    """
    stack: list[object] = [config]
    while stack:
        value = stack.pop()
        if isinstance(value, Mapping):
            layers = value.get("layers")
            if isinstance(layers, list):
                _check_layers(layers, subject)
            stack += value.values()
        elif isinstance(value, list):
            stack += value


def _check_layers(layers: list, subject: str) -> None:
    waiting: dict[str, list] = {}
    made: set[_Call] = set()
    counts: dict[str, int] = {}
    for layer in layers:
        if not isinstance(layer, Mapping):
            return  # No loader takes that.
        name, nodes = layer.get("name"), layer.get("inbound_nodes")
        if not isinstance(name, str) or not isinstance(nodes, list):
            continue
        waiting[name] = list(nodes)
        # A nested model's call 0 is the call that built it.
        counts[name] = int(layer.get("class_name") in _MODELS)
        if counts[name] and not _begins_with_input(layer):
            made.add((name, 0))
    while waiting:
        before = sum(map(len, waiting.values())) + len(waiting)
        for name, nodes in list(waiting.items()):
            while nodes and not _missing(nodes[0], made, waiting):
                made.add((name, counts[name]))
                counts[name] += 1
                nodes.pop(0)
            if not nodes:
                del waiting[name]
        if sum(map(len, waiting.values())) + len(waiting) == before:
            name, nodes = next(iter(waiting.items()))
            absent = _missing(nodes[0], made, waiting)
            raise errors.UserError(
                subject,
                got=f"the layer {name[:80]!r}, whose input from"
                f" {absent[:80]!r} never comes",
                expected="layers that can be called one after the other",
                remedy="download or save it again",
            )


def _begins_with_input(layer: Mapping) -> bool:
    """Whether a nested model certainly begins with an InputLayer.

    A nested model without one may have been built by its first call, so its
    calls may be numbered from 0 or from 1; both are accepted.
    """
    inner = layer.get("config")
    layers = inner.get("layers") if isinstance(inner, Mapping) else None
    first = layers[0] if isinstance(layers, list) and layers else None
    return isinstance(first, Mapping) and first.get("class_name") == _INPUT


def _missing(node, made: set[_Call], waiting) -> str:
    """The layer whose call is still missing; empty if all inputs exist."""
    for name, number in _references(node):
        try:
            known = (name, number) in made
        except TypeError:  # Not hashable; the loader raises an error.
            continue
        # InputLayers have no inbound calls. For an unknown layer the loader
        # raises an error of its own.
        if not known and (name in waiting or any(n == name for n, _ in made)):
            return name
    return ""


def _references(node) -> Iterator[tuple[str, object]]:
    """(layer name, call number) of each input of a call in a Keras 2 node."""
    stack = [node]
    while stack:
        value = stack.pop()
        if isinstance(value, Mapping):
            stack += value.values()
        elif isinstance(value, list):
            if len(value) in (3, 4) and isinstance(value[0], str):
                if value[0] != _CONSTANT:
                    yield value[0], value[1]
                stack += value[3:]
            else:
                stack += value
