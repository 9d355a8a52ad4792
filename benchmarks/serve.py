"""Load `dss serve` with concurrent clients, beside CTranslate2 in the same server.

  python benchmarks/serve.py                                T5 v1.1 small, labels of 8 tokens
  python benchmarks/serve.py --ctranslate2                  and CTranslate2, float32 and int8
  python benchmarks/serve.py --clients 1 64 --target_length=32
  python benchmarks/serve.py --tiny --seconds=1             in seconds, to try the flags

One student with random weights and a vocabulary of its own; --ctranslate2 converts it as `dss
convert --to=ct2` does. Every engine gets a process with the HTTP, queue and batches of `dss serve`,
and all wait while one is asked. A client keeps its connection and asks again when it is answered.
Needs `pip install 'dss_jax[serve]'`; --ctranslate2 also `'dss_jax[ct2]'`.
"""

import argparse
import asyncio
import contextlib
import json
import math
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import aiohttp
import flags
import machine
import numpy as np
import timing

from dss_jax import cli

_WORDS = 2000
_INPUT_WORDS = (20, 50)  # of an input, as CommonsenseQA's with their choices
_CT2 = ('float32', 'int8')


def main() -> int:
  """Measures and prints the table."""
  args = _arguments()
  if args.engine:
    return _serve(args)
  with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
    _make_students(args, folder)
    names = ['dss_jax', *(f'ctranslate2-{dtype}' for dtype in _CT2 if args.ctranslate2)]
    servers = {name: stack.enter_context(_server(name, folder, args)) for name in names}
    texts = _texts(args.seed, 4096)
    answers = {name: asyncio.run(_answers(address, texts[:200]))
               for name, address in servers.items()}
    rows = _measure(args, servers, texts)
  _print_results(args, rows, answers)
  return 0


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_model(parser, size='small', dtype='float32')
  parser.add_argument('--ctranslate2', action='store_true', help='CTranslate2 too, on the CPU')
  parser.add_argument('--clients', type=int, nargs='+', default=[1, 8, 32, 64], metavar='N',
                      help='concurrent clients (default: 1 8 32 64)')
  parser.add_argument('--target_length', type=int, default=8, help='tokens at most (default: 8)')
  parser.add_argument('--seconds', type=float, default=8.0, help='of load, each time (default: 8)')
  parser.add_argument('--repeats', type=int, default=3, help='in turns (default: 3)')
  parser.add_argument('--max_batch', type=int, default=32, help='of all servers (default: 32)')
  parser.add_argument('--threads', type=int, help='CPU threads of every server (default: all)')
  parser.add_argument('--seed', type=int, default=0, help='of the texts')
  parser.add_argument('--json', metavar='FILE', help='save the figures, every repeat included')
  parser.add_argument('--engine', help=argparse.SUPPRESS)  # In a server's process.
  parser.add_argument('--folder', help=argparse.SUPPRESS)
  return parser.parse_args()


def _make_students(args: argparse.Namespace, folder: str) -> None:
  """`folder`/dss_jax, and with --ctranslate2 /ctranslate2-float32 and -int8."""
  import jax
  import sentencepiece
  from flax import linen as nn

  from dss_jax import models, student_info
  from dss_jax.convert import __main__ as convert_main
  from dss_jax.convert import weights as weights_lib
  words = pathlib.Path(folder, 'words.txt')
  words.write_text('\n'.join(_texts(1, 2000)))
  sentencepiece.SentencePieceTrainer.train(
      input=str(words), model_prefix=f'{folder}/words', vocab_size=2 * _WORDS, pad_id=0, eos_id=1,
      unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2)
  vocabulary = pathlib.Path(folder, 'words.model').read_bytes()
  tiny = {'vocab_size': 8192} if args.tiny else {}  # All pieces.
  config = flags.model_config(args, scan_layers=False, **tiny)
  params = nn.unbox(models.init_params(models.Transformer(config), jax.random.key(args.seed)))
  weights = weights_lib.ArrayWeights(params, config)
  info = student_info.StudentInfo(
      model=config, vocabulary=student_info.VOCABULARY_FILE, label_prefix='[label] ',
      input_length=128, target_length=args.target_length)
  for name, to, dtype in [('dss_jax', 'native', None), *(
      (f'ctranslate2-{dtype}', 'ct2', dtype) for dtype in _CT2 if args.ctranslate2)]:
    convert_main.convert(weights, f'{folder}/{name}', to, info=info, vocabulary=vocabulary,
                         dtype=dtype)


def _texts(seed: int, count: int) -> list[str]:
  """Texts of made-up words, the same ones for every seed."""
  draw = random.Random(0)
  words = [''.join(draw.choices('abcdefghiklmnoprstuvw', k=draw.randint(2, 8)))
           for _ in range(_WORDS)]
  draw.seed(seed)
  return [' '.join(draw.choices(words, k=draw.randint(*_INPUT_WORDS))) for _ in range(count)]


# A server's process ----------------------------------------------------------------------------


def _serve(args: argparse.Namespace) -> int:
  cli.end_with_parent()
  threads = machine.limit_threads(args.threads)
  import dss_jax
  from dss_jax.predict import options
  from dss_jax.serve import engine, server, service
  limits = service.Limits(max_batch=args.max_batch, timeout=300)
  path = f'{args.folder}/{args.engine}'

  def load() -> service.Engine:
    if args.engine == 'dss_jax':
      return engine.Engine(dss_jax.load(path), options.Options(), max_batch=args.max_batch)
    return _CTranslate2(path, args.engine.partition('-')[2], threads)
  with server.bind('127.0.0.1', 0) as sock:
    return asyncio.run(server.run(sock, limits, load))


class _CTranslate2:
  """An engine like that of `dss serve`."""

  def __init__(self, path: str, dtype: str, threads: int):
    import ctranslate2
    import sentencepiece

    from dss_jax import student_info
    self._info = student_info.from_json(pathlib.Path(path, 'student.json').read_text(), path)
    self._pieces = sentencepiece.SentencePieceProcessor(
        model_file=str(next(pathlib.Path(path).glob('*.model'))))
    self._translator = ctranslate2.Translator(path, 'cpu', compute_type=dtype,
                                              intra_threads=threads)

  def programs(self) -> list[tuple[int, int, bool]]:
    return []

  def compile(self, rows: int, width: int, rank: bool) -> None:
    raise AssertionError('there are no programs')

  def question(self, text: str, **asked: Any) -> Any:
    from dss_jax.serve import engine
    return engine.Question(text, tokens=len(self._encode(text)))

  def answer(self, questions: Any) -> Any:
    from dss_jax.predict import options
    from dss_jax.serve import engine
    found = self._translator.translate_batch(
        [self._encode(one.text) for one in questions], beam_size=1, return_scores=True,
        max_decoding_length=self._info.target_length, max_batch_size=0)
    return [engine.Answer(options.Prediction(self._text(one.hypotheses[0]),
                                             math.exp(one.scores[0])), len(one.hypotheses[0]) + 1)
            for one in found]

  def _text(self, pieces: list[str]) -> str:
    # By ids, so that those that fill the embedding up are unknown, as with us.
    return self._pieces.decode([self._pieces.piece_to_id(piece) for piece in pieces])

  def _encode(self, text: str) -> list[str]:
    prompt = self._info.label_prefix + text
    return [*self._pieces.encode(prompt, out_type=str)[:self._info.input_length - 1], '</s>']


@contextlib.contextmanager
def _server(name: str, folder: str, args: argparse.Namespace) -> Iterator[str]:
  """Starts a server's process; its address, when it is ready."""
  command = [sys.executable, __file__, f'--engine={name}', f'--folder={folder}',
             f'--max_batch={args.max_batch}']
  command += [f'--threads={args.threads}'] if args.threads else []
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    try:
      assert process.stdout
      lines = (re.match(r'ready: POST (\S+)/predict', line) for line in process.stdout)
      ready = next(filter(None, lines), None)
      if ready is None:
        raise RuntimeError(f'the server of {name} ended with {process.wait()}')
      yield ready[1]
    finally:
      process.terminate()


# The clients -----------------------------------------------------------------------------------


async def _answers(address: str, texts: list[str]) -> list[str]:
  async with aiohttp.ClientSession(address) as session:
    found = []
    for first in range(0, len(texts), 50):
      async with session.post('/predict', json={'inputs': texts[first:first + 50]}) as response:
        answer = await response.json()
        if response.status != 200:
          raise RuntimeError(f'{address}: {answer}')
        found += [row['predicted_label'] for row in answer['predictions']]
  return found


class _Load(NamedTuple):
  took: list[float]  # seconds, of every request
  rate: float  # requests a second, until the last answer


async def _load(address: str, texts: list[str], clients: int, seconds: float) -> _Load:
  """Clients that ask for so many seconds, and wait for their last answers."""
  took: list[float] = []
  start = time.perf_counter()

  async def client(number: int) -> None:
    draw = random.Random(number)
    while (began := time.perf_counter()) < start + seconds:
      async with session.post('/predict', json={'input': draw.choice(texts)}) as response:
        await response.read()
        if response.status != 200:
          raise RuntimeError(f'{address}: {response.status}')
      took.append(time.perf_counter() - began)
  async with aiohttp.ClientSession(
      address, connector=aiohttp.TCPConnector(limit=0)) as session:
    await asyncio.gather(*map(client, range(clients)))
  return _Load(took, len(took) / (time.perf_counter() - start))


def _measure(args: argparse.Namespace, servers: dict[str, str], texts: list[str]) -> list[Any]:
  rows = []
  for clients in args.clients:
    found: dict[str, list[_Load]] = {name: [] for name in servers}
    for repeat in range(args.repeats):
      for name, address in servers.items():
        found[name].append(asyncio.run(_load(address, texts, clients, args.seconds)))
        print(f'  {clients} clients, repeat {repeat + 1}/{args.repeats}: {name} '
              f'{found[name][-1].rate:.1f} requests/s', file=sys.stderr)
    rows += [_row(name, clients, repeats, found['dss_jax']) for name, repeats in found.items()]
  return rows


def _row(name: str, clients: int, repeats: list[_Load], ours: list[_Load]) -> dict[str, Any]:
  took = [seconds for one in repeats for seconds in one.took]
  latencies = [1000 * np.quantile(took, q) for q in (0.5, 0.95, 0.99)]
  ratios = [mine.rate / other.rate for mine, other in zip(ours, repeats, strict=True)]
  return {'clients': clients, 'engine': name, 'ratios': ratios,
          'requests_per_second': timing.spread([one.rate for one in repeats]),
          'p50_p95_p99_ms': latencies}


def _print_results(args: argparse.Namespace, rows: list[Any], answers: dict[str, Any]) -> None:
  facts = machine.describe(machine.limit_threads(args.threads))
  print(f'{flags.model_name(args)}, random weights; at most {args.target_length} tokens written; '
        f'batches of {args.max_batch}; {args.repeats} repeats of {args.seconds:g} s in turns')
  print(machine.in_words(facts), '\n')
  print(timing.table([{
      'engine': row['engine'], 'clients': str(row['clients']),
      'requests/s': str(row['requests_per_second']),
      'p50 ms': timing.digits(row['p50_p95_p99_ms'][0]),
      'p95 ms': timing.digits(row['p50_p95_p99_ms'][1]),
      'p99 ms': timing.digits(row['p50_p95_p99_ms'][2]),
      'dss_jax / it': str(timing.spread(row['ratios'])),
  } for row in rows]))
  print('requests/s and ratios: median (lowest-highest) of the repeats; above 1, we are faster')
  for name, found in answers.items():
    equal = sum(a == b for a, b in zip(found, answers['dss_jax'], strict=True))
    print(f'{name}: {equal} of {len(found)} answers are those of dss_jax')
  if args.json:
    pathlib.Path(args.json).write_text(json.dumps(
        {'flags': vars(args), 'machine': facts, 'rows': rows}, indent=2, default=str) + '\n')


if __name__ == '__main__':
  cli.run(lambda _: main())
