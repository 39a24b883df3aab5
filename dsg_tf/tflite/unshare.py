"""Copies constants that several operations share in a .tflite."""

from __future__ import annotations

import copy

from ai_edge_litert import schema_py_generated as schema

from dsg_tf.tflite import flatbuffer, weights


def separated(view: flatbuffer.Model) -> flatbuffer.Model:
    """Copies the model so that only uses of the same kind share a constant.

    The converter merges equal constants: one tensor of zeros becomes the bias
    of many convolutions, each of which needs its own scale and integers.
    Weights that several operations share in the same way stay one tensor.
    """
    raw = copy.deepcopy(view.raw)
    graph = raw.subgraphs[0]
    used_buffers: set[int] = set()
    for tensor in view.tensors:
        if not tensor.constant or tensor.dtype != "float32":
            continue
        uses: dict[object, list[tuple[int, int]]] = {}
        for op in view.consumers[tensor.index]:
            shared = weights.operand(view, op) is tensor and op.name
            for slot, index in enumerate(op.inputs):
                if index == tensor.index:
                    key = shared or (op.index, slot)
                    uses.setdefault(key, []).append((op.index, slot))
        original = graph.tensors[tensor.index]
        for number, places in enumerate(uses.values()):
            target = tensor.index
            if number:
                clone = copy.copy(original)
                clone.name = original.name + b"#%d" % number
                target = len(graph.tensors)
                graph.tensors.append(clone)
            _give_own_buffer(raw, graph.tensors[target], used_buffers)
            for op_index, slot in places:
                graph.operators[op_index].inputs[slot] = target
    return flatbuffer.view_of(raw)


def _give_own_buffer(
    raw: schema.ModelT, tensor: schema.TensorT, used: set[int]
) -> None:
    if tensor.buffer in used:
        clone = copy.copy(raw.buffers[tensor.buffer])
        tensor.buffer = len(raw.buffers)
        raw.buffers.append(clone)
    used.add(tensor.buffer)
