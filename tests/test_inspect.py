"""`dss inspect` shows a row as record, text, tokens and packed; `dss vocab` says how to use it."""

import pytest

from dss_jax import errors, inspect, vocab


def test_a_row_raw_tokenized_packed_and_back(toy_records, toy_vocabulary, capsys):
  assert inspect.main([
      '--task=dss_toy', f'--records_dir={toy_records}', f'--vocabulary={toy_vocabulary}',
      '--rows=1', '--inputs_length=64', '--targets_length=24']) == 0
  raw, packed = capsys.readouterr().out.split('=== packed row 0')
  text = raw.split("input: '")[1].split("'")[0]
  rationale = raw.split("rationale: '")[1].split("'")[0]
  label = raw.split("label: '")[1].split("'")[0]
  assert 'dss_toy_label' in raw and 'dss_toy_rationale' in raw and '1</s>' in raw
  assert f"label     '[label] {text}' -> '{label}'" in packed
  assert f"rationale '[rationale] {text}' -> '{rationale}'" in packed


def test_an_unknown_task_and_a_bad_count_are_named(toy_records):
  with pytest.raises(errors.UserError, match="did you mean 'dss_toy'"):
    inspect.main(['--task=dss_tyo', f'--records_dir={toy_records}'])
  with pytest.raises(errors.UserError, match="'0' is not a whole number"):
    inspect.main(['--task=dss_toy', '--rows=0'])


def test_a_vocabulary_has_t5s_ids_and_is_the_same_each_time(toy_records, tmp_path, capsys):
  paths = [tmp_path / name for name in ('a.model', 'b.model')]
  for path in paths:
    assert vocab.main([f'--records_dir={toy_records}', f'--output={path}', '--vocab_size=128',
                       '--model_type=word']) == 0
  assert '--gin.VOCAB_SIZE=128' in capsys.readouterr().out
  models = [vocab.sentencepiece.SentencePieceProcessor(model_file=str(path)) for path in paths]
  pieces = [[m.id_to_piece(i) for i in range(m.vocab_size())] for m in models]
  assert pieces[0] == pieces[1] and pieces[0][:3] == ['<pad>', '</s>', '<unk>']
  with pytest.raises(errors.UserError, match='no \\*-train record set'):
    vocab.main([f'--records_dir={tmp_path}', f'--output={tmp_path}/c.model'])
