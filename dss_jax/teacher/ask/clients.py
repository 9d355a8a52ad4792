"""The teachers that can be asked; `--client` names one of CLIENTS."""

import argparse
import functools
import importlib
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import tqdm

from dss_jax import datasets, errors
from dss_jax.teacher import protocol
from dss_jax.teacher.ask import (
    asking,
    endpoint,
    fallback,
    limits,
    prompts,
    recorded,
    secrets,
    structured,
)
from dss_jax.teacher.ask import journal as journal_lib
from dss_jax.teacher.ask import sender as sender_lib
from dss_jax.teacher.ask.batch import client as batch_client


class NoTeacher(protocol.Client):
  """Gold labels only: standard fine-tuning needs no completions."""

  name = 'none'

  @classmethod
  def from_flags(cls, flags: argparse.Namespace) -> 'NoTeacher':
    if flags.completions:
      raise errors.UserError('--client=none asks no teacher; drop --completions, or '
                             'use --client=recorded')
    return cls()

  async def complete(
      self, examples: Sequence[datasets.Example], attempt: int = 0
  ) -> list[tuple[protocol.Completion, ...]]:
    return [()] * len(examples)


class ScriptedClient(protocol.Client):
  """A teacher that is a Python function, for toy data and tests of a format.

  It gives a completion, or a list of several.

  >>> ScriptedClient(lambda example: f'It says {example.input}. So the answer is (a) yes.')
  """

  name = 'scripted'

  def __init__(
      self, fn: Callable[[datasets.Example], str | Sequence[str]], model: str = 'scripted'):
    self.model = model
    self._fn = fn

  async def complete(
      self, examples: Sequence[datasets.Example], attempt: int = 0
  ) -> list[tuple[protocol.Completion, ...]]:
    progress = tqdm.tqdm(examples, desc='teacher', unit='row', delay=3, disable=None)
    found = (self._fn(example) for example in progress)
    return [tuple(protocol.Completion(protocol.clean(text), 'stop')
                  for text in ([texts] if isinstance(texts, str) else texts)) for texts in found]


CLIENTS: dict[str, Any] = {
    client.name: client for client in (recorded.RecordedClient, NoTeacher)}
ENDPOINTS: dict[str, Any] = {  # 'module:class', imported when used: `--help` waits for none
    'openai': 'dss_jax.teacher.ask.openai_client:OpenAIEndpoint',
    't5': 'dss_jax.teacher.ask.t5_client:T5Endpoint',
    'vllm': 'dss_jax.teacher.ask.vllm_client:VllmEndpoint',
    'litellm': 'dss_jax.teacher.ask.litellm_client:LiteLLMEndpoint',
}


def register(kind: Any) -> Any:
  """See `dss_jax.teacher.register`."""
  name = kind.name
  if name in names():
    known = CLIENTS.get(name) or ENDPOINTS.get(name)
    if known is not kind and getattr(known, '__qualname__', '') != kind.__qualname__:
      raise errors.UserError(f'a teacher {name!r} exists already; name yours otherwise')
  (CLIENTS if issubclass(kind, protocol.Client) else ENDPOINTS)[name] = kind
  return kind


def _endpoint(name: str) -> Any:
  """The class."""
  found = ENDPOINTS[name]
  if isinstance(found, str):
    module, _, kind = found.partition(':')
    found = getattr(importlib.import_module(module), kind)
  return found


def names() -> list[str]:
  return [*CLIENTS, *ENDPOINTS]


def check(flags: argparse.Namespace) -> None:
  """UserError with the nearest name if `--client` names none, or a flag is not its own."""
  if flags.client not in names():
    raise errors.UserError(
        f'unknown --client={flags.client}: {errors.did_you_mean(flags.client, names())}')
  for flag, least in (('samples', 1), ('in_flight', 1), ('max_fatal', 1), ('max_tokens', 1),
                      ('workers', 1), ('batch_size', 1), ('max_retries', 0), ('thinking_room', 0),
                      ('rpm', 0), ('tpm', 0), ('budget_usd', 0), ('max_requests', 0),
                      ('label_logprobs', 0)):
    if getattr(flags, flag) < least:
      raise errors.UserError(f'--{flag}={getattr(flags, flag)}: use {least} or more')
  if not 0 <= flags.max_failed <= 1:
    raise errors.UserError(f'--max_failed={flags.max_failed:g}: give a share from 0 to 1')
  if flags.reasoning_effort and flags.endpoint == 'completions':
    raise errors.UserError('--reasoning_effort: --endpoint=completions has no such field; drop it')
  # They go into records or requests.
  for flag in ('model', 'teacher_model', 'params', 'reasoning_effort'):
    try:
      (getattr(flags, flag) or '').encode('utf-8')
    except UnicodeEncodeError:
      raise errors.UserError(f'--{flag}={getattr(flags, flag)!a}: not UTF-8') from None
  if flags.budget_usd and not (flags.prompt_price or flags.completion_price):
    raise errors.UserError('--budget_usd needs --prompt_price and --completion_price, USD for a '
                           'million tokens')
  if flags.client in ENDPOINTS and flags.completions:
    raise errors.UserError(f'--client={flags.client} asks for completions; drop --completions, or '
                           'use --client=recorded')
  if flags.batch is not None and flags.client != 'openai':
    raise errors.UserError(f'--batch: --client={flags.client} has no batches; drop it, or use '
                           '--client=openai')
  if flags.fallback is not None and (flags.client in CLIENTS or flags.batch is not None):
    raise errors.UserError('--fallback is for teachers that are asked one by one: drop it; the '
                           'same command with it, but without --batch, asks it for the rest')
  if flags.batch is not None and flags.runner != 'local':
    raise errors.UserError('--batch: one process makes the batches; drop --runner')
  if flags.no_wait and flags.batch != '':
    raise errors.UserError('--no_wait is for --batch without a folder; drop it')
  if flags.answer == 'json' and flags.client in (*CLIENTS, 't5'):
    raise errors.UserError(f'--answer=json: --client={flags.client} asks for no JSON; drop it '
                           '(JSON is read in any case)')
  if flags.keep_samples and flags.samples == 1 and flags.client != 'recorded':
    raise errors.UserError('--keep_samples: there is one sample of an input; ask for several with '
                           '--samples=N, or give recorded answers, several of an id')
  if flags.label_logprobs and flags.client == 'none':
    raise errors.UserError('--label_logprobs: --client=none has no answers; drop it')
  for flag in ('samples', 'retry_failed', 'budget_usd', 'max_requests'):
    if flags.client in CLIENTS and getattr(flags, flag) > (flag == 'samples'):
      raise errors.UserError(f'--{flag}: --client={flags.client} asks nobody; drop it, or use '
                             f'--client={" or ".join(ENDPOINTS)}')


def from_flags(flags: argparse.Namespace, records_dir: str, share: int = 1) -> protocol.Client:
  """The client that `--client` names.

  Args:
    flags: see `flags.parser`.
    records_dir: the journal's default place.
    share: of how many workers this is one; they divide the limits.

  Raises:
    UserError: what that client lacks.
  """
  if flags.client in CLIENTS:
    return CLIENTS[flags.client].from_flags(flags)
  if flags.fallback is None:
    return _asking(asking.AskingClient if flags.batch is None else batch_client.BatchClient,
                   flags, records_dir, share)
  second = _asking(asking.AskingClient, fallback.flags_of(flags), records_dir, share, 'fallback')
  return _asking(functools.partial(fallback.FallbackClient, second), flags, records_dir, share)


def _asking(
    kind: Callable[..., asking.AskingClient], flags: argparse.Namespace, records_dir: str,
    share: int, part: str = '',
) -> asking.AskingClient:
  """A client that asks; `part` names a journal inside of the journal."""
  secrets.provide(flags)
  endpoint_class = _endpoint(flags.client)
  if flags.label_logprobs and not getattr(endpoint_class, 'gives_logprobs', False):
    raise errors.UserError(
        f'--label_logprobs: --client={flags.client} gives no probabilities of tokens; use '
        '--client=openai, litellm, vllm or t5, or --samples=N --keep_samples, whose votes are soft '
        'labels, too')
  in_flight = max(1, flags.in_flight // share)
  if getattr(endpoint_class, 'in_batches', False):  # One is decoded while the next one fills.
    in_flight = max(in_flight, 2 * flags.batch_size)
  flags = argparse.Namespace(**{**vars(flags), 'in_flight': in_flight})
  prompt = prompts.load(flags.prompt or prompts.path_of(flags.dataset))
  if prompt.dataset != flags.dataset:
    raise errors.UserError(f'--prompt={flags.prompt} is for dataset {prompt.dataset!r}, not for '
                           f'--dataset={flags.dataset}')
  if flags.answer == 'json':
    prompt = structured.of(prompt, datasets.get(flags.dataset).labels)
  return kind(
      endpoint_class.from_flags(flags), prompt,
      journal_lib.Journal(os.path.join(
          flags.journal or os.path.join(records_dir, 'journal'), part).rstrip('/')),
      _options(flags), limits.Pace(flags.rpm / share, flags.tpm / share),
      limits.Budget(flags.max_requests, flags.budget_usd, flags.prompt_price,
                    flags.completion_price))


def _options(flags: argparse.Namespace) -> sender_lib.Options:
  try:
    extra = json.loads(flags.params)
  except ValueError as error:
    raise errors.UserError(f'--params={flags.params}: not JSON ({error})') from error
  if not isinstance(extra, dict):
    raise errors.UserError(f'--params={flags.params}: give an object, {{"top_p": 0.9}}')
  if number := flags.label_logprobs:
    asked = {'logprobs': True, 'top_logprobs': number} if flags.endpoint == 'chat' else {
        'logprobs': number}
    extra = {**asked, **extra}
  for name in ('max_tokens', 'max_completion_tokens'):
    if (value := extra.get(name)) is not None and (type(value) is not int or value < 1):
      raise errors.UserError(f'--params: {name}={value!r}: use a whole number above 0, or null')
  more = {name: 2 * value if name == 'max_completion_tokens' and value else value
          for name, value in extra.items()}
  several = flags.samples > 1
  drawn = extra.get('temperature', flags.temperature)
  if several and (drawn == 0 or extra.get('seed') is not None):
    what = '--params: seed' if extra.get('seed') is not None else '--temperature=0'
    raise errors.UserError(f'--samples={flags.samples}: with {what} all samples would be the same, '
                           'and each is paid for; drop it')
  temperature = flags.temperature if flags.temperature is not None else 0.7 * several
  return sender_lib.Options(
      samples=flags.samples,
      decoding=endpoint.Decoding(flags.max_tokens, temperature, extra),
      retry_decoding=endpoint.Decoding(2 * flags.max_tokens, max(temperature, 0.7), more),
      in_flight=flags.in_flight, max_retries=flags.max_retries, max_fatal=flags.max_fatal,
      go_on=flags.go_on)
