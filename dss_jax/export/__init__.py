"""A student as StableHLO, for machines that have jax and nothing of this project."""
