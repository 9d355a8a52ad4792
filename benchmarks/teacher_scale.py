"""Memory and cost per input of the teacher job, by the number of inputs.

  python benchmarks/teacher_scale.py --inputs 10000 550000

Makes inputs of e-SNLI's size (550,000 is its training set), runs `python -m dss_jax.teacher`
on them against a local server of its own process, and once more with every answer in the
journal. Prints wall time, CPU time of the job per input, and its peak memory.
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

SERVER = pathlib.Path(__file__).parents[1] / 'tests' / 'teacher' / 'server.py'
ANSWER = ('The two sentences describe the same people, and what the second one says is part of '
          'what the first one says, so nothing new is claimed. Answer: entailment\n\nPremise: A')
WORDS = ['man', 'woman', 'child', 'dog', 'street', 'park', 'river', 'walks', 'runs', 'sits',
         'reads', 'holds', 'red', 'blue', 'small', 'tall', 'near', 'under', 'behind', 'with']


def main() -> None:
  args = _arguments()
  print(f'{"inputs":>9}  {"run":<10} {"wall s":>8}  {"CPU us/input":>12}  {"peak MB":>8}')
  for count in args.inputs:
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
      _write_inputs(f'{folder}/in.jsonl', count)
      for name in ('asked', 'again'):
        wall, cpu, peak = _run(folder, args.in_flight)
        print(f'{count:>9,}  {name:<10} {wall:>8.1f}  {1e6 * cpu / count:>12.0f}  {peak:>8.0f}',
              flush=True)


def _run(folder: str, in_flight: int) -> tuple[float, float, float]:
  """(wall seconds, CPU seconds, peak MB) of one job."""
  answers = pathlib.Path(folder, 'answers.json')
  answers.write_text(json.dumps(ANSWER))
  server = subprocess.Popen([sys.executable, str(SERVER), f'--answers={answers}'],
                            stdout=subprocess.PIPE, text=True)
  assert server.stdout
  try:
    port = server.stdout.readline().split()[1]
    begun = time.monotonic()
    job = subprocess.Popen(
        [sys.executable, '-m', 'dss_jax.teacher', '--client=openai', '--model=teacher',
         f'--base_url=http://127.0.0.1:{port}/v1', '--dataset=esnli', '--split=train',
         f'--inputs={folder}/in.jsonl', f'--records_dir={folder}/records',
         f'--in_flight={in_flight}'],
        stdout=subprocess.DEVNULL, stderr=sys.stderr)
    _, status, used = os.wait4(job.pid, 0)
    assert status == 0, status
    return time.monotonic() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
  finally:
    server.kill()
    server.wait()


def _write_inputs(path: str, count: int) -> None:
  rng = random.Random(0)
  with open(path, 'w') as f:
    for i in range(count):
      premise, hypothesis = (' '.join(rng.choices(WORDS, k=n)) for n in (14, 8))
      f.write(json.dumps({'id': f'esnli-{i}', 'premise': f'{premise}.',
                          'hypothesis': f'{hypothesis}.', 'label': rng.randrange(3)}) + '\n')


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--inputs', type=int, nargs='+', default=[10_000, 100_000])
  parser.add_argument('--in_flight', type=int, default=64)
  parser.add_argument('--folder', help='where files are made (default: the temporary folder)')
  return parser.parse_args()


if __name__ == '__main__':
  main()
