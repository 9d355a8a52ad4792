"""The paper's datasets (and the quick start's toy set), registered under their SeqIO names.

`import dss_jax.tasks` touches no file and no network; records are looked up when a task is
used. Each module describes one dataset: how a row becomes an input, its labels, its metric.
"""

from dss_jax.tasks import anli, asdiv, cqa, esnli, svamp, toy

__all__ = ['anli', 'asdiv', 'cqa', 'esnli', 'svamp', 'toy']
