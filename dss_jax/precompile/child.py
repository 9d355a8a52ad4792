"""The process that compiles one job: pickled on stdin, a line of JSON on stdout. See `jobs`."""

import json
import pickle
import sys

from dss_jax import child, errors
from dss_jax.precompile import compiled, jobs, topologies


def main() -> None:
  """Answers with what `compiled.run` gives, or {'refused': reason}."""
  child.end_with_parent()
  job: jobs.Job = pickle.load(sys.stdin.buffer)
  try:
    topology = topologies.parse(job.topology)
    answer = compiled.run(
        job.kind, job.config, topologies.devices(topology), topology.chip.hbm)
  except errors.UserError as error:
    answer = {'refused': str(error)}
  print(f'{jobs.MARK}{json.dumps(answer)}', flush=True)


if __name__ == '__main__':
  main()
