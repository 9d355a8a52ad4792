"""The teachers that can be asked; `--client` names one of CLIENTS."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tqdm

from dss_jax import datasets, errors
from dss_jax.teacher import protocol, recorded


class NoTeacher:
  """Gold labels only: standard fine-tuning needs no completions."""

  name = 'none'
  model = ''

  @classmethod
  def from_flags(cls, flags: argparse.Namespace) -> 'NoTeacher':
    if flags.completions:
      raise errors.UserError('--client=none asks no teacher; drop --completions, or '
                             'use --client=recorded')
    return cls()

  def complete(self, examples: Sequence[datasets.Example]) -> list[None]:
    return [None] * len(examples)

  def provenance(self) -> Mapping[str, Any]:
    return {}


class ScriptedClient:
  """A teacher that is a Python function, for toy data and tests of a format.

  >>> ScriptedClient(lambda example: f'It says {example.input}. So the answer is (a) yes.')
  """

  name = 'scripted'

  def __init__(self, fn: Callable[[datasets.Example], str], model: str = 'scripted'):
    self.model = model
    self._fn = fn

  def complete(self, examples: Sequence[datasets.Example]) -> list[protocol.Completion]:
    progress = tqdm.tqdm(examples, desc='teacher', unit='row', delay=3, disable=None)
    return [protocol.Completion(self._fn(example)) for example in progress]

  def provenance(self) -> Mapping[str, Any]:
    return {}


CLIENTS = {client.name: client for client in (recorded.RecordedClient, NoTeacher)}


def from_flags(flags: argparse.Namespace) -> protocol.Client:
  """The client that `--client` names; UserError with the nearest name if there is none."""
  if flags.client not in CLIENTS:
    raise errors.UserError(
        f'unknown --client={flags.client}: {errors.did_you_mean(flags.client, CLIENTS)}')
  return CLIENTS[flags.client].from_flags(flags)
