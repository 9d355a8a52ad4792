"""The native engine: sharding, state, step, optimizer, checkpoints, evaluation, loop."""
