"""How much time asking a teacher takes beside the teacher's own.

    python benchmarks/teacher.py --prompts=1000 --latency=0.1 --in_flight=64 --repeats=5

A server in another process answers each request after --latency seconds. Ideally a job then takes
ceil(prompts / in_flight) * latency; printed is what each contender takes from its first request to
its last response, connections being open, and how many times the ideal that is:

    aiohttp         the HTTP library alone: the least that asking from Python can take
    OpenAIEndpoint  what the teacher job asks with, on aiohttp
    create          OpenAI's SDK on aiohttp, `chat.completions.create`

--latency=0 shows the most requests per second. CPU time is this process's, for one request.
"""

import argparse
import asyncio
import contextlib
import json
import math
import pathlib
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import timing

from dss_jax import cli
from dss_jax.teacher.ask import endpoint, openai_client, prompts

SERVER = pathlib.Path(__file__).parents[1] / 'tests' / 'teacher' / 'server.py'
Ask = Callable[[dict[str, Any]], Awaitable[Any]]


class Side(NamedTuple):
  """A contender: sends one request and reads the answer; gives its connections back."""

  ask: Ask
  close: Callable[[], Awaitable[None]]


def bare(url: str, in_flight: int) -> Side:
  """aiohttp alone."""
  import aiohttp
  session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight))

  async def ask(request: dict[str, Any]) -> str:
    async with session.post(f'{url}/chat/completions', json=request) as response:
      return json.loads(await response.read())['choices'][0]['message']['content']
  return Side(ask, session.close)


def ours(url: str, in_flight: int) -> Side:
  """The teacher job's endpoint."""
  made = openai_client.OpenAIEndpoint('teacher', url, 'none', 'chat', 60.0, in_flight)

  async def ask(request: dict[str, Any]) -> str:
    return made.read(await made.ask(request)).text
  return Side(ask, made.close)


def create(url: str, in_flight: int) -> Side:
  """The SDK's typed method, on the same transport."""
  try:
    import httpx2
    import openai
  except ImportError as error:
    raise SystemExit(
        f"--sides=create needs the SDK ({error}): pip install 'openai[aiohttp]'") from error
  http = openai.DefaultAioHttpClient(limits=httpx2.Limits(max_connections=in_flight))
  client = openai.AsyncOpenAI(base_url=url, api_key='none', http_client=http)

  async def ask(request: dict[str, Any]) -> str:
    return (await client.chat.completions.create(**request)).choices[0].message.content or ''
  return Side(ask, client.close)


SIDES = {'aiohttp': bare, 'OpenAIEndpoint': ours, 'create': create}


def main() -> int:
  """Measures and prints the table."""
  args = _arguments()
  prompt = prompts.load(prompts.path_of('cqa'))
  made = openai_client.OpenAIEndpoint('teacher', 'http://localhost', 'none', 'chat', 1.0, 1)
  requests = [made.request(prompt, f'Where do {i} birds live?', endpoint.Decoding())
              for i in range(args.prompts)]
  with _server(args.latency) as url:
    taken = asyncio.run(_measure(url, requests, args))
  _print(taken, args)
  return 0


async def _measure(
    url: str, requests: list[dict[str, Any]], args: argparse.Namespace
) -> dict[str, list[tuple[float, float]]]:
  """(seconds, CPU seconds) of every repeat, in turns."""
  sides = {name: SIDES[name](url, args.in_flight) for name in args.sides}
  taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
  for _ in range(args.repeats):
    for name, side in sides.items():
      # Opens the connections, which are closed while the others work.
      await _ask_all(side.ask, requests[:2 * args.in_flight], args.in_flight)
      began, cpu = time.perf_counter(), time.process_time()
      await _ask_all(side.ask, requests, args.in_flight)
      taken[name].append((time.perf_counter() - began, time.process_time() - cpu))
  for side in sides.values():
    await side.close()
  return taken


async def _ask_all(ask: Ask, requests: list[dict[str, Any]], in_flight: int) -> None:
  todo = iter(requests)

  async def work() -> None:
    for request in todo:
      assert await ask(request)
  await asyncio.gather(*(work() for _ in range(in_flight)))


@contextlib.contextmanager
def _server(latency: float) -> Iterator[str]:
  """A server in another process; its address."""
  command = [sys.executable, str(SERVER), f'--latency={latency}']
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
    try:
      assert running.stdout
      yield f'http://127.0.0.1:{running.stdout.readline().split()[1]}/v1'
    finally:
      running.terminate()


def _print(taken: dict[str, list[tuple[float, float]]], args: argparse.Namespace) -> None:
  ideal = math.ceil(args.prompts / args.in_flight) * args.latency
  print(f'{args.prompts} prompts, {args.in_flight} in flight, {args.latency:g} s each: '
        f'ideally {ideal:.2f} s; {args.repeats} repeats')
  rows = []
  for name, repeats in taken.items():
    seconds = timing.spread([wall for wall, _ in repeats])
    cpu = timing.spread([cpu for _, cpu in repeats])
    rows.append({
        'contender': name, 'seconds': str(seconds),
        'requests/s': timing.digits(args.prompts / seconds.median),
        'of ideal': timing.digits(seconds.median / ideal if ideal else None),
        'CPU us/request': timing.digits(cpu.median / args.prompts, 1e-6)})
  print(timing.table(rows))


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--prompts', type=int, default=1000, metavar='N', help='default: 1000')
  parser.add_argument('--latency', type=float, default=0.1, metavar='S', help='default: 0.1')
  parser.add_argument('--in_flight', type=int, default=64, metavar='N', help='default: 64')
  parser.add_argument('--repeats', type=int, default=3, metavar='N', help='default: 3')
  parser.add_argument('--sides', nargs='+', default=['aiohttp', 'OpenAIEndpoint'], choices=SIDES,
                      metavar='NAME',
                      help=f'which contenders: {", ".join(SIDES)} (default: those without the SDK)')
  return parser.parse_args()


if __name__ == '__main__':
  cli.run(lambda _: main())
