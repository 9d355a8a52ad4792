"""Equations: the arithmetic is right, and nothing but arithmetic gets through."""

import concurrent.futures
import functools
import gc
import sys
import time

import hypothesis
import pytest
from hypothesis import strategies as st

from dss_jax import equations
from dss_jax.teacher.read import structured

# An expression is built together with its value, by Python's own arithmetic on floats.
_NUMBERS = st.one_of(
    st.integers(0, 9999).map(lambda i: (str(i), float(i))),
    st.integers(0, 9999).map(lambda i: (f'{i / 4}', i / 4)))


def _combine(children):
  binary = st.tuples(children, st.sampled_from('+-*/'), children, st.sampled_from(['', ' ']))
  return st.one_of(
      binary.filter(lambda t: t[1] != '/' or t[2][1] != 0).map(_apply),
      children.map(lambda c: (f'-({c[0]})', -c[1])))


def _apply(parts):
  (a, x), op, (b, y), space = parts
  value = {'+': lambda: x + y, '-': lambda: x - y, '*': lambda: x * y, '/': lambda: x / y}[op]()
  return f'({space}{a}{space}{op}{space}{b}{space})', value


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(st.recursive(_NUMBERS, _combine, max_leaves=12))
def test_agrees_with_the_arithmetic_it_was_built_from(pair):
  text, value = pair
  hypothesis.assume(len(text) <= equations.MAX_LENGTH)
  assert equations.evaluate(text) == pytest.approx(value, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize('text, value', [
    ('( 84.0 / 2.0 )', 42.0),
    ('((170 - 78) + 31) - 78', 45.0),
    ('(240 / (8 / 36))', 1080.0),
    ('23 - (-2)', 25.0),
    ('  7 ', 7.0),
    ('.5 + 1.', 1.5),
    ('--3', 3.0),
    ('2 + 3 * 4', 14.0),
    ('8 / 4 / 2', 1.0),
    ('+'.join(['1'] * 60), 60.0),
])
def test_values(text, value):
  assert equations.evaluate(text) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize('text', [
    '', ' ', '()', '(1', '1)', '1 +', '* 2', '(1, 2)', '11,210', '7x', '(some - 8)', '1(2)', '...',
    '+1', '2 ** 3', '9**9**7', '7 // 2', '7 % 2', '2 ^ 3', '1 if 1 else 2', '1 and 2', '1_000',
    '1e5', '0x10', '1j', 'inf', 'nan', 'True', '"a"', '[1]', '(1)\n+2', '1\x00', '٣ + ٤', '1;2',
    '1/0', '1 / (2 - 2)', '0/0', '9e9',
    '__import__("os").system("true")', 'open("x")', 'print(1)', '(lambda: 1)()', 'a := 1',
])
def test_refuses(text):
  with pytest.raises(ValueError):
    equations.evaluate(text)


@pytest.mark.parametrize('text, reason', [
    ('1 / 0', 'division by zero'),
    ('2 ** 3', 'Pow'),
    ('(1)(2)', 'Call'),
    ('x', 'not arithmetic'),
    ('1' * 257, '257 characters'),
    ('*'.join(['9' * 63] * 4), None),
    ('(' * 65 + '1' + ')' * 65, 'nested more than 64'),
    ('(' * 64 + '1' + ')' * 64, None),
    ('-' * 64 + '1', 'nested more than 64'),
    ('-' * 62 + '1', None),
    ('+'.join(['1'] * 65), 'nested more than 64'),
])
def test_says_why(text, reason):
  if reason is None:  # At the limits, yet legal.
    assert equations.evaluate(text) > 0
  else:
    with pytest.raises(ValueError, match=reason):
      equations.evaluate(text)


@pytest.mark.parametrize('text', [
    '9' * 400,  # an integer beyond every float
    '9' * 200 + '*' + '9' * 200,
    '1 / (' + '9' * 200 + '*' + '9' * 200 + ')',  # not 1 / inf = 0
])
def test_overflow_is_refused_not_infinite(monkeypatch, text):
  monkeypatch.setattr(equations, 'MAX_LENGTH', 1000)  # No 256 characters are that large.
  with pytest.raises(ValueError, match='too large'):
    equations.evaluate(text)


@pytest.mark.parametrize('text', [
    '9**9**7', '9**' * 60 + '9', '(' * 100 + '1' + ')' * 100, '(' * 50_000 + '1' + ')' * 50_000,
    '-' * 100_000 + '1', '1+' * 100_000 + '1', '(' * 250, '1**99999999999'])
def test_bombs_are_refused_at_once(text):
  start = time.monotonic()
  with pytest.raises(ValueError):
    equations.evaluate(text)
  assert time.monotonic() - start < 1


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.one_of(
    st.text(max_size=300),
    st.text(alphabet='0123456789.+-*/() ', max_size=300),
    st.lists(st.sampled_from(['(', ')', '-', '**', '9', '1.5', '/', ' ', 'x', '()', '//', '.']),
             max_size=120).map(''.join)))
def test_random_text_gives_a_finite_number_or_value_error(text):
  try:
    value = equations.evaluate(text)
  except ValueError:
    return
  assert isinstance(value, float) and abs(value) < float('inf')


NESTED: list = functools.reduce(lambda inner, _: [inner], range(19), [])


@pytest.fixture
def interrupted(monkeypatch):
  """Threads lose the interpreter wherever they can: at each collection, and that is everywhere."""
  often, threshold, callback = sys.getswitchinterval(), gc.get_threshold(), lambda *_: sum(range(9))
  sys.setswitchinterval(1e-6)
  gc.callbacks.append(callback)
  gc.set_threshold(1)
  yield
  gc.set_threshold(*threshold)
  gc.callbacks.remove(callback)
  sys.setswitchinterval(often)


@pytest.mark.parametrize('read, text, found', [
    (equations.evaluate, '1 + ' * 20 + '1', 21.0),
    # As Python writes it, which the JSON reader leaves to Python's own.
    (lambda text: structured.find(text, ('label',)),
     "{'label': " + '[' * 20 + ']' * 20 + '}', [({'label': NESTED}, 0, 51)]),
], ids=['arithmetic', 'literal'])
def test_several_threads(interrupted, read, text, found):
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    got = list(pool.map(read, [text] * 300))
  assert got == [found] * 300


@pytest.mark.parametrize('a, b, same', [
    ('( 84.0 / 2.0 )', '(84 / 2)', True),
    ('(3 * 2)', '(2 * 3)', True),
    ('1 / 3', '0.3333333', True),
    ('1 / 3', '0.33333', False),
    ('1538910', '1538911', False),
    ('1', '1.000002', False),
    ('x', 'x', False),
    ('1 / 0', '1 / 0', False),
])
def test_equal(a, b, same):
  assert equations.equal(a, b) is same
  assert equations.equal(b, a) is same
