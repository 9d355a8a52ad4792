"""A student as StableHLO, for machines with jax, flatbuffers and nothing of this project."""
