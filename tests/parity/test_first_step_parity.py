"""One command from a name at the hub to a run: its first loss is PyTorch's on the same batch."""

import json
import os
import shutil

import numpy as np
import pytest
from test_families_parity import FAMILIES, load_theirs, save_public

from dss_jax import objective, vocab
from dss_jax.data import pipeline
from dss_jax.train import __main__ as train_main

WHY = "parity with PyTorch: pip install -e '.[parity]'"
torch = pytest.importorskip('torch', reason=WHY)

BASE = {'d_model': 768, 'd_kv': 64, 'd_ff': 2048, 'num_heads': 12, 'num_layers': 12,
        'num_decoder_layers': 12, 'vocab_size': 32128}
LENGTHS = {'inputs': 96, 'targets': 64}


@pytest.fixture(scope='module')
def unigram(toy_records, tmp_path_factory):
  path = tmp_path_factory.mktemp('vocabulary') / 'toy.model'
  vocab.train(str(toy_records), str(path), vocab_size=90, model_type='unigram')
  return path


def as_bin(folder):
  from safetensors.torch import load_file
  torch.save(load_file(folder / 'model.safetensors'), folder / 'pytorch_model.bin')
  (folder / 'model.safetensors').unlink()


def as_shards(folder):
  from safetensors.torch import load_file, save_file
  tensors = load_file(folder / 'model.safetensors')
  where = {name: f'model-{1 + i % 3:05d}-of-00003.safetensors' for i, name in enumerate(tensors)}
  for file in set(where.values()):
    save_file({name: x for name, x in tensors.items() if where[name] == file}, folder / file,
              metadata={'format': 'pt'})
  (folder / 'model.safetensors.index.json').write_text(
      json.dumps({'metadata': {}, 'weight_map': where}))
  (folder / 'model.safetensors').unlink()


def their_losses(model, batch):
  """Mean cross entropy of the tokens of each objective, in the table's order."""
  source, given, target, task = (torch.from_numpy(np.array(batch[name])).long() for name in (
      'encoder_input_tokens', 'decoder_input_tokens', 'decoder_target_tokens',
      'decoder_objective'))
  with torch.no_grad():
    logits = model(input_ids=source, attention_mask=(source > 0).long(),
                   decoder_input_ids=given).logits
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), target, reduction='none')
  return [each[task == number].mean().item() for number in (
      objective.LABEL, objective.RATIONALE)]


@pytest.mark.slow
@pytest.mark.parametrize('name, store', [
    ('t5-v1.1', as_bin), ('flan-t5', as_shards), ('mt5', None), ('umt5', None), ('byt5', None),
    ('ul2', None)])
def test_the_first_loss_is_pytorchs(
    served, toy_records, unigram, tmp_path, monkeypatch, capsys, name, store):
  """DSS_FULL_SIZE=1: T5 v1.1 with the shapes of base."""
  if os.environ.get('DSS_FULL_SIZE') and name == 't5-v1.1':
    monkeypatch.setitem(FAMILIES, name, ({**FAMILIES[name][0], **BASE}, *FAMILIES[name][1:]))
  folder = tmp_path / 'public'
  save_public(folder, name)
  theirs = load_theirs(folder)
  if store:
    store(folder)
  if name != 'byt5':
    shutil.copy(unigram, folder / 'spiece.model')
  served.add(f'google/{name}', folder)
  shutil.rmtree(folder)
  assert train_main.main([
      '--gin_file=gin/native/dss.gin', '--gin_file=gin/recipes/unpacked.gin', *(
          f'--gin.{binding}' for binding in (
              'DATASET=asdiv', 'MIXTURE_OR_TASK_NAME=dss_toy', f'RECORDS_DIR={toy_records}',
              f'MODEL_DIR={tmp_path / "run"}', f'INITIAL_CHECKPOINT_PATH=google/{name}',
              f'TASK_FEATURE_LENGTHS={LENGTHS}', 'BATCH_SIZE=8', 'TRAIN_STEPS=1', 'LOG_PERIOD=1',
              'DTYPE=float32', 'DROPOUT_RATE=0.0', 'EVAL_PERIOD=0', 'WARMUP_STEPS=0',
              'EvalConfig.test_at_end=False'))]) == 0
  first = json.loads((tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()[0])
  batch = next(pipeline.train_iterator(
      'dss_toy', LENGTHS, batch_size=8, pack=False, seed=0))
  label, rationale = their_losses(theirs, batch)
  ours = [first[f'train/{key}'] for key in ('loss', 'label_loss', 'rationale_loss')]
  expected = [(label + rationale) / 2, label, rationale]
  with capsys.disabled():
    print(f'\n{name}: loss of the first step {ours[0]:.6f}, of PyTorch {expected[0]:.6f}; largest '
          f'relative difference {np.max(np.abs(np.divide(ours, expected) - 1)):.1e}')
  assert ours == pytest.approx(expected, rel=1e-5)
