"""Log-probabilities of given targets, teacher-forced: whole ones, and of what else might follow."""

import jax
import jax.numpy as jnp

from dss_jax.decode.cache import init_cache
from dss_jax.decode.greedy import PAD_ID, token_log_probs
from dss_jax.models import Network


def score_targets(
    model: Network, params, encoder_input_tokens, targets, given: tuple[int, ...] = ()):
  """How likely each of K target sequences of each input is, teacher-forced.

  An input is encoded, and its keys and values for the decoder are computed, once. The
  candidates are scored one after the other: memory is that of float32 logits [B, T, V], where
  all at once would take [B*K, T, V].

  Args:
    model: the network; packed rows cannot be scored.
    params: its parameters, in the layout that model.config.scan_layers says.
    encoder_input_tokens: int [B, S], padded with 0.
    targets: int [B, K, T], EOS included, padded with 0 at the end.
    given: token ids that the decoder is given first; they are not scored. Static.

  Returns:
    float32 [B, K], sums of log-probabilities over the tokens up to the padding; -inf for
    targets of nothing but padding, which fill up the K.

  Raises:
    ValueError: if the shapes disagree.
  """
  batch = encoder_input_tokens.shape[0]
  if targets.ndim != 3 or targets.shape[0] != batch or not targets.shape[2]:
    raise ValueError(
      f'targets has shape {targets.shape}: pass [batch, candidates, length] with the batch of '
      f'encoder_input_tokens, {batch}, and a length of at least 1.'
    )
  logits_of = _teacher_forced(model, params, encoder_input_tokens, given)

  def score(targets_BxT):
    logits_BxTxV = logits_of(targets_BxT)
    gained_BxT = token_log_probs(logits_BxTxV, targets_BxT)
    real_BxT = _up_to_padding(targets_BxT)
    total_B = jnp.sum(gained_BxT, axis=-1, where=real_BxT)
    return jnp.where(real_BxT[:, 0], total_B, -jnp.inf)

  scores_KxB = jax.lax.map(score, jnp.moveaxis(jnp.asarray(targets), 1, 0))
  return scores_KxB.T


def target_distributions(
    model: Network, params, encoder_input_tokens, targets, top_k: int, size: int,
    given: tuple[int, ...] = ()):
  """What might stand at each position of a target, given what stands before it.

  Args:
    model, params, encoder_input_tokens, given: see `score_targets`.
    targets: int [B, T], EOS included, padded with 0 at the end.
    top_k: static, of the likeliest tokens.
    size: static, ids from here on are left out: rows of the embedding that are no pieces.

  Returns:
    ids, int32 [B, T, k], and their log probabilities among all rows, float32 [B, T, k], from the
    likeliest on; then those of the target's own tokens, float32 [B, T].
  """
  targets_BxT = jnp.asarray(targets)
  logits_BxTxV = _teacher_forced(model, params, encoder_input_tokens, given)(targets_BxT)
  log_probs_BxTxV = jax.nn.log_softmax(logits_BxTxV.astype(jnp.float32), axis=-1)
  log_probs_BxTxK, ids_BxTxK = jax.lax.top_k(log_probs_BxTxV[..., :size], top_k)
  own_BxT = jnp.take_along_axis(log_probs_BxTxV, targets_BxT[..., None], axis=-1)[..., 0]
  return ids_BxTxK, log_probs_BxTxK, own_BxT


def _teacher_forced(model: Network, params, encoder_input_tokens, given: tuple[int, ...]):
  """A function of targets [B, T] that gives the logits [B, T, V] of each of their tokens.

  The inputs are encoded, and their keys and values for the decoder computed, here and once.
  """
  batch = encoder_input_tokens.shape[0]
  cache = init_cache(model, params, encoder_input_tokens, 1)
  variables = {'params': params, 'cross_cache': cache.cross_attention}

  def logits_of(targets_BxT):
    start_BxP = jnp.broadcast_to(
      jnp.array([model.config.start_id, *given], targets_BxT.dtype), (batch, len(given) + 1))
    inputs_BxT = jnp.concatenate([start_BxP, targets_BxT[:, :-1]], axis=1)
    hidden_BxTxD = model.apply(
      variables, None, encoder_input_tokens, inputs_BxT, method='decode_hidden'
    )
    return model.apply(variables, hidden_BxTxD[:, len(given):], method='logits_from_hidden')

  return logits_of


def _up_to_padding(tokens_BxT):
  """True up to a row's last token that is not padding; only what follows it is padding."""
  is_token_BxT = (tokens_BxT != PAD_ID).astype(jnp.int32)
  return jax.lax.cummax(is_token_BxT, axis=1, reverse=True) > 0
