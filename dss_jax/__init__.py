"""dss_jax: Distilling Step-by-Step (Hsieh et al., ACL 2023) for JAX, Flax and SeqIO.

Importing the package is cheap: no TensorFlow, no SeqIO, no device is touched until a
submodule that needs them is imported. `docs/architecture.md` says what lives where.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from dss_jax.predict.student import Student

__version__ = '0.1.0'


def load(path: str, **options: Any) -> 'Student':
  """Loads a trained student: `dss_jax.load('runs/dss_cqa').predict(['an input'])`.

  See `dss_jax.predict.student.load` for the options and the errors.
  """
  from dss_jax.predict import student
  return student.load(path, **options)
