"""`dss pretrain`: text becomes sets of records, and a run; the method starts from it."""

import json

import pytest

from dss_jax import errors, pretrain, records
from dss_jax.train import __main__ as train_main

LINES = [f'line {i} of a text' for i in range(200)]
SMALL = ['--gin_file=gin/native/tiny.gin', '--gin.OPTIMIZER=adamw', '--gin.SCHEDULE=cosine',
         "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 12}", '--gin.BATCH_SIZE=8',
         '--gin.TRAIN_STEPS=4', '--gin.WARMUP_STEPS=0', '--gin.EVAL_PERIOD=4',
         '--gin.CHECKPOINT_PERIOD=4']


def texts(folder, split):
  return [one.input for one in records.read_records(str(folder), 'text', split)]


@pytest.fixture
def data_only(tmp_path):
  def run(*words):
    return pretrain.main([f'--records_dir={tmp_path}', '--data_only', *words])
  return run


@pytest.mark.parametrize('name, content', [
    ('a.txt', '\n\n'.join(LINES)),
    ('a.jsonl', '\n'.join(json.dumps({'text': line}) for line in [*LINES, ' '])),
    ('a.csv', 'body,more\n' + '\n'.join(f'{line},x' for line in LINES))])
def test_every_text_is_in_one_set(tmp_path, data_only, name, content, capsys):
  (tmp_path / name).write_text(content)
  data_only(f'--inputs={tmp_path / name}', '--holdout=0.2',
            *(['--columns=input=body'] if name == 'a.csv' else []))
  train, validation = texts(tmp_path, 'train'), texts(tmp_path, 'validation')
  assert sorted(train + validation) == sorted(LINES)
  assert 20 < len(validation) < 60
  assert f'{len(train)} texts in text-train' in capsys.readouterr().out
  assert len(records.find_set(str(tmp_path), 'text', 'train', verify=True).paths) == 2


def test_sets_are_written_again_only_if_something_changed(tmp_path, data_only, toy_records):
  folder = f'--records_dir={toy_records}'
  (tmp_path / 'a.txt').write_text('\n'.join(LINES))
  data_only(given := f'--inputs={tmp_path / "a.txt"}')
  before = (tmp_path / records.MANIFEST).read_text()
  time = (tmp_path / 'text-validation.tfrecord-00000-of-00001').stat().st_mtime_ns
  data_only(given)
  assert (tmp_path / 'text-validation.tfrecord-00000-of-00001').stat().st_mtime_ns == time
  data_only(given, '--holdout=0.5')
  assert (tmp_path / records.MANIFEST).read_text() != before
  pretrain.main([folder, '--data_only', '--sets', 'toy-train', 'toy-validation',
                 '--dataset=inputs'])
  found = [one.input for split in ('train', 'validation')
           for one in records.read_records(str(toy_records), 'inputs', split)]
  assert len(found) == 96 + 16


@pytest.mark.parametrize('words, says', [
    ([], 'pretrain on what'), (['--inputs=a.txt', '--sets', 'b'], 'pretrain on what'),
    (['--inputs=a.txt', '--holdout=1'], '--holdout=1.0: use a number in'),
    (['--inputs=a.txt', '--holdout=0.0001'], 'none of 2 texts is for validation: raise --holdout'),
    (['--inputs=a.txt', '--dataset=cqa'], '--dataset=cqa has records of its own'),
    (['--inputs=a.jsonl'], r'a.jsonl, line 1: no field input or text: .* --columns=input=COLUMN'),
    (['--inputs=b.txt'], r'b.txt, line 2: not UTF-8 \(byte 4\)'),
    (['--sets', 'cqa-train'], "manifest.json does not exist")])
def test_what_is_refused(tmp_path, monkeypatch, data_only, words, says):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'a.txt').write_text('one\ntwo\n')
  (tmp_path / 'b.txt').write_bytes(b'one\n\xff\n')
  (tmp_path / 'a.jsonl').write_text('{"body": "x"}\n')
  with pytest.raises(errors.UserError, match=says):
    data_only(*words)
  assert not list(tmp_path.glob('.text*'))


@pytest.mark.slow
def test_the_method_starts_from_it(tmp_path, toy_records, toy_vocabulary, capsys):
  """Sentinels are rows beyond the vocabulary's, and come along."""
  given = [f'--records_dir={toy_records}', '--sets', 'toy-train', '--dataset=pre', *SMALL,
           "--gin.T5Config.mlp_activations=('relu',)", f'--gin.VOCABULARY={toy_vocabulary}',
           f'--gin.MODEL_DIR={tmp_path / "run"}']
  pretrain.main(given)
  said = capsys.readouterr().out
  assert 'done: 4 steps of pre_pretrain' in said and 'best validation at step 4: loss' in said
  run = json.loads((tmp_path / 'run' / 'run.json').read_text())
  assert run['config']['model']['vocab_size'] == 256 and 'pre-train' in run['records']
  pretrain.main(given)  # Again: it is done.
  assert 'done: 4 steps' in capsys.readouterr().out
  train_main.main(['--method=dss', '--dataset=toy', *SMALL, '--gin.VOCAB_SIZE=256',
                   f'--gin.RECORDS_DIR={toy_records}', f'--gin.MODEL_DIR={tmp_path / "dss"}',
                   f'--gin.INITIAL_CHECKPOINT_PATH={tmp_path / "run"}'])
  assert 'test: accuracy' in capsys.readouterr().out


def test_too_few_rows_for_the_sentinels(tmp_path, toy_records, toy_vocabulary):
  with pytest.raises(errors.UserError, match='VOCAB_SIZE=256'):
    pretrain.main([f'--records_dir={toy_records}', '--sets', 'toy-train', '--dataset=pre', *SMALL,
                   '--gin.VOCAB_SIZE=128', f'--gin.VOCABULARY={toy_vocabulary}',
                   f'--gin.MODEL_DIR={tmp_path / "run"}'])


def test_either_name_of_a_text_may_be_another_column(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'a.jsonl').write_text('{"body": "a text of some words"}\n' * 3)
  with pytest.raises(errors.UserError, match="--columns=txet=body: no field 'txet': .* 'text'"):
    pretrain.main(['--inputs=a.jsonl', '--records_dir=r', '--columns=txet=body', '--data_only'])
  assert pretrain.main(
      ['--inputs=a.jsonl', '--records_dir=r', '--columns=text=body', '--data_only',
       '--holdout=0']) == 0
