"""The process that compiles one job: pickled on stdin, a line of JSON on stdout. See `jobs`."""

import json
import os
import pickle
import sys
import threading
import time

from dss_jax import errors
from dss_jax.precompile import compiled, jobs, topologies


def main() -> None:
  """Answers with what `compiled.run` gives, or {'refused': reason}."""
  threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
  job: jobs.Job = pickle.load(sys.stdin.buffer)
  try:
    topology = topologies.parse(job.topology)
    answer = compiled.run(
        job.kind, job.config, topologies.devices(topology), topology.chip.hbm)
  except errors.UserError as error:
    answer = {'refused': str(error)}
  print(f'{jobs.MARK}{json.dumps(answer)}', flush=True)


def _end_with(parent: int) -> None:
  """Ends this process when its parent is gone: nobody waits for the answer, and it is busy."""
  while os.getppid() == parent:
    time.sleep(1)
  os._exit(1)


if __name__ == '__main__':
  main()
