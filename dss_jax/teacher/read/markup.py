"""Markdown, LaTeX and tags around what an answer says; and what is no part of a rationale."""

import functools
import re

from dss_jax.teacher.read import table as table_lib

_PAIR = re.compile(r'(?<![\w*_])(\*{2,3}|_{2,3})(?=\S)(.{1,1000}?)(?<=\S)\1(?![\w*_])')
_FENCE = re.compile(r'^[ \t]*```[\w-]*[ \t]*$\n?', re.MULTILINE)
# '> a quotation', but '> 3' is more than 3.
_LINE = re.compile(r'^[ \t]*(?:>(?!\s*[-+=]?\d)[ \t]?|#{1,6}[ \t]+|'
                   r'(?:-{3,}|\*{3,}|_{3,})[ \t]*$)+', re.MULTILINE)
_TEX_GROUP = re.compile(r'\\(?:boxed|text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}')
_TEX_FRACTION = re.compile(r'\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}')
_TEX_WORDS = {'times': '*', 'cdot': '*', 'ast': '*', 'div': '/', 'left': '', 'right': '',
              'quad': ' ', 'dollar': '$'}
_TEX_WORD = re.compile(r'\\([A-Za-z]+)')
_TEX_FRAME = re.compile(r'\\[()\[\],;! ]|\$\$|(?<!\\)\$(?=[^$]*[^$\s\d.,][^$]*\$)|(?<=[\d)}\s])\$')
_SIGNS = str.maketrans({'×': '*', '·': '*', '⋅': '*', '∗': '*', '÷': '/', '∕': '/', '−': '-',
                        '–': '-', '[': '(', ']': ')', '{': '(', '}': ')'})
_X_TIMES = re.compile(r'(?<=[\d)])\s+[xX]\s+(?=[\d(])')
_END_MARKS = re.compile(r'(?:[\s>#,;:–—]|\*\*|__|(?<=\s)[-*]){1,32}\Z')
_START_MARKS = re.compile(r'\A(?:[\s>#,;:–—]|\*\*(?!\*)|__(?!_))+')
_CODE = re.compile(r'`([^`\n]+)`')
_STRUCK = re.compile(r'~~(?=\S)[^~\n]{1,400}~~|<(del|s|strike)>.{0,400}?</\1>', re.IGNORECASE)
_HTML = re.compile(r'<(b|strong|i|em|u|mark|span|code|p|font)(?:\s[^<>]{0,200})?>(.{0,1000}?)</\1>',
                   re.IGNORECASE | re.DOTALL)
_HEADING = re.compile(r'\n[ \t]*(?:#{1,6}[ \t]+[^\n]{1,40}|\*\*[^*\n]{1,40}\*\*:?|[^\W\d_]+:)\s*\Z')
_FRAMED = re.compile(r'\$*\\(?:boxed|text|textbf|mathrm|mathbf|mbox)\s*\{(.*)\}\$*')
_MOST_LAYERS = 32  # of 'Sure! Answer: **Rationale:** ...'; a teacher that loops writes thousands
_MOST_OPENER = 100  # characters of 'Here is my reasoning:'


def plain(text: str, table: table_lib.Table) -> str:
  """Without markdown's bold, headings, quotes, fences and code, and without answer tags; what is
  struck through is not said."""
  text = _tags(table.lists['tags']).sub('', _FENCE.sub('', text))
  text = _HTML.sub(r'\2', _HTML.sub(r'\2', _STRUCK.sub('', text)))
  text = _PAIR.sub(r'\2', _PAIR.sub(r'\2', _LINE.sub('', text)))
  return _CODE.sub(r'\1', text)


def untex(text: str) -> str:
  r"""Without LaTeX's frames: '\\boxed{\\text{(a) bank}}' -> '(a) bank'."""
  for _ in range(4):  # Groups in groups.
    text = _TEX_FRACTION.sub(r'(\1) / (\2)', _TEX_GROUP.sub(r'\1', text))
  text = text.replace(r'\$', ' ').replace(r'\%', '%')
  text = _TEX_WORD.sub(lambda word: _TEX_WORDS.get(word[1], word[0]), text)
  text = ' '.join(_TEX_FRAME.sub('', text).split())
  return text[:-1].rstrip() if text.endswith('$') and text.count('$') == 1 else text


def unframed(text: str) -> str:
  r"""A text that is a LaTeX frame, without it: '\\boxed{42}' -> '42', '\\frac{1}{2}' as it is."""
  while (framed := _FRAMED.fullmatch(text.strip())) and _is_balanced(framed[1]):
    text = framed[1]
  return text


def _is_balanced(text: str) -> bool:
  depth = 0
  for character in text:
    depth += (character == '{') - (character == '}')
    if depth < 0:
      return False
  return not depth


def without_heading(text: str) -> str:
  """Without a heading at its end, which was that of a label: '... is well.\\n\\n## Level'."""
  return _HEADING.sub('', text)


def arithmetic(text: str) -> str:
  """Signs as a calculator has them: '30 − 3 × 4' -> '30 - 3 * 4'."""
  return _X_TIMES.sub(' * ', untex(text).translate(_SIGNS))


def rationale(text: str, table: table_lib.Table) -> str:
  """A rationale without what a chat model puts around it.

  'Sure! Here is my reasoning:\\n\\n**Rationale:** It flies. Therefore,' -> 'It flies.'
  """
  text, before = plain(text, table).strip(), None
  some = [table.lists[name] for name in ('interjections', 'openers', 'lead_ins')]
  for _ in range(_MOST_LAYERS):
    if text == before:
      break
    before = text
    text = _starts(*some).sub('', _START_MARKS.sub('', text))
    text = _ends(table.lists['connectives'], some[-1]).sub('', _END_MARKS.sub('', text))
  return text


def without_closer(text: str, table: table_lib.Table) -> str:
  """'It flies.\\n\\nI hope this helps!' -> 'It flies.'"""
  found = _closers(table.lists['closers']).search(text)
  return text[:found.start()].rstrip() if found else text


@functools.cache
def _tags(tags: tuple[str, ...]) -> re.Pattern[str]:
  return re.compile(rf'</?(?:{"|".join(tags)})>', re.IGNORECASE)


@functools.cache
def _starts(*lists: tuple[str, ...]) -> re.Pattern[str]:
  interjections, openers, lead_ins = map(table_lib.words, lists)
  return re.compile(
      rf'\A(?:(?:{interjections})[!.,:]+(?!\w)\s*|'
      rf'(?:{openers})(?!\w)[^.:!\n]{{0,{_MOST_OPENER}}}(?:[.:!]+|\n)\s*|'
      rf'(?:{lead_ins})(?:\s*[:：]\s*|[ \t]*(?:\n\s*|\Z)))', re.IGNORECASE)


@functools.cache
def _ends(connectives: tuple[str, ...], lead_ins: tuple[str, ...]) -> re.Pattern[str]:
  """'Therefore,', and 'Answer' in a line of its own."""
  return re.compile(rf'(?:\A|(?<=[\s.!?)"\'*]))(?:{table_lib.words((*connectives, "final"))}),?\Z|'
                    rf'\n\s*(?:{table_lib.words((*lead_ins, "final answer"))})\Z', re.IGNORECASE)


@functools.cache
def _closers(closers: tuple[str, ...]) -> re.Pattern[str]:
  return re.compile(rf'(?:\A|\n\s*|(?<=[.!?])\s+)(?:{table_lib.words(closers)})(?!\w)',
                    re.IGNORECASE)
