"""Which runs a sweep has, and what they are made of."""

import collections
import dataclasses

import pytest

import dss_jax.tasks  # noqa: F401
from dss_jax import errors, gin_files
from dss_jax.experiments import grid, plan, sweep_config
from dss_jax.train import gin_config

SWEEPS = [file for file in gin_files.known_files() if file.startswith('gin/sweeps/')]


def test_the_grid_has_what_is_an_experiment_and_nothing_twice():
  cells = grid.cells(grid.Sweep(
      ('cqa', 'svamp'), methods=tuple(grid.METHODS), labels=('gold', 'teacher'),
      fractions=(0.5, 1.0), alphas=(0.2, 0.5, 0.8), seeds=(0, 1)))
  counts = collections.Counter((cell.method, cell.labels) for cell in cells)
  each = 2 * 2 * 2  # datasets, fractions, seeds
  assert counts == {
      ('dss', 'gold'): 3 * each, ('dss', 'teacher'): 3 * each, ('dss_shuffled', 'gold'): 3 * each,
      ('finetune', 'gold'): each, ('distill', 'teacher'): each,
      ('rationale_then_label', 'gold'): each}
  assert len({cell.key for cell in cells}) == len(cells)
  half = len(cells) // 2
  assert {cell.seed for cell in cells[:half]} == {0}  # One seed after the other.


def test_a_cell_becomes_a_run(tmp_path):
  sweep = grid.Sweep(
      ('cqa',), methods=('dss',), labels=('teacher',), models=('t5_1_1_large',),
      fractions=(0.125,), alphas=(0.3,), seeds=(4,), settings={
          'TRAIN_STEPS': 7, 'LOG_PERIOD': 3, 'RECORDS_DIR': 'records/{dataset}',
          'TASK_FEATURE_LENGTHS': {'inputs': 9, 'targets': 8}},
      settings_for={'cqa': {'VOCABULARY': 'bytes', 'TRAIN_STEPS': 8}, 'dss': {'TRAIN_STEPS': 9},
                    't5_1_1_large': {'INITIAL_CHECKPOINT_PATH': '/{method}/{model}'}})
  cell, = grid.cells(sweep)
  assert cell.key == 'cqa/dss-teacher/t5_1_1_large/fraction-0.125/alpha-0.3/seed-4'
  config = gin_config.parse(grid.files(sweep, cell), grid.bindings(sweep, cell, str(tmp_path)))
  assert config.model_dir == f'{tmp_path}/runs/{cell.key}'
  assert config.data.mixture_or_task == 'dss_cqa_teacher' and config.data.vocabulary == 'bytes'
  assert (config.data.train_fraction, config.data.train_fraction_seed) == (0.125, 4)
  assert (config.seed, config.data.seed, config.alpha) == (4, 4, 0.3)
  assert config.steps == 9 and config.log_every == 3
  assert config.model.emb_dim == 1024 and config.initial_checkpoint_path == '/dss/t5_1_1_large'
  assert config.data.records_dir == 'records/cqa' and config.data.feature_lengths['inputs'] == 9


def test_a_variant_is_its_method_with_settings_of_its_own(tmp_path):
  sweep = grid.Sweep(
      ('cqa',), methods=('dss', 'dss+smooth'), seeds=(0,),
      settings={'VOCABULARY': 'bytes', 'RECORDS_DIR': 'records'},
      settings_for={'dss': {'TRAIN_STEPS': 9, 'Z_LOSS': 0.5},
                    'dss+smooth': {'LABEL_SMOOTHING': 0.1, 'TRAIN_STEPS': 8}})
  plain, smooth = (
      gin_config.parse(grid.files(sweep, cell), grid.bindings(sweep, cell, str(tmp_path)))
      for cell in grid.cells(sweep))
  assert [cell.key for cell in grid.cells(sweep)] == [
      f'cqa/{method}-gold/recipe/fraction-1/alpha-0.5/seed-0' for method in sweep.methods]
  assert (plain.steps, plain.label_smoothing, plain.z_loss) == (9, 0.0, 0.5)
  assert (smooth.steps, smooth.label_smoothing, smooth.z_loss) == (8, 0.1, 0.5)
  assert smooth.data.mixture_or_task == plain.data.mixture_or_task == 'dss_cqa'


def test_some_of_a_files_variants_are_trained():
  sweep = grid.Sweep(('cqa',), methods=('dss', 'dss+a'), seeds=(0,), settings_for={
      'dss+a': {'Z_LOSS': 0.5}, 'dss+b': {'Z_LOSS': 0.1}})
  assert [cell.method for cell in grid.cells(sweep)] == ['dss', 'dss+a']


@pytest.mark.parametrize('changes, message', [
    ({'methods': ('dss+x',)}, r"'dss\+x' is 'dss' with settings of its own: name them, Sweep.sett"),
    ({'methods': ('dss+',), 'settings_for': {'dss+': {'SEED': 1}}}, 'letters and digits behind'),
    ({'methods': ('dss+a/b',), 'settings_for': {'dss+a/b': {'SEED': 1}}}, 'letters and digits'),
    ({'methods': ('das+x',)}, "Sweep.methods: 'das': known: .*dss"),
    ({'settings_for': {'das+y': {'SEED': 1}}}, "Sweep.settings_for: 'das.y'"),
    ({'methods': ('dss', 'fine_tune')}, "Sweep.methods: 'fine_tune': did you mean 'finetune'"),
    ({'methods': ('distill',)}, "'distill' learns teacher labels, and Sweep.labels has gold"),
    ({'labels': ('golden',)}, 'Sweep.labels'),
    ({'seeds': ()}, r'Sweep.seeds=\(\)'),
    ({'datasets': 'cqa'}, "Sweep.datasets='cqa': write a tuple"),
    ({'seeds': (1, 1)}, 'Sweep.seeds=.*twice'),
    ({'settings_for': {'t5_1_1_base': {}}}, 'Sweep.settings_for'),
])
def test_what_is_no_grid_is_refused(changes, message):
  with pytest.raises(errors.UserError, match=message):
    grid.Sweep(**{'datasets': ('cqa',), **changes})


@pytest.mark.parametrize('changes, message', [
    ({'models': ('t5_1_1_huge',)}, 'MODELS: gin/native/models/t5_1_1_huge.gin does not exist'),
    ({'run_file': 'mine/{dataset}.gin'}, 'RUN_FILE: no gin file of dss on cqa: mine/cqa.gin'),
])
def test_a_file_that_is_not_there_is_named(changes, message):
  sweep = grid.Sweep(**{'datasets': ('cqa',), **changes})
  with pytest.raises(errors.UserError, match=message):
    grid.files(sweep, grid.cells(sweep)[0])


def test_bindings_are_of_the_grid_or_of_every_run():
  sweep = sweep_config.parse(
      ['gin/sweeps/grid.gin'],
      ['SEEDS=(7,)', 'TRAIN_STEPS=5', "DATASETS=('svamp',)", 'VOCABULARY=a=b'])
  assert sweep.seeds == (7,) and sweep.datasets == ('svamp',)
  assert sweep.settings == {'TRAIN_STEPS': '5', 'VOCABULARY': 'a=b'}
  with pytest.raises(errors.UserError, match='METHODS'):
    sweep_config.parse(['gin/sweeps/grid.gin'], ["METHODS=('x',)"])


@pytest.mark.parametrize('file', SWEEPS)
def test_every_sweep_of_ours_has_runs_that_parse(file, tmp_path):
  sweep = sweep_config.parse([file], [])
  for cell in grid.cells(dataclasses.replace(sweep, seeds=sweep.seeds[:1])):
    config = gin_config.parse(grid.files(sweep, cell), grid.bindings(sweep, cell, str(tmp_path)))
    assert config.seed == cell.seed


@pytest.mark.parametrize('file, message', [
    ('gin/native/{method}_toy.gin', "'dss' on 'svamp' has .*='dss_toy', which is of toy"),
    ('{folder}/mine.gin', "'svamp_finetune', which is another method's; its own is 'dss_svamp'")])
def test_a_run_of_another_task_is_refused(tmp_path, file, message):
  """Its results would stand under a name that is not theirs."""
  (tmp_path / 'mine.gin').write_text("include 'gin/native/finetune.gin'\n")
  sweep = grid.Sweep(('svamp',), methods=('dss',), settings={'DATASET': 'svamp'} if 'mine' in file
                     else {}, run_file=file.replace('{folder}', str(tmp_path)))
  with pytest.raises(errors.UserError, match=message):
    plan.make(sweep, str(tmp_path / 'out'), [])


@pytest.mark.parametrize('method', grid.METHODS)
def test_every_method_has_the_task_of_its_file(tmp_path, method):
  sweep = grid.Sweep(('svamp',), methods=(method,), labels=('gold', 'teacher'), seeds=(0,))
  assert plan.make(sweep, str(tmp_path / 'out'), [])
