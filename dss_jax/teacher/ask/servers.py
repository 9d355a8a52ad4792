"""The addresses of a teacher: HTTP, the key, and which of several is asked next."""

import asyncio
import base64
import dataclasses
import os
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from dss_jax import errors
from dss_jax.teacher.ask import endpoint

_SHORTEST_SECRET = 8  # 'EMPTY', 'x': what stands in for a key may be a word of an answer
_SHORTEST_PARAMETER = 20  # of the address that may be a key: 'api-version=2025-01-01' is none
_REST = 10.0  # seconds without requests to one of several that failed
_LONGEST_HEADER = 1 << 16
_ESCAPED = re.compile(r'\\[^nrt]')  # what could spell a character of a secret
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*:\s*(.*)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Reply:
  """A response: status, headers, and its text."""

  status: int
  headers: Mapping[str, str]
  text: str


@dataclasses.dataclass
class _Server:
  url: str
  headers: dict[str, str]
  query: dict[str, str]
  proxy: str | None  # The environment's; looked up once, as aiohttp would for every request.
  rested: float = 0.0  # until when it is left alone, by time.monotonic()


class Servers:
  """Servers with the same model, asked in turns; one that fails is left alone for a while.

  One event loop: connections belong to that of the first request.

  Attributes:
    urls: their addresses without secrets.
  """

  def __init__(self, base_urls: Sequence[str], api_key: str, headers: Mapping[str, str],
               max_in_flight: int):
    """Connects to nothing yet.

    Args:
      base_urls: up to /v1, with `user:password@` and `?query` where a proxy wants them.
      api_key: the key for all.
      headers: more headers for all.
      max_in_flight: connections at most; more requests wait for one.

    Raises:
      UserError: an address that is none, or aiohttp is not installed.
    """
    _library()
    self._servers, secrets = [], [api_key, *headers.values()]
    for one in base_urls:
      url, userinfo, query = _address(one)
      own = {'Authorization': f'Bearer {api_key}', 'User-Agent': 'dss_jax'}
      if userinfo:
        token = base64.b64encode(userinfo.encode()).decode()
        own['Authorization'] = f'Basic {token}'
        secrets += [token, userinfo, userinfo.partition(':')[2]]
      secrets += [value for value in query.values() if len(value) >= _SHORTEST_PARAMETER]
      self._servers.append(_Server(url, {**own, 'Content-Type': 'application/json', **headers},
                                   query, _proxy(url)))
    self.urls = [one.url for one in self._servers]
    secrets = [one for one in secrets if len(one) >= _SHORTEST_SECRET]
    self._secrets = sorted(secrets, key=len, reverse=True)  # One may be part of another.
    self._max_in_flight = max_in_flight
    self._session: Any = None
    self._next = 0

  async def post(self, path: str, body: bytes, seconds: float) -> Reply:
    """One reply, of the next server that gives one.

    Args:
      path: after the address.
      body: JSON.
      seconds: from connecting to the last byte, of each server.

    Raises:
      TryLater: no connection, a broken one, or no reply in time.
    """
    for tried in range(1, len(self._servers) + 1):
      server = self._choose()
      others = tried < len(self._servers) and self._awake(server)
      try:
        reply = await self._post(server, path, body, seconds)
      except endpoint.TryLater:
        server.rested = time.monotonic() + _REST
        if not others:
          raise
        continue
      if reply.status not in (408, 429) and reply.status < 500:
        return reply
      server.rested = time.monotonic() + _REST
      if not others:
        return reply
    raise AssertionError('a server was asked')

  def for_sdk(self) -> dict[str, Any]:
    """Arguments of OpenAI's own client, for the first of them."""
    first = self._servers[0]
    headers = {name: value for name, value in first.headers.items() if name != 'Content-Type'}
    return {'base_url': first.url, 'default_headers': headers, 'default_query': first.query,
            'api_key': 'in the headers'}

  async def close(self) -> None:
    if self._session is not None:
      await self._session.close()

  def echoes(self, text: str) -> bool:
    """Whether a JSON text may hold a secret, perhaps spelt with escapes."""
    return bool(_ESCAPED.search(text)) or any(secret in text for secret in self._secrets)

  def scrubbed(self, value: Any) -> Any:
    """A JSON value with *** for what a server echoes of a secret."""
    if isinstance(value, str):
      for secret in self._secrets:
        value = value.replace(secret, '***')
      return value
    if isinstance(value, list):
      return [self.scrubbed(one) for one in value]
    if isinstance(value, dict):
      return {self.scrubbed(name): self.scrubbed(one) for name, one in value.items()}
    return value

  def _choose(self) -> _Server:
    """In turns; one that is left alone only if all are."""
    now = time.monotonic()
    for step in range(len(self._servers)):
      server = self._servers[(self._next + step) % len(self._servers)]
      if server.rested <= now:
        self._next = (self._next + step + 1) % len(self._servers)
        return server
    return min(self._servers, key=lambda one: one.rested)

  def _awake(self, but: _Server) -> bool:
    return any(one is not but and one.rested <= time.monotonic() for one in self._servers)

  async def _post(self, server: _Server, path: str, body: bytes, seconds: float) -> Reply:
    aiohttp = _library()
    try:
      async with asyncio.timeout(seconds), self._connected().post(
          f'{server.url}{path}', data=body, headers=server.headers, params=server.query,
          proxy=server.proxy, allow_redirects=False) as response:
        return Reply(response.status, response.headers, await response.text(errors='replace'))
    except TimeoutError:
      failure = endpoint.TryLater(f'no answer within {seconds:g} s', timed_out=True)
    except (aiohttp.ClientError, OSError, ValueError) as error:
      says = str(error).replace(' ssl:default', '') or type(error).__name__
      unreachable = isinstance(error, aiohttp.ClientConnectorError)
      failure = endpoint.TryLater(self.scrubbed(f'connection: {says}'), unreachable=unreachable)
    raise failure  # Out here: the library's error may hold the key, and would be its context.

  def _connected(self) -> Any:
    if self._session is None:
      aiohttp = _library()
      # uvicorn, on which vLLM and SGLang run, closes connections that were idle for 5 s: sooner
      # than that, or requests would be sent down a connection that is just being closed.
      self._session = aiohttp.ClientSession(
          connector=aiohttp.TCPConnector(limit=self._max_in_flight, keepalive_timeout=4.0),
          timeout=aiohttp.ClientTimeout(total=None, sock_connect=30.0),
          max_field_size=_LONGEST_HEADER, max_line_size=_LONGEST_HEADER)
    return self._session


def headers(given: Sequence[str]) -> dict[str, str]:
  """'Name: value' pairs of `--header`; $VARIABLE in a value is the environment's.

  Raises:
    UserError: no such pair, an unset variable, or a character that no header has.
  """
  found = {}
  for one in given:
    pair = _HEADER.fullmatch(one.strip())
    name = one.partition(':')[0].strip()  # Never the value: it may be a secret.
    if not pair:
      raise errors.UserError(f"--header={name}: give --header='NAME: VALUE'")
    value = os.path.expandvars(pair[2]).strip()
    if unset := re.search(r'\$\{?(\w+)', value):
      raise errors.UserError(f'--header={name}: ${unset[1]} is not set in the environment')
    if not value.isascii() or not value.isprintable():
      raise errors.UserError(f'--header={name}: holds a character that no header has')
    found[name] = value
  return found


def _address(base_url: str) -> tuple[str, str, dict[str, str]]:
  """A base_url without its secrets, its `user:password`, and its query."""
  try:
    parts = urllib.parse.urlsplit(base_url.strip())
    usable = parts.scheme in ('http', 'https') and bool(parts.hostname) and parts.port != 0
  except ValueError:  # The port is no number, or half an IPv6 address.
    usable = False
  if not usable:
    shown = base_url.rpartition('@')[2].partition('?')[0]
    raise errors.UserError(f'--base_url={shown}: no address; give it as http://localhost:8000/v1')
  userinfo, _, host = parts.netloc.rpartition('@')
  return (f'{parts.scheme}://{host}{parts.path.rstrip("/")}', urllib.parse.unquote(userinfo),
          dict(urllib.parse.parse_qsl(parts.query)))


def _proxy(url: str) -> str | None:
  parts = urllib.parse.urlsplit(url)
  bypassed = urllib.request.proxy_bypass(parts.hostname or '')
  return None if bypassed else urllib.request.getproxies().get(parts.scheme)


def _library() -> Any:
  try:
    import aiohttp
  except ImportError as error:
    raise errors.UserError(f'--client=openai needs aiohttp ({error}): pip install aiohttp') from (
        error)
  return aiohttp
