"""`dss inspect --html`: one page about all record sets of a folder."""

import dataclasses
import functools
import html
import io
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tqdm

from dss_jax import datasets, errors, files, page, records
from dss_jax.data import coverage
from dss_jax.experiments import figures
from dss_jax.inspect import summary as summary_lib
from dss_jax.inspect.summary import Summary

_MOST_LABELS = 12
_TARGETS = ('label', 'rationale')


def write(path: str, records_dir: str, lengths: Mapping[str, int], vocabulary: str) -> list[str]:
  """Writes the page; returns what is wrong with the data, a sentence each.

  Args:
    path: of the page.
    records_dir: a folder of record sets.
    lengths: {'inputs': ..., 'targets': ...} in tokens, where texts would be cut.
    vocabulary: as in `DataSettings`; set there already.

  Raises:
    UserError: no record sets there, or damaged ones.
  """
  names = records.set_names(records_dir)
  if not names:
    raise errors.UserError(f'--records_dir={records_dir}: no record sets there; `dss teacher` '
                           'writes them')
  count, cover = _token_counter(), _cover()
  found: dict[str, Summary] = {}
  for name in tqdm.tqdm(sorted(names), unit='set', desc='reading'):
    dataset, _, split = name.rpartition('-')
    rows = records.read_records(records_dir, dataset, split, samples=True, verify=True)
    found[name] = summary_lib.summarize(name, rows, _dataset(dataset), count, cover)
  problems = list(itertools.chain(
      _failures(found.values()), _duplicates(found.values()), _leaks(found), _cuts(found, lengths),
      _unknown(found.values()), _left_over(found.values()),
      _unreadable(found.values(), lengths['targets'])))
  files.write(path, page.build_plain(
      title=f'Records in {records_dir}', subtitle=f'tokens of {vocabulary or "T5"}',
      sections=_filled({
          'Sets': _sets(found.values()), 'To look at': _list(problems),
          'What would be cut': _cut_table(found.values(), lengths),
          'What the vocabulary lacks': _coverage_table(found.values()),
          'Lengths': _histograms(found.values(), lengths),
          'Rationales': _rationales(found.values()),
          'Labels': ''.join(_labels(one) for one in found.values() if one.labels)})))
  return problems


def _filled(sections: Mapping[str, str]) -> dict[str, str]:
  return {heading: body for heading, body in sections.items() if body}


def _dataset(name: str) -> datasets.Dataset | None:
  return datasets.get(name) if name in datasets.names() else None


def _token_counter() -> Callable[[Sequence[str]], list[int]]:
  from dss_jax.data import preprocessors, vocabularies
  def count(texts: Sequence[str]) -> list[int]:
    found: list[int] = []
    for start in range(0, len(texts), 1024):
      ids = preprocessors.encode_inputs(
          list(texts[start:start + 1024]), vocabularies.current())
      found += (ids.row_lengths() + 1).numpy().tolist()  # EOS
    return found
  return count


def _cover() -> Callable[[Sequence[str]], coverage.Coverage]:
  from dss_jax.data import vocabularies
  return functools.partial(coverage.coverage, vocabulary=vocabularies.current())


def _unknown(found) -> list[str]:
  return [f'{one.name}: of the {field}s, {counted}'
          for one in found for field, counted in one.coverage.items() if counted.unknown]


def _left_over(found) -> list[str]:
  return [f'{one.name}: {len(ids):,} of {one.leftovers.rationales:,} rationales hold {what}, such '
          f'as that of {", ".join(ids[:3])}; the student would learn to write it'
          for one in found for what, ids in (
              ("a thinking model's marks", one.leftovers.thoughts),
              ('Markdown or tags', one.leftovers.markup)) if ids]


def _rationales(found) -> str:
  def share(part: int, whole: int) -> str:
    return f'{100 * part / whole:.2f} %' if whole else '-'
  rows = [[one.name, f'{left.rationales:,}', share(len(left.thoughts), left.rationales),
           share(len(left.markup), left.rationales), share(left.repeats, left.rationales),
           share(one.status.get('ambiguous_label', 0), one.rows)]
          for one in found if (left := one.leftovers).rationales]
  return rows and page.table(
      ('set', 'sampled', 'with marks of thoughts', 'with Markdown or tags',
       'hold the label verbatim', 'of all rows: several labels, or letter against text'), rows) + (
           '<p class="muted">In the last column are answers that name several labels, or a letter '
           'and the text of another: their rows have no rationale.</p>') or ''


def _unreadable(found, targets_length: int) -> list[str]:
  """What training would refuse or warn of: labels and phrases that the vocabulary cannot write."""
  from dss_jax.data import preprocessors, settings, vocabularies
  lines = []
  for one in found:
    dataset = _dataset(one.name.rpartition('-')[0])
    if dataset is None:
      continue
    read = preprocessors.ReadAnswer(
        dataset.name, settings.current().vocabulary, dataset.labels or ())
    behind = dataclasses.replace(read, phrase=dataset.completion.answer_phrase)
    try:
      read.reader(targets_length)
      behind.reader()
      counts = {label: count for label, count in one.labels.items() if label}
      if counts and not dataset.labels:
        lines.append(coverage.check_open_labels(counts, dataset, vocabularies.current()))
    except errors.UserError as error:
      lines.append(f'{one.name}: {error}')
  return [line for line in lines if line]


def _coverage_table(found) -> str:
  rows = [[one.name, field, f'{counted.texts:,}', f'{counted.unknown:,}',
           f'{100 * counted.share:.2f} %', f'{100 * counted.piece_share:.3f} %',
           ' '.join(counted.pieces) or '-']
          for one in found for field, counted in one.coverage.items() if counted.texts]
  return rows and page.table(('set', 'field', 'sampled', 'with unknown pieces', 'share',
                              'unknown of all pieces', 'such as'), rows, 2) or ''


def _failures(found) -> list[str]:
  return [f'{one.name}: {count:,} of {one.rows:,} rows have parse status {status!r}, such as '
          f'{", ".join(one.failures[status])}; they have no rationale'
          for one in found for status, count in one.status.items() if status != records.PARSED]


def _duplicates(found) -> list[str]:
  return [f'{one.name}: {one.num_duplicates:,} rows repeat the input of an earlier row, such as '
          + ', '.join(f'{row} of {earlier}' for row, earlier in one.duplicates)
          for one in found if one.num_duplicates]


def _leaks(found: Mapping[str, Summary]) -> list[str]:
  lines = []
  for name, one in found.items():
    dataset, _, split = name.rpartition('-')
    train = found.get(f'{dataset}-train')
    if split != 'train' and train:
      pairs = summary_lib.shared(one, train)
      if pairs:
        lines.append(
            f'{name}: {len(pairs):,} inputs are in {train.name}, too (case and spaces aside), such '
            'as ' + ', '.join(mine if mine == theirs else f'{mine} = {theirs}'
                              for mine, theirs in pairs[:5]))
  return lines


def _cuts(found: Mapping[str, Summary], lengths: Mapping[str, int]) -> list[str]:
  return [f'{one.name}: {int(np.sum(counts > limit)):,} of {len(counts):,} {field}s '
          f'({100 * share:.2g} %) are longer than {limit:,} tokens'
          for one in found.values() for field, counts in one.lengths.items()
          if (share := one.cut(field, limit := _limit(field, lengths)))]


def _limit(field: str, lengths: Mapping[str, int]) -> int:
  return lengths['targets' if field in _TARGETS else 'inputs']


def _sets(found) -> str:
  several = any(one.samples for one in found)
  return page.table(
      ('set', 'rows', 'parsed', *(['further samples'] if several else []), 'inputs twice', 'labels',
       'teacher'),
      [[one.name, f'{one.rows:,}', f'{one.status.get(records.PARSED, 0):,}',
        *([f'{one.samples:,}'] if several else []), f'{one.num_duplicates:,}',
        f'{len(one.labels):,}',
        ', '.join(f'{name} {value:.2f} %' for name, value in one.teacher.items()) or '-']
       for one in found])


def _cut_table(found, lengths: Mapping[str, int]) -> str:
  rows = []
  for one in found:
    for field in summary_lib.FIELDS:
      counts = one.lengths[field]
      if len(counts):
        middle, high = np.percentile(counts, (50, 95))
        limits = sorted({_limit(field, lengths), _limit(field, lengths) // 2,
                         _limit(field, lengths) // 4}, reverse=True)
        rows.append([one.name, field, f'{len(counts):,}', f'{counts.mean():.0f}', f'{middle:.0f}',
                     f'{high:.0f}', f'{counts.max():,}',
                     ', '.join(f'{limit:,}: {100 * one.cut(field, limit):.1f} %'
                               for limit in limits)])
  return rows and page.table(('set', 'field', 'sampled', 'mean', 'median', '95 %', 'longest',
                              'longer than ... tokens'), rows, 2) or ''


def _histograms(found, lengths: Mapping[str, int]) -> str:
  drawn = [_histogram(one, lengths) for one in found if any(map(len, one.lengths.values()))]
  return f'<div class="figures">{"".join(drawn)}</div>' if drawn else ''


def _histogram(one: Summary, lengths: Mapping[str, int]) -> str:
  from matplotlib import pyplot, ticker
  with figures.style(one.name):
    shown = [field for field in summary_lib.FIELDS if len(one.lengths[field])]
    figure, panels = pyplot.subplots(
        1, len(shown), figsize=(2.8 * len(shown), 2.4), layout='constrained', squeeze=False)
    for axes, field in zip(panels[0], shown, strict=True):
      counts, limit = one.lengths[field], _limit(field, lengths)
      width = -(-(int(np.ptp(counts)) + 1) // 40)  # Whole tokens, so that no bar has more.
      axes.hist(counts, np.arange(counts.min(), counts.max() + width + 1, width) - 0.5,
                color='#0072b2')
      axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
      if counts.max() > limit:
        axes.axvline(limit, color='#d55e00', lw=1.5)
      axes.set(title=field, xlabel='tokens', yticks=[])
      axes.spines[['top', 'right', 'left']].set_visible(False)
    svg = io.StringIO()
    figure.savefig(svg, format='svg', transparent=True, metadata={'Date': None})
    pyplot.close(figure)
  cut = any(one.cut(field, _limit(field, lengths)) for field in summary_lib.FIELDS)
  return page.figure(one.name, f'Tokens with EOS of {one.sampled:,} rows; '
                     + ('cut at the line.' if cut else 'none is cut.'),
                     figures.for_page(svg.getvalue()), wide=len(shown) > 1)


def _labels(one: Summary) -> str:
  names = list(one.labels)[:_MOST_LABELS]
  rows = [[name or '(none)', f'{one.labels[name]:,}', f'{100 * one.labels[name] / one.rows:.1f} %',
           f'{one.teacher_labels.get(name, 0):,}'] for name in names]
  others = len(one.labels) - len(names)
  more = f'<p class="muted">and {others:,} more</p>' if others else ''
  return f'<h3>{html.escape(one.name)}</h3>' + page.table(
      ('label', 'rows', 'share', "as the teacher's label"), rows) + more


def _list(lines: Sequence[str]) -> str:
  if not lines:
    return ('<p>Nothing: all rows parsed, no input is there twice or in two splits, none is cut, '
            'the vocabulary lacks nothing, and no rationale holds marks of thoughts or '
            'Markdown.</p>')
  return '<ul>' + ''.join(f'<li>{html.escape(line)}</li>' for line in lines) + '</ul>'
