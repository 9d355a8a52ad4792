"""Compiles T5X's train step, and says what memory it needs: what `memory.py --peer=t5x` starts.

T5X's own step (`trainer.train_with_lr`) with its network and the native engine's AdamW. The
request is a JSON object on stdin, the answer the last line of stdout.
"""

import importlib
import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import seqio
from jax.sharding import SingleDeviceSharding
from t5x import models, train_state, trainer

from dss_jax import t5x_engine
from dss_jax.precompile import compiled as compiled_lib
from dss_jax.precompile import topologies

STEPS, RATE = 10_000, 5e-5


def main() -> None:
  """Reads, compiles, answers."""
  asked = json.load(sys.stdin)
  device = (jax.devices('cpu') if asked['chip'] == 'cpu' else
            topologies.devices(topologies.parse(asked['chip'])))[0]
  lowered = lower(asked, SingleDeviceSharding(device))
  began = time.monotonic()
  compiled = lowered.compile()
  seconds = time.monotonic() - began
  print(json.dumps({'memory': compiled_lib.memory_of(compiled), 'seconds': seconds}))


def lower(asked: dict[str, Any], place: SingleDeviceSharding) -> jax.stages.Lowered:
  """The step for one device, state donated as T5X does."""
  model = make_model(asked)
  batch = features(asked)
  shapes = {name: batch[name].shape for name in ('encoder_input_tokens', 'decoder_input_tokens')}

  def initial():
    variables = model.get_initial_variables(jax.random.key(0), shapes)
    return train_state.FlaxOptimTrainState.create(model.optimizer_def, variables)

  def step(state, batch, seed):
    return trainer.train_with_lr(
        state, batch, learning_rate=jnp.float32(RATE), dropout_rng=jax.random.PRNGKey(seed),
        model=model, num_microbatches=asked['microbatches'])

  placed = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
      (jax.eval_shape(initial), batch, jax.ShapeDtypeStruct((), jnp.int32)))
  return jax.jit(step, donate_argnums=0).lower(*placed)


def make_model(asked: dict[str, Any]) -> models.EncoderDecoderModel:
  """T5X's model on one of its example networks, with its own loss or ours."""
  network = importlib.import_module(f't5x.examples.{asked["example"]}.network')
  more = {} if asked['example'] == 't5' else {
      'remat_policy': asked['remat'], 'scan_layers': True}
  config = network.T5Config(**asked['network'], dtype=asked['dtype'], dropout_rate=0.1, **more)
  vocabulary = seqio.PassThroughVocabulary(config.vocab_size)
  optimizer = t5x_engine.adamw(STEPS, RATE)
  if asked['loss'] == 'DSS':
    return t5x_engine.EncoderDecoderModel(
        network.Transformer(config), vocabulary, vocabulary, optimizer)
  return models.EncoderDecoderModel(
      network.Transformer(config), vocabulary, vocabulary, optimizer, z_loss=1e-4)


def features(asked: dict[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
  """A packed batch of int32 tokens; with our loss, each target token's task, too."""
  names = {'encoder': ('input_tokens', 'segment_ids', 'positions'),
           'decoder': ('input_tokens', 'target_tokens', 'loss_weights', 'segment_ids', 'positions',
                       *(['objective'] if asked['loss'] == 'DSS' else []))}
  lengths = {'encoder': asked['lengths']['inputs'], 'decoder': asked['lengths']['targets']}
  return {f'{side}_{name}': jax.ShapeDtypeStruct((asked['rows'], lengths[side]), jnp.int32)
          for side, found in names.items() for name in found}


if __name__ == '__main__':
  main()
