"""Task features -> model features, with the task of every target token alongside."""

from collections.abc import Mapping

import seqio
import tensorflow as tf

from dss_jax import divergence, errors, objective
from dss_jax.data import packed_dataset

OBJECTIVE = 'decoder_objective'
READ = 'decoder_cross_segment_ids'
DISTRIBUTION = 'decoder_distribution'


class DssFeatureConverter(seqio.EncDecFeatureConverter):
  """SeqIO's encoder-decoder features plus `decoder_objective`, packed by our own packer.

  `decoder_objective` holds LABEL, RATIONALE, ... or PADDING for every target token, and
  `decoder_distribution`, where the examples have one, int32 [2 k], see `divergence`. Task features
  are SeqIO's usual `inputs` and `targets`; `objective` rides along as an extra feature, so
  tasks and mixtures stay usable with stock converters.
  """

  MODEL_FEATURES = {
      **seqio.EncDecFeatureConverter.MODEL_FEATURES,
      OBJECTIVE: seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
  }

  def __init__(self, pack: bool = True, window: int = packed_dataset.WINDOW,
               share_inputs: bool = False, **kwargs):
    """`pack` and the rest as SeqIO's converter; `window`, `share_inputs`: `packed_dataset.pack`'s.

    Packed rows with shared inputs have `decoder_cross_segment_ids`: which input a target reads.
    """
    # SeqIO's length checks assert row by row what our packer and its own padding guarantee, and
    # its packer, unlike ours, takes features of one number a token only.
    super().__init__(pack=pack, **{
        'apply_length_check': False, 'use_custom_packing_ops': True, **kwargs})
    self._window = window
    self._share_inputs = share_inputs and pack
    self._stored: list[str] = []
    if self._share_inputs:
      self.PACKING_FEATURE_DTYPES = {
          **seqio.EncDecFeatureConverter.PACKING_FEATURE_DTYPES, READ: tf.int32}

  @tf.autograph.experimental.do_not_convert
  def __call__(self, ds: tf.data.Dataset, *args, **kwargs) -> tf.data.Dataset:
    """See SeqIO's."""
    self._stored = [DISTRIBUTION] if divergence.FEATURE in ds.element_spec else []
    of_tokens = seqio.FeatureConverter.FeatureSpec(dtype=tf.int32, rank=2)
    self.MODEL_FEATURES = {
        **type(self).MODEL_FEATURES, **dict.fromkeys(self._stored, of_tokens)}
    return super().__call__(ds, *args, **kwargs)

  def _pack_or_pad(
      self, ds: tf.data.Dataset, packed_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    if objective.FEATURE not in ds.element_spec:
      raise errors.UserError(
          f"the examples have no {objective.FEATURE!r} feature, so the two losses cannot be told "
          'apart; a plain seqio.Mixture drops it: build the mixture with '
          'mixture_cls=dss_jax.data.DssMixture')
    if self.pack:
      return packed_dataset.pack(ds, packed_lengths, self._window, self._share_inputs)
    ds = ds.map(lambda ex: {name: ex[name] for name in ex if name != packed_dataset.SAME_INPUT})
    lengths = {**packed_lengths, **dict.fromkeys(
        (objective.FEATURE, divergence.FEATURE), packed_lengths['targets'])}
    return seqio.utils.trim_and_pad_dataset(ds, lengths)

  def _convert_example(self, features: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
    converted = super()._convert_example(features)
    more = {READ: features[packed_dataset.READ]} if self._share_inputs else {}
    for name in self._stored:
      more[name] = features[divergence.FEATURE]
    return {**converted, OBJECTIVE: features[objective.FEATURE], **more}

  def get_model_feature_lengths(
      self, task_feature_lengths: Mapping[str, int]
  ) -> Mapping[str, int]:
    lengths = super().get_model_feature_lengths(task_feature_lengths)
    shared = [READ] if self._share_inputs else []
    return {**lengths, **dict.fromkeys(
        [OBJECTIVE, *shared, *self._stored], task_feature_lengths['targets'])}
