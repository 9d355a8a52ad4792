"""A trained student, exported, in `transformers` with its own tokenizer: the same answers."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import linen as nn

import dss_jax
from dss_jax import errors, models, records, student_info, tokenizer, vocab
from dss_jax.convert import __main__ as convert_main
from dss_jax.convert import weights as weights_lib
from dss_jax.predict import __main__ as predict_main
from dss_jax.train import __main__ as train_main

WHY = "parity with PyTorch: pip install -e '.[parity]'"
torch = pytest.importorskip('torch', reason=WHY)
transformers = pytest.importorskip('transformers', reason=WHY)
ctranslate2 = pytest.importorskip('ctranslate2', reason=WHY)

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
  text = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
  batch = text(texts, return_tensors='pt', padding=True)
  with torch.no_grad():
    ids = model.generate(**batch)
  return text.batch_decode(ids, skip_special_tokens=True)


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


def printed_by_the_card(folder):
  code = (folder / 'README.md').read_text().split('```python\n')[1].split('```')[0]
  done = subprocess.run([sys.executable, '-c', code], cwd=folder, text=True,
                        capture_output=True, check=False, timeout=600)
  assert done.returncode == 0, done.stderr
  return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['words', 'bytes'])
def test_the_card_of_another_vocabulary(toy_vocabulary, random_weights, tmp_path, kind):
  """transformers cannot read a model of words, and made another tokenizer of the folder."""
  config = models.T5Config(vocab_size=128 if kind == 'words' else 259, emb_dim=32, num_heads=2,
                           head_dim=16, mlp_dim=48, num_encoder_layers=1, num_decoder_layers=1)
  model = pathlib.Path(toy_vocabulary).read_bytes() if kind == 'words' else None
  info = student_info.StudentInfo(
      model=config, vocabulary=student_info.VOCABULARY_FILE if model else student_info.BYTES,
      label_prefix='[label] ', rationale_prefix='left ', target_length=30)
  convert_main.convert(random_weights(config, seed=1), str(tmp_path / 'hf'), 'hf', info=info,
                       vocabulary=model)
  ours, = dss_jax.load(str(tmp_path / 'hf')).predict(['your input'], rationale=True)
  printed = ' '.join(printed_by_the_card(tmp_path / 'hf'))  # Bytes may be line breaks.
  assert printed.split() == f'{ours.label} {ours.rationale}'.split() and printed.strip()


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['unigram', 'bytes'])
def test_the_cards_of_a_shared_encoder(toy_records, random_weights, tmp_path, kind):
  """The prefix is given to the decoder: in transformers, and in CTranslate2 for the label."""
  model = None
  if kind == 'unigram':
    vocab.train(str(toy_records), str(tmp_path / 'a.model'), vocab_size=90, model_type='unigram')
    model = (tmp_path / 'a.model').read_bytes()
  size = tokenizer.SentencePieceTokenizer(model).size if model else 259
  config = models.T5Config(vocab_size=size, emb_dim=32, num_heads=2, head_dim=16,
                           mlp_dim=48, num_encoder_layers=1, num_decoder_layers=1)
  info = student_info.StudentInfo(
      model=config, vocabulary=student_info.VOCABULARY_FILE if model else student_info.BYTES,
      label_prefix='[label] ', rationale_prefix='[left] ', target_length=30, shared_encoder=True)
  weights = random_weights(config, seed=1)
  head = np.array(weights.arrays['decoder/logits_dense/kernel'])
  head[:, 2] = 0  # It would write nothing but unknown pieces.
  weights.arrays['decoder/logits_dense/kernel'] = head
  for to in ('hf', 'ct2'):
    convert_main.convert(weights, str(tmp_path / to), to, info=info, vocabulary=model)
  ours, = dss_jax.load(str(tmp_path / 'hf')).predict(['your input'], rationale=True)
  printed = ' '.join(printed_by_the_card(tmp_path / 'hf'))
  assert printed.split() == f'{ours.label} {ours.rationale}'.split() and printed.strip()
  assert ours.label != ours.rationale
  assert ' '.join(printed_by_the_card(tmp_path / 'ct2')).split() == ours.label.split()


@pytest.mark.slow
def test_the_program_on_the_card_runs_as_it_stands(trained):
  """In the folder, with the installed transformers: the label and the rationale."""
  ours, = dss_jax.load(str(trained / 'run')).predict(['your input'], rationale=True)
  assert printed_by_the_card(trained / 'hf') == [ours.label, ours.rationale]
  generation = json.loads((trained / 'hf' / 'generation_config.json').read_text())
  assert generation['max_length'] == 1 + dss_jax.load(str(trained / 'run')).info.target_length == 49


@pytest.mark.slow
def test_the_student_says_how_it_was_trained(trained):
  for folder in ('run', 'hf'):
    training = json.loads((trained / folder / 'student.json').read_text())['training']
    assert training['task'] == 'dss_toy' and training['records'] == {'toy-train': 96}
    settings = {'steps': 400, 'batch_size': 8, 'alpha': 0.5, 'seed': 0, 'learning_rate': 0.003,
                'row_lengths': {'inputs': 96, 'targets': 48}, 'dropout_rate': 0.0,
                'initial_checkpoint': 'none (from scratch)'}
    assert {name: training['settings'][name] for name in settings} == settings
  card = (trained / 'hf' / 'README.md').read_text()
  for name in settings:
    assert f'| {name} | ' in card
  assert 'text2text' not in card


def translate(folder, texts):
  """What the program on the card in the folder prints for each text."""
  card = (folder / 'README.md').read_text()
  code = card.split('```python\n')[1].split('```')[0]
  assert "Translator('.')" in code and "text = '[label] ' + 'your input'" in code
  code = code.replace("'.'", repr(str(folder))).replace('spiece.model', f'{folder}/spiece.model')
  printed = []
  for text in texts:
    exec(code.replace("'[label] ' + 'your input'", repr(text)), {'print': printed.append})
  return printed


@pytest.mark.slow
@pytest.mark.parametrize('dtype, at_least', [('float32', 16), ('int8', 14)])
def test_ctranslate2_answers_the_same(trained, toy_records, tmp_path, capsys, dtype, at_least):
  assert convert_main.main([f'--input={trained / "run"}', f'--output={tmp_path / "ct2"}',
                            '--to=ct2', f'--dtype={dtype}']) == 0
  rows = list(records.read_records(str(toy_records), 'toy', 'test'))
  ours = dss_jax.load(str(trained / 'run')).predict([row.input for row in rows], rationale=True)
  labels, rationales = (translate(tmp_path / 'ct2', [f'[{task}] {row.input}' for row in rows])
                        for task in ('label', 'rationale'))
  equal = [sum(text == getattr(one, field) for text, one in zip(texts, ours))
           for texts, field in ((labels, 'label'), (rationales, 'rationale'))]
  right = [sum(text == row.label for text, row in zip(texts, rows))
           for texts in ([one.label for one in ours], labels)]
  with capsys.disabled():
    print(f'\n{dtype}: {equal} of {len(rows)} labels and rationales equal; '
          f'right before and after: {right}')
  assert min(equal) >= at_least
  with pytest.raises(errors.UserError, match='CTranslate2 and cannot be read back'):
    dss_jax.load(str(tmp_path / 'ct2'))


@pytest.mark.slow
def test_ctranslate2_has_the_bytes_of_a_byt5(toy_records, tmp_path):
  config = models.T5Config(vocab_size=259, emb_dim=32, num_heads=2, head_dim=16, mlp_dim=48,
                           num_encoder_layers=1, num_decoder_layers=1)
  params = models.init_params(models.Transformer(config), jax.random.key(3))
  info = student_info.StudentInfo(model=config, vocabulary=student_info.BYTES,
                                  label_prefix='[label] ', target_length=12)
  weights = weights_lib.ArrayWeights(nn.unbox(params), config)
  for kind in ('native', 'ct2'):
    convert_main.convert(weights, str(tmp_path / kind), kind, info=info)
  texts = [row.input for row in records.read_records(str(toy_records), 'toy', 'test')][:4]
  ours = dss_jax.load(str(tmp_path / 'native')).predict(texts)
  theirs = translate(tmp_path / 'ct2', [f'[label] {text}' for text in texts])
  assert [one.label for one in ours] == [text.strip() for text in theirs] and any(theirs)
