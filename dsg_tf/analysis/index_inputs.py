"""Inputs that are indices into a table: ids of words, characters, categories.

Such an input has no gradient, and its range is no matter of moments: the table
says which indices there are.
"""

from __future__ import annotations

from dsg_tf.graph import ir

# Operations that hand indices on, as they are or in another type or order.
_HANDING_ON = frozenset(
    {
        *("Cast", "ConcatV2", "ExpandDims", "Pack", "Reshape", "Slice"),
        *("Squeeze", "StridedSlice", "Transpose", "Unpack"),
        # Bounds; and Keras lets -1 be the last row: where(i < 0, i + n, i).
        *("AddV2", "Maximum", "Minimum", "Select", "SelectV2"),
    }
)


def table_size(graph: ir.Graph, port: ir.Port) -> int:
    """How many indices an input may have; 0 where it is no index.

    Args:
      graph: the frozen graph.
      port: one of its inputs.

    Returns:
      n for indices 0..n-1: the length of the shortest table that is read by
      them, or the least depth of a OneHot.
    """
    found = []
    queue, seen = [port.tensor], {port.tensor}
    while queue:
        tensor = queue.pop()
        for node in graph.consumers(tensor):
            if node.op in ("Gather", "GatherV2", "ResourceGather"):
                size = _rows(graph, node, tensor)
                if size:
                    found.append(size)
            elif node.op == "OneHot" and node.inputs[0] == tensor:
                depth = graph.literal(node.inputs[1])
                if depth is not None:
                    found.append(int(depth))
            elif node.op in _HANDING_ON:
                for output in graph.output_tensors(node):
                    if output not in seen:
                        seen.add(output)
                        queue.append(output)
    return min(found, default=0)


def _rows(graph: ir.Graph, node: ir.Node, indices: str) -> int:
    """The length of a constant table that a node reads at `indices`."""
    table, where, *axis = node.inputs
    if where != indices or not graph.is_constant(table):
        return 0
    along = graph.literal(axis[0]) if axis else 0
    shape = graph.shape(table)
    if along is None or not shape:
        return 0
    return shape[int(along)] or 0
