"""Options for Beam's runners: as many workers as the limits are divided among, and reachable."""

import argparse
import logging
import os
import urllib.parse
from collections.abc import Mapping

from apache_beam.options import pipeline_options

from dss_jax import errors, files

_SHARDS_AT_ONCE = 2  # of a worker on Dataflow: a shard's slow last answers leave it not idle
_ONE_PROCESS = 'no_use_multiple_sdk_containers'  # a worker; by default one for each core


def refuse_unknown(options: pipeline_options.PipelineOptions) -> None:
  """Beam would pass over a misspelt option with a warning."""
  known = pipeline_options.PipelineOptions([]).get_all_options()
  for name in options.get_all_options(retain_unknown_options=True):
    if name not in known:
      raise errors.UserError(
          f'--{name}: Beam has no such option: {errors.did_you_mean(name, known)}')


def set_local_workers(options: pipeline_options.PipelineOptions, workers: int) -> bool:
  """--workers are threads, unless the options want processes; returns whether they do.

  Processes are for trying out what needs them: DirectRunner waits for one that was killed.
  """
  direct = options.view_as(pipeline_options.DirectOptions)
  if direct.direct_running_mode == 'multi_processing':
    _check_number('--direct_num_workers', direct.direct_num_workers or os.cpu_count() or 1,
                  workers)
    # It passes on each worker's warnings about things that only containers have.
    logging.getLogger('apache_beam.runners.portability.local_job_service').setLevel(logging.ERROR)
    return True
  if workers > 1 and direct.direct_num_workers == 1:
    direct.direct_num_workers, direct.direct_running_mode = workers, 'multi_threading'
  return False


def set_dataflow_workers(options: pipeline_options.PipelineOptions, workers: int) -> None:
  """As many machines as the limits are divided among, with one process each."""
  settings = options.view_as(pipeline_options.WorkerOptions)
  _check_number('--num_workers', settings.num_workers or 0, workers)
  _check_number('--max_num_workers', settings.max_num_workers or 0, workers)
  settings.num_workers = settings.max_num_workers = workers
  # All from the start: what Dataflow would measure to add some is a shard, hours long.
  settings.autoscaling_algorithm = settings.autoscaling_algorithm or 'NONE'
  process = options.view_as(pipeline_options.DebugOptions)
  process.number_of_worker_harness_threads = (
      process.number_of_worker_harness_threads or _SHARDS_AT_ONCE)
  process.add_experiment(_ONE_PROCESS)


def _check_number(option: str, number: int, workers: int) -> None:
  if number > workers:
    raise errors.UserError(
        f'{option}={number}, but --in_flight, --rpm and --tpm are divided among '
        f'--workers={workers}: set --workers={number} before the --')


def check_divisible(flags: argparse.Namespace, share: int) -> None:
  """No worker can be given less than one request."""
  for flag in ('in_flight', 'max_requests'):
    if 0 < (limit := getattr(flags, flag)) < share:
      raise errors.UserError(f'--{flag}={limit} is divided among --workers={share}: use {share} or '
                             'more, or fewer workers')


def check_reach(flags: argparse.Namespace) -> None:
  """What this machine has and Dataflow's lack: its environment, and its localhost."""
  if flags.client != 'openai':
    return
  if os.environ.get(flags.api_key_env) and not flags.api_key_secret:
    raise errors.UserError(
        f"the key in ${flags.api_key_env} does not reach Dataflow's workers; put it into Secret "
        'Manager and name it: --api_key_secret=projects/P/secrets/S/versions/latest')
  for url in flags.base_url or [os.environ.get('OPENAI_BASE_URL', '')]:
    if urllib.parse.urlsplit(url).hostname in ('localhost', '127.0.0.1', '::1'):
      raise errors.UserError(f"--base_url={url}: Dataflow's workers cannot reach it; name an "
                             'address in their network')


def check_shared(paths: Mapping[str, str | None]) -> None:
  for flag, path in paths.items():
    if path and not files.is_remote(path):
      raise errors.UserError(f"{flag}={path}: Dataflow's workers cannot read it; copy it to "
                             'gs://... and name that')
