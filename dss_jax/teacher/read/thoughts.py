"""What a thinking model wrote before its answer, taken off the text that holds both."""

import functools
import re
import statistics
from collections.abc import Sequence

from dss_jax.teacher.read import table as table_lib

# Special tokens: gpt-oss ends a message with them, others their turn.
_SPECIAL = re.compile(r'<\|start\|>assistant|<\|[^|<>\n]{1,40}\|>')


def part(text: str, table: table_lib.Table) -> tuple[str, str, bool]:
  """A text as (thoughts, answer, whether the thoughts were never closed).

  '<think>Mall?</think>(a) bank' -> 'Mall?', '(a) bank'; 'Mall?</think>(a) bank', as where the
  opening mark was part of the prompt -> the same.
  """
  thoughts: list[str] = []
  answer: list[str] = []
  inside, at = False, 0
  for mark in _marks(table.thoughts).finditer(text):
    opens, said = mark['opening'] is not None, text[at:mark.start()]
    if not inside and _is_prose(mark[0], opens, text[:mark.start()], text[mark.end():], table):
      continue
    if inside:
      thoughts.append(said)
    elif opens:
      answer.append(said)
    else:  # Closed, but never opened: all before it were thoughts.
      thoughts, answer = [*thoughts, *answer, said], []
    inside, at = opens, mark.end()
  (thoughts if inside else answer).append(text[at:])
  if not thoughts and '<|' not in text:
    return '', text, False
  rest = _SPECIAL.sub('', ''.join(answer)).strip()
  tags = '|'.join(table.lists['tags'])  # Hunyuan's, Nemotron's: <think>...</think><answer>...
  whole = re.fullmatch(rf'<({tags})>(.*)</\1>', rest, re.IGNORECASE | re.DOTALL)
  return _joined(thoughts), whole[2].strip() if whole and thoughts else rest, inside


def _joined(parts: Sequence[str]) -> str:
  found = (_SPECIAL.sub('', one).strip() for one in parts)
  return '\n'.join(one for one in found if one)


def shortened(text: str, most: int) -> str:
  """A text's beginning and end, where it is longer than so many characters."""
  return text if len(text) <= most else f'{text[:most // 2]} ... {text[-most // 2:]}'


def lengths(counts: Sequence[int], limit: int) -> str:
  """A line of `--dry_run`: how long thoughts are, and how many the limit would refuse."""
  if not counts:
    return ('  thoughts        none in the journal yet' + (
        f'; those over --max_thinking={limit} words fail' if limit else ''))
  over = sum(count > limit for count in counts) if limit else 0
  return (f'  thoughts        {len(counts):,} in the journal, of {statistics.median(counts):,.0f} '
          f'words (median), {max(counts):,} at most' + (
              f'; {over:,} ({over / len(counts):.0%}) are over --max_thinking={limit} and fail'
              if limit else '; no limit'))


@functools.lru_cache(64)
def _marks(pairs: tuple[tuple[str, str], ...]) -> re.Pattern[str]:
  def either(names: set[str]) -> str:
    return '|'.join(re.escape(name) for name in sorted(names, key=len, reverse=True))
  return re.compile(rf'(?P<opening>{either({one for one, _ in pairs})})|'
                    rf'(?P<closing>{either({one for _, one in pairs})})', re.IGNORECASE)


def _is_prose(mark: str, opens: bool, before: str, after: str, table: table_lib.Table) -> bool:
  """Whether a mark that is made of words is none: 'Our analysis shows ...'."""
  if not mark[0].isalnum():
    return False
  if not opens:
    return ' ' in mark  # 'assistantfinal' is no word.
  closing = next(two for one, two in table.thoughts if one.lower() == mark.lower())
  return bool(before.strip()) or closing.lower() not in after.lower()
