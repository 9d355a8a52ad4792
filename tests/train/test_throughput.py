"""Rates: what counts as an example, a token and useful arithmetic."""

import jax
import numpy as np
import pytest

from dss_jax import models
from dss_jax.models import flops
from dss_jax.train import throughput

PACKED = {
    'encoder_input_tokens': np.array([[5, 6, 1, 7, 1, 0], [5, 1, 0, 0, 0, 0]], np.int32),
    'encoder_segment_ids': np.array([[1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0]], np.int32),
    'decoder_target_tokens': np.array([[3, 1, 4, 1], [3, 8, 1, 0]], np.int32),
    'decoder_segment_ids': np.array([[1, 1, 2, 2], [1, 1, 1, 0]], np.int32),
}
PADDED = {
    'encoder_input_tokens': np.array([[5, 6, 1, 0], [7, 1, 0, 0], [5, 1, 0, 0], [0] * 4], np.int32),
    'decoder_target_tokens': np.array([[3, 1, 0], [4, 1, 0], [3, 8, 1], [0] * 3], np.int32),
}


def test_lengths_of_packed_and_padded_examples():
  for batch in (PACKED, PADDED):
    sources, targets, _ = throughput.example_lengths(batch)
    pairs = sorted((int(s), int(t)) for s, t in zip(sources, targets, strict=True) if s or t)
    assert pairs == [(2, 2), (2, 3), (3, 2)]


@pytest.mark.parametrize('batch', [PACKED, PADDED])
def test_rates(batch, monkeypatch):
  config = models.T5Config(vocab_size=64, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=16,
                           num_encoder_layers=1, num_decoder_layers=1)
  monkeypatch.setattr(throughput, 'peak', lambda kind: 1e6)
  rates = throughput.Throughput(config, devices=2)
  rates.add(batch)
  rates.reset()
  rates.add(batch)
  rates.add(batch)
  found = rates.rates(2.0)
  assert found['examples_per_second'] == 3 and found['tokens_per_second'] == 14
  needed = flops.training_flops(config, [3, 2, 2], [2, 2, 3])
  assert found['percent_of_peak'] == pytest.approx(100 * needed / 2e6)


def test_an_unknown_chip_has_no_share():
  assert 'percent_of_peak' not in throughput.Throughput(models.T5Config()).rates(1.0)


@pytest.mark.parametrize('kind, row', [
    ('TPU v4', 'v4'), ('TPU v5 lite', 'v5e'), ('TPU v5', 'v5p'), ('TPU v5p', 'v5p'),
    ('TPU v6 lite', 'v6e'), ('NVIDIA A100-SXM4-40GB', 'a100'), ('NVIDIA H100 PCIe', None),
    ('NVIDIA H100 80GB HBM3', 'h100'), ('NVIDIA H200', 'h200'), ('NVIDIA GH200 480GB', None),
    ('NVIDIA L4', None), ('TPU v2', None)])
def test_chips(kind, row):
  from dss_jax.precompile import topologies
  assert throughput.peak(kind) == (row and topologies.CHIPS[row].peak)



def test_compilation_is_counted():
  before = throughput.compile_seconds()
  jax.jit(lambda x: x * 1.2345 + before)(np.ones(3)).block_until_ready()
  assert throughput.compile_seconds() > before
