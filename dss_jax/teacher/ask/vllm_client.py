"""vLLM in this process: for a machine with the accelerators and no server on it.

Requests and responses are laid out as a vLLM server's, so that the journal is the same for both.
vLLM is imported, and the model loaded, when the first request comes.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import errors
from dss_jax.predict import gathering
from dss_jax.teacher import protocol
from dss_jax.teacher.ask import endpoint, openai_client, prompts
from dss_jax.teacher.read import logprobs

_Asked = tuple[Mapping[str, Any], int]  # request, seed
_NOT_SAMPLING = ('model', 'messages', 'prompt', 'chat_template_kwargs')
_LONGEST_MESSAGE = 300


class VllmEndpoint:
  """An `endpoint.Endpoint`."""

  name = 'vllm'
  in_batches = gives_logprobs = True

  def __init__(self, model: str, kind: str = 'chat', batch_size: int = 32,
               engine: Mapping[str, Any] | None = None):
    """Loads nothing yet.

    Args:
      model: its folder, or its name at the hub.
      kind: 'chat' or 'completions'.
      batch_size: prompts that are handed over at a time.
      engine: arguments of `vllm.LLM`.
    """
    self.model = os.path.basename(model.rstrip('/')) if os.path.isdir(model) else model
    self._folder = model
    self._chat = kind == 'chat'
    self._engine = dict(engine or {})
    self._llm: Any = None
    self._layout = openai_client.OpenAIEndpoint(self.model, None, 'none', kind, 1.0, 1)
    self._batches: gathering.Batches[_Asked, Any] = gathering.Batches(
        self._answers, batch_size, kind=_template, length=lambda one: len(json.dumps(one[0])))

  @classmethod
  def from_flags(cls, flags: argparse.Namespace) -> 'VllmEndpoint':
    if not flags.model:
      raise errors.UserError('--client=vllm needs --model=FOLDER, or a name at the hub')
    try:
      engine = json.loads(flags.engine)
    except ValueError as error:
      raise errors.UserError(f'--engine={flags.engine}: not JSON ({error})') from error
    if not isinstance(engine, dict):
      raise errors.UserError(f'--engine={flags.engine}: give an object, '
                             '{"tensor_parallel_size": 2}')
    _library()
    return cls(flags.model, flags.endpoint, flags.batch_size, engine)

  def request(
      self, prompt: prompts.Prompt, text: str, decoding: endpoint.Decoding
  ) -> dict[str, Any]:
    return self._layout.request(prompt, text, decoding)

  async def ask(
      self, request: Mapping[str, Any], seed: int = 0, timeouts: int = 0
  ) -> Mapping[str, Any]:
    """See `Endpoint`; waits for others to share a batch with.

    Raises:
      Rejected: the prompt is too long.
      Fatal: the engine failed.
      UserError: a field of --params or --engine that vLLM does not have.
    """
    return await self._batches.put((request, seed))

  def read(self, response: Mapping[str, Any]) -> endpoint.Answer:
    return self._layout.read(response)

  def provenance(self) -> dict[str, Any]:
    return {'endpoint': 'chat' if self._chat else 'completions', 'engine': self._engine,
            'vllm': _library().__version__}

  async def close(self) -> None:
    await self._batches.close()
    self._llm = None

  # In the worker thread -----------------------------------------------------------------------

  def _answers(self, batch: Sequence[_Asked]) -> list[Any]:
    """A response for each, or the exception in its place."""
    params = [_sampling(*one) for one in batch]
    self._load()
    try:
      return self._generate([request for request, _ in batch], params)
    except Exception as error:  # It has kinds of its own.
      if isinstance(error, MemoryError | RuntimeError) or 'Engine' in type(error).__name__:
        raise endpoint.Fatal(f'the engine failed: {_line(error)}') from error
      if len(batch) == 1:
        return [endpoint.Rejected(_line(error))]
      return [answer for one in batch for answer in self._answers([one])]  # One fails all.

  def _generate(
      self, requests: Sequence[Mapping[str, Any]], params: Sequence[Any]) -> list[Any]:
    if self._chat:
      outputs = self._llm.chat(
          [[{**turn, 'content': protocol.clean(turn['content'])} for turn in one['messages']]
           for one in requests], params, use_tqdm=False,
          chat_template_kwargs=requests[0].get('chat_template_kwargs'))
    else:
      outputs = self._llm.generate([protocol.clean(one['prompt']) for one in requests], params,
                                   use_tqdm=False)
    return [self._response(one) for one in outputs]

  def _response(self, output: Any) -> dict[str, Any]:
    """As the server lays it out."""
    (made,) = output.outputs
    said = {'message': {'role': 'assistant', 'content': made.text}} if self._chat else {
        'text': made.text}
    return {'model': self.model,
            'choices': [{'index': 0, **said, 'finish_reason': made.finish_reason,
                         **_logprobs(made)}],
            'usage': {'prompt_tokens': len(output.prompt_token_ids),
                      'completion_tokens': len(made.token_ids)}}

  def _load(self) -> None:
    if self._llm is None:
      print(f'teacher: loading {self._folder}', file=sys.stderr)  # Large ones take minutes.
      try:
        self._llm = _library().LLM(model=self._folder, **self._engine)
      except (TypeError, ValueError, OSError) as error:
        raise errors.UserError(
            f'--model={self._folder}, --engine={json.dumps(self._engine)}: vLLM does not load it '
            f'({_line(error)})') from error


def _template(asked: _Asked) -> str:
  """What a batch has in common."""
  return json.dumps(asked[0].get('chat_template_kwargs'), sort_keys=True)


def _sampling(request: Mapping[str, Any], seed: int) -> Any:
  fields = {name: value for name, value in request.items() if name not in _NOT_SAMPLING}
  if (most := fields.pop('top_logprobs', None)) is not None:  # A chat's two fields are one here.
    fields['logprobs'] = most
  form = fields.pop('response_format', None) or {}
  if schema := form.get('json_schema', {}).get('schema'):  # As vLLM's own server does.
    fields['structured_outputs'] = _library().sampling_params.StructuredOutputsParams(json=schema)
  try:
    return _library().SamplingParams(**{'seed': seed % (1 << 32), **fields})
  except (TypeError, ValueError) as error:
    raise errors.UserError(f'--params: vLLM does not take them ({_line(error)})') from error


def _logprobs(made: Any) -> dict[str, Any]:
  """Of the tokens, where they were asked for: as a chat server lays them out, but shortened."""
  def named(one: Any) -> dict[str, Any]:
    return {'token': one.decoded_token or '', 'logprob': one.logprob}
  if made.logprobs is None:
    return {}
  return {'logprobs': logprobs.kept({'content': [
      {**named(step[number]), 'top_logprobs': list(map(named, step.values()))}
      for number, step in zip(made.token_ids, made.logprobs, strict=True)]})}


def _line(error: Exception) -> str:
  line = ' '.join(str(error).split()) or type(error).__name__
  return line if len(line) <= _LONGEST_MESSAGE else line[:_LONGEST_MESSAGE - 3] + '...'


def _library() -> Any:
  try:
    import vllm
  except ImportError as error:
    raise errors.UserError(
        f"--client=vllm needs vLLM ({error}): pip install 'dss_jax[vllm]'") from error
  return vllm
