"""Files that PyTorch itself wrote, against PyTorch's own reader."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import save_random_model

from dss_jax import errors, models
from dss_jax.convert import formats, torch_file

WHY = "parity with PyTorch: pip install -e '.[parity]'"
torch = pytest.importorskip('torch', reason=WHY)

TINY = {'vocab_size': 96, 'emb_dim': 32, 'num_heads': 4, 'head_dim': 6, 'mlp_dim': 48,
        'num_encoder_layers': 3, 'num_decoder_layers': 2}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
          torch.int16, torch.int8, torch.uint8, torch.bool]
VIEWS = {  # of a tensor of at least one axis
    'whole': lambda x: x, 'part': lambda x: x[1:], 'every second': lambda x: x[::2],
    'transposed': lambda x: x.mT if x.ndim > 1 else x, 'flat': lambda x: x.reshape(-1),
    'parameter': lambda x: torch.nn.Parameter(x, requires_grad=False),
    'repeated': lambda x: x[:1].expand(3 * min(len(x), 1), *x.shape[1:]),
}
BOTH = pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])


def save(tensors, path, legacy):
  torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)


def bits(tensor):
  values = torch.empty(tensor.numel(), dtype=tensor.dtype)
  values.copy_(tensor.detach().flatten())
  return values.view(torch.uint8).numpy().tobytes() if len(values) else b''


@BOTH
@settings(max_examples=80, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_tensors_come_out_as_pytorch_put_them_in(data, legacy, tmp_path):
  tensors = {}
  for i in range(data.draw(st.integers(0, 3))):
    shape = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=3))
    base = (torch.rand(shape) * 9 - 4).to(data.draw(st.sampled_from(DTYPES)))
    for name in data.draw(st.lists(st.sampled_from(sorted(VIEWS)), min_size=1, max_size=3)):
      tensors[f'{i} {name}'] = VIEWS[name](base)
  save(tensors, tmp_path / 'f', legacy)
  if any(x.numel() > x.untyped_storage().nbytes() // x.itemsize for x in tensors.values()):
    with pytest.raises(errors.UserError, match='larger than its storage'):
      torch_file.TorchFile(str(tmp_path / 'f'))
    return
  expected = torch.load(tmp_path / 'f', weights_only=True)
  file = torch_file.TorchFile(str(tmp_path / 'f'))
  assert set(file.specs) == set(expected)
  for name, x in expected.items():
    found = file.read(name)
    assert (found.shape, str(found.dtype)) == (tuple(x.shape), str(x.dtype).split('.')[1])
    assert found.tobytes() == bits(x), name


@pytest.mark.parametrize(('make', 'message'), [
    (lambda x: torch.quantize_per_tensor(x, 1.0, 0, torch.qint8), '_rebuild_qtensor'),
    (lambda x: x.to_sparse(), '_rebuild_sparse_tensor'),
    (lambda x: x.to(torch.complex64), 'ComplexFloatStorage'),
    (lambda x: x.to(torch.float8_e4m3fn), '_rebuild_tensor_v3|Float8'),
    (lambda x: torch.nn.Linear(2, 2), 'torch.nn.modules.linear.Linear'),
])
@BOTH
def test_what_is_not_read_is_named(make, message, legacy, tmp_path):
  save({'x': make(torch.ones(2, 2))}, tmp_path / 'f', legacy)
  with pytest.raises(errors.UserError, match=message):
    torch_file.TorchFile(str(tmp_path / 'f'))


@BOTH
@pytest.mark.parametrize(('version', 'shards'), [('1.0', 1), ('1.1', 1), ('1.1', 3)])
def test_a_model_is_the_same_as_in_safetensors(version, shards, legacy, tmp_path):
  """With the copies of the embedding that transformers 4 saved beside it."""
  config = models.t5_config(version, 'small', **TINY)
  theirs = save_random_model(tmp_path, config)
  before = formats.open_weights(str(tmp_path))
  expected = {name: before.read(name) for name in before.specs}
  (tmp_path / 'model.safetensors').unlink()
  state = theirs.state_dict()
  assert hasattr(state, '_metadata') and state['encoder.embed_tokens.weight'] is not None
  if shards == 1:
    save(state, tmp_path / 'pytorch_model.bin', legacy)
  else:
    where = {name: f'pytorch_model-{i % shards + 1:05d}-of-{shards:05d}.bin'
             for i, name in enumerate(state)}
    for file in set(where.values()):
      save({name: x for name, x in state.items() if where[name] == file}, tmp_path / file, legacy)
    (tmp_path / 'pytorch_model.bin.index.json').write_text(
        json.dumps({'metadata': {}, 'weight_map': where}))
  found = formats.open_weights(str(tmp_path))
  assert set(found.specs) == set(expected)
  assert all(np.array_equal(found.read(name), x) for name, x in expected.items())
