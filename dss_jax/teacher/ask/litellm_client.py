"""Teachers behind LiteLLM: hosted models whose API is not OpenAI's, by their providers' keys.

LiteLLM makes the provider's request of ours, and OpenAI's response and errors of what comes, so
`openai_client` reads them; its own retries are off.
"""

import argparse
import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any

from dss_jax import errors
from dss_jax.teacher.ask import endpoint, openai_client, prompts

_SECRETS = ('_API_KEY', '_TOKEN', '_SECRET_ACCESS_KEY')  # ends of environment variables
_LONGEST_TIMEOUT = 8  # times --timeout


class LiteLLMEndpoint:
  """An `endpoint.Endpoint`."""

  name = 'litellm'
  first_alone = gives_logprobs = True

  def __init__(self, model: str, base_url: str | None, timeout: float, label_logprobs: int = 0):
    """Connects to nothing yet.

    Args:
      model: PROVIDER/NAME.
      base_url: another address than the provider's own.
      timeout: seconds for one request, as `OpenAIEndpoint` has them.
      label_logprobs: see there.
    """
    self.model = model
    self._base_url, self._timeout = base_url, timeout
    secrets = {name: value for name, value in os.environ.items() if name.endswith(_SECRETS)}
    # It sends nothing; it lays out, reads, and takes out what is echoed of the secrets.
    self._layout = openai_client.OpenAIEndpoint(
        model, base_url, 'none', 'chat', timeout, 1, headers=secrets)
    self._layout.label_logprobs = label_logprobs

  @classmethod
  def from_flags(cls, flags: argparse.Namespace) -> 'LiteLLMEndpoint':
    if not flags.model:
      raise errors.UserError('--client=litellm needs --model=PROVIDER/NAME, as LiteLLM has them')
    if flags.endpoint != 'chat':
      raise errors.UserError('--client=litellm: --endpoint=completions is not among what it '
                             'translates; drop it')
    if len(flags.base_url) > 1:
      raise errors.UserError('--client=litellm takes one --base_url')
    _library()
    return cls(flags.model, next(iter(flags.base_url), None), flags.timeout, flags.label_logprobs)

  @property
  def say(self) -> Callable[[str], None]:
    return self._layout.say

  @say.setter
  def say(self, say: Callable[[str], None]) -> None:
    self._layout.say = say

  def request(
      self, prompt: prompts.Prompt, text: str, decoding: endpoint.Decoding
  ) -> dict[str, Any]:
    return self._layout.request(prompt, text, decoding)

  async def ask(
      self, request: Mapping[str, Any], seed: int = 0, timeouts: int = 0
  ) -> dict[str, Any]:
    """See `Endpoint`; the seed is not sent."""
    seconds = self._timeout * min(2 ** timeouts, _LONGEST_TIMEOUT)

    async def send(sdk: Any) -> Any:
      del sdk
      return await _library().acompletion(
          **request, api_base=self._base_url, num_retries=0, max_retries=0, drop_params=True)
    try:
      async with asyncio.timeout(seconds):
        response = await self._layout.call(send)
    except TimeoutError:
      raise endpoint.TryLater(f'no answer within {seconds:g} s', timed_out=True) from None
    return self._layout.judge(200, response.model_dump(mode='json'))

  def read(self, response: Mapping[str, Any]) -> endpoint.Answer:
    return self._layout.read(response)

  def provenance(self) -> dict[str, Any]:
    return {'base_url': self._layout.base_url} if self._base_url else {}

  async def close(self) -> None:
    await self._layout.close()


def _library() -> Any:
  os.environ.setdefault('LITELLM_LOCAL_MODEL_COST_MAP', 'True')  # Else it fetches a list.
  try:
    import litellm
  except ImportError as error:
    raise errors.UserError(
        f"--client=litellm needs LiteLLM ({error}): pip install 'dss_jax[litellm]'") from error
  litellm.suppress_debug_info = True  # It prints advertisements.
  return litellm
