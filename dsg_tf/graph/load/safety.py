"""Refuses models whose graph reaches outside of itself.

A model is a program. TensorFlow has operations that read and write files, call
Python, load native code or talk to other machines, and a SavedModel may run
some of them while it is only being loaded. `check_meta_graph` therefore looks
at the file before TensorFlow does, and `check_function` at a function before
it is frozen.

An operation may run if it only computes: if TensorFlow knows it and says that
it has no state, and it is none of the few that reach out all the same; or if
its state is one of the graph's own, a variable, a table, a random generator.
All else is refused, what TensorFlow does not know included.

What may run is found by reachability, so that the functions with which every
SavedModel saves and restores its own variables do not count, but a signature
that calls them does.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator

import tensorflow as tf
from tensorflow.core.framework import (
    function_pb2,
    graph_pb2,
    node_def_pb2,
    variable_pb2,
)
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.framework import op_def_registry

from dsg_tf.core import errors

# Effect by operation, of those that TensorFlow calls stateless, and of others
# for better words. The names are those of TensorFlow's registry, and a test
# goes through all of it for operations that take a path, an address or code.
_EFFECTS = {
    "reads or writes files": (
        "ReadFile|WriteFile|MatchingFiles|FileSystemSetConfiguration"
        "|ImmutableConst|DumpTensor|CalibrationStatisticsSaver|RecordInput"
        "|Save|SaveV2|SaveSlices|Restore|RestoreV2|RestoreSlice"
        "|DTensorRestoreV2|DistributedSave|MergeV2Checkpoints"
        "|LoadAndRemapMatrix|GenerateVocabRemapping|Skipgram"
        "|InitializeTableFromTextFile(V2)?|IO>.*"
        "|(WholeFile|TextLine|FixedLengthRecord|TFRecord|LMDB)Reader(V2)?"
        "|(Experimental)?(TextLine|FixedLengthRecord|TFRecord|CSV|Sql|LMDB"
        "|Save|Load|Cache|MatchingFiles)Dataset(V\\d+)?"
        "|Snapshot.*|ListSnapshotChunksDataset"
        "|(Experimental)?DatasetToTFRecord"
    ),
    "writes logs": (
        "CreateSummary(File|Db)Writer|SummaryWriter|Write\\w*Summary"
        "|FlushSummaryWriter|CloseSummaryWriter|ImportEvent"
        "|(Experimental)?StatsAggregatorSetSummaryWriter"
        "|Debug(Identity|NanCount|NumericSummary)(V\\d+)?|Copy(Host)?"
    ),
    "calls Python": "PyFunc|PyFuncStateless|EagerPyFunc",
    "runs code that the graph does not show": (
        "DatasetFromGraph|XlaCustomCall(V2)?|MlirPassthroughOp|XlaCallModule"
        "|TRTEngineOp|RemoteFusedGraphExecute|_?Xla(Compile|Run|Launch)\\w*"
        "|_?TPU(Compile|Execute)\\w*|_TPUReplicate"
    ),
    "talks to other processes": (
        "RemoteCall|Rpc\\w*|DeleteRpcFutureResource|Collective\\w+|Nccl\\w+"
        "|_?(Host)?(Send|Recv)|Xla(Send|Recv)\\w*"
        "|DataServiceDataset(V\\d+)?|RegisterDataset(V2)?|WorkerHeartbeat"
    ),
    "ends the process": "Abort",
    "waits": (
        "Sleep(Identity)?Op|(Experimental)?SleepDataset|\\w*Queue(V2)?"
        "|Queue(Dequeue|Enqueue)\\w*|Barrier\\w*|Mutex\\w*"
        "|(Ordered)?(Map)?(Un)?[Ss]tage\\w*"
    ),
}
_UNSAFE = {effect: re.compile(names) for effect, names in _EFFECTS.items()}
# Stateful operations whose state is the graph's own, by kind.
_OWN_STATE = {
    "variables": (
        "_?VarHandles?Op|_?ReadVariables?Op|Variable(V2)?|TemporaryVariable"
        "|Assign(Add|Sub)?VariableOp|VarIsInitializedOp|VariableShape"
        "|ResourceGather(Nd)?|ResourceScatter\\w+|ResourceStridedSliceAssign"
        "|Resource(Sparse)?Apply\\w+|ResourceCountUpTo|DestroyResourceOp"
        "|DisableCopyOnRead|(Resource|Sparse)?ConditionalAccumulator"
        "|ResourceConditionalAccumulator|ResourceAccumulator\\w+"
    ),
    "control flow": (
        "_?If|Case|_?While|StatefulPartitionedCall|Assert|CheckNumerics(V2)?"
        "|Print|GuaranteeConst|Empty|DeepCopy|_?(Device)?(Arg|Retval)"
        "|DeviceIndex|TPUOrdinalSelector|IsTensorFloat32Enabled"
    ),
    "tables": (
        "(Anonymous)?(Mutable)?(Dense)?HashTable(OfTensors)?(V2)?"
        "|InitializeTableV2|LookupTable\\w+V2"
    ),
    "random": (
        "Random(StandardNormal|Uniform|UniformInt|Gamma|Poisson|PoissonV2"
        "|Shuffle|Crop)|Multinomial|TruncatedNormal|ParameterizedTruncatedNormal"
        "|NonDeterministicInts|StatelessRandomGetAlg|Rng(ReadAndSkip|Skip)"
        "|Stateful(RandomBinomial|StandardNormal(V2)?|TruncatedNormal"
        "|Uniform(FullInt|Int)?)|SampleDistortedBoundingBox(V2)?"
        "|(All|FixedUnigram|LearnedUnigram|LogUniform|ThreadUnsafeUnigram"
        "|Uniform)CandidateSampler|Anonymous(Random)?SeedGenerator"
        "|Delete(Random)?SeedGenerator|DummySeedGenerator"
    ),
    "lists of tensors": "TensorArray\\w*|Stack(V2|\\w+V2)?",
    "recurrent layers": "CudnnRNN\\w*",
}
_OWN = re.compile("|".join(_OWN_STATE.values()))
_STATE = "keeps a state that is no variable, table or random generator"
# Stands for a path: whoever calls the function may give one.
_TOLD_BY_CALLER = "file:"
_UNKNOWN = "is no operation of TensorFlow"
# What restores the variables of a SavedModel of TensorFlow 1.
_SAVER_OPS = frozenset({"Restore", "RestoreSlice", "RestoreV2"})
_INITIALISERS = ("saved_model_main_op", "legacy_init_op", "table_initializer")


@dataclasses.dataclass(frozen=True)
class UnsafeOp:
    """An operation that reaches outside the graph.

    Attributes:
      op: its type, e.g. `ReadFile`.
      node: its name.
      function: the function it stands in; empty for the graph itself.
      effect: what it does, in words.
    """

    op: str
    node: str
    function: str
    effect: str

    def __str__(self) -> str:
        where = f" in {self.function}" if self.function else ""
        return f"{self.op} ({self.node}{where}) {self.effect}"


def effect(node: node_def_pb2.NodeDef) -> str | None:
    """What an operation does outside the graph; None where it only computes.

    Args:
      node: it and its attributes decide, not what it calls.

    Examples:
      >>> effect(node_def_pb2.NodeDef(op="ReadFile"))
      'reads or writes files'
    """
    if node.op == "PrintV2":
        is_file = _text(node, "output_stream").startswith("file:")
        return "writes logs" if is_file else None
    if node.op in ("DecodeProtoV2", "EncodeProto"):
        source = _text(node, "descriptor_source")
        harmless = source in ("", "local://") or source.startswith("bytes:")
        return None if harmless else "reads or writes files"
    if node.op == "FixedUnigramCandidateSampler":
        return "reads or writes files" if _text(node, "vocab_file") else None
    if _OWN.fullmatch(node.op):
        return None
    for name, pattern in _UNSAFE.items():
        if pattern.fullmatch(node.op):
            return name
    registered = op_def_registry.get(node.op)
    if registered is None:
        return _UNKNOWN
    return _STATE if registered.is_stateful else None


def find(
    graph_def: graph_pb2.GraphDef,
    *,
    nodes: Iterable[str] | None = None,
    functions: Iterable[str] = (),
    allowed: frozenset[str] = frozenset(),
) -> list[UnsafeOp]:
    """Unsafe operations that may run.

    Args:
      graph_def: the graph and its library.
      nodes: names of the nodes that are run, with all they depend on; by
        default every node of the graph.
      functions: names of functions that are run too.
      allowed: operations that are let pass.

    Returns:
      The operations, those of the graph first.
    """
    by_name = {node.name: node for node in graph_def.node}
    run = list(graph_def.node)
    if nodes is not None:
        run = [by_name[n] for n in _ancestors(by_name, nodes)]
    library = _Library(graph_def.library)
    called = list(functions)
    inside = [("", node) for node in run]
    for node in run:
        called += library.called(node)
    inside += library.nodes(called)
    found = []
    for name, node in inside:
        does = None if library.is_call(node) else effect(node)
        if does and node.op not in allowed:
            found.append(UnsafeOp(node.op, node.name, name, does))
    return found


def check_function(
    function: tf.types.experimental.ConcreteFunction, subject: str
) -> None:
    """Refuses a function with unsafe operations, before it is frozen.

    Args:
      function: what computes the model's outputs.
      subject: what the error calls the model.

    Raises:
      errors.UserError: naming the operations.
    """
    _refuse(find(function.graph.as_graph_def()), subject)


def check_graph_def(graph_def: graph_pb2.GraphDef, subject: str) -> None:
    """Refuses a GraphDef with unsafe operations, wherever they are.

    Args:
      graph_def: as read from its file.
      subject: what the error calls the model.

    Raises:
      errors.UserError: naming the operations.
    """
    functions = [f.signature.name for f in graph_def.library.function]
    _refuse(find(graph_def, functions=functions), subject)


def check_meta_graph(
    meta_graph: meta_graph_pb2.MetaGraphDef,
    subject: str,
    *,
    is_only_one: bool = True,
) -> None:
    """Refuses a SavedModel that could run unsafe operations when loaded.

    Looked at are the signatures, the initialisers, and every function that is
    restored as part of the object: TensorFlow calls some of them by name.

    Args:
      meta_graph: of the SavedModel, as read from its file.
      subject: what the error calls the model.
      is_only_one: whether the SavedModel has no other. With others, or
        without an object graph, TensorFlow restores the variables by an
        operation of the graph, which is then looked at too.

    Raises:
      errors.UserError: naming the operations.
    """
    graph_def = meta_graph.graph_def
    known = {node.name for node in graph_def.node}
    found = find(
        graph_def,
        nodes=[n for n in _entry_nodes(meta_graph) if n in known],
        functions=_restored_functions(meta_graph),
    )
    restore = meta_graph.saver_def.restore_op_name.split(":")[0]
    has_objects = is_only_one and meta_graph.HasField("object_graph_def")
    if restore in known and not has_objects:
        found += find(graph_def, nodes=[restore], allowed=_SAVER_OPS)
    _refuse(found, subject)


def _text(
    holder: node_def_pb2.NodeDef | function_pb2.FunctionDef, attribute: str
) -> str:
    """A text attribute; empty where absent (reading it would create it)."""
    if attribute not in holder.attr:
        return ""
    if holder.attr[attribute].WhichOneof("value") == "placeholder":
        return _TOLD_BY_CALLER
    return holder.attr[attribute].s.decode(errors="replace")


def _refuse(found: list[UnsafeOp], subject: str) -> None:
    if not found:
        return
    distinct = {(op.op, op.function): op for op in found}
    shown = [str(op) for op in list(distinct.values())[:3]]
    more = len(distinct) - len(shown)
    raise errors.UserError(
        subject,
        got="; ".join(shown) + (f"; and {more} more" if more else ""),
        expected="a graph that only computes",
        remedy="export the model without them, or pass --allow_unsafe_ops if"
        " you trust whoever made it",
    )


def _entry_nodes(meta_graph: meta_graph_pb2.MetaGraphDef) -> Iterator[str]:
    """Nodes of the graph itself that a load or a call would run."""
    for signature in meta_graph.signature_def.values():
        for info in (*signature.inputs.values(), *signature.outputs.values()):
            for tensor in _tensors(info):
                yield tensor.split(":")[0]
    for key in _INITIALISERS:
        if key in meta_graph.collection_def:
            for name in meta_graph.collection_def[key].node_list.value:
                yield name.lstrip("^").split(":")[0]
    if "local_variables" in meta_graph.collection_def:
        values = meta_graph.collection_def["local_variables"].bytes_list.value
        for value in values:
            variable = variable_pb2.VariableDef.FromString(value)
            yield variable.initializer_name.split(":")[0]


def _tensors(info: meta_graph_pb2.TensorInfo) -> list[str]:
    if info.WhichOneof("encoding") == "coo_sparse":
        sparse = info.coo_sparse
        return [
            sparse.values_tensor_name,
            sparse.indices_tensor_name,
            sparse.dense_shape_tensor_name,
        ]
    if info.WhichOneof("encoding") == "composite_tensor":
        return [
            name
            for component in info.composite_tensor.components
            for name in _tensors(component)
        ]
    return [info.name]


def _restored_functions(
    meta_graph: meta_graph_pb2.MetaGraphDef,
) -> Iterator[str]:
    objects = meta_graph.object_graph_def
    yield from objects.concrete_functions
    for node in objects.nodes:
        yield from node.function.concrete_functions
        yield node.bare_concrete_function.concrete_function_name
        yield node.captured_tensor.concrete_function


def _ancestors(
    by_name: dict[str, node_def_pb2.NodeDef], roots: Iterable[str]
) -> list[str]:
    """`roots` and all they depend on, through control edges too."""
    seen = dict.fromkeys(roots)
    stack = list(seen)
    while stack:
        for ref in by_name[stack.pop()].input:
            name = ref.lstrip("^").split(":")[0]
            if name in by_name and name not in seen:
                seen[name] = None
                stack.append(name)
    return list(seen)


class _Library:
    """The functions of a graph, and which of them call which."""

    def __init__(self, library: function_pb2.FunctionDefLibrary):
        # Lists: a damaged library may have two functions of one name.
        self._functions: dict[str, list[function_pb2.FunctionDef]] = {}
        self._by_interface: dict[str, list[str]] = {}
        for function in library.function:
            name = function.signature.name
            self._functions.setdefault(name, []).append(function)
            interface = _text(function, "api_implements")
            if interface:
                self._by_interface.setdefault(interface, []).append(name)
        self._gradients = {
            entry.function_name: entry.gradient_func
            for entry in library.gradient
        }
        self._gradients_by_type = {
            entry.registered_op_type: entry.gradient_func
            for entry in library.registered_gradients
        }

    def is_call(self, node: node_def_pb2.NodeDef) -> bool:
        """Whether a node's operation is a function of the library.

        A function that takes the name of an operation of TensorFlow is none:
        which of them would run is not said anywhere.
        """
        return (
            node.op in self._functions and op_def_registry.get(node.op) is None
        )

    def called(self, node: node_def_pb2.NodeDef) -> Iterator[str]:
        """Names of functions that a node may call, or its gradient."""
        yield node.op
        gradient = _text(node, "_gradient_op_type")
        if gradient in self._gradients_by_type:
            yield self._gradients_by_type[gradient]
        stack = list(node.attr.values())
        while stack:
            attribute = stack.pop()
            for function in (attribute.func, *attribute.list.func):
                if function.name:
                    yield function.name
                # What the function's own placeholders stand for.
                stack += function.attr.values()

    def nodes(
        self, called: Iterable[str]
    ) -> Iterator[tuple[str, node_def_pb2.NodeDef]]:
        """All nodes of all functions reachable from `called`, with its name.

        A function that implements the same interface as a reachable one is
        reachable itself: TensorFlow may put it in the other's place.
        """
        reached: set[str] = set()
        stack = list(called)
        while stack:
            name = stack.pop()
            if name not in self._functions or name in reached:
                continue
            reached.add(name)
            if name in self._gradients:
                stack.append(self._gradients[name])
            for function in self._functions[name]:
                interface = _text(function, "api_implements")
                stack += self._by_interface.get(interface, ())
                for node in function.node_def:
                    yield name, node
                    stack += self.called(node)
