"""The command and its table, with a compiler that answers at once."""

import importlib.util
import json

import fakes
import pytest

from dss_jax import errors, models
from dss_jax.models import flops
from dss_jax.precompile import __main__ as command
from dss_jax.precompile import jobs, shapes, topologies
from dss_jax.train import config as config_lib

FLAGS = ['--gin_file=gin/native/dss.gin', '--gin.DATASET=cqa',
         '--gin_file=gin/recipes/unpacked.gin', '--models=t5_1_1_base']


@pytest.fixture
def compiler(monkeypatch):
  fake = fakes.Compiler()
  monkeypatch.setattr(jobs, 'run', fake)
  monkeypatch.setattr(topologies, 'missing', lambda topology: '')
  return fake


def plan(capsys, *flags):
  assert command.main([*FLAGS, '--format=json', *flags]) == 0
  return json.loads(capsys.readouterr().out)


def test_a_cell_says_what_fits_and_what_it_takes(compiler, capsys):
  row, = plan(capsys, '--topology=v5e:2x4', '--mesh=1x-1x1')
  assert (row['mesh'], row['fits'], row['proven'], row['microbatches']) == ('1x8x1', True, True, 4)
  assert row['parameters'] == 247_577_856
  assert row['tried'] == {'1': 'too much: 28.00 GiB of temporaries alone',
                          '2': '17.00 GiB, too much', '4': '10.00 GiB, fits'}
  assert row['collectives']['whole']['all-reduce'] == 3 * 2**30
  # The optimizer's state lies beside decoding: 3 - 1 GiB.
  assert row['decode']['total'] == (1 + 1 + 2) * 2**30 and row['decode']['rows'] == 64
  assert row['least_seconds'] == pytest.approx(row['flops'] / 8 / 197e12)


def test_without_models_a_row_says_what_is_trained(compiler, capsys):
  files = ['--gin_file=gin/native/finetune.gin', '--gin.DATASET=cqa',
           '--gin_file=gin/recipes/unpacked.gin', '--topology=v5e:2x4', '--format=json']
  assert command.main(files) == 0
  assert json.loads(capsys.readouterr().out)[0]['model'] == 'cqa_finetune'


def test_operations_are_those_of_the_paper_formula():
  config = models.T5Config(vocab_size=10, emb_dim=4, num_heads=2, head_dim=3, mlp_dim=5,
                           num_encoder_layers=1, num_decoder_layers=1)
  encoder = 4 * 4 * 6 + 3 * 4 * 5  # query, key, value, output; three of the gated MLP
  decoder = 6 * 4 * 6 + 3 * 4 * 5 + 4 * 10  # self-attention, half the cross-attention; head
  by_hand = 2 * (7 * (encoder + 2 * 4 * 6) + 3 * decoder) + 4 * 6 * (7 * 7 + 6 + 3 * 7)
  assert flops.forward_flops(config, [7], [3]) == by_hand
  assert flops.training_flops(config, [7, 7], [3, 3]) == 6 * by_hand


def test_a_plan_goes_on_where_it_was_killed(compiler, capsys, tmp_path):
  flags = ['--topology=v5e:2x4,v5e:4x4', '--mesh=1x-1x1',
           f'--output={tmp_path / "new" / "plan.jsonl"}']
  whole = plan(capsys, *flags)
  asked = list(compiler.asked)
  path = tmp_path / 'new' / 'plan.jsonl'
  lines = path.read_text().splitlines()
  assert len(lines) == len(asked)
  path.write_text('\n'.join(lines[:3]) + '\n' + lines[3][:40])  # Killed while it wrote.
  compiler.asked.clear()
  done, open_ = plan(capsys, *flags, '--known_only', '--no-decode')
  assert done['fits'] and open_['fits'] is None and not compiler.asked
  assert (open_['reason'], open_['tried']) == ('not compiled yet', {})
  assert plan(capsys, *flags) == whole
  assert compiler.asked == asked[3:]
  compiler.asked.clear()
  assert plan(capsys, *flags) == whole and not compiler.asked


@pytest.mark.parametrize('binding', ['TRAIN_STEPS=7', 'REMAT=full', 'BATCH_SIZE=64'])
def test_what_changes_the_program_is_compiled_anew(compiler, capsys, tmp_path, binding):
  flags = ['--topology=v5e:2x4', '--no-decode', f'--output={tmp_path / "plan.jsonl"}']
  plan(capsys, *flags)
  before = len(compiler.asked)
  plan(capsys, *flags, '--gin.MODEL_DIR=elsewhere', '--gin.RECORDS_DIR=there')
  assert len(compiler.asked) == before
  plan(capsys, *flags, f'--gin.{binding}')
  assert len(compiler.asked) > before


def test_records_that_are_named_are_looked_at(compiler, capsys, toy_records, toy_vocabulary):
  named = ['--topology=v5e:2x4', '--no-decode', '--gin.MIXTURE_OR_TASK_NAME=dss_toy',
           f'--gin.VOCABULARY={toy_vocabulary}']
  plan(capsys, *named, f'--gin.RECORDS_DIR={toy_records}')
  assert command.main([*FLAGS, *named, f'--gin.RECORDS_DIR={toy_records}',
                       "--gin.TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 24}"]) == 0
  assert 'warning: dss_toy_label: 96 of 96 inputs are longer' in capsys.readouterr().err
  assert command.main([*FLAGS, *named, '--gin.RECORDS_DIR=there']) == 0
  assert 'warning: the records are not looked at: there/manifest' in capsys.readouterr().err


def test_a_crash_and_a_timeout_are_rows_and_not_the_end(compiler, capsys):
  compiler.broken = {k: jobs.Outcome(jobs.TIMEOUT, 900.0, 'over 15 min') for k in (1, 2, 4, 8)}
  first, second = plan(capsys, '--topology=v5e:2x4,v5e:4x4')
  assert first['fits'] is None and 'left out: timeout: over 15 min' in first['reason']
  assert second['reason'] == first['reason']
  compiler.broken = {k: jobs.Outcome(jobs.CRASHED, 1.0, 'it ended with SIGSEGV: stack')
                     for k in (1, 2, 4, 8, 16)}
  row, = plan(capsys, '--topology=v5e:2x4')
  assert row['fits'] is None and 'SIGSEGV' in row['reason']


def test_a_timeout_is_tried_again_with_more_time(compiler, capsys, tmp_path):
  flags = ['--topology=v5e:2x4', '--no-decode', f'--output={tmp_path / "plan.jsonl"}']
  compiler.broken = {1: jobs.Outcome(jobs.TIMEOUT, 60.0, 'over 1 min')}
  plan(capsys, *flags, '--timeout=1')
  asked = len(compiler.asked)
  plan(capsys, *flags, '--timeout=1')
  assert len(compiler.asked) == asked
  compiler.broken = {}
  assert plan(capsys, *flags, '--timeout=15')[0]['fits']


def test_no_file_but_its_own_is_cut(compiler, capsys, tmp_path):
  path = tmp_path / 'mine.txt'
  path.write_text('a line\nand one without end')
  with pytest.raises(errors.UserError, match='mine.txt'):
    plan(capsys, '--topology=v5e:2x4', f'--output={path}')
  assert path.read_text() == 'a line\nand one without end'


@pytest.mark.parametrize(('flag', 'why'), [
    ('--timeout=0', '--timeout=0'), ('--timeout=nan', '--timeout=nan'),
    ('--max_compiles=0', '--max_compiles=0'), ('--topology=', '--topology=')])
def test_flags_without_sense_are_named(compiler, capsys, flag, why):
  with pytest.raises(errors.UserError, match=why):
    plan(capsys, '--topology=v5e:2x4', flag)


def test_the_table(compiler, capsys):
  arguments = [*FLAGS, '--topology=v5e:2x4', '--sweep']
  assert command.main([*arguments, '--format=markdown']) == 0
  captured = capsys.readouterr()
  lines = captured.out.splitlines()
  header = [cell.strip() for cell in lines[0].strip('|').split('|')]
  rows = [dict(zip(header, (cell.strip() for cell in line.strip('|').split('|')), strict=True))
          for line in lines[2:] if line.startswith('|')]
  assert [row['mesh'] for row in rows] == [
      '8x1x1', '1x8x1', '4x1x2', '1x4x2', '2x1x4', '1x2x4', '1x1x8']
  assert rows[0]['microbatches'] == '4 of 32 rows' and rows[0]['fits'] == 'yes'
  assert rows[0]['of HBM'] == '15.75' and rows[0]['total'] == '10.00'
  assert rows[0]['tried'] == '1: over 28.00, 2: 17.00, 4: 10.00'
  assert '12 attention heads cannot be divided among 8' in rows[-1]['fits']
  assert '[1/7] t5_1_1_base v5e:2x4 8x1x1: compiling 1 microbatches' in captured.err
  assert command.main(arguments) == 0
  assert capsys.readouterr().out.splitlines()[1].split()[:4] == [
      't5_1_1_base', 'v5e:2x4', '8x1x1', 'yes']


@pytest.mark.parametrize('flags, message', [
    (['--topology=v9:4x4'], 'known: a100, h100, h200, tpu7x, v4, v5e, v5p, v6e'),
    (['--topology=v5e'], 'v5e has v5e:1x1, v5e:2x2'),
    (['--topology=v5e:3x4'], 'first two sides are even'),
    (['--topology=v4:4x4'], 'v4 has v4:2x2x1'),
    (['--topology=cuda:8'], 'or h100:2x8, hosts x GPUs'),
    (['--topology=h100:2x2x2'], 'h100 has h100:1, h100:8, h100:2x8'),
    (['--topology=v5e:2x4', '--mesh=4x1x1'], 'the devices of v5e:2x4, 8'),
    (['--topology=v5e:2x4', '--mesh=eight'], 'such as 1x16x1'),
    (['--topology=v5e:2x4', '--mesh=1x1x8'], '12 attention heads cannot be divided'),
    (['--topology=v5e:2x4', '--gin.BATCH_SIZE=12'],
     'multiples of 8 can, or meshes with data x fsdp of 1, 2, 3, 4, 6'),
    (['--topology=v5e:2x4', '--microbatches=32'],
     '32 microbatches of whole rows on 8 devices: 1, 2, 4, 8, 16 can'),
    (['--topology=v5e:2x4', '--microbatches=many'], 'give a number, or auto'),
    (['--topology=v5e:2x4', '--gin.BATHC_SIZE=12'], 'BATCH_SIZE'),
    (['--topology=v5e:2x4', '--models=t5_1_1_bsae'], 't5_1_1_base'),
])
def test_errors_name_the_fix(compiler, flags, message):
  with pytest.raises(errors.UserError) as raised:
    command.main([*FLAGS, *flags])
  assert message in str(raised.value)
  assert not compiler.asked


@pytest.mark.parametrize('topology, fix', [
    ('v5e:2x4', r"pip install 'dss_jax\[tpu-plan\]'"), ('h100:8', r"pip install 'dss_jax\[gpu\]'")])
def test_without_the_compiler_it_says_what_to_install(monkeypatch, topology, fix):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(errors.UserError, match=fix):
    command.main([*FLAGS, f'--topology={topology}'])


def test_a_file_that_is_no_plan_is_refused(compiler, tmp_path):
  (tmp_path / 'notes').write_text('{"key": 1}\n')
  with pytest.raises(errors.UserError, match='line 1 is not of a plan'):
    command.main([*FLAGS, '--topology=v5e:2x4', f'--output={tmp_path / "notes"}'])


def test_devices_of_a_slice():
  counts = {name: topologies.parse(name).num_devices
            for name in ('v5e:1x1', 'v5e:4x4', 'v4:2x2x4', 'tpu7x:2x2x1', 'h100:8', 'a100:2x8')}
  assert counts == {'v5e:1x1': 1, 'v5e:4x4': 16, 'v4:2x2x4': 16, 'tpu7x:2x2x1': 8,
                    'h100:8': 8, 'a100:2x8': 16}
  mesh = shapes.resolve(config_lib.MeshConfig(2, -1, 2), topologies.parse('v5e:4x4'))
  assert mesh.name == '2x4x2'
