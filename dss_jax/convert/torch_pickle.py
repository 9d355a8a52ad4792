"""The pickles inside PyTorch's files, read without running what is in them.

A pickle is a program for a small stack machine. `pickletools` takes it apart into instructions;
here is what those that `torch.save` writes for a state dict do, with stand-ins for the few names
that it calls. Every other instruction and name is refused, by its name, before it has any effect.
"""

import dataclasses
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

LONGEST = 1 << 22  # bytes; the largest T5 has 200 KB

DTYPES = {
    'torch.DoubleStorage': np.float64, 'torch.FloatStorage': np.float32,
    'torch.HalfStorage': np.float16, 'torch.BFloat16Storage': jnp.bfloat16,
    'torch.LongStorage': np.int64, 'torch.IntStorage': np.int32, 'torch.ShortStorage': np.int16,
    'torch.CharStorage': np.int8, 'torch.ByteStorage': np.uint8, 'torch.BoolStorage': np.bool_,
}


class PickleError(Exception):
  """The pickle asks for what no state dict of tensors needs."""


@dataclasses.dataclass(frozen=True)
class Name:
  """What a pickle asks for: 'torch.FloatStorage'."""

  name: str


@dataclasses.dataclass(frozen=True)
class Storage:
  """Where a tensor's values are: `size` of one dtype in a row, in the file's part `key`."""

  dtype: np.dtype
  key: str
  size: int


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A view of a storage, as the pickle says; nothing of it is checked. Counted in elements."""

  storage: Any
  offset: Any
  shape: Any
  strides: Any


# What is called instead of what a pickle names. Nothing is copied: a short pickle could ask for
# many copies of something long.
_CALLS: dict[str, Callable[..., Any]] = {
    'collections.OrderedDict': lambda: {},
    'torch.Size': lambda sizes: sizes,
    'torch._utils._rebuild_tensor': Tensor,
    'torch._utils._rebuild_tensor_v2':
        lambda storage, offset, shape, strides, requires_grad, hooks, metadata=None: Tensor(
            storage, offset, shape, strides),
    'torch._utils._rebuild_parameter': lambda data, requires_grad, hooks: data,
    'torch._utils._rebuild_parameter_with_state':
        lambda data, requires_grad, hooks, state: data,
}


def load(stream: BinaryIO) -> Any:
  """The object that one pickle describes; the stream then stands behind it.

  Args:
    stream: at the pickle's beginning. It should hold LONGEST bytes at most: a longer one is no
      state dict, and takes seconds to look through.

  Returns: of dicts, lists, tuples, numbers, texts, None and `Tensor`.

  Raises:
    PickleError: names what it asks for that is none of these.
    ValueError: it is cut or malformed.
  """
  machine = _Machine()
  try:
    for opcode, arg, _ in pickletools.genops(stream):
      machine.do(opcode.name, arg)
    return machine.stack.pop()
  except (PickleError, ValueError):
    raise
  except Exception as error:  # Of any kind: whatever a garbled stream makes of the instructions.
    raise ValueError(f'{type(error).__name__}: {str(error)[:80]!a}') from error


class _Machine:
  """The stack, the stacks below its marks, and the memo."""

  def __init__(self) -> None:
    self.stack: list[Any] = []
    self._below: list[list[Any]] = []
    self._memo: dict[int, Any] = {}

  def do(self, name: str, arg: Any) -> None:
    if name in _PUSH:
      self.stack.append(arg)
    elif name in _MAKE:
      self.stack.append(_MAKE[name]())
    elif name in _TUPLES:
      self.stack.append(tuple([self.stack.pop() for _ in range(_TUPLES[name])][::-1]))
    elif name in _OTHERS:
      _OTHERS[name](self, arg)
    elif name not in _NOTHING:
      raise PickleError(f'it has the instruction {name}, which no state dict needs')

  def _mark(self, _) -> None:
    self._below.append(self.stack)
    self.stack = []

  def _since_mark(self) -> list[Any]:
    items, self.stack = self.stack, self._below.pop()
    return items

  def _put(self, index: int | None) -> None:
    self._memo[len(self._memo) if index is None else index] = self.stack[-1]

  def _get(self, index: int) -> None:
    self.stack.append(self._memo[index])

  def _global(self, arg: str | None) -> None:
    if arg is None:  # STACK_GLOBAL
      attribute, module = self.stack.pop(), self.stack.pop()
      arg = f'{module} {attribute}' if type(module) is type(attribute) is str else ''
    name = arg.replace(' ', '.')
    name = name.replace('torch.cuda.', 'torch.')  # Old files of tensors that were on a GPU.
    if name not in _CALLS and name not in DTYPES:
      raise PickleError(f'it asks for {name[:80]!a}, which no state dict of numbers needs')
    self.stack.append(Name(name))

  def _tuple(self, _) -> None:
    items = self._since_mark()
    self.stack.append(tuple(items))

  def _append(self, items: list[Any]) -> None:
    _expect(list, self.stack[-1]).extend(items)

  def _set_items(self, items: list[Any]) -> None:
    target = _expect(dict, self.stack[-1])
    for key, value in zip(items[::2], items[1::2], strict=True):
      target[_key(key)] = value

  def _call(self, _) -> None:
    args, called = _expect(tuple, self.stack.pop()), _expect(Name, self.stack.pop())
    if called.name not in _CALLS:
      raise ValueError(f'{called.name} called')
    self.stack.append(_CALLS[called.name](*args))

  def _build(self, _) -> None:
    """A state dict has its modules' versions beside its entries: they say nothing to us."""
    self.stack.pop()
    _expect(dict, self.stack[-1])

  def _storage(self, _) -> None:
    pid = _expect(tuple, self.stack.pop())
    if len(pid) not in (5, 6) or pid[0] != 'storage' or pid[5:] not in ((), (None,)):
      raise ValueError('a storage that is malformed, or a part of another one')
    kind, key, size = _expect(Name, pid[1]), _expect(str, pid[2]), _expect(int, pid[4])
    if kind.name not in DTYPES or size < 0:
      raise ValueError(f'a storage of {size} values of {kind.name}')
    self.stack.append(Storage(np.dtype(DTYPES[kind.name]), key, size))


def _expect(kind: type, found: Any) -> Any:
  if type(found) is not kind:
    raise ValueError(f'{type(found).__name__} where a {kind.__name__} should be')
  return found


def _key(found: Any) -> str | int:
  """Names alone: the hash of a tuple in a tuple in a tuple ... would overrun Python's stack."""
  if type(found) not in (str, int):
    raise ValueError(f'a {type(found).__name__} for a name')
  return found


# The instructions by the names that `pickletools` has for them.
_NOTHING = ('PROTO', 'FRAME', 'STOP')
_PUSH = ('BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT', 'BINUNICODE', 'SHORT_BINUNICODE',
         'BINSTRING', 'SHORT_BINSTRING')
_MAKE: dict[str, Callable[[], Any]] = {
    'NONE': lambda: None, 'NEWTRUE': lambda: True, 'NEWFALSE': lambda: False,
    'EMPTY_TUPLE': tuple, 'EMPTY_LIST': list, 'EMPTY_DICT': dict}
_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
_OTHERS: dict[str, Callable[[_Machine, Any], None]] = {
    'MARK': _Machine._mark, 'TUPLE': _Machine._tuple,
    'GLOBAL': _Machine._global, 'STACK_GLOBAL': _Machine._global,
    'REDUCE': _Machine._call, 'BUILD': _Machine._build, 'BINPERSID': _Machine._storage,
    'APPEND': lambda self, _: self._append([self.stack.pop()]),
    'APPENDS': lambda self, _: self._append(self._since_mark()),
    'SETITEM': lambda self, _: self._set_items([self.stack.pop(), self.stack.pop()][::-1]),
    'SETITEMS': lambda self, _: self._set_items(self._since_mark()),
    **dict.fromkeys(('PUT', 'BINPUT', 'LONG_BINPUT', 'MEMOIZE'), _Machine._put),
    **dict.fromkeys(('GET', 'BINGET', 'LONG_BINGET'), _Machine._get),
}
