"""Fills open input dimensions with the shapes that the user gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dsg_tf.core import errors
from dsg_tf.graph import frozen, ir

Shape = Sequence[int | None]
Shapes = Mapping[str, Shape] | Shape


def complete(
    graph: ir.Graph,
    subject: str,
    given: Shapes | None = None,
    *,
    default: Shape | None = None,
) -> ir.Graph:
    """The graph with all dimensions of its inputs known but the batch.

    Args:
      graph: the graph.
      subject: what errors call the model.
      given: the shape of one sample, with or without the batch, for a graph
        with one input; or shapes by input name.
      default: the shape of one sample, for dimensions that are still open
        then; left alone where it contradicts those that are known.

    Raises:
      errors.UserError: a dimension stays unknown; or a shape contradicts the
        graph, or names no input of it.
    """
    names = [port.name for port in graph.inputs]
    if given is None:
        given = {}
    elif not isinstance(given, Mapping):
        if len(names) > 1:
            sizes = example(graph.inputs[0].shape)
            raise errors.UserError(
                "--input_shape",
                got="one shape without a name",
                expected=f"a shape by name; the inputs are {', '.join(names)}",
                remedy=f"for instance --input_shape={names[0]}={sizes}",
            )
        given = {names[0]: given}
    for name in given:
        if name not in names:
            raise errors.UserError(
                "--input_shape",
                got=f"a shape for {name!r}",
                expected=f"one of the inputs of {subject}: {', '.join(names)}",
            )
    shapes = {
        p.name: _complete(p, given.get(p.name), default) for p in graph.inputs
    }
    if all(shapes[port.name] == port.shape for port in graph.inputs):
        return graph
    try:
        graph = frozen.with_input_shapes(graph, shapes)
        for port in graph.outputs:
            graph.shape(port.tensor)
    except ValueError as error:
        text = "; ".join(f"{n}={_text(s)}" for n, s in shapes.items())
        raise errors.UserError(
            "--input_shape",
            got=f"{text}, which the graph does not accept"
            f" ({str(error).strip().splitlines()[0][:160]})",
            expected="the shape that the model was built for",
        ) from error
    return graph


def of_one_sample(graph: ir.Graph) -> ir.Graph:
    """The graph with a batch size of 1.

    Args:
      graph: the graph.

    Raises:
      errors.UserError: its batch size is fixed to another number, which shapes
        within repeat.
    """
    fixed = {port.shape[0] for port in graph.inputs} - {None, 1}
    if fixed and not frozen.accepts_batch_size(graph, 1):
        raise errors.UserError(
            "model",
            got=f"a batch size fixed to {', '.join(map(str, sorted(fixed)))}",
            expected="an open batch size, or 1",
            remedy="export the model with batch size None",
        )
    return frozen.with_batch_size(graph, 1)


def _complete(
    port: ir.Port, given: Shape | None, default: Shape | None
) -> Shape:
    """The full shape of an input, batch first, only the batch unknown."""
    known = port.shape
    shape: Shape | None = known
    if given is not None:
        shape = merged(known, given)
        if shape is None:
            raise errors.UserError(
                f"--input_shape of {port.name!r}",
                got=_text(given),
                expected=_text(known),
            )
    if default is not None:
        shape = _filled(shape, default)
    if shape is None or None in shape[1:]:
        raise errors.UserError(
            f"input {port.name!r}",
            got=f"the shape {_text(shape)}",
            expected="all dimensions but the batch known",
            remedy=f"for instance --input_shape={port.name}={example(shape)}",
        )
    return shape


def merged(known: Shape | None, given: Shape) -> Shape | None:
    """A shape with its open dimensions as given; None where that does not fit.

    Args:
      known: batch first; None where even the rank is unknown.
      given: of one sample, with or without the batch.

    Examples:
      >>> merged((None, None, None, 3), (8, 9, 3))
      (None, 8, 9, 3)
      >>> merged((None, 4), (5,)) is None
      True
    """
    given = tuple(given)
    if known is None or len(given) == len(known) - 1:
        given = (None if known is None else known[0], *given)
    known = known or (None,) * len(given)
    fits = len(given) == len(known) and all(
        g is None or (g >= 1 and k in (None, g))
        for g, k in zip(given, known, strict=True)
    )
    if not fits:
        return None
    filled = zip(given, known, strict=True)
    return tuple(k if g is None else g for g, k in filled)


def example(shape: Shape | None) -> str:
    """A shape of one sample that fits, as text for the command line.

    Args:
      shape: batch first; None where even the rank is unknown.

    Examples:
      >>> example((None, None, None, 3)), example((None, None, 4))
      ('224,224,3', '128,4')
    """
    if shape is None or len(shape) < 2:
        return "224,224,3"
    size = 224 if len(shape) == 4 else 128
    return ",".join(str(d or size) for d in shape[1:])


def _filled(shape: Shape | None, sample: Shape) -> Shape | None:
    """A shape with its open dimensions as in a sample, where that fits."""
    if shape is None:
        return (None, *sample)
    rest = tuple(shape[1:])
    fits = len(rest) == len(sample) and all(
        k is None or k == s for k, s in zip(rest, sample, strict=True)
    )
    return (shape[0], *sample) if fits else shape


def _text(shape: Shape | None) -> str:
    if shape is None:
        return "(unknown rank)"
    return "(" + ", ".join("?" if d is None else str(d) for d in shape) + ")"
