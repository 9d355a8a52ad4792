"""PyTorch models and batches that the parity tests compare with."""

import numpy as np
import pytest

from dss_jax.convert import hugging_face_config

WHY = "parity with PyTorch: pip install -e '.[parity]'"
torch = pytest.importorskip('torch', reason=WHY)
transformers = pytest.importorskip('transformers', reason=WHY)


def save_random_model(folder, config, seed=0, **options):
  """A Hugging Face folder with random weights of T5's own scale, the head not tied for v1.1."""
  torch.manual_seed(seed)
  fields = hugging_face_config.write(config, np.float32)
  del fields['dtype'], fields['architectures']
  hf_config = transformers.T5Config(**fields)
  model = transformers.T5ForConditionalGeneration(hf_config).eval()
  if not config.logits_via_embedding:  # transformers 5 ties every fresh T5.
    head = torch.randn(config.vocab_size, config.emb_dim) * config.emb_dim ** -0.5
    model.lm_head.weight = torch.nn.Parameter(head)
  model.save_pretrained(folder, **options)
  return model


def make_batch(vocab_size, seed=0, batch=3, inputs=40, targets=24):
  """Ragged rows, longer than the first distance whose bias buckets are shared."""
  rng = np.random.default_rng(seed)
  source = rng.integers(2, vocab_size, (batch, inputs))
  target = rng.integers(2, vocab_size, (batch, targets))
  for row in range(1, batch):
    source[row, inputs - 7 * row:] = 0
  return source.astype(np.int32), target.astype(np.int32)


def their_logits(model, source, target):
  decoder_inputs = np.pad(target, ((0, 0), (1, 0)))[:, :-1]
  with torch.no_grad():
    return model(
        input_ids=torch.from_numpy(source).long(),
        attention_mask=torch.from_numpy((source > 0).astype(np.int64)),
        decoder_input_ids=torch.from_numpy(decoder_inputs).long()).logits.numpy()
