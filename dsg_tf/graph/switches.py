"""Resolves TensorFlow 1 branches (Switch, Merge) with a constant condition.

A Keras model that was exported by TensorFlow 1 contains every BN twice, for
training and for inference, and selects one by `keras_learning_phase`, which
defaults to False. Only the selected branch is kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import node_def_pb2

from dsg_tf.graph import ir

_SWITCH = frozenset({"Switch", "RefSwitch"})
_MERGE = frozenset({"Merge", "RefMerge"})


def resolve(nodes: Mapping[str, ir.Node]) -> dict[str, ir.Node]:
    """Replaces Switch and Merge nodes with a constant condition.

    Control edges matter here: a constant inside a branch runs only if the
    branch is selected.

    Args:
      nodes: by name, with their control edges. Identity nodes may be among
        them.

    Returns:
      The same nodes, where every Merge with one living input and every
      decided Switch is an IdentityN. A Switch on a condition that varies
      stays as it is.
    """
    if not any(node.op in _SWITCH for node in nodes.values()):
        return dict(nodes)
    dead = _dead_tensors(nodes)
    resolved = dict(nodes)
    for name, node in nodes.items():
        if node.op in _SWITCH and _decision(nodes, node) is not None:
            # Both outputs stand for the data; only one of them is read.
            resolved[name] = _identity(node, [node.inputs[0]] * 2)
        elif node.op in _MERGE:
            alive = [t for t in node.inputs if not _is_dead(t, dead)]
            if len(alive) == 1:
                resolved[name] = _identity(node, alive)
    return resolved


def _decision(nodes: Mapping[str, ir.Node], switch: ir.Node) -> bool | None:
    """The output (0 or 1) that a Switch always selects; None if unknown."""
    node = nodes[ir.node_name(ir.source(nodes, switch.inputs[1]))]
    if node.op != "Const":
        return None
    value = np.ravel(tf.make_ndarray(node.definition.attr["value"].tensor))
    return bool(value[0]) if value.size == 1 else None


def _dead_tensors(nodes: Mapping[str, ir.Node]) -> set[str]:
    """Nodes (by name) and single tensors (`node:index`) that never run."""
    dead: set[str] = set()
    for node in nodes.values():
        if node.op in _SWITCH:
            decision = _decision(nodes, node)
            if decision is not None:
                dead.add(f"{node.name}:{0 if decision else 1}")
    consumers: dict[str, list[ir.Node]] = {}
    for node in nodes.values():
        for ref in node.definition.input:
            consumers.setdefault(ir.node_name(ref), []).append(node)
    stack = [ir.node_name(tensor) for tensor in dead]
    while stack:
        for node in consumers.get(stack.pop(), ()):
            if node.name in dead:
                continue
            refs = node.definition.input
            verdicts = [_is_dead(ir.tensor_name(r), dead) for r in refs]
            if node.op in _MERGE:
                is_dead = bool(verdicts) and all(verdicts)
            else:
                is_dead = any(verdicts)
            if is_dead:
                dead.add(node.name)
                stack.append(node.name)
    return dead


def _is_dead(tensor: str, dead: set[str]) -> bool:
    return tensor in dead or ir.node_name(tensor) in dead


def _identity(node: ir.Node, tensors: list[str]) -> ir.Node:
    definition = node_def_pb2.NodeDef(name=node.name, op="IdentityN")
    definition.input.extend(tensors)
    kind = node.definition.attr["T"].type
    definition.attr["T"].list.type.extend([kind] * len(tensors))
    return ir.Node.from_def(definition)
