"""The sentences about methods on less data against fine-tuning on all of it."""

from collections.abc import Mapping

from dss_jax.experiments import differences, grid, statistics
from dss_jax.experiments.differences import Correct
from dss_jax.experiments.statistics import Group, Saving, Summary


def findings(
    summaries: Mapping[Group, Summary], right: Correct,
    commonest: Mapping[str, tuple[str, float] | None]) -> list[str]:
  """A sentence or two for each method; none where it shares no predictions with fine-tuning.

  The share was picked among all that were trained, so the intervals are corrected for all of them.
  """
  found = statistics.savings(summaries)
  count = sum(_is_of(group, one) for one in found for group in summaries)
  said = [_sentences(one, right, commonest[one.dataset], count, summaries) for one in found]
  return list(dict.fromkeys(filter(None, said)))


def _is_of(group: Group, one: Saving) -> bool:
  return group == one.group(group.fraction)


def _sentences(
    one: Saving, right: Correct, commonest: tuple[str, float] | None, count: int,
    summaries: Mapping[Group, Summary]) -> str:
  full = f'fine-tuning with {100 * one.of:g} % of the data'
  where = f'{one.dataset}, {grid.short(one.model)}'
  if commonest and one.target <= commonest[1]:
    return (f'{where}: {full} ({one.target:.1f} %) is no better than always answering '
            f'{commonest[0]!r} ({commonest[1]:.1f} %), so there is nothing to match.')
  standard = Group(one.dataset, one.model, 'finetune', _labels_of_finetune(one, summaries),
                   one.of, None)
  fraction = one.largest if one.fraction is None else one.fraction
  compared = statistics.compare(
      right.get(one.group(fraction), {}), right.get(standard, {}), count)
  if compared is None:
    return ''
  who = differences.name_of(one.group(fraction))
  said = (f'{where}: {who} with {100 * fraction:g} % of the data minus {full}: '
          f'{differences.interval(compared, count)}. ')
  said += _verdict(one, compared)
  reached = [f'{100 * f:g} %' if f is not None else 'never' for f in one.seeds.values()]
  return said + (' The smallest share at which it has no less than the same seed of that '
                 f'fine-tuning, seed by seed: {", ".join(reached)}.')


def _verdict(one: Saving, compared: statistics.Comparison) -> str:
  if one.fraction is None:
    return 'In the mean it has less at every share of the data.' + (
        '' if compared.high < 0 else ' The interval does not rule out as much.')
  saved = one.fraction < one.of
  if saved and one.itself <= one.fraction:
    return (f'No data are saved by it: fine-tuning itself has no less with {100 * one.itself:g} % '
            f'than with {100 * one.of:g} %.')
  if compared.low > 0:
    return 'It has more' + (', with less data.' if saved else '.')
  return ('In the mean it has no less' + (', with less data' if saved else '')
          + f'; the interval leaves open that it has {-compared.low:.1f} points less.')


def _labels_of_finetune(one: Saving, summaries: Mapping[Group, Summary]) -> str:
  return next(g.labels for g in summaries if (g.dataset, g.model, g.method, g.fraction) == (
      one.dataset, one.model, 'finetune', one.of))
