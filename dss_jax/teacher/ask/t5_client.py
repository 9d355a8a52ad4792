"""Our own T5 or a Flan-T5 as the teacher: on this machine's devices, in batches.

T5's SentencePiece vocabularies have no line breaks: a prompt's become spaces, and none is ever
written. `stop` strings and the parser work on what is left, so a stop string with a line break in
it stops nothing.

JAX is imported when an endpoint is made, not with this module.
"""

import argparse
import contextlib
import dataclasses
import functools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dss_jax import cli, errors
from dss_jax.predict import gathering
from dss_jax.teacher import protocol
from dss_jax.teacher.ask import endpoint, prompts
from dss_jax.teacher.read import logprobs

if TYPE_CHECKING:
  import numpy as np

  from dss_jax import sharding
  from dss_jax.predict import options as options_lib
  from dss_jax.predict import student as student_lib

_SHARED = ('max_tokens', 'temperature', 'top_k', 'top_p', 'logprobs', 'top_logprobs')
_Check = tuple[Any, Callable[[Any], bool], str]
_EXTRA: Mapping[str, _Check] = {  # name: (types, whether a value is right, the fix)
    'top_k': (int, lambda value: value >= 0, 'use a whole number, 0 for all tokens'),
    'top_p': ((int, float), lambda value: 0 < value <= 1, 'use a probability above 0, up to 1'),
    # As chat servers have the two, or others the first.
    'logprobs': (int, lambda value: value >= 0, 'use true, or a number of alternatives'),
    'top_logprobs': (int, lambda value: value >= 1, 'use a whole number above 0'),
}
_LONGEST_MESSAGE = 300


@dataclasses.dataclass(frozen=True)
class _Asked:
  """A request and its seed."""

  request: Mapping[str, Any]
  seed: int

  def kind(self) -> tuple[Any, ...]:
    return tuple(self.request.get(name) for name in _SHARED)

  def length(self) -> int:
    """Of the prompt in characters: near enough to its tokens."""
    return len(self.request['prompt'])


class T5Endpoint:
  """An `endpoint.Endpoint` for any checkpoint that `dss_jax.load` opens.

  It reads the prompt as it is: a student's prefixes are not put before it. What it writes for a
  request depends on the request and its seed, not on the batch (up to rounding).

  Attributes:
    max_input_tokens: longer prompts are rejected; they are never cut.
  """

  name = 't5'
  in_batches = gives_logprobs = True

  def __init__(
      self, folder: str, mesh: 'sharding.MeshConfig | None' = None, batch_size: int = 32,
      dtype: str = 'bfloat16', max_input_tokens: int = 4096):
    """Looks at the folder; the parameters are loaded when the first request comes.

    Args:
      folder: Hugging Face, T5X or ours, local or `gs://`, with its vocabulary; or a model's name
        at the Hugging Face hub.
      mesh: devices along data, fsdp and model; None is all along data.
      batch_size: rows at a time, over all devices.
      dtype: of parameters and activations.
      max_input_tokens: EOS included.

    Raises:
      UserError: no T5 there, no vocabulary, or a mesh that its sizes do not divide by.
    """
    from dss_jax import sharding
    self.model = os.path.basename(os.path.abspath(folder))
    self.max_input_tokens = max_input_tokens
    self._folder = folder
    self._mesh = mesh or sharding.MeshConfig()
    self._batch_size = batch_size
    self._dtype = dtype
    self._arrays = _look(folder, self._mesh)
    self._batches: gathering.Batches[_Asked, Any] = gathering.Batches(
        self._answers, batch_size, kind=_Asked.kind, length=_Asked.length)

  @classmethod
  def from_flags(cls, flags: argparse.Namespace) -> 'T5Endpoint':
    if not flags.model:
      raise errors.UserError('--client=t5 needs --model=FOLDER, where a T5 or Flan-T5 lies '
                             "(Hugging Face, T5X or ours), or a model's name at the hub")
    return cls(flags.model, _mesh(flags.mesh), flags.batch_size, flags.dtype)

  @functools.cached_property
  def student(self) -> 'student_lib.Student':
    """The network on its devices."""
    import dss_jax
    print(f'teacher: loading {self._folder}', file=sys.stderr)  # Large ones take minutes.
    # That very checkpoint: a run that goes on may have a better one by now.
    return dss_jax.load(self._arrays, dtype=self._dtype, mesh=self._mesh)

  @functools.cached_property
  def weights(self) -> str:
    """What tells this checkpoint from others of its name: 16 hexadecimal digits."""
    from dss_jax.predict import fingerprint
    return fingerprint.fingerprint(self._arrays)[:16]

  def request(
      self, prompt: prompts.Prompt, text: str, decoding: endpoint.Decoding
  ) -> dict[str, Any]:
    """See `Endpoint`; the mesh and the batch size do not decide the answer."""
    _check_decoding(decoding)
    fields = {'model': self.model, 'weights': self.weights, 'prompt': prompt.as_text(text),
              'max_tokens': decoding.max_tokens, 'temperature': decoding.temperature,
              'stop': list(prompt.stop) or None, 'dtype': self._dtype, **decoding.extra}
    return {name: value for name, value in fields.items() if value is not None}

  async def ask(
      self, request: Mapping[str, Any], seed: int = 0, timeouts: int = 0
  ) -> Mapping[str, Any]:
    """See `Endpoint`; waits for others to share a batch with.

    Raises:
      Rejected: the prompt is longer than `max_input_tokens`.
      Fatal: out of memory, or another failure of the devices.
      UserError: the checkpoint is damaged.
    """
    return await self._batches.put(_Asked(request, seed))

  def read(self, response: Mapping[str, Any]) -> endpoint.Answer:
    return endpoint.Answer(response['text'], response['finish_reason'], **response['usage'],
                           logprobs=response.get('logprobs'))

  def provenance(self) -> dict[str, Any]:
    import jax
    return {'weights': self.weights, 'dtype': self._dtype, 'platform': jax.default_backend(),
            'mesh': self._mesh_shape()}

  async def close(self) -> None:
    await self._batches.close()
    vars(self).pop('student', None)  # The devices' memory is free again.

  def _mesh_shape(self) -> dict[str, int]:
    """Devices along each axis, now that they must be there."""
    from dss_jax import sharding
    return dict(sharding.make_mesh(self._mesh).shape)

  # In the worker thread -----------------------------------------------------------------------

  def _answers(self, batch: Sequence[_Asked]) -> list[Any]:
    """A response for each, or the exception in its place."""
    import jax
    try:
      return self._decode(batch)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
      raise endpoint.Fatal(self._failure(error)) from error
    except OSError as error:
      raise errors.UserError(f'--model={self._folder}: cannot be read ({error})') from error

  def _decode(self, batch: Sequence[_Asked]) -> list[Any]:
    # Half a surrogate pair would stop the tokenizer.
    ids = [self.student.encode(protocol.clean(one.request['prompt'])) for one in batch]
    fitting = [i for i, row in enumerate(ids) if len(row) <= self.max_input_tokens]
    first = batch[0].request
    found = self.student.generate(
        [ids[i] for i in fitting], seeds=[batch[i].seed % (1 << 32) for i in fitting],
        batch_size=self._batch_size, max_tokens=first['max_tokens'],
        temperature=first['temperature'], top_k=first.get('top_k', 0),
        top_p=first.get('top_p', 1.0))
    responses: list[Any] = [
        endpoint.Rejected(f'the prompt has {len(row)} tokens, more than {self.max_input_tokens}')
        for row in ids]
    for i, continuation in zip(fitting, found):
      responses[i] = _response(continuation, len(ids[i]), batch[i].request.get('stop', ()))
    if number := first.get('top_logprobs') or int(first.get('logprobs') or 0):
      for place, *steps in self.student.alternatives(
          [ids[i] for i in fitting], found, top_k=number, batch_size=self._batch_size):
        responses[fitting[place]]['logprobs'] = self._logprobs(found[place].ids, *steps)
    return responses

  def _logprobs(
      self, written: Sequence[int], ids: 'np.ndarray', log_probs: 'np.ndarray', own: 'np.ndarray'
  ) -> Any:
    """Of an answer's tokens, as a chat server lays them out, but shortened."""
    def named(token: int, log_prob: float) -> dict[str, Any]:
      return {'token': '', 'bytes': list(self.student.tokenizer.text_of(token)),
              'logprob': log_prob}
    return logprobs.kept({'content': [
        {**named(token, log_prob), 'top_logprobs': list(map(named, others, values))}
        for token, log_prob, others, values in zip(
            written, own.tolist(), ids.tolist(), log_probs.tolist(), strict=True)]})

  def _failure(self, error: BaseException) -> str:
    said = str(error).strip() or type(error).__name__
    mesh = 'x'.join(map(str, self._mesh_shape().values()))
    settings = f'--batch_size={self._batch_size}, --mesh={mesh}, --dtype={self._dtype}'
    if isinstance(error, MemoryError) or re.search('RESOURCE_EXHAUSTED|out of memory', said, re.I):
      line = (f'out of memory with {settings}: lower --batch_size, or split the model over more '
              f'devices, as --mesh=1x1x8 does: {said}')
    else:
      line = f'the devices failed with {settings}: {said}'
    line = ' '.join(line.split())
    return line if len(line) <= _LONGEST_MESSAGE else line[:_LONGEST_MESSAGE - 3] + '...'


def _mesh(text: str) -> 'sharding.MeshConfig | None':
  """The mesh of a flag, of all of this machine's devices; None for ''."""
  if not text:
    return None
  import jax

  from dss_jax import sharding
  count = jax.device_count()
  with contextlib.suppress(errors.UserError):
    if mesh := sharding.parse_mesh(text).of(count):
      return mesh
  raise errors.UserError(
      f'--mesh={text}: give devices along data, fsdp and model, such as 1x1x{count}; their '
      f'product is the number of devices, {count} ({jax.default_backend()})')


def _look(folder: str, mesh: 'sharding.MeshConfig') -> str:
  """Where a checkpoint's parameters lie, after a look at its network and its vocabulary."""
  from dss_jax import sharding, student_info
  from dss_jax.convert import formats
  try:
    weights = formats.open_weights(folder)
    info = formats.find_info(weights.path, weights)
  except errors.UserError as error:
    raise errors.UserError(f'--model={folder}: {error}') from error
  if info.vocabulary != student_info.BYTES and formats.find_vocabulary(weights.path, info) is None:
    raise errors.UserError(
        f'--model={folder} has no vocabulary (vocabulary.model or spiece.model): copy the '
        'SentencePiece model of its training there')
  if info.shared_encoder:
    raise errors.UserError(
        f'--model={folder} was trained with SHARED_ENCODER: its decoder is given what it is asked '
        'for, which no prompt can hold; use `dss predict`, or another teacher')
  with cli.flags_named({'mesh'}):
    sharding.check_network(info.model, mesh)
  return weights.path


def _check_decoding(decoding: endpoint.Decoding) -> None:
  """UserError for what no request can hold."""
  if not decoding.temperature >= 0:  # NaN is neither.
    raise errors.UserError(f'--temperature={decoding.temperature}: use 0 or more')
  for name, value in decoding.extra.items():
    if name not in _EXTRA:
      raise errors.UserError(
          f'--params: --client=t5 has no {name!r}: {errors.did_you_mean(name, _EXTRA)}')
    types, is_right, fix = _EXTRA[name]
    if value is not None and (isinstance(value, bool) > (name == 'logprobs')
                              or not isinstance(value, types) or not is_right(value)):
      raise errors.UserError(f'--params: {name}={value!r}: {fix}')


def _response(
    found: 'options_lib.Continuation', prompt_tokens: int, stop: Sequence[str]) -> dict[str, Any]:
  """The text up to the first stop string; what was written after it counts as written."""
  ends = [at for one in stop if one and (at := found.text.find(one)) >= 0]
  return {'text': found.text[:min(ends, default=None)],
          'finish_reason': 'stop' if ends or found.ended else 'length',
          'usage': {'prompt_tokens': prompt_tokens, 'completion_tokens': found.tokens}}
