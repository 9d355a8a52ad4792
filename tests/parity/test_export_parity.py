"""A trained student, exported, in `transformers` with its own tokenizer: the same answers."""

import json

import pytest

import dss_jax
from dss_jax import records, vocab
from dss_jax.convert import __main__ as convert_main
from dss_jax.predict import __main__ as predict_main
from dss_jax.train import __main__ as train_main

WHY = "parity with PyTorch: pip install -e '.[parity]'"
torch = pytest.importorskip('torch', reason=WHY)
transformers = pytest.importorskip('transformers', reason=WHY)

SETTINGS = {
    'TRAIN_STEPS': 400, 'EVAL_PERIOD': 400, 'CHECKPOINT_PERIOD': 400, 'BATCH_SIZE': 8,
    'TASK_FEATURE_LENGTHS': "{'inputs': 96, 'targets': 48}", 'VOCAB_SIZE': 256,
}


@pytest.fixture(scope='module')
def trained(toy_records, tmp_path_factory):
  """A run on the toy records with a unigram vocabulary, which transformers can read."""
  folder = tmp_path_factory.mktemp('run')
  vocab.train(str(toy_records), str(folder / 'toy.model'), vocab_size=90, model_type='unigram')
  chosen = {**SETTINGS, 'MODEL_DIR': folder / 'run', 'RECORDS_DIR': toy_records,
            'VOCABULARY': folder / 'toy.model'}
  assert train_main.main(['--gin_file=gin/native/dss.gin', '--gin.DATASET=toy',
                          *(f'--gin.{name}={value}' for name, value in chosen.items())]) == 0
  assert convert_main.main([f'--input={folder / "run"}', f'--output={folder / "hf"}',
                            '--to=hf']) == 0
  return folder


def generate(folder, texts):
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
  batch = tokenizer(texts, return_tensors='pt', padding=True)
  with torch.no_grad():
    ids = model.generate(**batch, max_new_tokens=48, do_sample=False, num_beams=1)
  return tokenizer.batch_decode(ids, skip_special_tokens=True)


@pytest.mark.slow
def test_the_exported_student_answers_the_same(trained, toy_records, capsys):
  inputs = [record.input for record in records.read_records(str(toy_records), 'toy', 'test')]
  ours = dss_jax.load(str(trained / 'run')).predict(inputs, rationale=True)
  assert [p.label for p in ours] == generate(trained / 'hf', [f'[label] {x}' for x in inputs])
  assert [p.rationale for p in ours] == generate(
      trained / 'hf', [f'[rationale] {x}' for x in inputs])
  distinct = len({p.rationale for p in ours})
  with capsys.disabled():
    print(f'\n{len(inputs)} labels and rationales equal; {distinct} distinct rationales')
  assert distinct > 2


@pytest.mark.slow
def test_predictions_over_a_file_score_as_the_trainer_did(trained, toy_records, tmp_path, capsys):
  rows = [{'id': r.id, 'input': r.input, 'label': r.label}
          for r in records.read_records(str(toy_records), 'toy', 'test')]
  (tmp_path / 'in').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  assert predict_main.main([f'--model_dir={trained / "run"}', f'--input={tmp_path / "in"}',
                            f'--output={tmp_path / "out"}']) == 0
  test = json.loads((trained / 'run' / 'test_metrics.json').read_text())['metrics']['accuracy']
  assert f'accuracy {test:.2f} % of 16 rows' in capsys.readouterr().out
