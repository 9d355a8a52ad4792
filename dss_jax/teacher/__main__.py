"""`dss teacher`: a teacher's rationales and labels become records."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence

from dss_jax import arguments, cli, datasets, errors, files, rows
from dss_jax.teacher import flags, job, protocol, report
from dss_jax.teacher.ask import asking, clients, estimate, prompts, room, tokens
from dss_jax.teacher.ask.batch import client as batch_client
from dss_jax.teacher.ask.batch import folder, uploads
from dss_jax.teacher.inputs import reading, sources
from dss_jax.teacher.read import parsing, thoughts

parser = flags.parser
_STOPPED = 3  # exit code: the same command goes on


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the job and prints its report; UserError for what the user can fix."""
  try:
    outcome = run(sys.argv[1:] if argv is None else argv)
  except protocol.Unfinished as error:
    print(f'stopped: {_why(error)}.\nNothing is lost: the same command goes on from here.',
          file=sys.stderr)
    return _STOPPED
  if outcome:
    print(report.render(outcome))
  return 0


def run(argv: Sequence[str], teacher: protocol.Client | None = None) -> job.Outcome | None:
  """The job of a command line; None of one that only prints (--show_prompt, --dry_run).

  Args:
    argv: flags.
    teacher: who is asked, in place of `--client`.

  Raises:
    UserError: what the user can mend; nothing is written then.
    Unfinished: the client stopped early; no set is written yet.
  """
  args, beam_options = _split(argv)
  chosen = arguments.parse(flags.parser(), args)
  if beam_options and chosen.runner != 'beam':
    raise errors.UserError(f'{beam_options[0]}: options after -- are for --runner=beam')
  records_dir = chosen.records_dir or os.environ.get('DSS_DATA_DIR', '')
  if not records_dir and not chosen.show_prompt:
    raise errors.UserError('where to? Set --records_dir=DIR, or DSS_DATA_DIR in the environment')
  _check_paths(chosen, records_dir)
  if not (chosen.show_prompt or chosen.dry_run):
    files.check_writable('--records_dir' if chosen.records_dir else 'DSS_DATA_DIR', records_dir)
  cli.import_quietly('dss_jax.tasks', *chosen.imports)  # They register datasets and teachers.
  clients.check(chosen)
  dataset = datasets.get(chosen.dataset)
  if chosen.show_prompt:
    print(_request(chosen, dataset, records_dir))
    return None
  client = teacher or clients.from_flags(chosen, records_dir)
  if isinstance(client, asking.AskingClient):  # What it is asked for is how it is read.
    dataset = dataclasses.replace(dataset, completion=client.prompt.completion)
  source = _source(chosen, dataset, records_dir)
  if chosen.dry_run:
    print(_estimate(chosen, dataset, source, client, records_dir))
    return None
  if isinstance(client, asking.AskingClient):
    room.check(client, source, records_dir)
  try:
    return _run(chosen, dataset, source, client, records_dir, beam_options)
  except protocol.Unfinished as error:
    if error.mend:
      raise errors.UserError(f'{_why(error)}. Answers so far are in the journal: mend that, and '
                             'the same command goes on from there') from error
    raise
  except BrokenPipeError:  # Nobody reads what is said.
    raise
  except OSError as error:  # A full disk, above all.
    raise errors.UserError(
        f'{error.filename or records_dir}: cannot be written ({error.strerror or error}); mend '
        'that and run the same command again: answers are in the journal') from error


def _why(error: protocol.Unfinished) -> str:
  return str(error).rstrip('.')


def _estimate(
    chosen: argparse.Namespace, dataset: datasets.Dataset, source: reading.Inputs,
    client: protocol.Client, records_dir: str) -> str:
  """What `--dry_run` prints."""
  if not isinstance(client, asking.AskingClient):
    raise errors.UserError(f'--dry_run: --client={chosen.client} asks nobody')
  count = tokens.load(chosen.tokenizer) if chosen.tokenizer else tokens.estimate
  lines = [estimate.render(client, estimate.estimate(client, source, count), chosen.rpm,
                           chosen.tokenizer)]
  if chosen.rationale_from == 'thinking':
    found = (parsing.divide(one, dataset)[0] for one in client.answered(source))
    lines.append(thoughts.lengths([len(one.split()) for one in found if one],
                                  chosen.max_thinking))
  return '\n'.join([*lines, room.render(client, source, records_dir)])


def _check_paths(chosen: argparse.Namespace, records_dir: str) -> None:
  for flag in ('inputs', 'completions', 'tfds_data_dir', 'journal', 'batch'):
    files.check_path(f'--{flag}', getattr(chosen, flag), hub=flag in ('inputs', 'completions'))
  files.check_path('--records_dir' if chosen.records_dir else 'DSS_DATA_DIR', records_dir)
  files.check_path('--prompt', chosen.prompt, local=True)
  files.check_path('--tokenizer', chosen.tokenizer, local=True)
  if chosen.client == 't5':
    files.check_path('--model', chosen.model, hub=True)


def _run(
    chosen: argparse.Namespace, dataset: datasets.Dataset, source: reading.Inputs,
    client: protocol.Client, records_dir: str, beam_options: Sequence[str],
) -> job.Outcome:
  runner: job.Runner | None = None
  if isinstance(client, batch_client.BatchClient):
    filler = folder.Folder(client, chosen.batch) if chosen.batch else (
        uploads.Uploads(client, not chosen.no_wait))
    runner = batch_client.Runner(filler)
  if chosen.runner == 'beam':
    from dss_jax.teacher import beam  # Needs the extra.
    runner = beam.Runner(chosen, beam_options)
  return job.run(
      dataset, chosen.split, source, client, chosen.parser, records_dir,
      num_shards=chosen.num_shards, holdout=chosen.holdout, keep=chosen.keep,
      retry_failed=chosen.retry_failed, max_failed=chosen.max_failed,
      rationale_from=chosen.rationale_from, max_thinking=chosen.max_thinking,
      keep_samples=chosen.keep_samples, label_logprobs=bool(chosen.label_logprobs),
      allow_unparsed=chosen.allow_unparsed, runner=runner,
      provenance={'inputs': {'name': os.path.basename(source.path), 'sha256': source.sha256,
                             'rows': len(source)}})


def _source(
    chosen: argparse.Namespace, dataset: datasets.Dataset, records_dir: str) -> reading.Inputs:
  return sources.find(dataset, chosen.split, chosen.inputs, records_dir, chosen.tfds_data_dir,
                      rows.parse_columns(chosen.columns, known=datasets.plain_fields(dataset)))


def _request(
    chosen: argparse.Namespace, dataset: datasets.Dataset, records_dir: str
) -> str:
  """What the teacher would be asked for the first input, and which prompt it is."""
  path = chosen.prompt or prompts.path_of(dataset.name)
  prompt = prompts.load(path)
  source = _source(chosen, dataset, records_dir)
  text = prompt.as_text(source[0].input)
  if chosen.client == 'openai':  # As it is sent.
    client = clients.from_flags(chosen, records_dir)
    assert isinstance(client, asking.AskingClient)
    prompt = client.prompt
    text = json.dumps(client.request(asking.Question(source[0], 0, 0)), indent=2,
                      ensure_ascii=False)
  return '\n'.join([
      text, '',
      f'# {path}: version {prompt.version}, {len(prompt.demonstrations)} demonstrations, sha256 '
      f'{prompt.sha256()}; stops at {", ".join(map(repr, prompt.stop)) or "nothing"}'])


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Our flags, and what follows `--`."""
  args = list(argv)
  at = args.index('--') if '--' in args else len(args)
  return args[:at], args[at + 1:]


if __name__ == '__main__':
  datasets.describe_only()  # This program builds no SeqIO task: it starts without TensorFlow.
  cli.run(main)
