"""The job and its command line, end to end on small files."""

import hashlib
import json
import math

import numpy as np
import pytest

from dss_jax import datasets, errors, records
from dss_jax.teacher import __main__ as teacher_main
from dss_jax.teacher import job, report, summary
from dss_jax.teacher.ask import clients
from dss_jax.teacher.inputs import holdout

LABELS = ('yes', 'no')


def _dataset(how='hash'):
  return datasets.Dataset('mine', datasets.read_plain_row, labels=LABELS, holdout=how,
                          completion=datasets.CompletionFormat(label_kind='class'))


def _examples(n):
  return [datasets.Example(f'q{i}', f'input {i}', LABELS[i % 2]) for i in range(n)]


def _says_yes(example):
  if example.id == 'q2':
    return 'I do not know.'
  return f'Since {example.id}. So the answer is yes.'


def _run(tmp_path, n=5, split='test', how='hash', **kwargs):
  return job.run(_dataset(how), split, _examples(n), clients.ScriptedClient(_says_yes, 'me'),
                 'strict', str(tmp_path), num_shards=2, **kwargs)


def _read(tmp_path, split):
  return list(records.read_records(str(tmp_path), 'mine', split, verify=True))


# --- Hold-out ------------------------------------------------------------------------------------


def test_permutation_holds_out_the_released_codes_rows():
  # numpy.random.default_rng(0).permutation(20) starts with 4, 19.
  assert holdout.validation_rows('permutation', [''] * 20) == {4, 19}


@pytest.mark.parametrize('n', [2, 10, 11, 70, 800, 9741])
def test_permutation_at_other_sizes(n):
  count = math.ceil(0.1 * n)
  want = np.random.default_rng(0).permutation(n)[:count]
  assert holdout.validation_rows('permutation', [str(i) for i in range(n)]) == set(want.tolist())


def test_hash_follows_the_ids_and_not_their_order():
  ids = [f'q{i}' for i in range(95)]
  held_out = {ids[i] for i in holdout.validation_rows('hash', ids)}
  assert len(held_out) == 10
  assert {ids[::-1][i] for i in holdout.validation_rows('hash', ids[::-1])} == held_out


@pytest.mark.parametrize('how', ['hash', 'permutation'])
def test_one_row_cannot_be_divided(how):
  with pytest.raises(errors.UserError, match='too few'):
    holdout.validation_rows(how, ['q0'])


# --- Job -----------------------------------------------------------------------------------------


def test_records_of_parsed_and_failed_rows(tmp_path):
  _run(tmp_path)
  rows = _read(tmp_path, 'test')
  completion = 'Since q1. So the answer is yes.'
  assert rows[1] == records.RationaleRecord(
      id='q1', input='input 1', label='no', teacher_label='yes', rationale='Since q1.',
      dataset='mine', split='test', teacher_model='me', finish_reason='stop',
      request_key=hashlib.sha256(f'["q1", "{completion}"]'.encode()).hexdigest())
  assert (rows[2].label, rows[2].rationale, rows[2].teacher_label, rows[2].parse_status) == (
      'yes', '', '', 'no_answer_phrase')
  assert [row.id for row in rows] == ['q0', 'q1', 'q2', 'q3', 'q4']


def test_manifest_names_the_teacher(tmp_path):
  _run(tmp_path, provenance={'inputs': {'name': 'in.json'}})
  entry = records.find_set(str(tmp_path), 'mine', 'test').entry
  assert entry['teacher'] == {'client': 'scripted', 'model': 'me', 'prompt_sha256': ''}
  assert (entry['parser'], entry['holdout'], entry['inputs']) == (
      'strict', None, {'name': 'in.json'})


@pytest.mark.parametrize('how', ['hash', 'permutation'])
def test_train_is_divided_in_file_order(tmp_path, how):
  outcome = _run(tmp_path, n=25, split='train', how=how)
  train, validation = _read(tmp_path, 'train'), _read(tmp_path, 'validation')
  held_out = sorted(holdout.validation_rows(how, [f'q{i}' for i in range(25)]))
  assert [row.id for row in validation] == [f'q{i}' for i in held_out]
  assert [row.id for row in train] == [f'q{i}' for i in range(25) if i not in held_out]
  assert {row.split for row in validation} == {'validation'}
  assert {name: part.rows for name, part in outcome.splits.items()} == {
      'train': 22, 'validation': 3}


@pytest.mark.parametrize('how, holdout_flag', [(None, 'auto'), ('hash', 'none')])
def test_train_is_kept_whole(tmp_path, how, holdout_flag):
  _run(tmp_path, n=20, split='train', how=how, holdout=holdout_flag)
  assert records.set_names(str(tmp_path)) == ['mine-train']
  assert len(_read(tmp_path, 'train')) == 20


def test_held_out_rows_do_not_leak_into_a_later_whole_train(tmp_path):
  _run(tmp_path, n=20, split='train')
  with pytest.raises(errors.UserError, match="'mine-validation' holds 2 of these training rows"):
    _run(tmp_path, n=20, split='train', holdout='none')
  assert len(_read(tmp_path, 'train')) == 18


@pytest.mark.parametrize('kwargs, message', [
    ({'split': 'trian'}, "unknown --split=trian: did you mean 'train'"),
    ({'split': 'validation'}, 'no validation split of its own'),
    ({'holdout': 'some'}, 'unknown --holdout=some'),
    ({'n': 0}, 'no examples'),
    ({'n': 1, 'split': 'train'}, 'too few'),
])
def test_bad_settings_write_nothing(tmp_path, kwargs, message):
  with pytest.raises(errors.UserError, match=message):
    _run(tmp_path / 'r', **kwargs)
  assert not (tmp_path / 'r').exists()


def _choice_dataset():
  return datasets.Dataset('pick', datasets.read_plain_row,
                          completion=datasets.CompletionFormat(label_kind='choice'))


@pytest.mark.parametrize('dataset, examples, parser, message', [
    (_dataset(), [_examples(1)[0]] * 2, 'strict', "mine test row 2: id 'q0' occurs also in"),
    (_dataset(), _examples(2), 'relaxed', "unknown --parser=relaxed"),
    (_dataset(), _examples(2), 'released', "--parser=released has no rules for dataset 'mine'"),
    (_choice_dataset(), _examples(2), 'strict', 'pick test row 1: .* needs the choices'),
    (datasets.Dataset('open', datasets.read_plain_row, completion=_dataset().completion),
     _examples(2), 'strict', "'open': label_kind='class' needs labels"),
])
def test_bad_datasets_write_nothing(tmp_path, dataset, examples, parser, message):
  with pytest.raises(errors.UserError, match=message):
    job.run(dataset, 'test', examples, clients.ScriptedClient(_says_yes), parser,
            str(tmp_path / 'r'))
  assert not (tmp_path / 'r').exists()


# --- Nothing parsed ------------------------------------------------------------------------------


def _says_nothing_of_use(example):
  return f'I would say\u2028 that {example.id} is\nfine.' + ' Well.' * 50


def _everything(folder):
  return {str(path): path.read_bytes() for path in folder.rglob('*')
          if path.is_file() and not path.name.endswith('.lock')}


def _run_in_vain(tmp_path, **kwargs):
  return job.run(_dataset(), 'train', _examples(20),
                 clients.ScriptedClient(_says_nothing_of_use, 'me'), 'strict', str(tmp_path),
                 num_shards=2, **kwargs)


@pytest.mark.parametrize('there_before', [True, False])
def test_a_job_in_which_nothing_parsed_changes_nothing(tmp_path, there_before):
  if there_before:
    _run(tmp_path, n=20, split='train')
  before = _everything(tmp_path)
  with pytest.raises(errors.UserError) as caught:
    _run_in_vain(tmp_path)
  assert _everything(tmp_path) == before
  message = str(caught.value)
  assert 'none of 20 rows parsed (20 no_answer_phrase)' in message
  assert 'mine-train, mine-validation' in message and '--allow_unparsed' in message
  assert message.count("'I would say\\u2028 that q") == 2 and '\n' not in message


def test_a_set_in_which_nothing_parsed_if_asked_for(tmp_path):
  _run(tmp_path, n=20, split='train')
  outcome = _run_in_vain(tmp_path, allow_unparsed=True)
  assert {row.parse_status for row in _read(tmp_path, 'train')} == {'no_answer_phrase'}
  text = report.render(outcome)
  assert 'WARNING: mine-train replaces a set in which 17 rows had parsed; now 0 have' in text


def test_no_label_that_agrees_is_nothing_parsed(tmp_path):
  odd = [example for example in _examples(20) if example.label == 'no']
  with pytest.raises(errors.UserError, match=r'none of 10 rows parsed \(10 disagrees\)'):
    job.run(_dataset(), 'test', odd, clients.ScriptedClient(_says_yes, 'me'), 'strict',
            str(tmp_path), keep='agree')


def test_a_set_that_was_better_is_named(tmp_path):
  _run(tmp_path, n=20)
  assert 'WARNING' not in report.render(_run(tmp_path, n=20))
  assert 'WARNING' not in report.render(_run(tmp_path, n=19))
  less = report.render(_run(tmp_path, n=15))
  assert 'WARNING: mine-test replaces a set in which 18 rows had parsed; now 14 have' in less
  gold = job.run(_dataset(), 'test', _examples(20), clients.NoTeacher(), 'strict', str(tmp_path))
  assert 'a set in which 14 rows had parsed; now 0 have' in report.render(gold)


def test_report_counts_failures_as_wrong(tmp_path):
  outcome = _run(tmp_path, n=20, split='train')
  text = report.render(outcome)
  # 'yes' is right for the ten even rows, less q2, which failed.
  assert summary.total(list(outcome.splits.values())).accuracy == {'accuracy': 45.0}
  lines = {line.split()[0]: line.split() for line in text.splitlines()}
  assert lines['all'] == ['all', '20', '19', '1', '20', '45.00']
  assert lines['mine-train'][1] == '18' and lines['mine-validation'][1] == '2'
  assert '1  no_answer_phrase: the answer phrase does not occur' in text
  assert f'wrote {tmp_path}/mine-train.tfrecord-*-of-00002' in text


def test_report_without_gold_labels_has_no_accuracy(tmp_path):
  examples = [datasets.Example('q0', 'x'), datasets.Example('q1', 'y')]
  outcome = job.run(_dataset(), 'test', examples, clients.ScriptedClient(_says_yes), 'strict',
                    str(tmp_path))
  assert outcome.splits['test'].accuracy == {}
  assert 'accuracy' not in report.render(outcome)


# --- Command line --------------------------------------------------------------------------------


def _cqa_files(folder, n=20):
  rows = [{'id': f'q{i}', 'question': f'Which {i}?', 'choices': ['pen', 'ink'],
           'answer': ['pen', 'ink'][i % 2]} for i in range(n)]
  (folder / 'in.json').write_text('\n'.join(map(json.dumps, rows)))
  texts = [f'It is {i}. So the answer is (a) pen or (b) ink.\n\nQ: ...' for i in range(n)]
  texts[3] = 'It is one. So the answer is one of these.\n\nQ: ...'
  for name, part in (('c_9.json', texts[:12]), ('c_10.json', texts[12:])):
    (folder / name).write_text(json.dumps(part))
  return ['--dataset=cqa', f'--inputs={folder}/in.json']


def _completions(folder):
  return f'--completions={folder}/c_*.json'


def test_command_line_recorded(tmp_path, capsys):
  flags = _cqa_files(tmp_path)
  assert teacher_main.main([*flags, '--split=train', _completions(tmp_path), '--num_shards=3',
                            f'--records_dir={tmp_path}/r', '--teacher_model=palm']) == 0
  rows = [row for split in ('train', 'validation')
          for row in records.read_records(f'{tmp_path}/r', 'cqa', split)]
  by_id = {row.id: row for row in rows}
  assert len(by_id) == 20
  assert by_id['q12'].rationale == 'It is 12.' and by_id['q12'].teacher_label == 'pen'
  assert by_id['q12'].input == 'Which 12?\nAnswer Choices:\n(a) pen\n(b) ink'
  assert by_id['q3'].parse_status == 'unknown_choice' and by_id['q3'].label == 'ink'
  assert {row.teacher_model for row in rows} == {'palm'}
  entry = records.find_set(f'{tmp_path}/r', 'cqa', 'train').entry
  assert [c['name'] for c in entry['teacher']['completions']] == ['c_9.json', 'c_10.json']
  assert entry['inputs']['rows'] == 20 and entry['holdout'] == 'permutation'
  assert '1  unknown_choice' in capsys.readouterr().out


def test_command_line_refuses_a_set_in_which_nothing_parsed(tmp_path, capsys):
  flags = _cqa_files(tmp_path)
  (tmp_path / 'bad.json').write_text(json.dumps(['Hm.'] * 20))
  words = [*flags, '--split=test', f'--records_dir={tmp_path}/r']
  teacher_main.main([*words, _completions(tmp_path)])
  before = _everything(tmp_path / 'r')
  with pytest.raises(errors.UserError, match='none of 20 rows parsed'):
    teacher_main.main([*words, f'--completions={tmp_path}/bad.json'])
  (tmp_path / 'in.json').write_text('\n')
  with pytest.raises(errors.UserError, match='the file is empty'):
    teacher_main.main([*words, _completions(tmp_path)])
  assert _everything(tmp_path / 'r') == before
  _cqa_files(tmp_path)
  assert teacher_main.main(
      [*words, f'--completions={tmp_path}/bad.json', '--allow_unparsed']) == 0
  assert 'now 0 have' in capsys.readouterr().out


def test_command_line_released(tmp_path, monkeypatch):
  monkeypatch.setenv('DSS_DATA_DIR', str(tmp_path / 'env'))
  flags = _cqa_files(tmp_path)
  teacher_main.main([*flags, '--split=test', _completions(tmp_path), '--parser=released'])
  rows = list(records.read_records(str(tmp_path / 'env'), 'cqa', 'test'))
  assert rows[0].teacher_label == 'pen or'
  assert (rows[3].rationale, rows[3].parse_status) == ('', 'released_blank')


def test_command_line_without_a_teacher(tmp_path, capsys):
  flags = _cqa_files(tmp_path)
  teacher_main.main([*flags, '--split=test', '--client=none', f'--records_dir={tmp_path}/r'])
  rows = list(records.read_records(f'{tmp_path}/r', 'cqa', 'test'))
  assert {(r.parse_status, r.rationale, r.teacher_label, r.teacher_model, r.request_key)
          for r in rows} == {('no_teacher', '', '', '', '')}
  assert rows[1].label == 'ink'
  out = capsys.readouterr().out
  assert 'gold labels only' in out and 'failed' not in out


def test_command_line_imports_a_users_dataset(tmp_path, monkeypatch):
  (tmp_path / 'my_own_tasks.py').write_text(
      'from dss_jax import datasets\n'
      'datasets.add(datasets.Dataset("my_own", datasets.read_plain_row, holdout=None))\n')
  (tmp_path / 'in.jsonl').write_text('{"id": 1, "input": "Where?"}')
  (tmp_path / 'c.jsonl').write_text('{"id": 1, "completion": "It is. So the answer is here."}')
  monkeypatch.chdir(tmp_path)
  teacher_main.main(['--import=my_own_tasks', '--dataset=my_own', '--split=train',
                     '--inputs=in.jsonl', '--completions=c.jsonl', '--records_dir=r'])
  (row,) = records.read_records('r', 'my_own', 'train')
  assert (row.id, row.rationale, row.teacher_label) == ('1', 'It is.', 'here')


@pytest.mark.parametrize('change, message', [
    (['--client=record'], "unknown --client=record: did you mean 'recorded'"),
    (['--completions='], "needs --completions='GLOB'"),
    (['--client=none'], 'drop --completions'),
    (['--dataset=cqaa'], "unknown dataset 'cqaa': did you mean 'cqa'"),
    (['--split=tests'], 'unknown --split=tests'),
    (['--records_dir='], 'Set --records_dir=DIR, or DSS_DATA_DIR'),
    (['--num_shards=0'], '--num_shards=0'),
    (['--import=no_such_module'], "--import=no_such_module: no module 'no_such_module'"),
    (['--inputs=nowhere.json'], '--inputs=nowhere.json: cannot be read'),
])
def test_command_line_errors_write_nothing(tmp_path, monkeypatch, change, message):
  monkeypatch.delenv('DSS_DATA_DIR', raising=False)
  flags = _cqa_files(tmp_path)
  with pytest.raises(errors.UserError, match=message):
    teacher_main.main([*flags, '--split=test', _completions(tmp_path),
                       f'--records_dir={tmp_path}/r', *change])
  assert not (tmp_path / 'r').exists()


def test_help_shows_an_example_for_each_client(capsys):
  with pytest.raises(SystemExit) as stop:
    teacher_main.main(['--help'])
  assert stop.value.code == 0
  text = capsys.readouterr().out
  assert '--client=none' in text and "--completions='palm/train_CoT_*.json'" in text
