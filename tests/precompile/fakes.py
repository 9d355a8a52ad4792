"""A compiler that answers at once: memory by microbatches, and a list of what it was asked."""

from dss_jax.precompile import collectives, jobs

GIB = 2**30


class Compiler:
  """Stands in for `jobs.run`: `temporaries / microbatches` GiB and `fixed` GiB of arguments."""

  def __init__(self, temporaries=28.0, arguments=3.0, broken=()):
    self.temporaries, self.arguments, self.broken = temporaries, arguments, dict(broken)
    self.asked = []

  def __call__(self, job, timeout):
    self.asked.append((job.kind, job.topology, job.config.microbatches))
    if job.config.microbatches in self.broken:
      return self.broken[job.config.microbatches]
    if job.kind == 'decode':
      return compiled(1.0, self.arguments / 3, 7.0)
    needed = self.temporaries / job.config.microbatches
    if needed > 15.75:
      return jobs.Outcome(jobs.NO_ROOM, 3.0, facts={
          'seconds': 2.0, 'temporaries': int(needed * GIB)})
    return compiled(needed, self.arguments, 60.0)


def compiled(temporaries, arguments, seconds):
  moved = dict.fromkeys(collectives.KINDS, 0)
  return jobs.Outcome(jobs.COMPILED, seconds + 5, facts={
      'seconds': seconds, 'cpu_seconds': 2 * seconds, 'memory': {
          'arguments': int(arguments * GIB), 'temporaries': int(temporaries * GIB), 'results': 0,
          'program': 0},
      'collectives': {'whole': moved | {'all-reduce': 3 * GIB}, 'per_pass': dict(moved),
                      'unknown_loops': 0}})
