"""`report.html`: one file with everything in it, from the parts beside this module."""

import dataclasses
import html
import importlib.resources
import json
import string
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Figure:
  """`name` of its files, `title` and `caption` in words, `svg` for a page; `wide`: two panels."""

  name: str
  title: str
  caption: str
  svg: str
  wide: bool = False


def build(
    *, title: str, subtitle: str, findings: Sequence[str], problems: Sequence[str],
    figures: Sequence[Figure], tables: Mapping[str, str], data: Mapping[str, Any]) -> str:
  """The page.

  Args:
    title, subtitle: plain text, as are `findings` and `problems`.
    findings: a sentence each.
    problems: what was left out, and why.
    figures: drawn in the page's own colours.
    tables: 'accuracies', 'differences', 'labels' (with its heading, or ''), 'cost' and 'latency'
      -> HTML.
    data: what report.js shows.
  """
  body = string.Template(_part('report.html')).substitute(
      findings=f'<ul>{"".join(f"<li>{html.escape(line)}</li>" for line in findings)}</ul>',
      problems=_problems(problems), figures=''.join(map(_figure, figures)) or
      '<p class="muted">Nothing varies yet that a figure could show.</p>', **tables)
  scripts = (f'<script type="application/json" id="data">{_json(data)}</script>\n'
             f'<script>{_part("report.js")}</script>')
  return _frame(title, subtitle, body, scripts)


def build_plain(*, title: str, subtitle: str, sections: Mapping[str, str]) -> str:
  """A page without scripts: headings and the HTML under each."""
  return _frame(title, subtitle, ''.join(
      f'<section><h2>{html.escape(heading)}</h2>{body}</section>'
      for heading, body in sections.items()))


def _frame(title: str, subtitle: str, sections: str, scripts: str = '') -> str:
  return string.Template(_part('frame.html')).substitute(
      title=html.escape(title), subtitle=html.escape(subtitle), css=_part('report.css'),
      sections=sections, scripts=scripts,
      policy="script-src 'unsafe-inline';" if scripts else '')


def table(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
  """HTML; the first `texts` columns hold text, the others numbers."""
  if not rows:
    return '<p class="muted">None.</p>'
  def line(tag, cells):
    return '<tr>' + ''.join(
        f'<{tag}{"" if i < texts else " class=number"}>{html.escape(cell)}</{tag}>'
        for i, cell in enumerate(cells)) + '</tr>'
  return (f'<div class="table"><table><thead>{line("th", header)}</thead><tbody>'
          + ''.join(line('td', row) for row in rows) + '</tbody></table></div>')


def paragraphs(lines: Sequence[str]) -> str:
  """HTML of plain sentences."""
  return ''.join(f'<p class="muted">{html.escape(line)}</p>' for line in lines)


def _part(name: str) -> str:
  return importlib.resources.files(__name__).joinpath(name).read_text(encoding='utf-8')


def figure(title: str, caption: str, svg: str, wide: bool = False) -> str:
  """HTML; a wide one has the whole width of the page."""
  kind = ' class=wide' if wide else ''
  return (f'<figure{kind}><div role="img" aria-label="{html.escape(title)}">{svg}</div>'
          f'<figcaption><b>{html.escape(title)}</b>{html.escape(caption)}</figcaption></figure>')


def _figure(one: Figure) -> str:
  return figure(one.title, one.caption, one.svg, one.wide)


def _problems(problems: Sequence[str]) -> str:
  if not problems:
    return ''
  items = ''.join(f'<li>{html.escape(line)}</li>' for line in problems)
  return ('<section id="problems" class="problems"><h2>Not all is there</h2>'
          f'<ul>{items}</ul></section>')


def _json(data: Mapping[str, Any]) -> str:
  """Safe inside a script element: no `<` that could end it."""
  return json.dumps(data, ensure_ascii=False, separators=(',', ':')).replace('<', '\\u003c')
