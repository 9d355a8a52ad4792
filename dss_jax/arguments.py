"""The words of a command line: a flag that there is not is named with what to write instead."""

import argparse
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Sequence

from dss_jax import errors, valid


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
  """`parser.parse_args`, of sys.argv if argv is None.

  Raises:
    UserError: a flag or a choice that the parser has not; names the nearest.
  """
  words = list(sys.argv[1:] if argv is None else argv)
  for flag, _ in _unknown(parser, words):
    raise _no_such(flag, parser._option_string_actions, parser)
  _check_choices(parser, words)
  return parser.parse_args(words)


def parse_with_gin(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str]]:
  """The flags, and the bindings 'NAME=VALUE' of `--gin.NAME=VALUE`.

  Raises:
    UserError: a flag that there is not, or a macro in a form that is none: `--gin.SEED 1`,
      `--model_dir=x`, `SEED=1`; says what to write.
  """
  words, bindings = split_bindings(sys.argv[1:] if argv is None else argv)
  for flag, value in _unknown(parser, words):
    name = flag.removeprefix('--').removeprefix('gin.')
    macro = name.replace('-', '_').upper()
    if macro in _macros() or flag.startswith('--gin.'):
      name = macro if macro in _macros() else name
      raise errors.UserError(f'{f"{flag} {value}".strip()}: write --gin.{name}={value or "VALUE"}')
    raise _no_such(flag, parser._option_string_actions, parser, macro)
  for word in words:
    if re.match(r'[A-Z][A-Z0-9_]+=', word) and word.partition('=')[0] in _macros():
      raise errors.UserError(f'{word}: write --gin.{word}')
  _check_choices(parser, words)
  return parser.parse_args(words), bindings


def split_bindings(args: Sequence[str]) -> tuple[list[str], list[str]]:
  """['--gin_file=a', '--gin.X=1'] -> (['--gin_file=a'], ['X=1'])."""
  rest, bindings = [], []
  for arg in args:
    match = re.match(r'--gin\.([^=]+=.*)', arg, re.DOTALL)
    if match:
      bindings.append(match[1])
    else:
      rest.append(arg)
  return rest, bindings


def _unknown(parser: argparse.ArgumentParser, words: Sequence[str]) -> Iterator[tuple[str, str]]:
  """(flag, its value or '') of words that argparse would call unrecognized."""
  known = parser._option_string_actions
  for flag, value in _flags(words):
    shortened = parser.allow_abbrev and not flag.startswith('--gin.') and any(
        name.startswith(flag) for name in known)
    if flag not in known and not shortened:
      yield flag, value


def _check_choices(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
  """argparse lists all choices, however near one is."""
  for flag, value in _flags(words):
    action = parser._option_string_actions.get(flag)
    if value and action is not None and action.choices:
      valid.one_of(list(action.choices), **{flag: value})


def _flags(words: Sequence[str]) -> Iterator[tuple[str, str]]:
  """(flag, its value or '')."""
  own = list(itertools.takewhile(lambda word: word != '--', words))
  for word, following in zip(own, [*own[1:], '']):
    flag, equals, value = word.partition('=')
    if re.match(r'--[\w.-]+$', flag):
      yield flag, value if equals or following.startswith('-') else following


def _no_such(flag: str, flags: Iterable[str], parser: argparse.ArgumentParser, macro: str = ''
             ) -> errors.UserError:
  near = errors.did_you_mean(flag, flags)
  if macro and not near.startswith('did'):
    near = errors.did_you_mean(macro, _macros()).replace("'", "'--gin.", 1)
  return errors.UserError(f'{flag}: {parser.prog} has no such flag: ' + (
      near if near.startswith('did') else f'see {parser.prog} --help'))


def _macros() -> set[str]:
  """Of all gin files of ours."""
  from dss_jax import gin_files  # Late: gin is for mistakes only, here.
  texts = [path.read_text(encoding='utf-8') for path in gin_files.configs_dir().rglob('*.gin')
           if 't5x' not in path.parts]
  return {'DATASET', *re.findall(r'(?:^|%)([A-Z][A-Z0-9_]*)\b', '\n'.join(texts), re.MULTILINE)}
