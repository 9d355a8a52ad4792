"""`dss train --gin_file=...`: train a student, or continue where it stopped."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dss_jax import arguments, cli, datasets, errors, files

if TYPE_CHECKING:
  from dss_jax.train.config import TrainConfig
  from dss_jax.train.loop import Result

_DESCRIPTION = """\
Train a student T5 on rationale records. Starting the same command again resumes.
"""
_EPILOG = """\
examples:
  # Distilling Step-by-Step on CommonsenseQA, the paper's settings:
  dss train --method=dss --dataset=cqa \\
      --gin.RECORDS_DIR=records --gin.MODEL_DIR=runs/dss_cqa

  # A small student from scratch with a vocabulary of its own, on a CPU:
  dss train --method=dss --dataset=cqa \\
      --gin_file=gin/native/tiny.gin --gin.RECORDS_DIR=records \\
      --gin.VOCABULARY=cqa.model --gin.MODEL_DIR=runs/tiny

  # From public weights of the Hugging Face hub (also a folder, a T5X checkpoint, or gs://):
  dss train ... --gin.INITIAL_CHECKPOINT_PATH=google/t5-v1_1-base

  # The baselines: standard fine-tuning, standard distillation.
  dss train --method=finetune --dataset=cqa ...
  dss train --method=distill --dataset=cqa ...

  # Another published size, of dss_jax/models/sizes.py (the default is T5 v1.1 base):
  dss train ... --gin_file=gin/native/models/t5_1_1_large.gin

settings (--gin.NAME=VALUE; --print_config shows all with their values):
  MODEL_DIR, RECORDS_DIR, VOCABULARY   folders and the SentencePiece model (or bytes)
  INITIAL_CHECKPOINT_PATH              pretrained T5 to start from: its name at the Hugging
                                       Face hub, or a folder: Hugging Face, T5X or native
  DATASET                              cqa, svamp, ... or one of your own, see --import
  MIXTURE_OR_TASK_NAME                 what to train on, if not what file and DATASET say
  TRAIN_STEPS, BATCH_SIZE, TASK_FEATURE_LENGTHS, PACK, MICROBATCHES
  DSS_ALPHA                            weight of the label loss, 0.5 in the paper
  LABEL_SMOOTHING, Z_LOSS              further terms of the loss; 0 in the paper
  TRAIN_FRACTION                       nested subset of the training inputs
  LEARNING_RATE, SCHEDULE, WARMUP_STEPS, OPTIMIZER, DROPOUT_RATE, SEED
  EVAL_PERIOD, EVAL_METRIC (chooses the best checkpoint), CHECKPOINT_PERIOD
  EARLY_STOPPING                       ends after so many evaluations without a better one
  TEST_WITH                            best or last: which parameters are the student's
  EMA_DECAY                            of an average of the parameters, used in their place
  MESH_DATA, MESH_FSDP, MESH_MODEL
  PROFILE_STEPS                        so many steps traced, for TensorBoard's profile page
  LOG_TO                               wandb or mlflow, besides TensorBoard

MODEL_DIR then holds run.json (settings, versions, records), metrics.jsonl and tensorboard/,
checkpoints/, best/ (by validation), predictions/ and test_metrics.json. Between
two starts files may move, REMAT and the mesh may change, and with SCHEDULE=constant or rsqrt
TRAIN_STEPS may grow.

exit codes: 0 done; 2 an error of the user's; 75 told to stop by SIGTERM (preemption, end of a
job): saved, start the same command again; 130 interrupted by Ctrl-C: saved, too.
"""


def parser() -> argparse.ArgumentParser:
  """All flags but those of gin."""
  parser = argparse.ArgumentParser(
      prog=cli.program('train'),
      description=_DESCRIPTION, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  run_flags(parser.add_argument)
  parser.add_argument('--log_to', metavar='TRACKER',
                      help='wandb or mlflow, besides TensorBoard: as --gin.LOG_TO=TRACKER')
  parser.add_argument('--import', dest='modules', action='append', default=[], metavar='MODULE',
                      help='import a module that registers tasks of your own; may be repeated')
  several = parser.add_argument_group(
      'several processes', 'the same command in each; MODEL_DIR and RECORDS_DIR seen by all')
  several.add_argument('--distributed', action='store_true',
                       help='find the others by asking the machine: TPU slice, SLURM, Open MPI')
  several.add_argument('--coordinator', default='', metavar='HOST:PORT',
                       help='of process 0, where the machine cannot be asked')
  several.add_argument('--num_processes', type=int, metavar='N', help='with --coordinator')
  several.add_argument('--process_id', type=int, metavar='I', help='with --coordinator; from 0')
  parser.add_argument('--print_config', action='store_true',
                      help='print the resolved gin config and stop')
  return parser


def run_flags(add: Callable[..., Any]) -> None:
  """The flags that say what a run is: gin's."""
  add('--method', metavar='M', help=(
      'dss, dss_teacher, finetune, distill, rationale_then_label or dss_shuffled: as '
      '--gin_file=gin/native/M.gin'))
  add('--dataset', metavar='D', help='as --gin.DATASET=D')
  add('--gin_file', action='append', default=[], metavar='FILE',
      help='may be given several times; later files override earlier ones, and that of --method')
  add('--gin.NAME', dest='_shown_only', metavar='VALUE',
      help='set a macro of the gin files, or Class.field; strings need no quotes')


def main(argv: Sequence[str] | None = None) -> int:
  """Parses the command line, trains, prints the result."""
  if found := run(argv):
    from dss_jax.train import processes
    if processes.is_main():
      print(summary(*found))
  return 0


def run(argv: Sequence[str] | None = None) -> 'tuple[TrainConfig, Result] | None':
  """The run of a command line, and what came of it; None after --print_config."""
  args, bindings = arguments.parse_with_gin(parser(), argv)
  check_run_flags(args)
  if args.log_to:
    bindings.insert(0, f'LOG_TO={args.log_to}')
  config, text = _read(args, bindings)
  if args.print_config:
    print(text + _measured(config))
    return None
  files.check_writable('MODEL_DIR', config.model_dir)
  cli.import_quietly('dss_jax.train.loop')
  from dss_jax.train import gin_config, loop, processes
  processes.start(processes.Start(
      args.distributed, args.coordinator, args.num_processes, args.process_id))
  try:
    with gin_config.macros_named():
      return config, loop.train(config, text)
  except Exception as error:
    from dss_jax.precompile import advice
    if not advice.is_out_of_memory(error):
      raise
    pinned, _ = loop.prepare_data(config)
    raise errors.UserError(advice.out_of_memory(pinned)) from error


def _read(args: argparse.Namespace, bindings: Sequence[str]):
  """What gin files and bindings come to, and as gin text: errors in them are told at once."""
  cli.import_tasks(args.modules)
  print('loading JAX and TensorFlow', file=sys.stderr, flush=True)
  from dss_jax.train import gin_config
  config = config_of(args, bindings, '(not set)' if args.print_config else '')
  if not args.print_config and datasets.of_task(config.data.mixture_or_task):
    from dss_jax import records
    with gin_config.macros_named():  # Told before TensorFlow is loaded.
      records.check_folder(config.data.folder())
  return config, gin_config.resolved()


def check_run_flags(args: argparse.Namespace) -> None:
  """UserError where `run_flags` name no run, or a method that there is not."""
  if args.method:
    from dss_jax import gin_files
    if args.method not in gin_files.methods():
      raise errors.UserError(f'--method={args.method}: '
                             f'{errors.did_you_mean(args.method, gin_files.methods())}')
  elif not args.gin_file:
    raise errors.UserError('train what? Give --method=dss --dataset=NAME, or --gin_file=FILE')


def config_of(args: argparse.Namespace, bindings: Sequence[str], model_dir: str) -> 'TrainConfig':
  """What `run_flags` and bindings come to, see `gin_config.parse`; the tasks are there."""
  from dss_jax.train import gin_config
  given = [f'gin/native/{args.method}.gin'] if args.method else []
  dataset = [f'DATASET={args.dataset}'] if args.dataset else []
  try:
    wanted = gin_config.task_of(given, dataset) if given and dataset else ''
    config = gin_config.parse([*given, *args.gin_file], [*dataset, *bindings], model_dir=model_dir)
  except errors.UserError as error:
    raise errors.UserError(_as_typed(str(error), args)) from error
  task = config.data.mixture_or_task
  if wanted not in ('', task) and not any(
      one.startswith('MIXTURE_OR_TASK_NAME=') for one in bindings):
    raise errors.UserError(
        f'--method={args.method} --dataset={args.dataset} trains {wanted}, but a --gin_file says '
        f'{task}: leave out one of them, or say --gin.MIXTURE_OR_TASK_NAME={wanted}')
  return config


def _as_typed(text: str, args: argparse.Namespace) -> str:
  """An error about what --method and --dataset stand for, as one about them."""
  if args.dataset and not args.method and text.startswith('--gin.DATASET: no gin file given'):
    return (f'--dataset={args.dataset}: no gin file given says what is done with it; give '
            '--method=dss, too')
  if args.method:
    text = text.removeprefix(f'--gin_file=gin/native/{args.method}.gin: ')
  return text.replace('DATASET=', '--dataset=', 1) if (
      args.dataset and text.startswith(f'DATASET={args.dataset}:')) else text


def _measured(config) -> str:
  """As comments of gin: the numbers that TASK_FEATURE_LENGTHS or BATCH_SIZE = 'auto' come to."""
  data = config.data
  if data.is_measured or not (data.records_dir or os.environ.get('DSS_DATA_DIR')):
    return ''
  cli.import_quietly('dss_jax.tasks')  # What is described so far, is registered.
  from dss_jax.train import loop
  try:
    pinned, said = loop.prepare_data(config)
  except errors.UserError as error:
    return f'\n# The rows are not measured: {error}'
  return (f'\n# TASK_FEATURE_LENGTHS = {dict(pinned.data.feature_lengths)}, '
          f'BATCH_SIZE = {pinned.data.batch_size}' + (f': {said}' if said else ''))


def summary(config, result) -> str:
  """What a finished run prints."""
  from dss_jax.train import reporting
  lines = [f'done: {result.step} steps of {config.data.mixture_or_task} in {config.model_dir}']
  if result.best_step is not None:
    lines.append(f'{config.evaluation.test_with} validation at step {result.best_step}: '
                 f'{reporting.as_text(result.validation)}')
  if result.test:
    lines.append(f'test: {reporting.as_text(result.test)}')
  for task, found in result.classes.items():
    lines += [f'{task} on test:', *(f'  {line}' for line in found)]
  return '\n'.join(lines)


if __name__ == '__main__':
  cli.run(main)
