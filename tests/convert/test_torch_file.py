"""pytorch_model.bin without PyTorch: tensors to the bit, and nothing in it is run."""

import itertools
import os
import pickle
import pickletools
import struct
import tracemalloc
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import torch_bytes as tb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dss_jax import errors
from dss_jax.convert import torch_file

BOTH = pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
OPTIONS = settings(max_examples=60, deadline=None,
                   suppress_health_check=[HealthCheck.function_scoped_fixture])


def same(a, b):
  return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def opened(path):
  return torch_file.TorchFile(str(path))


def read(path):
  file = opened(path)
  found = {name: file.read(name) for name in file.specs}
  assert all(x.shape == file.specs[name].shape and x.dtype == file.specs[name].dtype
             for name, x in found.items())
  return found


def refused(path, message):
  with pytest.raises(errors.UserError, match=message) as caught:
    read(path)
  assert '\n' not in str(caught.value) and str(path) in str(caught.value)


# Tensors --------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize('order', ['little', 'big'])
@pytest.mark.parametrize('dtype', tb.KINDS, ids=str)
def test_every_dtype_in_either_byte_order(dtype, order, legacy, tmp_path):
  arrays = {'a.weight': np.arange(-3, 3).reshape(2, 3).astype(dtype),
            'b': np.ones((), dtype), 'none': np.zeros((0, 4), dtype)}
  tb.write(tmp_path / 'f', arrays, legacy, order=order)
  found = read(tmp_path / 'f')
  assert set(found) == set(arrays) and all(same(found[name], x) for name, x in arrays.items())


@BOTH
@OPTIONS
@given(data=st.data())
def test_views_of_shared_storages(data, legacy, tmp_path):
  """Any offsets and strides into any storages: as NumPy sees them, or refused as too large."""
  dtypes = st.sampled_from([np.float32, jnp.bfloat16, np.int64])
  sizes = data.draw(st.dictionaries(
      st.sampled_from('0123'), st.tuples(st.integers(0, 40), dtypes), min_size=1))
  storages = {key: np.arange(size).astype(dtype) for key, (size, dtype) in sizes.items()}
  axes = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 7)), max_size=3)
  views = data.draw(st.lists(st.tuples(
      st.sampled_from(sorted(storages)), axes, st.integers(0, 9)), min_size=1, max_size=4))
  write = tb.write_legacy if legacy else tb.write_zip
  fits = True
  expected, items = {}, {}
  for i, (key, view, offset) in enumerate(views):
    shape, strides = ([axis[j] for axis in view] for j in (0, 1))
    values = storages[key]
    items[f't{i}'] = tb.tensor(tb.storage(key, values.dtype, len(values), legacy), shape, strides,
                               offset)
    places = [offset + sum(map(int.__mul__, at, strides))
              for at in itertools.product(*map(range, shape))]
    fits &= len(places) <= len(values) and max(places, default=-1) < len(values)
    if fits:
      expected[f't{i}'] = values[np.array(places, int)].reshape(shape)
  used = {key for key, *_ in views}
  write(tmp_path / 'f', tb.program(tb.dict_of(items)),
        {key: values for key, values in storages.items() if key in used})
  if fits:
    found = read(tmp_path / 'f')
    assert all(same(found[name], x) for name, x in expected.items())
  else:
    refused(tmp_path / 'f', "'t.' of shape .* is larger than its storage")


def test_parameters_gpus_and_other_words_for_the_same(tmp_path):
  x = np.arange(6, dtype=np.float32)
  on_gpu = tb.tensor(tb.storage('0', x.dtype, 6, module='torch.cuda'), [2, 3], [3, 1])
  parameter = tb.call('torch._utils._rebuild_parameter', on_gpu, b'\x88',
                      tb.call('collections.OrderedDict'))
  tb.write_zip(tmp_path / 'f', tb.program(tb.dict_of({'x': parameter})), {'0': x}, order='')
  assert same(read(tmp_path / 'f')['x'], x.reshape(2, 3))


# Damage ---------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('whole')
  arrays = {'x': np.arange(16, dtype=np.float32).reshape(4, 4), 'y': np.ones(3, np.int32)}
  tb.write(folder / 'zip', arrays)
  tb.write(folder / 'legacy', arrays, legacy=True)
  return {legacy: (folder / name).read_bytes() for legacy, name in ((0, 'zip'), (1, 'legacy'))}


@BOTH
@OPTIONS
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_cut_file_is_refused(share, legacy, whole, tmp_path):
  data = whole[legacy]
  (tmp_path / 'f').write_bytes(data[:int(share * len(data))])
  refused(tmp_path / 'f', 'not a file of torch.save, or cut .*copy or download it again')


@BOTH
@settings(OPTIONS, max_examples=300)
@given(at=st.integers(0, 10**6), value=st.integers(0, 255), also=st.binary(max_size=9))
def test_garbled_files_are_read_or_refused_in_one_line(at, value, also, legacy, whole, tmp_path):
  data = bytearray(whole[legacy])
  at %= len(data)
  data[at:at + 1 + len(also)] = bytes([value]) + also
  (tmp_path / 'f').write_bytes(data)
  try:
    read(tmp_path / 'f')
  except errors.UserError as error:
    assert '\n' not in str(error)


def test_parts_of_the_archive_that_are_not_right(tmp_path):
  x = np.arange(6, dtype=np.float32)
  stored = tb.storage('0', x.dtype, 6)
  pickled = tb.program(tb.dict_of({'x': tb.tensor(stored, [6], [1])}))
  file = tmp_path / 'f'
  tb.write_zip(file, pickled, {'1': x})
  refused(file, "'x' has no values in the file")
  tb.write_zip(file, pickled, {'0': x[:5]})
  refused(file, "'x' has a storage of 6 values, of which the file lacks some")
  tb.write_zip(file, pickled, {'0': x}, method=zipfile.ZIP_DEFLATED)
  refused(file, 'archive/data.pkl is compressed')
  with pytest.warns(UserWarning, match='Duplicate name'):
    tb.write_zip(file, pickled, {'0': x, '../data/0': x})
    with zipfile.ZipFile(file, 'a') as archive:
      archive.writestr('archive/data/0', b'x' * 24)
  refused(file, 'two parts of one name')
  with zipfile.ZipFile(file, 'w') as archive:
    archive.writestr('a/data.pkl', pickled)
    archive.writestr('b/data.pkl', pickled)
  refused(file, '2 parts with the name data.pkl')
  outside = tb.storage('../../../../etc/passwd', x.dtype, 6)
  tb.write_zip(file, tb.program(tb.dict_of({'x': tb.tensor(outside, [6], [1])})), {'0': x})
  refused(file, "'x' has no values in the file")


@BOTH
def test_values_that_are_not_where_they_should_be(legacy, tmp_path):
  """The directory of a zip file, or the sizes in a pickle, say otherwise than what is there."""
  tb.write(tmp_path / 'f', {'x': np.arange(6, dtype=np.float32)}, legacy)
  data = (tmp_path / 'f').read_bytes()
  values = data.index(np.arange(6, dtype=np.float32).tobytes())
  at = values - 8 if legacy else values - len('archive/data/0') - 30
  (tmp_path / 'f').write_bytes(data[:at] + b'\x09' + data[at + 1:])
  refused(tmp_path / 'f', 'no values where those of x should be')


@pytest.mark.parametrize(('entry', 'message'), [
    (b'K\x07', "'x' is a int, not a tensor: save `model.state_dict"),
    (tb.dict_of({}), "'x' is a dict, not a tensor"),
    (tb.tensor(b'N', [2], [1]), "'x' is a malformed tensor"),
    (tb.tensor(tb.storage('0', np.float32, 6), [2], [1, 1]), "'x' is a malformed tensor"),
    (tb.tensor(tb.storage('0', np.float32, 6), [1] * 40, [1] * 40), "'x' is a malformed tensor"),
    (tb.tensor(tb.storage('0', np.float32, 6), [2**80], [0]), "'x' of shape .* is larger than"),
    (tb.tensor(tb.storage('0', np.float32, 6), [-1], [1]), "'x' is a malformed tensor"),
    (tb.tensor(tb.storage('0', np.float32, 6), [3], [-1], 2), "'x' is a malformed tensor"),
    (tb.storage('0', np.float32, -6), 'a storage of -6 values of torch.FloatStorage'),
    (tb.tuple_of(tb.text('module'), b'N') + b'Q', 'a storage that is malformed'),
    (b'K\x01Q', 'int where a tuple should be'),
    (tb.storage('0', np.float32, 6).replace(b'Float', b'ComplexFloat'), 'ComplexFloatStorage'),
    (tb.storage('0', np.float32, 6).replace(b'FloatSt', b'QInt8St'), 'torch.QInt8Storage'),
])
def test_entries_that_are_no_tensors(entry, message, tmp_path):
  tb.write_zip(tmp_path / 'f', tb.program(tb.dict_of({'x': entry})),
               {'0': np.arange(6, dtype=np.float32)})
  refused(tmp_path / 'f', message)


def test_one_storage_of_two_dtypes(tmp_path):
  items = {name: tb.tensor(tb.storage('0', dtype, 6), [6], [1])
           for name, dtype in (('x', np.float32), ('y', np.int32))}
  tb.write_zip(tmp_path / 'f', tb.program(tb.dict_of(items)), {'0': np.zeros(6, np.float32)})
  refused(tmp_path / 'f', "'y' is int32 in a storage of float32")


def test_something_else(tmp_path):
  for data, message in ((b'', "begins with b''"), (b'version https://git-lfs', "b'version http"),
                        (pickle.dumps([1, 2], 2), 'it begins with'), (tb.program(b'N'), 'begins')):
    (tmp_path / 'f').write_bytes(data)
    refused(tmp_path / 'f', message)
  tb.write_zip(tmp_path / 'f', tb.program(b']'), {})
  refused(tmp_path / 'f', 'a list, not the tensors of a model')


# Attacks --------------------------------------------------------------------------------------

MARK = 'touched-by-a-pickle'
RUN = tb.text(f'touch {MARK}')
DOTTED = tb.text('torch._utils') + tb.text('os.system') + b'\x93'
ATTACKS = {
    'os.system': (tb.call('os.system', RUN), "asks for 'os.system'"),
    'posix.system': (tb.call('posix.system', RUN), "asks for 'posix.system'"),
    'eval': (tb.call('builtins.eval', tb.text('1')), "asks for 'builtins.eval'"),
    'eval of Python 2': (tb.call('__builtin__.eval', tb.text('1')), "asks for '__builtin__.eval'"),
    'getattr': (tb.call('builtins.getattr', tb.name('os.system')), "asks for 'builtins.getattr'"),
    'inside of a known module': (DOTTED + tb.tuple_of(RUN) + b'R', "'torch._utils.os.system'"),
    'torch.load': (tb.call('torch.load', RUN), "asks for 'torch.load'"),
    'a stack global': (tb.text('os') + tb.text('system') + b'\x93)R', "asks for 'os.system'"),
    'a global of bytes': (b'NN\x93)R', "asks for ''"),
    'harmless': (tb.call('collections.Counter'), "asks for 'collections.Counter'"),
    'NumPy': (tb.call('numpy.core.multiarray._reconstruct'), 'numpy.core.multiarray'),
    'INST': (b'(ios\nsystem\n', 'the instruction INST'),
    'OBJ': (b'(' + tb.name('collections.OrderedDict') + b'o', 'the instruction OBJ'),
    'NEWOBJ': (tb.name('collections.OrderedDict') + b')\x81', 'the instruction NEWOBJ'),
    'EXT1': (b'\x82\x01', 'the instruction EXT1'),
    'a storage called': (tb.name('torch.FloatStorage') + b')R', 'torch.FloatStorage called'),
    'a number called': (b'K\x01)R', 'int where a Name should be'),
    'arguments': (tb.call('collections.OrderedDict', tb.dict_of({})), 'takes 0 positional'),
    'state of a name': (tb.name('collections.OrderedDict') + b'}b', 'Name where a dict should be'),
    'state of a tensor': (tb.tensor(b'N', [], []) + b'}b', 'Tensor where a dict should be'),
    'items of a name': (tb.name('collections.OrderedDict') + b'K\x01a', 'where a list should be'),
    'an empty stack': (b'R', 'IndexError|str where a tuple'),
    'no mark': (b't', 'IndexError'),
    'memo': (b'h\x07', 'KeyError'),
    'odd items': (b'}(K\x01u', 'shorter than'),
    'a deep key': (b'}N' + b'\x85' * 100_000 + b'Ns', 'a tuple for a name'),
    'long number': (b'\x8b' + struct.pack('<i', 5000) + b'\x01' * 5000, 'instruction LONG4'),
    'digits': (b'L' + b'9' * 100_000 + b'L\n', 'Exceeds the limit'),
    'bytes': (b'\x8e' + struct.pack('<Q', 2**62), 'expected 4611686018427387904 bytes'),
}


@BOTH
@pytest.mark.parametrize('attack', ATTACKS)
def test_an_attack_runs_nothing(attack, legacy, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  code, message = ATTACKS[attack]
  write = tb.write_legacy if legacy else tb.write_zip
  for where in (code, tb.dict_of({'x': code})):
    write(tmp_path / 'f', tb.program(where), {})
    refused(tmp_path / 'f', message)
  assert os.listdir(tmp_path) == ['f']


def test_python_itself_would_run_it(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  pickle.loads(tb.program(ATTACKS['os.system'][0]))
  assert os.listdir(tmp_path) == [MARK]


@BOTH
def test_the_name_is_in_the_message_with_what_to_do(legacy, tmp_path):
  write = tb.write_legacy if legacy else tb.write_zip
  write(tmp_path / 'f', tb.program(tb.call('os.system', RUN)), {})
  refused(tmp_path / 'f', "asks for 'os.system', which no state dict of numbers needs; nothing of "
                          'it was run. Take the file from where it can be trusted')


BOMBS = {
    'memo': b'Nr\xff\xff\xff\xff0' * 1000,
    'nested': b'N' + b'\x85' * 50_000,
    'sizes': tb.name('torch.Size') + b'q\x01]q\x02(' + b'N' * 50_000 + b'e0' + (
        b'h\x01h\x02\x85R' * 20_000),
}


@pytest.mark.parametrize('bomb', BOMBS)
def test_little_memory_is_taken(bomb, tmp_path):
  tb.write_zip(tmp_path / 'f', tb.program(BOMBS[bomb]), {})
  tracemalloc.start()
  try:
    refused(tmp_path / 'f', 'not a file of torch.save|asks for|the instruction')
    assert tracemalloc.get_traced_memory()[1] < 200 << 20
  finally:
    tracemalloc.stop()


def test_a_zip_bomb_is_not_unpacked(tmp_path):
  with (zipfile.ZipFile(tmp_path / 'f', 'w', zipfile.ZIP_DEFLATED) as archive,
        archive.open('a/data.pkl', 'w', force_zip64=True) as part):
    for _ in range(16):
      part.write(bytes(1 << 22))
  tracemalloc.start()
  try:
    refused(tmp_path / 'f', 'a/data.pkl is compressed')
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
  finally:
    tracemalloc.stop()
  with zipfile.ZipFile(tmp_path / 'f', 'w') as archive:
    archive.writestr('a/data.pkl', bytes(5 << 20))
  refused(tmp_path / 'f', 'a/data.pkl has 5242880 bytes')


def test_every_instruction_is_known_or_refused(tmp_path):
  """Whatever instruction stands first, with any of the others before the end."""
  codes = [op.code.encode('latin-1') for op in pickletools.opcodes]
  for code in codes:
    tb.write_zip(tmp_path / 'f', b'\x80\x02' + code + b'N' * 9 + b'\n\n.', {})
    with pytest.raises(errors.UserError):
      read(tmp_path / 'f')
