"""The whole teacher job beside another program for the same, on one local server in turns.

  python benchmarks/teacher_job.py --prompts=1000 --latency=0.1 --in_flight=64 \\
      --curator=/path/to/other/venv/bin/python

A server in a process of its own answers each request after --latency seconds; ideally a job takes
ceil(prompts / in_flight) * latency. Printed, of each repeat: seconds from the first request to
the last answer, as the server sees them; the same as multiple of the ideal; seconds of the whole
program, from its start to its end. `--curator` names a Python with bespokelabs-curator.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

SERVER = pathlib.Path(__file__).parents[1] / 'tests' / 'teacher' / 'server.py'
CURATOR = '''
import json, sys
import tiktoken
class Words:  # Its vocabulary is a download; counting words costs it less than tokens would.
  def encode(self, text, **kwargs):
    return text.split()
tiktoken.get_encoding = tiktoken.encoding_for_model = lambda *args, **kwargs: Words()
from bespokelabs import curator
url, in_flight, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
prompts = [json.loads(line)['input'] for line in open(path)]
llm = curator.LLM(
    model_name='gpt-4o-mini', backend='openai', backend_params={
        'base_url': url, 'api_key': 'none', 'max_concurrent_requests': in_flight,
        'max_requests_per_minute': 1_000_000, 'max_tokens_per_minute': 1_000_000_000,
        'in_mtok_cost': 0, 'out_mtok_cost': 0})
found = llm(prompts)
assert len(getattr(found, 'dataset', found)) == len(prompts)
'''


def main() -> None:
  args = _arguments()
  ideal = math.ceil(args.prompts / args.in_flight) * args.latency
  sides = {'dss_jax': _ours, **({'curator': _curator} if args.curator else {})}
  print(f'{args.prompts} prompts, {args.latency:g} s each, {args.in_flight} in flight: '
        f'ideal {ideal:.2f} s')
  print(f'{"":<10} {"first to last":>14} {"/ ideal":>8} {"whole run":>10}')
  for _ in range(args.repeats):
    for name, side in sides.items():
      seconds, whole = _measure(side, args)
      print(f'{name:<10} {seconds:>12.2f} s {seconds / ideal:>8.2f} {whole:>8.2f} s', flush=True)


def _measure(side, args: argparse.Namespace) -> tuple[float, float]:
  """(seconds between first request and last answer, seconds of the program)."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder)
    (path / 'in.jsonl').write_text(''.join(
        json.dumps({'id': f'q{i}', 'input': f'Parcel number {i}?', 'label': 'yes'}) + '\n'
        for i in range(args.prompts)))
    (path / 'answer.json').write_text(json.dumps('It is one. So the answer is yes.'))
    server = subprocess.Popen(
        [sys.executable, str(SERVER), f'--answers={folder}/answer.json',
         f'--latency={args.latency}'], stdout=subprocess.PIPE, text=True)
    assert server.stdout
    try:
      url = f'http://127.0.0.1:{server.stdout.readline().split()[1]}/v1'
      begun = time.monotonic()
      side(url, path, args)
      whole = time.monotonic() - begun
      with urllib.request.urlopen(f'{url.removesuffix("/v1")}/stats') as response:
        stats = json.loads(response.read())
      assert stats['requests'] >= args.prompts, stats['requests']
      return stats['seconds'], whole
    finally:
      server.kill()
      server.wait()


def _ours(url: str, folder: pathlib.Path, args: argparse.Namespace) -> None:
  (folder / 'bench_tasks.py').write_text(
      "from dss_jax import data\ndata.register('bench', labels=('yes', 'no'), holdout=None)\n")
  (folder / 'bench.toml').write_text('''
version = 1
dataset = 'bench'
instruction = 'Explain, then answer.'
[completion]
question = 'Q: {input}'
answer = '{rationale} So the answer is {label}.'
answer_phrase = 'So the answer is'
label_kind = 'class'
stop = ['Q:']
[[demonstrations]]
input = 'Parcel?'
rationale = 'It is one.'
label = 'yes'
''')
  subprocess.run(
      [sys.executable, '-m', 'dss_jax.teacher', '--client=openai', '--model=gpt-4o-mini',
       f'--base_url={url}', '--import=bench_tasks', '--dataset=bench', '--split=train',
       '--prompt=bench.toml', '--inputs=in.jsonl', '--records_dir=records',
       f'--in_flight={args.in_flight}'],
      cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _curator(url: str, folder: pathlib.Path, args: argparse.Namespace) -> None:
  # No telemetry, no cache of an earlier repeat.
  environment = {**os.environ, 'TELEMETRY_ENABLED': 'false', 'CURATOR_CACHE_DIR': f'{folder}/cache',
                 'HF_HOME': f'{folder}/hf', 'OPENAI_API_KEY': 'none'}
  done = subprocess.run(
      [args.curator, '-c', CURATOR, url, str(args.in_flight), f'{folder}/in.jsonl'],
      cwd=folder, capture_output=True, text=True, check=False, env=environment)
  if done.returncode:
    sys.exit(f'curator failed:\n{done.stderr[-2000:]}')


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--prompts', type=int, default=1000)
  parser.add_argument('--latency', type=float, default=0.1, metavar='SECONDS')
  parser.add_argument('--in_flight', type=int, default=64)
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--curator', metavar='PYTHON')
  return parser.parse_args()


if __name__ == '__main__':
  main()
