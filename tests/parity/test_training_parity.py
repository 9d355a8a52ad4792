"""A PyTorch loop made on the spot against our student, objective, optimizer and train step.

Both start from the same random weights and see the same batches: two forward passes there,
label rows and rationale rows in one batch here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import save_random_model

from dss_jax import models, objective
from dss_jax.convert import formats
from dss_jax.convert import weights as weights_lib
from dss_jax.train import config as config_lib
from dss_jax.train import optimizer as optimizer_lib
from dss_jax.train import state as state_lib
from dss_jax.train import step as step_lib

WHY = "parity with PyTorch: pip install -e '.[parity]'"
torch = pytest.importorskip('torch', reason=WHY)
transformers = pytest.importorskip('transformers', reason=WHY)

STEPS, ROWS, ALPHA, RATE = 12, 8, 0.3, 2e-3
TABLE = objective.table(ALPHA)
TINY = {'vocab_size': 96, 'emb_dim': 32, 'num_heads': 4, 'head_dim': 6, 'mlp_dim': 48,
        'num_encoder_layers': 3, 'num_decoder_layers': 2, 'dropout_rate': 0.0}


def ragged(rng, longest):
  """int [ROWS, longest], EOS at the end of every row, 0-padded."""
  rows = np.zeros((ROWS, longest), np.int32)
  for row, length in zip(rows, rng.integers(1, longest + 1, ROWS)):
    row[:length] = [*rng.integers(2, TINY['vocab_size'], length - 1), 1]
  return rows


def make_batches():
  rng = np.random.default_rng(0)
  return [{'label': (ragged(rng, 30), ragged(rng, 6)),
           'rationale': (ragged(rng, 30), ragged(rng, 20))} for _ in range(STEPS + 1)]


def torch_losses(model, batch):
  def loss(inputs, targets):
    inputs, targets = torch.from_numpy(inputs).long(), torch.from_numpy(targets).long()
    return model(input_ids=inputs, attention_mask=(inputs > 0).long(),
                 labels=targets.masked_fill(targets == 0, -100)).loss
  label, rationale = loss(*batch['label']), loss(*batch['rationale'])
  return ALPHA * label + (1 - ALPHA) * rationale, label, rationale


def torch_loop(model, batches):
  optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
  schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
  lines = []
  for batch in batches[:STEPS]:
    loss, label, rationale = torch_losses(model, batch)
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    lines.append([x.item() for x in (loss, label, rationale, norm)])
  with torch.no_grad():
    lines.append([*(x.item() for x in torch_losses(model, batches[STEPS])), np.nan])
  return np.array(lines)


def our_batch(batch):
  def joined(index, width):
    arrays = [batch[task][index] for task in ('label', 'rationale')]
    return np.concatenate([np.pad(a, ((0, 0), (0, width - a.shape[1]))) for a in arrays])
  targets = joined(1, 20)
  tasks = np.repeat([objective.LABEL, objective.RATIONALE], ROWS)[:, None] * (targets > 0)
  return {'encoder_input_tokens': joined(0, 30), 'decoder_target_tokens': targets,
          'decoder_input_tokens': np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
          'decoder_objective': tasks.astype(np.int32)}


def our_loop(model, params, batches):
  config = config_lib.OptimizerConfig(learning_rate=RATE)
  schedule = optimizer_lib.make_schedule(config, STEPS)
  optimizer = optimizer_lib.make_optimizer(config, schedule)
  train_step = jax.jit(step_lib.make_train_step(model, optimizer, schedule, objectives=TABLE))
  state = state_lib.TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
  lines = []
  for batch in batches[:STEPS]:
    state, metrics = train_step(state, our_batch(batch))
    lines.append([float(metrics[name]) for name in
                  ('loss', 'label_loss', 'rationale_loss', 'gradient_norm')])
  sums = jax.jit(step_lib.make_eval_step(model, TABLE))(state.params, our_batch(batches[STEPS]))
  final = objective.summarize(sums, TABLE)
  lines.append([*(float(final[name]) for name in ('loss', 'label_loss', 'rationale_loss')), np.nan])
  return np.array(lines)


@pytest.mark.parametrize('version', ['1.0', '1.1'])
def test_training_is_that_of_pytorch(version, tmp_path, capsys):
  """Losses and gradient norm of every step, and the loss after the last, to 1e-4 relative."""
  theirs = save_random_model(tmp_path, models.t5_config(version, 'small', **TINY))
  weights = formats.open_weights(str(tmp_path))
  params = weights_lib.load_params(weights, weights.config)
  batches = make_batches()
  ours = our_loop(models.Transformer(weights.config), params, batches)
  expected = torch_loop(theirs, batches)
  difference = np.nanmax(np.abs(ours / expected - 1), axis=0)
  with capsys.disabled():
    print(f'\nT5 v{version}, {STEPS} steps: largest relative difference of loss, label loss, '
          f'rationale loss, gradient norm: {", ".join(f"{x:.1e}" for x in difference)}')
  assert expected[0, 0] - expected[STEPS - 1, 0] > 0.1  # It learns something.
  assert (difference < 1e-4).all()
