"""Prediction with a trained student: from Python (`dss_jax.load`) and over files."""
