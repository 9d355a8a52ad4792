"""dss_jax: Distilling Step-by-Step (Hsieh et al., ACL 2023) for JAX, Flax and SeqIO.

Importing the package is cheap: no TensorFlow, no SeqIO, no device is touched until a
submodule that needs them is imported. `docs/architecture.md` says what lives where.
"""

__version__ = '0.1.0'
