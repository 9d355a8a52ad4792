"""The teacher phase: rationales and labels of a large language model become records.

`python -m dss_jax.teacher --help`, or `dss_jax.teacher.job.run(...)` from Python.
"""
