"""Our greedy and beam search against `generate` of `transformers`: the same tokens.

The networks are trained a little on sorting ragged lists: enough for outputs that depend on
the input and end at different places, too little for a beam search to always agree with a
greedy one.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import traverse_util

from dss_jax import decode, families, models
from dss_jax.convert import hugging_face_config

WHY = "parity with PyTorch: pip install -e '.[parity]'"
torch = pytest.importorskip('torch', reason=WHY)
transformers = pytest.importorskip('transformers', reason=WHY)

TINY = {'vocab_size': 32, 'emb_dim': 32, 'num_heads': 4, 'head_dim': 6, 'mlp_dim': 64,
        'num_encoder_layers': 2, 'num_decoder_layers': 2}
LONGEST = 10
LENGTH = 9  # Shorter than the longest target, 11: some sequences are cut.
EXAMPLES = 200
DEFAULT = {'num_beams': 4, 'num_return': 4, 'length_penalty': 1.0, 'early_stopping': False}
STEPS = 100


def sorting_examples(rng, count):
  """Ragged lists and, sorted and with EOS, targets; int32 [count, LONGEST] and one more."""
  inputs = np.zeros((count, LONGEST), np.int32)
  targets = np.zeros((count, LONGEST + 1), np.int32)
  for row, length in enumerate(rng.integers(1, LONGEST + 1, count)):
    inputs[row, :length] = rng.integers(2, TINY['vocab_size'], length)
    targets[row, :length + 1] = [*sorted(inputs[row, :length]), 1]
  return inputs, targets


def train(config, steps):
  """Parameters in the layout of the config."""
  model = models.Transformer(config)
  optimizer = optax.adam(3e-3)
  rng = np.random.default_rng(0)

  def loss(params, inputs, targets):
    decoder_inputs = jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    logits = model.apply({'params': params}, inputs, decoder_inputs)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return losses.mean(where=targets > 0)

  @jax.jit
  def step(params, state, inputs, targets):
    updates, state = optimizer.update(jax.grad(loss)(params, inputs, targets), state)
    return optax.apply_updates(params, updates), state

  params = nn.unbox(jax.jit(model.init)(jax.random.key(0), *sorting_examples(rng, 2)))['params']
  state = optimizer.init(params)
  for _ in range(steps):
    params, state = step(params, state, *sorting_examples(rng, 64))
  return params


def to_hugging_face(params, config):
  """Our parameters as a model of `transformers`."""
  params = models.unstack_layers(params) if config.scan_layers else params
  weights = {}
  their_name = families.of(config).their_name
  for name, array in traverse_util.flatten_dict(jax.device_get(params), sep='/').items():
    is_transposed = name.endswith(('/kernel', '/rel_embedding'))
    weights[their_name(name)] = torch.tensor(array.T if is_transposed else array)
  fields = hugging_face_config.write(config, np.float32)
  del fields['dtype'], fields['architectures']
  model = transformers.T5ForConditionalGeneration(transformers.T5Config(**fields)).eval()
  tied = config.logits_via_embedding
  if not tied:  # transformers 5 ties every fresh T5; loading would write both into one array.
    model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.shared.weight))
  missing, unexpected = model.load_state_dict(weights, strict=False)
  copies = {'encoder.embed_tokens.weight', 'decoder.embed_tokens.weight'}
  assert not unexpected and set(missing) - copies == ({'lm_head.weight'} if tied else set())
  for name, array in weights.items():
    assert torch.equal(model.state_dict()[name], array), name
  assert model.config.scale_decoder_outputs == tied
  assert torch.equal(model.lm_head.weight, model.shared.weight) == tied
  return model


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
  """The same network twice, and inputs."""

  version: str
  model: models.Transformer
  params: dict
  theirs: 'transformers.T5ForConditionalGeneration'
  inputs: np.ndarray

  def generate(self, **options):
    """tokens int32 [EXAMPLES, num_return, LENGTH], zeros after EOS, and their scores."""
    with torch.no_grad():
      result = self.theirs.generate(
        torch.from_numpy(self.inputs).long(), do_sample=False, max_new_tokens=LENGTH,
        attention_mask=torch.from_numpy((self.inputs > 0).astype(np.int64)),
        return_dict_in_generate=True, output_scores=True, **options)
    tokens = result.sequences[:, 1:].numpy().astype(np.int32)
    tokens = np.pad(tokens, ((0, 0), (0, LENGTH - tokens.shape[1])))
    is_eos = tokens == 1  # Its beam search fills up with EOS, its greedy search with padding.
    tokens = np.where(np.cumsum(is_eos, axis=1) - is_eos > 0, 0, tokens)
    count = options.get('num_return_sequences', 1)
    scores = getattr(result, 'sequences_scores', None)
    scores = None if scores is None else scores.numpy().reshape(EXAMPLES, count)
    return tokens.reshape(EXAMPLES, count, LENGTH), scores

  def log_probs(self, tokens):
    """float64 of our scores, to tell a tie from an error."""
    return np.asarray(jax.jit(functools.partial(decode.score_targets, self.model))(
      self.params, self.inputs, tokens), np.float64)

  def assert_same(self, ours, theirs):
    """Every token; where one differs, the message says by how much the two sequences do."""
    differ = np.any(ours != theirs, axis=-1)
    if np.any(differ):
      margins = np.abs(self.log_probs(ours) - self.log_probs(theirs))[differ]
      pytest.fail(f'{differ.sum()} of {differ.size} differ, by log-probabilities of {margins}')


@functools.cache
def make_pair(version):
  config = models.t5_config(version, 'small', **TINY, scan_layers=version == '1.0')
  params = train(config, STEPS)
  inputs, _ = sorting_examples(np.random.default_rng(1), EXAMPLES)
  return Pair(version, models.Transformer(config), params, to_hugging_face(params, config), inputs)


@pytest.fixture(scope='module', params=['1.0', '1.1'])
def pair(request):
  return make_pair(request.param)


def greedy(pair):
  return np.asarray(jax.jit(functools.partial(decode.greedy_decode, pair.model), static_argnums=2)(
    pair.params, pair.inputs, LENGTH))


@functools.cache
def beam(pair, **options):
  search = functools.partial(decode.beam_search, pair.model, **options)
  return jax.device_get(jax.jit(search, static_argnums=2)(pair.params, pair.inputs, LENGTH))


@pytest.mark.slow
def test_the_outputs_say_something(pair, capsys):
  """Else equality with `generate` would show little."""
  first, best = greedy(pair), beam(pair, **DEFAULT).tokens
  lengths = (first > 0).sum(axis=1)
  distinct = len({tuple(row) for row in first})
  cut = (~np.any(first == 1, axis=1)).sum()
  changed = {'4 beams': np.any(first != best[:, 0], axis=1).sum()}
  for name, value in (('length_penalty', 0.6), ('length_penalty', 2.0), ('early_stopping', True)):
    other = beam(pair, **DEFAULT | {name: value}).tokens
    changed[f'{name}={value}'] = np.any(other != best, axis=(1, 2)).sum()
  with capsys.disabled():
    print(f'\nT5 v{pair.version}: {distinct} distinct greedy outputs of {EXAMPLES}, lengths '
          f'{np.bincount(lengths).tolist()}, {cut} cut; inputs with other outputs by '
          + ', '.join(f'{name}: {count}' for name, count in changed.items()))
  assert distinct > EXAMPLES * 0.7
  assert len(set(lengths.tolist())) >= 6
  assert cut >= 5 and min(changed.values()) >= 10


@pytest.mark.slow
def test_greedy_search(pair):
  theirs, _ = pair.generate(num_beams=1)
  pair.assert_same(greedy(pair)[:, None], theirs)


@pytest.mark.slow
@pytest.mark.parametrize('num_return, length_penalty, early_stopping', [
  (1, 1.0, False), (4, 1.0, False), (4, 0.6, False), (4, 2.0, False), (4, 1.0, True),
  (4, 0.6, True), (4, -1.0, False),
])
def test_beam_search(pair, num_return, length_penalty, early_stopping):
  ours = beam(pair, **DEFAULT | {
    'num_return': num_return, 'length_penalty': length_penalty, 'early_stopping': early_stopping})
  theirs, scores = pair.generate(
    num_beams=4, num_return_sequences=num_return, length_penalty=length_penalty,
    early_stopping=early_stopping)
  pair.assert_same(ours.tokens, theirs)
  np.testing.assert_allclose(ours.scores, scores, rtol=1e-5, atol=1e-5)
