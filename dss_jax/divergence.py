"""How far a student's distribution over the next token is from what a teacher's was stored as.

Of each target token k ids and their log probabilities p_1..p_k are known, and what they leave of
the vocabulary is one cell more, p_rest = 1 - sum_i p_i. Of this partition, with q the student's,

    forward   sum_i p_i (log p_i - log q_i) + p_rest (log p_rest - log q_rest)
    reverse   sum_i q_i (log q_i - log p_i) + q_rest (log q_rest - log p_rest)

which are the divergences of the whole distributions where k is all of the vocabulary, and at most
these elsewhere. Pure JAX and NumPy.
"""

import jax
import jax.numpy as jnp
import numpy as np

FEATURE = 'distribution'  # of an example: int32 [tokens, 2 k], see `pack`
DIRECTIONS = ('forward', 'reverse')
TOP_K = 8  # that `dss distributions` stores where nothing is said
_FLOOR = 1e-6  # of p_rest and q_rest: float32 sums of probabilities are no nearer to 1


def pack(ids_TxK: np.ndarray, log_probs_TxK: np.ndarray) -> bytes:
  """What a record holds of a target: for each token k int32 ids, then k float32, little-endian.

  Read as int32 it is one feature, [T, 2 k], which is batched, packed and sharded like tokens.
  """
  bits_TxK = np.asarray(log_probs_TxK, '<f4').view('<i4')
  return np.concatenate([np.asarray(ids_TxK, '<i4'), bits_TxK], axis=1).tobytes()


def unpack(data: bytes, top_k: int) -> tuple[np.ndarray, np.ndarray]:
  """Inverse of `pack`: int32 and float32 [T, k]."""
  ids_TxK, bits_TxK = np.split(np.frombuffer(data, '<i4').reshape(-1, 2 * top_k), 2, axis=1)
  return ids_TxK, np.ascontiguousarray(bits_TxK).view('<f4')


def divergence(
    logits_BxTxV: jax.Array, stored_BxTx2K: jax.Array, direction: str
) -> tuple[jax.Array, jax.Array]:
  """In nats of each target token, float32 [B, T], and whether there is one, bool [B, T].

  Args:
    logits_BxTxV: the student's, any float dtype.
    stored_BxTx2K: int32, as `pack` lays it out; zeros where nothing is stored: ids are distinct.
    direction: of DIRECTIONS.
  """
  ids_BxTxK, bits_BxTxK = jnp.split(stored_BxTx2K, 2, axis=-1)
  log_p_BxTxK = jax.lax.bitcast_convert_type(bits_BxTxK, np.float32)
  logits_BxTxV = logits_BxTxV.astype(jnp.float32)
  log_z_BxTx1 = jax.nn.logsumexp(logits_BxTxV, axis=-1, keepdims=True)
  log_q_BxTxK = jnp.take_along_axis(logits_BxTxV, ids_BxTxK, axis=-1) - log_z_BxTx1
  log_p, log_q = _with_rest(log_p_BxTxK), _with_rest(log_q_BxTxK)
  if direction == 'reverse':
    log_p, log_q = log_q, log_p
  return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1), jnp.any(ids_BxTxK != 0, axis=-1)


def _with_rest(log_probs_BxTxK: jax.Array) -> jax.Array:
  """[B, T, k + 1]: the last is that of all other tokens together."""
  rest_BxTx1 = 1.0 - jnp.sum(jnp.exp(log_probs_BxTxK), axis=-1, keepdims=True)
  return jnp.concatenate([log_probs_BxTxK, jnp.log(jnp.maximum(rest_BxTx1, _FLOOR))], axis=-1)
