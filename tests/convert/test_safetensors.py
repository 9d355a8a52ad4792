"""Our safetensors files against the library that defined them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import numpy as library

from dss_jax import errors
from dss_jax.convert import safetensors_file

SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
NAMES = st.text(st.characters(codec='utf-8', exclude_characters='\0'), min_size=1, max_size=8)
DTYPES = st.sampled_from([np.float32, np.float16, np.int32, np.int64, np.float64])
FILES = st.dictionaries(NAMES.filter(lambda name: name != '__metadata__'),
                        st.tuples(SHAPES, DTYPES), max_size=5)


def make(layout, seed=0):
  rng = np.random.default_rng(seed)
  return {name: rng.integers(-9, 9, shape).astype(dtype)
          for name, (shape, dtype) in layout.items()}


def write(path, tensors):
  specs = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in tensors.items()}
  safetensors_file.write(str(path), specs, tensors.__getitem__)


def same(a, b):
  return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@settings(max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layout=FILES)
def test_the_library_reads_ours_and_we_read_the_library(layout, tmp_path):
  tensors = make(layout)
  write(tmp_path / 'ours', tensors)
  theirs = library.load_file(tmp_path / 'ours')
  assert set(theirs) == set(tensors)
  assert all(same(theirs[name], x) for name, x in tensors.items())
  library.save_file(tensors, tmp_path / 'theirs')
  found = safetensors_file.SafetensorsFile(str(tmp_path / 'theirs'))
  assert set(found.specs) == set(tensors)
  assert all(same(found.read(name), x) for name, x in tensors.items())


def test_bfloat16_and_transposed_arrays(tmp_path):
  x = np.arange(6).reshape(2, 3).astype(jnp.bfloat16)
  write(tmp_path / 'f', {'x': x.T})
  assert same(safetensors_file.SafetensorsFile(str(tmp_path / 'f')).read('x'),
              np.ascontiguousarray(x.T))


@settings(max_examples=40, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 200))
def test_a_cut_file_is_refused_by_name(cut, tmp_path):
  write(tmp_path / 'whole', {'x': np.ones((4, 4), np.float32), 'y': np.ones(3, np.int32)})
  data = (tmp_path / 'whole').read_bytes()
  (tmp_path / 'cut').write_bytes(data[:min(cut, len(data) - 1)])
  with pytest.raises(errors.UserError, match=r'cut.*copy or download it again'):
    safetensors_file.SafetensorsFile(str(tmp_path / 'cut'))


def test_something_else_is_refused(tmp_path):
  (tmp_path / 'f').write_bytes(b'\x80\x02}q\x00.' * 20)
  with pytest.raises(errors.UserError, match='not a safetensors file'):
    safetensors_file.SafetensorsFile(str(tmp_path / 'f'))


def test_a_failure_leaves_no_file(tmp_path):
  def read(name):
    raise RuntimeError('disk full')
  with pytest.raises(RuntimeError):
    safetensors_file.write(
        str(tmp_path / 'f'), {'x': jax.ShapeDtypeStruct((2,), np.float32)}, read)
  assert not (tmp_path / 'f').exists()
