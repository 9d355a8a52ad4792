"""The quick start's table and picture."""

import statistics
from collections.abc import Mapping
from typing import Any

NOTE = """\
The task was chosen to show the mechanism: the rationale names the three facts that matter among
20. Label-only training either finds the rule or stays at chance, hence every seed is printed.
It says nothing about real data."""


def table(accuracy: Mapping[Any, float], steps: int) -> str:
  """Test accuracy by training-set size and method: mean, every seed, and which side won.

  Args:
    accuracy: percent, keyed by `quickstart.Cell`.
    steps: optimizer steps of each run.
  """
  methods, sizes = _axes(accuracy)
  lines = [f'test accuracy (%) after {steps} steps, mean (each seed); chance is 50', '',
           f"{'inputs':>6}  " + '  '.join(f'{method:<26}' for method in methods) + '  won']
  for size in sizes:
    by_method = {method: _scores(accuracy, method, size) for method in methods}
    means = {method: statistics.mean(scores) for method, scores in by_method.items()}
    shown = '  '.join(
        f"{f'{means[m]:5.1f} (' + ' '.join(f'{s:.1f}' for s in by_method[m]) + ')':<26}"
        for m in methods)
    lines.append(f'{size:>6}  {shown}  {_winner(means)}')
  return '\n'.join([*lines, '', NOTE])


def plot(accuracy: Mapping[Any, float], steps: int, path: str) -> None:
  """Accuracy against training-set size: the mean as a line, every seed as a dot."""
  import matplotlib
  matplotlib.use('Agg')
  from matplotlib import pyplot
  methods, sizes = _axes(accuracy)
  figure, axes = pyplot.subplots(figsize=(6.4, 4.2), layout='constrained')
  for method, color, marker in zip(methods, ('#d55e00', '#0072b2'), ('s', 'o'), strict=True):
    scores = [_scores(accuracy, method, size) for size in sizes]
    axes.plot(sizes, [statistics.mean(s) for s in scores], color=color, marker=marker, lw=2,
              label=_NAMES.get(method, method))
    for size, seeds in zip(sizes, scores, strict=True):
      axes.scatter([size] * len(seeds), seeds, color=color, marker=marker, s=18, alpha=0.4)
  axes.axhline(50, color='grey', lw=1, ls=':', label='chance')
  axes.set(xlabel='training inputs', ylabel='test accuracy (%)', ylim=(40, 102), xticks=sizes,
           title=f'Toy task, {steps} steps, mean and every seed')
  figure.legend(loc='outside lower center', ncol=3, frameon=False)
  axes.spines[['top', 'right']].set_visible(False)
  figure.savefig(path, dpi=150)
  pyplot.close(figure)


_NAMES = {'standard': 'standard fine-tuning', 'DSS': 'Distilling Step-by-Step'}


def _axes(accuracy: Mapping[Any, float]) -> tuple[list[str], list[int]]:
  methods = list(dict.fromkeys(cell.method for cell in sorted(accuracy, key=_method_order)))
  return methods, sorted({cell.inputs for cell in accuracy})


def _method_order(cell: Any) -> int:
  return list(_NAMES).index(cell.method)


def _scores(accuracy: Mapping[Any, float], method: str, size: int) -> list[float]:
  found = [(cell.seed, score) for cell, score in accuracy.items()
           if cell.method == method and cell.inputs == size]
  return [score for _, score in sorted(found)]


def _winner(means: Mapping[str, float]) -> str:
  best, second = sorted(means, key=lambda method: means[method], reverse=True)[:2]
  margin = means[best] - means[second]
  return f'{best} (+{margin:.1f})' if margin >= 0.05 else 'neither'
