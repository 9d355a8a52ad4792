"""`dss_jax.teach`, `train`, `sweep` and `show`: the programs from Python, and what a cell shows."""
