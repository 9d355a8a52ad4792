"""Batches at a server with OpenAI's /files and /batches."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from etils import epath

from dss_jax import files
from dss_jax.teacher.ask import endpoint, limits, openai_client
from dss_jax.teacher.ask.batch import state

LABEL = 'dss_batch'  # the metadata by which a batch is found again
_SECONDS = 600.0  # for a file to go up or come down
_LOOKED_AT = 1000  # the newest of a server's batches
_RETRIES = 5
_T = TypeVar('_T')


class Server:
  """What the job wants of it; errors are told as the endpoint tells them, without the key."""

  def __init__(self, teacher: openai_client.OpenAIEndpoint, say: Callable[[str], None]):
    self._teacher = teacher
    self._say = say

  async def upload(self, path: epath.Path) -> str:
    """The file's name there."""
    async def send(client):
      with open(path, 'rb') if not files.is_remote(path) else io.BytesIO(path.read_bytes()) as f:
        return await client.files.create(file=(path.name, f), purpose='batch', timeout=_SECONDS)
    return (await self._patiently(send)).id

  async def create(self, batch: state.Batch) -> str:
    """The batch's name there. Not sent again by itself: it may have come through."""
    made = await self._teacher.call(lambda client: client.batches.create(
        input_file_id=batch.file, endpoint=batch.url, completion_window='24h',
        metadata={LABEL: batch.name}))
    return made.id

  async def find(self, name: str) -> str | None:
    """The batch that carries our name for it.

    Raises:
      Rejected, Fatal: the server lists no batches.
    """
    async def send(client):
      seen = 0
      async for found in client.batches.list(limit=100):
        if (found.metadata or {}).get(LABEL) == name:
          return found.id
        seen += 1
        if seen == _LOOKED_AT:
          break
      return None
    return await self._patiently(send)

  async def get(self, name: str) -> Any:
    """How it stands: the SDK's `Batch`."""
    return await self._teacher.call(lambda client: client.batches.retrieve(name))

  async def download(self, name: str, path: epath.Path) -> None:
    async def send(client):
      # In pieces: a file of thoughts is gigabytes.
      async with client.files.with_streaming_response.content(name, timeout=_SECONDS) as response:
        with path.open('wb') as f:
          async for piece in response.iter_bytes():
            f.write(piece)
    await self._patiently(send)

  async def _patiently(self, send: Callable[[Any], Awaitable[_T]]) -> _T:
    """Again, after what may pass."""
    for failures in range(1, _RETRIES + 1):
      try:
        return await self._teacher.call(send)
      except endpoint.TryLater as error:
        self._say(f'{error}; trying again')
        await asyncio.sleep(max(error.after or 0.0, limits.back_off(failures)))
    return await self._teacher.call(send)


def validation_errors(found: Any) -> tuple[str, bool]:
  """Why a batch failed as a whole, and whether the server only has no room for so much now."""
  listed = [one for one in (found.errors.data if found.errors else None) or () if one]
  said = [f'line {one.line}: {one.message}' if one.line else str(one.message) for one in listed]
  full = any('limit' in (one.code or '') for one in listed)
  return '; '.join(dict.fromkeys(said[:3])) or 'the server does not say why', full
