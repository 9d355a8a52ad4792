"""Training data: records -> SeqIO tasks and mixtures -> batches of token arrays."""

from dss_jax.data.feature_converter import DssFeatureConverter
from dss_jax.data.registration import DssMixture, register
from dss_jax.data.settings import DataSettings, configure

__all__ = ['DataSettings', 'DssFeatureConverter', 'DssMixture', 'configure', 'register']
