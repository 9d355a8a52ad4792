"""`dss distributions`: a T5 teacher's distribution at each token of records' targets.

The teacher is a student of one's own, as a rule a larger one: it reads each input of the training
sets and is made to write the record's label, the teacher's label and the rationale, and what it
would rather have written at each token is kept: the k likeliest tokens and their log probabilities.
A smaller student of the same vocabulary learns from them with TOKEN_DISTRIBUTIONS. Validation and
test sets are copied. The same command again goes on behind the last finished file.
"""

import argparse
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tqdm
from etils import epath

from dss_jax import arguments, cli, divergence, errors, files, records, student_info, valid
from dss_jax.predict import __main__ as predict_main
from dss_jax.records import manifest, tfrecord

if TYPE_CHECKING:
  from dss_jax.predict import student as student_lib

_EPILOG = """\
example:
  dss train --gin_file=gin/native/dss.gin ... --gin.MODEL_DIR=runs/large
  dss distributions records --model_dir=runs/large --output=records-large
  dss train ... --gin.RECORDS_DIR=records-large --gin.TOKEN_DISTRIBUTIONS=forward"""
_DONE = 'done.json'  # Of a set that is being written: its settings, and the finished files.


def write(folder: str, output: str, teacher: 'student_lib.Student', *, vocabulary_sha256: str,
          weights: str, top_k: int = divergence.TOP_K, batch_size: int = 64
          ) -> dict[str, Mapping[str, Any]]:
  """Writes all sets of a folder, those of training with the teacher's distributions.

  Args:
    folder: of records, of either schema.
    output: another folder; its sets of the same names are replaced.
    teacher: asked by its own prefixes; for what it did not learn to write nothing is stored.
    vocabulary_sha256: of the teacher, see `vocabulary_of`.
    weights: what tells the teacher from others, see `predict.fingerprint`.
    top_k: tokens at each position.
    batch_size: targets at a time.

  Returns: the sets' manifest entries, by name.

  Raises:
    UserError: no records, or a damaged set; `output` is `folder`; a teacher that writes its
      rationale before the label; `top_k` is none of its vocabulary.
  """
  if files.real(output) == files.real(folder):
    raise errors.UserError(f'--output={output} is the folder that is read: name another one')
  if teacher.info.answer_phrase:
    raise errors.UserError(
        f'--model_dir={teacher.path} writes its rationale before the label, in one target: '
        'distributions are of label and rationale, each alone; take one that was trained with '
        'gin/native/dss.gin')
  if not 1 <= top_k <= teacher.tokenizer.size:
    raise errors.UserError(f'--top_k={top_k}: use a whole number from 1 to '
                           f'{teacher.tokenizer.size}, the tokens of the vocabulary')
  records.check_folder(folder)
  asked = {'label': teacher.info.label_prefix, 'rationale': teacher.info.rationale_prefix}
  said = {'teacher': teacher.path, 'weights': weights, 'top_k': top_k, 'prefixes': asked,
          'dtype': str(teacher.model.config.dtype), 'vocabulary_sha256': vocabulary_sha256}
  return {name: _write_set(folder, output, name, teacher, said, batch_size)
          for name in records.set_names(folder)}


def _write_set(
    folder: str, output: str, name: str, teacher: 'student_lib.Student', said: Mapping[str, Any],
    batch_size: int) -> Mapping[str, Any]:
  dataset, _, split = name.rpartition('-')
  found = records.find_set(folder, dataset, split, verify=True)
  source = [shard['sha256'] for shard in found.entry['shards']]
  more = {'distributions': {**said, 'of': source}} if split == 'train' else {}
  staging = os.path.join(output, f'.{name}.distributions')
  earlier = manifest.entry_of(output, name) or {}
  if more and earlier.get('distributions') == more['distributions']:
    epath.Path(staging).rmtree(missing_ok=True)  # Of a job that was killed at its very end.
    return records.find_set(output, dataset, split, verify=True).entry
  own = ('schema_version', 'num_inputs', 'max_samples', 'num_records', 'parse_status', 'shards')
  provenance = {key: value for key, value in found.entry.items() if key not in own} | more
  settings = {'set': dict(found.entry), **more}
  done = _Done.of(os.path.join(staging, _DONE), settings)
  with tqdm.tqdm(total=found.num_records, desc=name, unit='record', disable=None) as progress:
    for path in found.paths:
      if (shard := os.path.basename(path)) not in done.shards:
        rows = list(map(records.from_bytes, tfrecord.read(path)))
        if more:
          rows = with_distributions(rows, teacher, said['top_k'], batch_size)
        done.add(records.stage_shard(staging, shard, rows))
      progress.update(done.shards[shard].records)
  entry = records.publish(
      output, dataset, split, staging, list(done.shards.values()),
      counts=found.entry['parse_status'], provenance=provenance,
      max_samples=found.entry.get('max_samples'))
  epath.Path(staging).rmtree(missing_ok=True)
  return entry


@dataclasses.dataclass(frozen=True)
class _Done:
  """The finished files of a set, as far as they were written with these settings."""

  path: str
  settings: Mapping[str, Any]
  shards: dict[str, records.Shard]

  @classmethod
  def of(cls, path: str, settings: Mapping[str, Any]) -> '_Done':
    found = json.loads(epath.Path(path).read_text()) if epath.Path(path).exists() else {}
    same = found.get('settings') == settings
    return cls(path, settings, {name: records.Shard(**shard) for name, shard in
                                (found['shards'] if same else {}).items()})

  def add(self, shard: records.Shard) -> None:
    self.shards[shard.name] = shard
    files.write(self.path, json.dumps({'settings': self.settings, 'shards': {
        name: dataclasses.asdict(one) for name, one in self.shards.items()}}))


def with_distributions(
    rows: Sequence[records.RationaleRecord], teacher: 'student_lib.Student', top_k: int,
    batch_size: int) -> list[records.RationaleRecord]:
  """Records with the distributions of their targets; of a failed one there is the gold label's."""
  found: dict[tuple[str, str, str], bytes] = {}
  info = teacher.info
  wanted: dict[str, list[tuple[str, str]]] = {}
  for row in rows:
    for target in targets_of(row, info):
      prefix = _prefix(target, info)
      wanted.setdefault(prefix, []).append((row.input, getattr(row, target)))
  for prefix, asked in wanted.items():
    pairs = list(dict.fromkeys(asked))
    inputs, texts = zip(*pairs, strict=True)
    for number, ids, log_probs in teacher.distributions(
        inputs, texts, prefix, top_k=top_k, batch_size=batch_size):
      found[prefix, *pairs[number]] = divergence.pack(ids, log_probs)
  return [dataclasses.replace(row, distributions={
      target: found[_prefix(target, info), row.input, getattr(row, target)]
      for target in targets_of(row, info)}) for row in rows]


def targets_of(row: records.RationaleRecord, info: student_info.StudentInfo) -> Iterator[str]:
  """The fields that have something to learn, and that the teacher learnt to write."""
  if row.label and not row.sample:
    yield 'label'
  if row.parse_status != records.PARSED:
    return
  if row.teacher_label and not row.sample:
    yield 'teacher_label'
  if info.rationale_prefix is not None:
    yield 'rationale'


def _prefix(target: str, info: student_info.StudentInfo) -> str:
  return info.rationale_prefix or '' if target == 'rationale' else info.label_prefix


def vocabulary_of(teacher: 'student_lib.Student', given: str | None = None) -> str:
  """'bytes', or the sha256 of the SentencePiece model, as in run.json."""
  from dss_jax.convert import formats
  model = formats.find_vocabulary(teacher.path, teacher.info, given)
  return student_info.BYTES if model is None else hashlib.sha256(model).hexdigest()


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  parser = argparse.ArgumentParser(
      prog=cli.program('distributions'), description=__doc__.partition(': ')[2], epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add('folder', metavar='DIR', help='of records')
  add('--model_dir', required=True, metavar='DIR',
      help='the teacher, as for `dss predict`: a run (its best checkpoint), a converted folder')
  add('--output', required=True, metavar='DIR', help='where the new sets go')
  add('--top_k', type=int, default=divergence.TOP_K, metavar='K',
      help=f'tokens whose probabilities are kept (default: {divergence.TOP_K}); the rest counts as '
           'one')
  add('--batch_size', type=int, default=64, help='targets at a time (default: 64)')
  predict_main.loading_flags(add)
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Writes, and says what each set holds."""
  args = arguments.parse(parser(), argv)
  valid.whole(1, **{'--batch_size': args.batch_size, '--top_k': args.top_k})
  files.check_writable('--output', args.output)
  records.check_folder(args.folder)
  from dss_jax.predict import fingerprint
  with cli.flags_named(vars(args)):
    teacher = predict_main.load(argparse.Namespace(**vars(args), dataset=''))
  written = write(
      args.folder, args.output, teacher, vocabulary_sha256=vocabulary_of(teacher, args.vocabulary),
      weights=fingerprint.fingerprint(teacher.path), top_k=args.top_k, batch_size=args.batch_size)
  for name, entry in written.items():
    said = f", with the {args.top_k} likeliest tokens at each of a target's" * (
        'distributions' in entry)
    print(f"{os.path.join(args.output, name)}: {entry['num_records']:,} records{said}")
  return 0


if __name__ == '__main__':
  cli.run(main)
