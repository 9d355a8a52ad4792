"""Checkpoints in and out: Hugging Face, T5X, native."""
