"""Is there room on the disk for what a job will write? Asked before the first request is paid."""

import os
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dss_jax import datasets, errors, files
from dss_jax.teacher.ask import sender

if TYPE_CHECKING:
  from dss_jax.teacher.ask import asking

_ENTRY, _RECORD = 700, 500  # bytes of a response, and of a record, besides their texts
_CHARACTERS = 4  # of a token, about
_ALTERNATIVE, _MOST_ALTERNATIVE = 4, 12  # bytes of one to a token, and at most
_SAMPLED = 200  # inputs whose length is looked at
_MARGIN = 1 << 20


def most_bytes(options: sender.Options) -> int:
  """Of one answer in the journal, however long it is."""
  longest = max(decoding.extra.get('max_completion_tokens') or decoding.max_tokens
                for decoding in (options.decoding, options.retry_decoding))
  return 2 * _ENTRY + (4 + _logprobs(options, _MOST_ALTERNATIVE)) * longest


def needed(
    client: 'asking.AskingClient', examples: Sequence[datasets.Example]
) -> tuple[int, int]:
  """Bytes that the journal will grow by, and bytes of the records; about, and rather too many."""
  client.journal.refresh()
  prompt, asked = client.prompt, len(examples) * client.options.samples
  replies = [len(prompt.reply(shown).encode()) for shown in prompt.demonstrations]
  answer = 2 * sum(replies) // len(replies) if replies else (
      _CHARACTERS * client.options.decoding.max_tokens)
  logprobs = answer // _CHARACTERS * _logprobs(client.options, _ALTERNATIVE)
  some = examples[::max(1, len(examples) // _SAMPLED)]
  text = sum(len(one.input.encode('utf-8', 'replace')) for one in some) // len(some)
  to_send = max(0, asked - client.journal.usage().requests)
  return to_send * (_ENTRY + answer + logprobs), len(examples) * (_RECORD + text + answer)


def _logprobs(options: sender.Options, each: int) -> int:
  """Bytes for a token's alternatives, of so many each."""
  asked = options.decoding.extra
  return each * int(asked.get('top_logprobs') or asked.get('logprobs') or 0)


def check(
    client: 'asking.AskingClient', examples: Sequence[datasets.Example], records_dir: str
) -> None:
  """Refuses a job that would fill the disk.

  Raises:
    UserError: names the folder, what is needed and what is free.
  """
  journal, records = needed(client, examples)
  for folder, size, free in _short(client.journal.folder, journal, records_dir, records):
    raise errors.UserError(
        f'{folder}: this job will write about {_shown(size)}, and the disk has {_shown(free)} '
        'left; make room, or name other folders with --records_dir and --journal. Nothing was '
        'asked')


def render(
    client: 'asking.AskingClient', examples: Sequence[datasets.Example], records_dir: str
) -> str:
  """A line of `--dry_run`."""
  journal, records = needed(client, examples)
  short = _short(client.journal.folder, journal, records_dir, records)
  free = ''.join(f'; {folder} has {_shown(free)} left' for folder, _, free in short)
  return (f'  disk            about {_shown(journal)} of answers and {_shown(records)} of records'
          f'{free or "; there is room"}')


def _short(*folders_and_sizes: Any) -> list[tuple[str, int, int]]:
  """For each disk that is too small: a folder on it, bytes to be written, bytes left."""
  wanted: dict[int, tuple[str, int]] = {}
  for folder, size in zip(folders_and_sizes[::2], folders_and_sizes[1::2], strict=True):
    if not files.is_remote(folder):
      device = os.stat(_existing(folder)).st_dev
      first, before = wanted.get(device, (folder, _MARGIN))
      wanted[device] = (first, before + size)
  found = []
  for folder, size in wanted.values():
    total, _, free = shutil.disk_usage(_existing(folder))
    if total and free < size:  # /proc and the like have no size.
      found.append((folder, size, free))
  return found


def _existing(folder: str) -> str:
  """The folder, or the next one above it that is there."""
  path = os.path.abspath(folder)
  while not os.path.isdir(path) and path != os.path.dirname(path):
    path = os.path.dirname(path)
  return path


def _shown(size: float) -> str:
  for unit in ('bytes', 'kB', 'MB', 'GB'):
    if size < 1000 or unit == 'GB':
      break
    size /= 1000
  return f'{size:.1f} {unit}' if size < 10 and unit != 'bytes' else f'{size:,.0f} {unit}'
