"""Teachers behind LiteLLM: hosted models whose API is not OpenAI's, each by its provider's keys.

LiteLLM turns the request into the provider's and the response into OpenAI's, so both are those of
`openai_client`; its own retries are off.
"""

import argparse
import asyncio
import os
from collections.abc import Mapping
from typing import Any

from dss_jax import errors
from dss_jax.teacher.ask import endpoint, openai_client

_KEYS = ('_API_KEY', '_TOKEN', '_SECRET_ACCESS_KEY')  # ends of environment variables


class LiteLLMEndpoint(openai_client.OpenAIEndpoint):
  """An `endpoint.Endpoint`; `model` is PROVIDER/NAME."""

  name = 'litellm'

  @classmethod
  def from_flags(cls, flags: argparse.Namespace) -> 'LiteLLMEndpoint':
    if not flags.model:
      raise errors.UserError('--client=litellm needs --model=PROVIDER/NAME, as LiteLLM has them')
    if flags.endpoint != 'chat':
      raise errors.UserError('--client=litellm: --endpoint=completions is not among what it '
                             'translates; drop it')
    _library()
    made = cls(flags.model, flags.base_url, 'none', flags.endpoint, flags.timeout, flags.in_flight)
    made._api_base = flags.base_url
    secrets = (value for name, value in os.environ.items() if name.endswith(_KEYS))
    made._secrets = sorted((one for one in secrets if len(one) >= 8), key=len, reverse=True)
    return made

  async def ask(
      self, request: Mapping[str, Any], seed: int = 0, timeouts: int = 0
  ) -> dict[str, Any]:
    """See `Endpoint`; the seed is not sent."""
    import openai  # Whose exceptions LiteLLM's are.
    seconds = self._timeout * 2 ** timeouts
    try:
      async with asyncio.timeout(seconds):
        response = await _library().acompletion(
            **request, api_base=self._api_base, num_retries=0, max_retries=0, drop_params=True)
    except openai.APIStatusError as error:
      failure = self._refused(error)
    except TimeoutError:
      failure = endpoint.TryLater(f'no answer within {seconds:g} s')
    except (openai.OpenAIError, OSError) as error:
      failure = endpoint.TryLater(self._message('connection', str(error)))
    else:
      return self._parsed(response.model_dump_json(), True)
    raise failure  # Out here: the library's error may hold the key.

  def provenance(self) -> dict[str, Any]:
    return {'endpoint': 'chat', 'base_url': self._api_base or ''}


def _library() -> Any:
  os.environ.setdefault('LITELLM_LOCAL_MODEL_COST_MAP', 'True')  # Else it fetches a list.
  try:
    import litellm
  except ImportError as error:
    raise errors.UserError(
        f"--client=litellm needs LiteLLM ({error}): pip install 'dss_jax[litellm]'") from error
  litellm.suppress_debug_info = True
  return litellm
