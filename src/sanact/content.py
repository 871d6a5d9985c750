"""A hash of the content of a Python value: the same in every process and on every machine, at any memory address."""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import importlib.util
import re
import sys
import sysconfig
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

LIBRARIES = sys.stdlib_module_names | {"numpy", "sanact", "torch", "typing_extensions"}  # their code is known by its names
STDLIB = sysconfig.get_path("stdlib")
HEAP = 1 << 9  # the flag of classes that are made while Python runs
PLAIN = (type(None), bool, int, float, complex, str, bytes)
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
BARE = frozenset(vars(nn.Module()))  # what every module has: hooks, children, flags
GRAPH = frozenset({"_code", "_graph", "_lineno_map", "_prologue_start", "_tracer_cls", "meta"})  # of a graph as a module
NOT_COMPUTED_WITH = frozenset(  # of a class: what constructs, shows or describes a value
    [
        "__annotations__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__init__",
        "__module__",
        "__qualname__",
        "__repr__",
        "__slotnames__",  # a cache of pickle's
        "__static_attributes__",
        "__str__",
        "__weakref__",
        "_abc_impl",
        "extra_repr",
    ]
)


def content(value: Any, *, closures: bool = True) -> bytes:
    """A hash of a value and everything it reaches: tensors, numbers, modules with their hooks, functions, classes, objects.

    The user's own functions and classes count by their compiled code, with the defaults, closures and globals it uses.
    Comments do not count, nor do edits of a file after its import.  Another minor version of Python gives another hash.
    Functions and classes of Python, PyTorch, NumPy and this package count by name.
    Not counted: devices, memory formats, training flags, `requires_grad`, and the order of dictionaries and sets, except of an
    OrderedDict.  A list and a tuple with the same content are the same.
    closures: whether lists, dictionaries and sets in closures count; running code may change them.
    """
    return _Reader(closures).of(value)


class _Reader:
    """Reads each object once.

    known: hashes by address.  kept: the objects themselves, kept alive so that no other object gets the address.
    open: addresses now being read, so that an object inside itself is not read again.  closures: see `content`.
    """

    def __init__(self, closures: bool) -> None:
        self.closures = closures
        self.known: dict[int, bytes] = {}
        self.kept: list[Any] = []
        self.open: set[int] = set()

    def of(self, value: Any) -> bytes:
        address = id(value)
        if address in self.open:
            return b"itself"
        if address not in self.known:
            self.open.add(address)
            self.known[address] = _hash(self.parts(value))
            self.open.remove(address)
            self.kept.append(value)
        return self.known[address]

    def parts(self, value: Any) -> Iterator[bytes | memoryview]:
        """The parts of a value to hash, its kind first."""
        if type(value) in PLAIN:
            yield from (type(value).__name__.encode(), repr(value).encode())
            return
        for kinds, read in READERS:
            if isinstance(value, kinds):
                yield read.__name__.encode()
                yield from read(self, value)
                if isinstance(value, HOLDERS) and is_own(type(value)):
                    yield from self.all([type(value), getattr(value, "__dict__", None)])
                return
        yield from _object(self, value)

    def all(self, values: Iterable[Any]) -> list[bytes]:
        return [self.of(value) for value in values]

    def named(self, values: Mapping[Any, Any]) -> Iterator[bytes]:
        """Keys and values, independent of their order."""
        for key, name in sorted(((self.of(name), name) for name in values), key=lambda pair: pair[0]):
            yield from (key, self.of(values[name]))


def _hash(parts: Iterable[bytes | memoryview]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(str(part.nbytes if isinstance(part, memoryview) else len(part)).encode() + b":")
        digest.update(part)
    return digest.digest()


def _tensor(reader: _Reader, value: Tensor) -> Iterator[bytes | memoryview]:
    if is_own(type(value)):
        yield reader.of(type(value))
    value = value.detach()
    yield f"{value.dtype} {tuple(value.shape)} {value.layout}".encode()
    if value.is_meta or nn.parameter.is_lazy(value):
        return
    if inner := getattr(value, "__tensor_flatten__", None):  # a tensor made of others
        names, rest = inner()
        yield from reader.all([type(value), rest, *(getattr(value, name) for name in names)])
    elif value.is_quantized:
        per_channel = value.qscheme() in (torch.per_channel_affine, torch.per_channel_affine_float_qparams)
        scale = (value.q_per_channel_scales(), value.q_per_channel_zero_points()) if per_channel else (value.q_scale(),)
        yield from reader.all([*scale, None if per_channel else value.q_zero_point(), value.int_repr()])
    elif value.layout is not torch.strided:
        yield from _tensor(reader, value.to_dense())
    else:
        value = value.cpu().resolve_conj().resolve_neg().contiguous().flatten()
        yield value.view(torch.uint8).numpy().data if value.numel() else b""


def _array(reader: _Reader, value: Any) -> Iterator[bytes | memoryview]:
    array = np.asarray(value)
    yield f"{array.dtype} {array.shape}".encode()
    yield reader.of(array.tolist()) if array.dtype.hasobject else array.tobytes()
    if isinstance(value, np.ma.MaskedArray):
        yield reader.of(np.ma.getmaskarray(value))


def _sequence(reader: _Reader, value: Iterable[Any]) -> Iterator[bytes]:
    yield from reader.all(value)


def _mapping(reader: _Reader, value: Mapping[Any, Any]) -> Iterator[bytes]:
    yield from reader.all(value) if isinstance(value, OrderedDict) else ()
    yield from reader.named(value)


def _set(reader: _Reader, value: Iterable[Any]) -> Iterator[bytes]:
    yield from sorted(reader.all(value))


def _member(reader: _Reader, value: enum.Enum) -> Iterator[bytes]:
    yield from reader.all([type(value).__qualname__, value.name, value.value])
    for kind in filter(is_own, type(value).__mro__):
        yield from reader.named({name: part for name, part in vars(kind).items() if isinstance(part, METHODS)})


def _word(reader: _Reader, value: Any) -> Iterator[bytes]:
    yield str(value).encode()


def _nothing(reader: _Reader, value: Any) -> Iterator[bytes]:
    yield from ()


def _reference(reader: _Reader, value: weakref.ref[Any]) -> Iterator[bytes]:
    yield reader.of(value())


def _draws(reader: _Reader, value: torch.Generator) -> Iterator[bytes]:
    yield str(value.initial_seed()).encode()  # not its current position


def _network(reader: _Reader, value: nn.Module) -> Iterator[bytes]:
    yield reader.of(type(value))
    own = {name: attribute for name, attribute in vars(value).items() if name not in BARE}
    if isinstance(value, fx.GraphModule):
        own = {name: attribute for name, attribute in own.items() if name not in GRAPH}
        yield reader.of(value.graph)
    if isinstance(value, torch.jit.ScriptModule):
        own = {}
        if hasattr(value, "forward"):
            yield from _script(reader, graph := value.inlined_graph)
            own = _kept_by_script(value, graph)
    if type(value).__name__ == "OptimizedModule":  # what `torch.compile` makes: a faster form of the module in it
        own = {}
    yield from reader.named(own | {f"tensor {name}": part for name, part in _tensors(value)})
    for name, child in value.named_children():
        yield from (name.encode(), reader.of(child))
    for kind in HOOKS:
        for hook in getattr(value, kind, {}).values():
            yield from (kind.encode(), reader.of(hook))


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor | None]]:
    """The parameters and buffers of the module itself, including those that are not saved."""
    yield from module._parameters.items()
    yield from module._buffers.items()


def _graph(reader: _Reader, value: fx.Graph) -> Iterator[bytes]:
    """The operations in their order, with all constants; references to another operation become its position."""
    place = {node: f"node {number}" for number, node in enumerate(value.nodes)}
    for node in place:
        read = fx.node.map_aggregate((node.args, node.kwargs), lambda a: place[a] if isinstance(a, fx.Node) else a)
        yield from reader.all([node.op, node.target, read])


def _script(reader: _Reader, graph: Any) -> Iterator[bytes]:
    """The operations of TorchScript, without the numbers that it appends to classes of the same name."""
    graph = graph.inlined_graph if isinstance(graph, torch.jit.ScriptFunction) else graph
    yield re.sub(r"___torch_mangle_\d+\.", "", graph.str(False)).encode()
    for node in graph.findAllNodes("prim::Constant"):
        if "value" in node.attributeNames() and node.kindOf("value") == "t":
            yield reader.of(node.t("value"))


def _kept_by_script(module: torch.jit.ScriptModule, graph: Any) -> dict[str, Any]:
    """The attributes that its operations read, besides tensors and modules; its graph names them, but not their values."""
    names = {node.s("name") for node in graph.findAllNodes("prim::GetAttr")}
    found = {
        f"{path}.{name}": getattr(part, name)
        for path, part in module.named_modules()
        for name in names
        if part._c.hasattr(name)
    }
    return {name: value for name, value in found.items() if not isinstance(value, (Tensor, nn.Module))}


def _function(reader: _Reader, value: types.FunctionType) -> Iterator[bytes]:
    if compiled := vars(value).get("_torchdynamo_orig_callable"):  # what `torch.compile` makes: a faster form of it
        yield reader.of(compiled)
        return
    if not is_users(value):
        yield from reader.all([value.__module__, value.__qualname__, value.__closure__])
        return
    names = _names(value.__code__)
    used = {name: _used(value.__globals__[name], names) for name in names if name in value.__globals__}
    used |= {f"import {name}": _used(module, names) for name, module in _imported(value)}
    yield from reader.all([value.__code__, value.__defaults__, value.__kwdefaults__, value.__closure__, used, vars(value)])


def _used(value: Any, names: frozenset[str], depth: int = 3) -> Any:
    """The part of a global that a function uses: for a user's module, the names that the function mentions."""
    if not isinstance(value, types.ModuleType) or _is_known(value.__name__) or not depth:
        return value
    return {name: _used(getattr(value, name), names, depth - 1) for name in names if hasattr(value, name)}


def _names(code: types.CodeType) -> frozenset[str]:
    """The names read in a function and in the functions defined inside it."""
    return frozenset().union(*(part.co_names for part in _codes(code)))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code of a function and of the functions defined inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _imported(value: types.FunctionType) -> Iterator[tuple[str, types.ModuleType]]:
    """The user's own modules that a function imports when it runs, if they are imported already."""
    for code in _codes(value.__code__):
        steps = list(dis.get_instructions(code))
        for level, _, step in zip(steps, steps[1:], steps[2:], strict=False):  # level, names, module
            if step.opname == "IMPORT_NAME":
                name = "." * level.argval + step.argval
                with suppress(ImportError):  # relative, outside of a package
                    name = importlib.util.resolve_name(name, value.__globals__.get("__package__"))
                if name in sys.modules and not _is_known(name):
                    yield name, sys.modules[name]


def _code(reader: _Reader, value: types.CodeType) -> Iterator[bytes]:
    names = (value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars)
    yield from reader.all([value.co_code, value.co_consts, names, value.co_flags, value.co_exceptiontable])


def _cell(reader: _Reader, value: types.CellType) -> Iterator[bytes]:
    with suppress(ValueError):  # an empty one
        if reader.closures or not isinstance(value.cell_contents, (list, dict, set)):
            yield reader.of(value.cell_contents)


def _method(reader: _Reader, value: types.MethodType) -> Iterator[bytes]:
    yield from reader.all([value.__func__, value.__self__])


def _builtin(reader: _Reader, value: Any) -> Iterator[bytes]:
    yield from reader.all([getattr(value, "__module__", None), value.__qualname__])
    yield reader.of(getattr(value, "__self__", None))  # the module or class it belongs to, or the object it is bound to


def _partial(reader: _Reader, value: functools.partial[Any]) -> Iterator[bytes]:
    yield from reader.all([value.func, value.args, value.keywords])


def _wrapped(reader: _Reader, value: Any) -> Iterator[bytes]:
    """A decorated function or method, or a property."""
    yield from reader.all(getattr(value, name, None) for name in ("__wrapped__", "__func__", "func", "fget", "fset"))


def _class(reader: _Reader, value: type) -> Iterator[bytes]:
    yield from reader.all(["" if is_own(value) else None, value.__qualname__])
    if is_own(type(value)):
        yield reader.of(type(value))
    for kind in value.__mro__:
        if not is_own(kind):
            yield kind.__qualname__.encode()
            yield from reader.named(put_into(kind)) if issubclass(kind, nn.Module) else ()
        else:
            yield from reader.named({name: part for name, part in vars(kind).items() if name not in NOT_COMPUTED_WITH})


def _module(reader: _Reader, value: types.ModuleType) -> Iterator[bytes]:
    yield value.__name__.encode()


def _object(reader: _Reader, value: Any) -> Iterator[bytes]:
    """Any other object: its class, and what a pickle of it would hold."""
    yield reader.of(type(value))
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # objects that cannot be pickled, such as a lock or an open file
        yield from reader.named(getattr(value, "__dict__", {}))
        return
    if isinstance(reduced, tuple):
        _, arguments, state, items, pairs = (*reduced, *[None] * 5)[:5]
        yield reader.of((arguments, state, list(items or ()), list(pairs or ())))
        return
    yield from reader.all([reduced, getattr(value, "__dict__", None)])  # the name of an object that a module keeps


def put_into(library: Any) -> dict[str, types.FunctionType]:
    """The functions that a class or module of a library was given, by name: somebody else's, and its own under other names."""
    functions = ((name, part) for name, part in vars(library).items() if isinstance(part, types.FunctionType))
    return {name: function for name, function in functions if is_users(function) or _has_moved(function, library, name)}


def is_own(kind: type) -> bool:
    """Whether a class is of the user's own, not of Python, PyTorch, NumPy or this package."""
    if kind.__module__ == "builtins":  # so are those that ``exec`` makes
        return bool(kind.__flags__ & HEAP) and any(isinstance(part, types.FunctionType) for part in vars(kind).values())
    return not _is_known(kind.__module__)


def is_users(function: types.FunctionType) -> bool:
    """Whether a function is of the user's own; one that wraps a library's has the library's name, but not its globals."""
    return not (_is_known(function.__module__) and _is_known(function.__globals__.get("__name__")))


def _has_moved(function: types.FunctionType, library: Any, name: str) -> bool:
    """Whether a library's function stands in place of another one.  Libraries themselves do so with private ones only."""
    if name.startswith("_") or function.__name__.startswith("_"):
        return False
    elsewhere = isinstance(library, type) and function.__qualname__ != f"{library.__qualname__}.{name}"
    return elsewhere or function.__name__ != name


def _is_known(module: str | None) -> bool:
    root = (module or "").partition(".")[0]
    if root not in LIBRARIES:
        return False
    path = getattr(sys.modules.get(root), "__file__", None)
    return root not in sys.stdlib_module_names or path is None or path.startswith(STDLIB)  # users have a code.py, too


HOLDERS = (list, tuple, dict, set, frozenset, np.ndarray, functools.partial)  # with a class of the user's, they do more
METHODS = (types.FunctionType, staticmethod, classmethod, property)
Read = Callable[[_Reader, Any], Iterator[bytes | memoryview]]
READERS: list[tuple[Any, Read]] = [  # the first that fits is used; any other object is read like a pickle of it
    (enum.Enum, _member),
    (Tensor, _tensor),
    ((np.ndarray, np.generic), _array),
    ((list, tuple), _sequence),
    ((dict, types.MappingProxyType), _mapping),
    ((set, frozenset), _set),
    (nn.Module, _network),
    (fx.Graph, _graph),
    (torch.jit.ScriptFunction, _script),
    (types.FunctionType, _function),
    (types.CodeType, _code),
    (types.CellType, _cell),
    (types.MethodType, _method),
    ((types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType), _builtin),
    (functools.partial, _partial),
    ((staticmethod, classmethod, property, functools.cached_property, functools._lru_cache_wrapper), _wrapped),
    (type, _class),
    (types.ModuleType, _module),
    (torch.Generator, _draws),
    ((torch._ops.OpOverload, torch._ops.OpOverloadPacket, torch.dtype, torch.layout, torch.memory_format), _word),
    (weakref.ref, _reference),
    ((torch.device, types.GetSetDescriptorType, types.MemberDescriptorType), _nothing),
]
