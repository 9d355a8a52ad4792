"""Which checkpoints teach as `--client=t5`, by which flags, and what a request's key holds."""

import argparse
import dataclasses
import json
import shutil

import pytest
from t5_teacher import (  # noqa: F401
  CONFIG,
  GREEDY,
  INFO,
  MODEL,
  PROMPT,
  TEXTS,
  ask,
  fixture_of_folder,
  fixture_of_teacher,
  fixture_of_vocabulary,
  fixture_of_write,
  make,
)

from dss_jax import errors
from dss_jax.convert import __main__ as convert_main
from dss_jax.teacher.ask import endpoint, t5_client


def flags(**changes):
  return argparse.Namespace(**{'model': None, 'mesh': '', 'batch_size': 8, 'dtype': 'float32',
                               **changes})


@pytest.mark.parametrize('changes, message', [
    ({'model': None}, '--client=t5 needs --model=FOLDER'),
    ({'model': 'nowhere'}, '--model=nowhere: nowhere does not exist'),
    ({'mesh': '1x1x3'}, '--mesh=1x1x3: .* such as 1x1x8; .* number of devices, 8 '),
    ({'mesh': '8'}, '--mesh=8: .*8 '), ({'mesh': '1x1x8x1'}, '--mesh=1x1x8x1: .*8 '),
    ({'mesh': '-1x0x1'}, '--mesh=-1x0x1: .*8 '), ({'mesh': 'axbxc'}, '--mesh=axbxc: .*8 ')])
def test_flags_that_mean_nothing(folder, changes, message):
  with pytest.raises(errors.UserError, match=message):
    t5_client.T5Endpoint.from_flags(flags(**{'model': folder, **changes}))


def test_flags(folder):
  made = t5_client.T5Endpoint.from_flags(flags(model=f'{folder}/', mesh='2x1x-1'))
  assert made.model == 'tiny' and made.name == 't5'
  assert made.provenance()['mesh'] == {'data': 2, 'fsdp': 1, 'model': 4}


def test_a_mesh_that_the_network_cannot_be_split_over(random_weights, tmp_path):
  config = dataclasses.replace(CONFIG, num_heads=6)
  info = dataclasses.replace(INFO, model=config, vocabulary='bytes')
  convert_main.convert(random_weights(config), f'{tmp_path}/six', 'native', info=info)
  with pytest.raises(errors.UserError, match='--mesh=1x1x8: 6 attention heads .*; 2 would do'):
    make(f'{tmp_path}/six', MODEL)


def test_a_folder_without_vocabulary(folder, tmp_path):
  shutil.copytree(folder, tmp_path / 'tiny')
  (tmp_path / 'tiny' / 'spiece.model').unlink()
  with pytest.raises(errors.UserError, match='has no vocabulary .* copy the SentencePiece model'):
    make(str(tmp_path / 'tiny'))


def test_a_student_with_a_shared_encoder_is_no_teacher(write, tmp_path):
  write(f'{tmp_path}/shared', to='native')
  about = tmp_path / 'shared' / 'student.json'
  about.write_text(json.dumps({**json.loads(about.read_text()), 'shared_encoder': True}))
  with pytest.raises(errors.UserError, match='was trained with SHARED_ENCODER'):
    make(f'{tmp_path}/shared')


def test_a_request_is_all_that_decides_the_answer(teacher):
  assert teacher.request(PROMPT, 'Where?', endpoint.Decoding(9, 0.5, {'top_p': 0.9})) == {
      'model': 'tiny', 'weights': teacher.weights, 'prompt': PROMPT.as_text('Where?'),
      'max_tokens': 9, 'temperature': 0.5, 'stop': ['Q:'], 'dtype': 'float32', 'top_p': 0.9}


@pytest.mark.parametrize('extra', [
    {'beams': 2}, {'top_k': -1}, {'top_k': 1.5}, {'top_k': True}, {'top_p': 0}, {'top_p': '1'},
    {'logprobs': -1}, {'logprobs': 'all'}, {'top_logprobs': 0}, {'top_logprobs': True}])
def test_params_that_mean_nothing(teacher, extra):
  with pytest.raises(errors.UserError, match=f'--params: .*{next(iter(extra))}'):
    teacher.request(PROMPT, 'x', endpoint.Decoding(extra=extra))


@pytest.mark.parametrize('to', ['hf', 'native', 't5x'])
def test_other_weights_of_the_same_name_have_other_keys(write, tmp_path, to):
  first = write(tmp_path / 'a' / 'tiny', to=to)
  shutil.copytree(first, tmp_path / 'b' / 'tiny')
  other = write(tmp_path / 'c' / 'tiny', seed=3, to=to)
  asked = [make(one).request(PROMPT, 'x', GREEDY)
           for one in (first, str(tmp_path / 'b' / 'tiny'), other)]
  assert asked[0] == asked[1] != asked[2]
  assert {one['model'] for one in asked} == {'tiny'}


def test_the_weights_are_those_of_the_key_even_if_a_run_goes_on(write, tmp_path):
  first, better = (write(tmp_path / f'{seed}', seed=seed, to='native') for seed in (1, 2))
  run = tmp_path / 'run'
  shutil.copytree(first, run)
  (run / 'best').mkdir()
  shutil.move(run / 'params', run / 'best' / '100' / 'params')
  made = make(str(run))
  asked = ask(made, TEXTS[:1])
  begun = make(str(run))
  shutil.copytree(tmp_path / '2' / 'params', run / 'best' / '200' / 'params')
  assert ask(begun, TEXTS[:1]) == asked and begun.weights == made.weights
  assert make(str(run)).weights != made.weights
