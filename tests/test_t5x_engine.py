"""The objective on T5X: the native engine's loss and gradients, whatever the microbatches.

Skips where T5X is not importable; docs/t5x.md says how to get it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip('t5x', reason='T5X is on no package index; docs/t5x.md says how to get it')

import seqio
from flax import linen as nn
from flax import traverse_util
from t5x import adafactor, decoding, losses, optimizers, partitioning, train_state
from t5x.examples.t5 import network

from dss_jax import divergence, errors, models, objective, t5x_engine, t5x_network
from dss_jax.data import pipeline
from dss_jax.train import config as config_lib
from dss_jax.train import optimizer as optimizer_lib
from dss_jax.train import step as step_lib

SIZES = {'vocab_size': 128, 'emb_dim': 32, 'num_heads': 8, 'head_dim': 4, 'num_encoder_layers': 2,
         'num_decoder_layers': 2, 'mlp_dim': 64, 'dropout_rate': 0.0}
LENGTHS = {'inputs': 48, 'targets': 24}
ALPHA = 0.3
TABLE = objective.table(ALPHA)


@pytest.fixture(scope='module')
def student():
  config = models.T5Config(**SIZES, mlp_activations=('gelu', 'linear'),
                           logits_via_embedding=False, dtype='float32', scan_layers=False)
  module = models.Transformer(config)
  return module, nn.unbox(models.init_params(module, jax.random.key(0)))


def make_model(module, **arguments):
  vocabulary = seqio.PassThroughVocabulary(SIZES['vocab_size'])
  return t5x_engine.EncoderDecoderModel(
      module, vocabulary, vocabulary, optimizers.sgd(1.0), alpha=ALPHA, **arguments)


SHAPE = network.T5Config(**SIZES, dtype='float32', mlp_activations=('gelu', 'linear'),
                         logits_via_embedding=False)
NETWORKS = {'theirs': network.Transformer(SHAPE),
            'ours': t5x_network.Transformer(t5x_network.config(SHAPE))}


@pytest.fixture(scope='module', params=NETWORKS)
def t5x_model(request):
  return make_model(NETWORKS[request.param])


@pytest.fixture(params=[True, False], ids=['packed', 'unpacked'])
def batch(request, toy_data):
  rows = pipeline.eval_batches('dss_toy', 'train', LENGTHS, batch_size=16, pack=request.param)
  return next(rows)


def _flat(tree):
  return traverse_util.flatten_dict(tree, sep='/')


def _assert_close(ours, theirs, tolerance, rounding=0.0):
  ours, theirs = _flat(ours), _flat(theirs)
  assert set(ours) == set(theirs)
  for name, value in ours.items():
    scale = np.abs(value).max() or 1.0
    np.testing.assert_allclose(
        theirs[name], value, atol=tolerance * scale + rounding, rtol=0, err_msg=name)


def variables(model):
  shapes = {'encoder_input_tokens': (8, 8), 'decoder_input_tokens': (8, 8)}
  return model.get_initial_variables(jax.random.key(0), shapes)


def test_the_parameters_have_the_same_names_and_axes(student, t5x_model):
  found = jax.eval_shape(lambda: variables(t5x_model))
  ours = {name: value.shape for name, value in _flat(student[1]).items()}
  assert {name: value.shape for name, value in _flat(found['params']).items()} == ours
  axes = {name: value.names for name, value in _flat(variables(t5x_model)['params_axes']).items()}
  theirs = variables(make_model(NETWORKS['theirs']))['params_axes']
  assert axes == {name: value.names for name, value in _flat(theirs).items()}


@pytest.mark.parametrize('decode', [
    functools.partial(decoding.temperature_sample, temperature=0.0), decoding.beam_search],
    ids=['greedy', 'beams'])
@pytest.mark.parametrize('scan_layers', [False, True])
def test_our_network_decodes_what_theirs_does(student, toy_data, decode, scan_layers):
  batch = next(pipeline.eval_batches('dss_toy', 'train', LENGTHS, batch_size=8, pack=False))
  params = jax.tree.map(lambda x: 3 * x, student[1])  # Not the same token for ever.
  ours = t5x_network.Transformer(t5x_network.config(SHAPE, scan_layers=scan_layers))
  scanned = models.stack_layers(params) if scan_layers else params
  rows, scores = [], []
  for module, given in ((NETWORKS['theirs'], params), (ours, scanned)):
    found, aux = make_model(module, decode_fn=decode).predict_batch_with_aux(
        given, batch, num_decodes=1 if decode is not decoding.beam_search else 3,
        return_all_decodes=True)
    rows.append(np.asarray(found))
    scores.append(np.asarray(aux['scores']))
  np.testing.assert_array_equal(*rows)
  np.testing.assert_allclose(*scores, rtol=1e-4)
  assert len({tuple(row) for row in rows[0][:, -1]}) > 4


def test_loss_and_gradients_are_the_native_engines(student, t5x_model, batch):
  module, params = student
  (loss, metrics), grads = jax.value_and_grad(t5x_model.loss_fn, has_aux=True)(params, batch, None)
  wanted, sums = step_lib.gradients(module, params, batch, objectives=TABLE)
  summary = objective.summarize(sums, TABLE)
  assert loss == pytest.approx(float(summary['loss']), rel=1e-5)
  _assert_close(wanted, grads, 1e-4)
  for task in ('label', 'rationale'):
    assert float(metrics[f'{task}/loss'].compute()) == pytest.approx(
        float(summary[f'{task}_loss']), rel=1e-5)
    assert float(metrics[f'{task}/token_accuracy'].compute()) == pytest.approx(
        float(summary[f'{task}_token_accuracy']) / 100, rel=1e-6)
  assert float(metrics['label/tokens'].total) == float(summary['label_tokens']) > 0


@pytest.mark.parametrize('weight', [0.2, ((0, 0.0), (6, 0.4))], ids=['fixed', 'scheduled'])
def test_a_third_objective_is_weighed_as_by_the_native_engine(student, batch, weight):
  """The same loss and gradients of three rows, one of them absent, in microbatches too."""
  row = ('premise', '[premise] ', 'teacher_label', weight)
  model = make_model(NETWORKS['ours'], objectives=[row], first_step=-3)
  assert model.objectives == objective.table(ALPHA, rows=[row])
  table, last = (objective.table(ALPHA, rows=[(*row[:3], at)])
                 for at in (0.2, 0.2 if weight == 0.2 else 0.4))
  for tasks in ((1, 2, 3), (1, 3)):
    of_row = np.resize(tasks, (16, 1)).astype(np.int32)
    batch = {**batch, 'decoder_objective': of_row * (batch['decoder_objective'] > 0)}
    grads, metrics = _one_step(student, model, batch, 2)
    wanted, sums = step_lib.gradients(student[0], student[1], batch, objectives=table)
    # A norm's scale is 1: what is seen of its small gradient, old - new, has float32's step there.
    _assert_close(wanted, grads, 1e-5, rounding=2.0**-23)
    summary = objective.summarize(sums, table)
    assert float(metrics['loss'].total) == pytest.approx(float(summary['loss']), rel=1e-5)
    loss, metrics = model.loss_fn(student[1], batch, None)
    assert float(loss) == pytest.approx(float(objective.summarize(sums, last)['loss']), rel=1e-5)
    for one in table:
      assert float(metrics[f'{one.name}/loss'].compute()) == pytest.approx(
          float(summary[f'{one.name}_loss']), rel=1e-5)


@pytest.mark.parametrize('microbatches', [1, 4])
def test_smoothing_and_z_loss_are_the_native_engines(student, batch, microbatches):
  """And T5X's own, but for the share: its one-hot targets leave out the piece itself."""
  model = make_model(NETWORKS['ours'], label_smoothing=0.1, z_loss=1e-2)
  grads, metrics = _one_step(student, model, batch, microbatches)
  wanted, sums = step_lib.gradients(
      student[0], student[1], batch, objectives=TABLE, terms=objective.Terms(0.1, 1e-2))
  _assert_close(wanted, grads, 1e-5, rounding=2.0**-23)
  assert float(metrics['label/loss'].compute()) == pytest.approx(
      float(objective.summarize(sums, TABLE)['label_loss']), rel=1e-5)


@pytest.mark.parametrize('microbatches', [1, 4])
@pytest.mark.parametrize('direction', divergence.DIRECTIONS)
def test_token_distributions_are_learnt_as_by_the_native_engine(
    student, batch, direction, microbatches):
  rng = np.random.default_rng(0)
  tokens = batch['decoder_target_tokens']
  ids = np.argsort(rng.random((*tokens.shape, SIZES['vocab_size'])))[..., :3].astype(np.int32)
  log_p = np.log(rng.dirichlet(np.ones(4), tokens.shape)[..., :3] + 1e-9).astype(np.float32)
  stored = np.concatenate([ids, log_p.view(np.int32)], axis=-1)
  known = (tokens > 0) & (rng.random(tokens.shape) < 0.7)
  batch = {**batch, 'decoder_distribution': stored * known[..., None]}
  model = make_model(NETWORKS['ours'], token_distributions=direction,
                     token_distribution_weight=0.7, label_smoothing=0.1)
  grads, metrics = _one_step(student, model, batch, microbatches)
  terms = objective.Terms(0.1, 0.0, direction, 0.7)
  wanted, sums = step_lib.gradients(
      student[0], student[1], batch, objectives=TABLE, terms=terms)
  _assert_close(wanted, grads, 1e-5, rounding=2.0**-23)
  assert float(metrics['label/loss'].compute()) == pytest.approx(
      float(objective.summarize(sums, TABLE)['label_loss']), rel=1e-5)
  del batch['decoder_distribution']  # As in validation.
  without, _ = step_lib.gradients(
      student[0], student[1], batch, objectives=TABLE, terms=objective.Terms(0.1))
  _assert_close(without, _one_step(student, model, batch, microbatches)[0], 1e-5,
                rounding=2.0**-23)
  assert any(np.abs(value - _flat(wanted)[name]).max() > 1e-3
             for name, value in _flat(without).items())


def test_our_terms_are_t5xs():
  logits = jax.random.normal(jax.random.key(0), (2, 5, 11)) * 3
  targets, tasks = jnp.ones((2, 5), jnp.int32), jnp.ones((2, 5), jnp.int32)
  ours = jax.grad(lambda x: objective.weighted_loss(
      x, targets, tasks, jnp.ones(2), objective.table(1.0),
      terms=objective.Terms(0.1 * 11 / 10, 1e-2))[0])(logits)
  theirs = jax.grad(lambda x: losses.compute_weighted_cross_entropy(
      x, targets, jnp.ones((2, 5)), label_smoothing=0.1, z_loss=1e-2)[0])(logits)
  np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_task_without_tokens_adds_nothing_and_no_nan(student, t5x_model, batch):
  only_labels = {**batch, 'decoder_objective': np.where(
      batch['decoder_objective'] == objective.LABEL, objective.LABEL, 0)}
  loss, metrics = t5x_model.loss_fn(student[1], only_labels, None)
  assert float(loss) == pytest.approx(ALPHA * float(metrics['label/loss'].compute()), rel=1e-5)
  assert float(metrics['rationale/loss'].compute()) == 0.0


def _one_step(student, t5x_model, batch, microbatches):
  """(gradients, metrics) of T5X's trainer on the eight devices: SGD at rate 1 shows them."""
  params = jax.tree.map(jnp.array, student[1])
  axes = variables(t5x_model)['params_axes']
  state = train_state.FlaxOptimTrainState.create(
      t5x_model.optimizer_def, {'params': params, 'params_axes': axes})
  partitioner = partitioning.PjitPartitioner(
      num_partitions=1, logical_axis_rules=partitioning.standard_logical_axis_rules())
  trainer = t5x_engine.Trainer(
      t5x_model, state, partitioner, [], None, partitioner.get_mesh_axes(state),
      jax.random.key(0), lambda step: jnp.float32(1.0), microbatches)
  with partitioner.mesh:
    after, metrics = trainer._partitioned_train_step(state, dict(batch))
  return jax.tree.map(lambda old, new: np.asarray(old - new), student[1], dict(after.params)), {
      name: metrics[name] for name in ('label/loss', 'rationale/loss', 'loss')}


@pytest.mark.parametrize('microbatches', [1, 2, 4])
def test_microbatches_on_eight_devices_give_the_gradient_of_one_batch(
    student, t5x_model, batch, microbatches):
  assert jax.device_count() == 8
  grads, metrics = _one_step(student, t5x_model, batch, microbatches)
  wanted, sums = step_lib.gradients(student[0], student[1], batch, objectives=TABLE)
  _assert_close(wanted, grads, 1e-5)
  summary = objective.summarize(sums, TABLE)
  assert float(metrics['loss'].total) == pytest.approx(float(summary['loss']), rel=1e-5)
  assert float(metrics['label/loss'].compute()) == pytest.approx(
      float(summary['label_loss']), rel=1e-5)


def test_microbatches_differ_without_the_counts(student, t5x_model, batch):
  """What T5X's own trainer would do: the test above can fail."""
  parts = [{name: rows[8 * i:8 * i + 8] for name, rows in batch.items()} for i in range(2)]
  grads = [jax.grad(lambda p, part=part: t5x_model.loss_fn(p, part, None)[0])(student[1])
           for part in parts]
  summed = jax.tree.map(jnp.add, *grads)
  wanted, _ = step_lib.gradients(student[0], student[1], batch, objectives=TABLE)
  with pytest.raises(AssertionError):
    _assert_close(wanted, summed, 1e-2)


@pytest.mark.parametrize('fields', [
    {'name': 'adamw'},
    {'name': 'adamw_transformers4', 'weight_decay': 0.1, 'no_decay': ('scale',)}])
def test_the_optimizer_and_its_schedule_are_the_native_engines(student, fields):
  config = config_lib.OptimizerConfig(learning_rate=1e-3, warmup_steps=2, **fields)
  ours = optimizer_lib.make_optimizer(config, optimizer_lib.make_schedule(config, 10))
  params = wanted = student[1]
  definition = t5x_engine.adamw(steps=1010, rate=1e-3, warmup_steps=2, first_step=1000, **fields)
  state, wanted_state = definition.init_state(params), ours.init(params)
  for i in range(4):
    grads = jax.tree.map(lambda x, i=i: jnp.cos(x * 7 + i), params)
    params, state = definition.apply_gradient(definition.hyper_params, params, state, grads)
    updates, wanted_state = ours.update(grads, wanted_state, wanted)
    wanted = jax.tree.map(jnp.add, wanted, updates)
  _assert_close(wanted, params, 1e-7)
  rates = t5x_engine.learning_rate(steps=1010, rate=1e-3, warmup_steps=2, first_step=1000)
  assert [float(rates(1000 + i)) for i in (0, 1, 2, 10)] == pytest.approx(
      [0, 5e-4, 1e-3, 0], abs=1e-9)


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'z_loss': -1e-4}, 'Z_LOSS=-0.0001: use a number of at least 0'),
    ({'label_smoothing': 1.0}, 'LABEL_SMOOTHING=1.0: use a number in'),
    ({'loss_normalizing_factor': 1024}, 'LOSS_NORMALIZING_FACTOR = 1024 .*= None'),
    ({'loss_normalizing_factor': 0}, 'LOSS_NORMALIZING_FACTOR = 0 '),
])
def test_terms_that_are_none_are_refused(arguments, message):
  with pytest.raises(errors.UserError, match=message):
    make_model(NETWORKS['theirs'], **arguments)
  make_model(NETWORKS['theirs'], z_loss=0, label_smoothing=0.0, loss_normalizing_factor=None)


@pytest.mark.parametrize('arguments', [{'early_stopping': 2}, {'ema_decay': 0.9}])
def test_what_only_the_native_trainer_does_is_refused(arguments):
  (name,) = arguments
  with pytest.raises(errors.UserError, match=f'{name.upper()} = .* native engine'):
    t5x_engine.Trainer(**arguments)


def test_a_shared_encoder_is_refused():
  with pytest.raises(errors.UserError, match='SHARED_ENCODER = True: .* native engine'):
    t5x_engine.data(shared_encoder=True)


def test_an_optimizer_that_is_not_here_is_refused():
  for name in ('adafactor', adafactor.Adafactor()):
    with pytest.raises(errors.UserError, match='OPTIMIZER=.*EncoderDecoderModel.optimizer_def'):
      t5x_engine.adamw(steps=10, rate=1e-3, name=name)


@pytest.mark.parametrize('scanned', [False, True])
@pytest.mark.parametrize('weight_decay', [0.0, 0.1])
def test_our_adafactor_is_t5xs(scanned, weight_decay):
  """With its rule for logical axes, in stacks too; our decay is its with an exponent of 1."""
  config = models.T5Config(
      vocab_size=200, emb_dim=128, num_heads=4, head_dim=40, num_encoder_layers=2,
      num_decoder_layers=3, mlp_dim=136, scan_layers=scanned)
  boxed = models.init_params(models.Transformer(config), jax.random.key(0))
  params = wanted = nn.unbox(boxed)
  settings = config_lib.OptimizerConfig(name='adafactor', weight_decay=weight_decay)
  ours = optimizer_lib.make_optimizer(settings, lambda step: 1e-2)
  theirs = adafactor.Adafactor(
      learning_rate=1e-2, weight_decay_rate=weight_decay or None,
      weight_decay_rate_lr_exponent=1.0 if weight_decay else None,
      logical_factor_rules=adafactor.standard_logical_factor_rules())
  theirs.set_param_axes(jax.tree.map(
      lambda leaf: partitioning.PartitionSpec(*leaf.names), boxed,
      is_leaf=lambda leaf: isinstance(leaf, nn.meta.AxisMetadata)))
  state, their_state = ours.init(params), theirs.init_state(params)
  for i in range(4):
    grads = jax.tree.map(lambda x, i=i: jnp.cos(x * 70 + i) * (i + 1), wanted)
    updates, state = ours.update(grads, state, params)
    params = jax.tree.map(jnp.add, params, updates)
    wanted, their_state = theirs.apply_gradient(theirs.hyper_params, wanted, their_state, grads)
  _assert_close(wanted, params, 1e-6)
  with pytest.raises(AssertionError):
    _assert_close(nn.unbox(boxed), params, 1e-2)  # They have moved.
