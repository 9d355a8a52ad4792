"""pytorch_model.bin by hand, without PyTorch: both formats, also as no torch.save writes them."""

import io
import pickle
import struct
import zipfile

import jax.numpy as jnp
import numpy as np

KINDS = {np.dtype(dtype): kind for kind, dtype in {
    'Float': np.float32, 'Double': np.float64, 'Half': np.float16, 'BFloat16': jnp.bfloat16,
    'Long': np.int64, 'Int': np.int32, 'Short': np.int16, 'Char': np.int8, 'Byte': np.uint8,
    'Bool': np.bool_}.items()}
MAGIC = 0x1950a86a20f9469cfc6c


def text(x):
  return b'X' + struct.pack('<I', len(x.encode())) + x.encode()


def number(n):
  if 0 <= n < 256:
    return b'K' + bytes([n])
  data = n.to_bytes(n.bit_length() // 8 + 1, 'little', signed=True)
  return b'\x8a' + bytes([len(data)]) + data


def name(dotted):
  module, _, attribute = dotted.rpartition('.')
  return f'c{module}\n{attribute}\n'.encode()


def tuple_of(*items):
  return b'(' + b''.join(items) + b't'


def numbers(ns):
  return tuple_of(*map(number, ns))


def call(function, *args):
  return name(function) + tuple_of(*args) + b'R'


def dict_of(items):
  """An OrderedDict with the versions of modules beside it, as `state_dict()` returns."""
  inside = b''.join(text(key) + value for key, value in items.items())
  return (call('collections.OrderedDict') + b'(' + inside + b'u'
          + b'}' + text('_metadata') + call('collections.OrderedDict') + b'sb')


def storage(key, dtype, size, legacy=False, module='torch'):
  return tuple_of(text('storage'), name(f'{module}.{KINDS[np.dtype(dtype)]}Storage'), text(key),
                  text('cpu'), number(size), *([b'N'] if legacy else [])) + b'Q'


def tensor(stored, shape, strides, offset=0):
  return call('torch._utils._rebuild_tensor_v2', stored, number(offset), numbers(shape),
              numbers(strides), b'\x89', call('collections.OrderedDict'))


def program(*parts):
  return b'\x80\x02' + b''.join(parts) + b'.'


def write_zip(path, pickled, storages, root='archive', order='little', method=zipfile.ZIP_STORED):
  """A zip file of a pickle and {key: values}."""
  with zipfile.ZipFile(path, 'w', method) as archive:
    archive.writestr(f'{root}/data.pkl', pickled)
    if order:
      archive.writestr(f'{root}/byteorder', order)
    for key, values in storages.items():
      archive.writestr(f'{root}/data/{key}', as_bytes(values, order))


def write_legacy(path, pickled, storages, order='little'):
  """A file as PyTorch before 1.6 wrote it."""
  file = io.BytesIO()
  system = {'protocol_version': 1001, 'little_endian': order == 'little', 'type_sizes': {}}
  for one in (MAGIC, 1001, system):
    file.write(pickle.dumps(one, 2))
  file.write(pickled)
  file.write(pickle.dumps(list(storages), 2))
  for values in storages.values():
    file.write(struct.pack('>q' if order == 'big' else '<q', len(values)))
    file.write(as_bytes(values, order))
  path.write_bytes(file.getvalue())


def as_bytes(values, order):
  raw = np.ascontiguousarray(values).view(f'u{values.dtype.itemsize}')
  return (raw.byteswap() if order == 'big' else raw).tobytes()


def write(path, arrays, legacy=False, **options):
  """A file of arrays; those that are the same object share a storage."""
  keys = {id(x): str(i) for i, x in enumerate(arrays.values())}
  storages = {keys[id(x)]: np.ascontiguousarray(x).reshape(-1) for x in arrays.values()}

  def pickled(x):
    strides = [int(np.prod(x.shape[i + 1:])) for i in range(x.ndim)]
    return tensor(storage(keys[id(x)], x.dtype, x.size, legacy), x.shape, strides)

  made = program(dict_of({key: pickled(x) for key, x in arrays.items()}))
  (write_legacy if legacy else write_zip)(path, made, storages, **options)
