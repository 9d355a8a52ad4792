"""What is wrong with a command line is said at once, with what to write instead."""

import argparse
import importlib
import os
import re
import subprocess
import sys

import pytest

from dss_jax import arguments, cli, errors

RUN = ['--gin_file=gin/native/dss.gin', '--gin.DATASET=cqa']
VERBS = {'train': RUN, 'precompile': [*RUN, '--topology=v5e:2x2'],
         'sweep': ['--gin_file=gin/sweeps/toy.gin', '--out=sweep']}


def main(verb, *words):
  return importlib.import_module(cli.VERBS[verb][0]).main(list(words))


@pytest.mark.parametrize('verb', VERBS)
@pytest.mark.parametrize('words, says', [
    (['--gin.TRAIN_STEPS', '10'], '--gin.TRAIN_STEPS 10: write --gin.TRAIN_STEPS=10'),
    (['--gin.TRAIN_STEPS'], '--gin.TRAIN_STEPS: write --gin.TRAIN_STEPS=VALUE'),
    (['--gin.train_steps', '10'], '--gin.train_steps 10: write --gin.TRAIN_STEPS=10'),
    (['--gin.TRAIN_STEPS', '--gin.SEED=1'], '--gin.TRAIN_STEPS: write --gin.TRAIN_STEPS=VALUE'),
    (['--model_dir=x'], '--model_dir x: write --gin.MODEL_DIR=x'),
    (['--records_dir', 'r=1'], '--records_dir r=1: write --gin.RECORDS_DIR=r=1'),
    (['--dropout_rate=0'], '--dropout_rate 0: write --gin.DROPOUT_RATE=0'),
    (['--learning-rate', '1e-4'], '--learning-rate 1e-4: write --gin.LEARNING_RATE=1e-4'),
    (['SEED=3'], 'SEED=3: write --gin.SEED=3'),
    (['--train_step=3'], "--train_step: .* no such flag: did you mean '--gin.TRAIN_STEPS'"),
    (['--import_=x'], "--import_: .* no such flag: did you mean '--import'"),
    (['--epochs=3'], '--epochs: .* no such flag: see .* --help'),
])
def test_a_macro_that_is_given_as_a_flag(verb, words, says, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(errors.UserError, match=f'^{says}') as caught:
    main(verb, *VERBS[verb], *words)
  assert '\n' not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize('verb', sorted({*cli.VERBS} - {*VERBS}))
def test_a_misspelt_flag_of_every_other_verb(verb):
  for words in (['--no_such_flag_at_all=x'], ['--no-such', 'x']):
    with pytest.raises(errors.UserError, match=rf'^{words[0].partition("=")[0]}: .* --help$'):
      main(verb, *words)


@pytest.mark.parametrize('words, says', [
    (['--rank_by=maen'], "--rank_by='maen': did you mean 'mean'"),
    (['--rank_by', 'x', '--text=y'], "--rank_by='x': known: mean, pmi, sum"),
    (['--dtype=float16'], "--dtype='float16': did you mean .*'bfloat16'"),
])
def test_a_choice_that_there_is_not(words, says):
  with pytest.raises(errors.UserError, match=f'^{says}'):
    main('predict', '--model_dir=x', *words)


@pytest.mark.parametrize('words, says', [
    (['--method=dss', '--dataset=esnil'], "--dataset=esnil: did you mean 'esnli'"),
    (['--method=dss'], 'give --gin.DATASET=NAME; known: anli'),
    (['--dataset=cqa', '--gin_file=gin/native/tiny.gin'], '--dataset=cqa: .* give --method=dss'),
    (['--method=dss_teacher', '--dataset=toy', '--gin_file=gin/recipes/toy.gin'],
     '--method=dss_teacher --dataset=toy trains dss_toy_teacher, but a --gin_file says dss_toy: '),
    (['--method=dss', '--gin.DATASET=cqaa'], 'DATASET=cqaa: did you mean'),
    (['--gin_file=gin/native/dss.gin', '--dataset=x'],
     '--gin_file=gin/native/dss.gin: DATASET=x: known'),
])
def test_what_method_and_dataset_stand_for_is_not_named(words, says, tmp_path):
  with pytest.raises(errors.UserError, match=f'^{says}'):
    main('train', *words, f'--gin.MODEL_DIR={tmp_path}')


def test_labels_with_a_comma_are_told_apart():
  assert errors.did_you_mean('x', ['yes, sir', 'no']) == "known: no, 'yes, sir'"


def test_values_that_look_like_flags_are_values():
  parser = argparse.ArgumentParser(prog='x')
  parser.add_argument('--text')
  parser.add_argument('more', nargs='*')
  args = arguments.parse(parser, ['--text=--no', '-1', '--', '--rest'])
  assert (args.text, args.more) == ('--no', ['-1', '--rest'])
  assert arguments.parse(parser, ['--tex=1']).text == '1'  # argparse takes what is unique.


# Who takes them, and by which words: a mistake that can be told without the data.
EARLY = [
    ('train', [*RUN, '--gin.TRAIN_STPES=1'], "did you mean 'TRAIN_STEPS'"),
    ('train', [*RUN, '--gin.MODEL_DIR=m', '--gin.RECORDS_DIR=none'], 'none/manifest.json does not'),
    ('train', [*RUN, '--gin.MODEL_DIR=m'], 'no folder of records: give '),
    ('sweep', [*VERBS['sweep'], '--gin.SEEEDS=1'], "did you mean 'SEEDS' or 'SEED'"),
    ('sweep', [*VERBS['sweep'], '--gin.TRAIN_STEPS=x'], "TRAIN_STEPS='x': use a whole number"),
    ('precompile', [*VERBS['precompile'], '--gin.TRAIN_STPES=1'], "did you mean 'TRAIN_STEPS'"),
    ('inspect', ['--task=dss_cqq', '--records_dir=r'], "did you mean 'dss_cqa'"),
    ('inspect', ['--task=dss_cqa', '--records_dir=none'], 'none/manifest.json does not exist'),
    ('inspect', ['--records_dir=none'], 'give --task, such as'),
    ('vocab', ['--records_dir=none', '--output=v.model'], 'none/manifest.json does not exist'),
    ('predict', ['--model_dir=m', '--input=none', '--output=o'],
     '--input=none: cannot be read (No such file or directory)'),
]


@pytest.mark.parametrize('verb, words, says', EARLY)
def test_tensorflow_is_not_loaded_for_a_mistake(verb, words, says, tmp_path):
  """A mistake in a name took 4 to 7 s, which TensorFlow takes to load."""
  code = ('import sys; from dss_jax import cli\n'
          'try: cli.main(sys.argv[1:])\n'
          'except Exception as error: print(error)\n'
          'print("tensorflow" in sys.modules or "seqio" in sys.modules)')
  environment = {name: value for name, value in os.environ.items() if name != 'DSS_DATA_DIR'}
  done = subprocess.run([sys.executable, '-c', code, verb, *words], cwd=tmp_path, text=True,
                        capture_output=True, timeout=600, check=False, env=environment)
  said, loaded = done.stdout.splitlines()[-2:]
  assert says in said and loaded == 'False', done.stdout + done.stderr


def test_the_config_is_printed_without_folders(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv('DSS_DATA_DIR', raising=False)
  assert main('train', *RUN, '--print_config') == 0
  printed = capsys.readouterr().out
  assert re.search(r"^MODEL_DIR = '\(not set\)'$", printed, re.MULTILINE)
  assert "DATASET = 'cqa'" in printed and not list(tmp_path.iterdir())
  (tmp_path / 'own.gin').write_text("include 'gin/native/dss.gin'\nMODEL_DIR = 'of_the_file'\n")
  assert main('train', '--gin_file=own.gin', '--gin.DATASET=cqa', '--print_config') == 0
  assert "MODEL_DIR = 'of_the_file'" in capsys.readouterr().out
  with pytest.raises(errors.UserError, match='MODEL_DIR is not set: name a folder'):
    main('train', *RUN)


def test_a_method_and_a_dataset_in_place_of_a_file(capsys):
  from dss_jax.train import __main__ as train
  assert train.main(['--method=finetune', '--dataset=svamp', '--gin.TRAIN_STEPS=7',
                     '--print_config']) == 0
  text = capsys.readouterr().out
  assert "MIXTURE_OR_TASK_NAME = 'svamp_finetune'" in text and 'TRAIN_STEPS = 7' in text
  for words, what in ((['--method=ds', '--dataset=cqa'], "^--method=ds: did you mean 'dss'"),
                      (['--dataset=cqa'], 'train what'), (['--method=dss'], 'give --gin.DATASET')):
    with pytest.raises(errors.UserError, match=what):
      train.main(words)
