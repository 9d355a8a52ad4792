"""A server's life: its port, loading, and being told to stop."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import tqdm
import uvicorn
from uvicorn.protocols.http import auto

from dss_jax import errors
from dss_jax.serve import app as app_lib
from dss_jax.serve import service as service_lib

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_HEADERS = 10.0  # seconds until the headers of a request must be whole
_IDLE = 75  # and between two requests: longer than proxies hold a connection, which send into it


def bind(host: str, port: int) -> socket.socket:
  """A socket that listens; UserError if that cannot be."""
  if not 0 <= port < 1 << 16:
    raise errors.UserError(f'--port={port}: use one from 1 to 65535, or 0 for any that is free')
  try:
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    found = socket.create_server(address[:2], family=family, backlog=2048)
    # Connections inherit it. asyncio sets it for sockets that name their protocol only, and without
    # it the body of an answer waits 40 ms for the client's word that it got the head.
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found
  except (OSError, UnicodeError) as error:
    # `create_server` puts more words into strerror.
    number = error.errno if isinstance(error, OSError) else None
    why = os.strerror(number) if number and number > 0 else getattr(error, 'strerror', error)
    if isinstance(error, (socket.gaierror, UnicodeError)) or number == errno.EADDRNOTAVAIL:
      raise errors.UserError(f'--host={host}: {why}; give an address of this machine, such as '
                             '127.0.0.1, or 0.0.0.0 for all') from error
    raise errors.UserError(f'--port={port}: {why} at {host}; give another one, or 0 for any that '
                           'is free') from error


def url(sock: socket.socket) -> str:
  """'http://127.0.0.1:8080'."""
  host, port = sock.getsockname()[:2]
  return f'http://[{host}]:{port}' if ':' in host else f'http://{host}:{port}'


async def run(
    sock: socket.socket, limits: service_lib.Limits, load: Callable[[], service_lib.Engine]
) -> int:
  """Serves until SIGTERM or SIGINT, and ends what is in flight; a second signal kills.

  Args:
    sock: from `bind`.
    limits: see there.
    load: makes the engine, in a thread, while the server already answers /healthz.

  Returns: the exit code: 0, or 1 if the grace was over before all were answered. Then the engine's
    thread may still be at work.

  Raises:
    UserError: of `load`.
  """
  service = service_lib.Service(limits)
  server = _Server(uvicorn.Config(
      app_lib.make(service), http=_Protocol, ws='none', lifespan='off', log_level='warning',
      access_log=False, proxy_headers=False, server_header=False, backlog=2048,
      timeout_keep_alive=_IDLE, timeout_graceful_shutdown=2))
  address = url(sock)
  serving = asyncio.create_task(server.serve(sockets=[sock]))
  try:
    with _told_to_stop() as told:
      loading = asyncio.create_task(_load(service, load, told))
      stopping = asyncio.create_task(told.wait())
      await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
      if not told.is_set():
        loading.result()
        service.state = service_lib.READY
        print(f'ready: POST {address}/predict; fields at {address}/docs', flush=True)
      await asyncio.wait([stopping, serving], return_when=asyncio.FIRST_COMPLETED)
      print('told to stop', file=sys.stderr)
      lost = await service.drain()
      await asyncio.gather(loading, return_exceptions=True)
  finally:
    server.should_exit = True
    await serving
  if lost:
    print(f'{lost} requests were not answered within --grace={limits.grace:g}', file=sys.stderr)
    return 1
  await service.close()
  return 0


async def _load(service: service_lib.Service, load: Callable[[], service_lib.Engine],
                told: asyncio.Event) -> None:
  """Loads and compiles in a thread, or until told to stop."""
  def work() -> service_lib.Engine:
    service.progress = 'the parameters'
    engine = load()
    programs = engine.programs()
    for i, program in enumerate(tqdm.tqdm(programs, desc='compiling', unit='program')):
      service.progress = f'program {i + 1} of {len(programs)} is compiled'
      if told.is_set():
        break
      engine.compile(*program)
    return engine
  service.engine = await asyncio.to_thread(work)


@contextlib.contextmanager
def _told_to_stop() -> Iterator[asyncio.Event]:
  """An event that the first signal sets; the second one does what it does to any program."""
  told = asyncio.Event()
  loop = asyncio.get_running_loop()
  before = {number: signal.getsignal(number) for number in _SIGNALS}

  def stop() -> None:
    told.set()
    for number in _SIGNALS:
      loop.remove_signal_handler(number)
      signal.signal(number, signal.SIG_DFL)
  for number in _SIGNALS:
    loop.add_signal_handler(number, stop)
  try:
    yield told
  finally:
    for number, handler in before.items():
      loop.remove_signal_handler(number)
      signal.signal(number, handler)


class _Server(uvicorn.Server):
  """Signals are ours: uvicorn would not wait for the queue, nor exit with 0."""

  @contextlib.contextmanager
  def capture_signals(self) -> Iterator[None]:
    yield


class _Protocol(auto.AutoHTTPProtocol):  # type: ignore[misc,valid-type]
  """Closes connections that begin a request and do not end its headers: uvicorn waits for ever."""

  _waiting: asyncio.TimerHandle | None = None

  def connection_made(self, transport: Any) -> None:
    super().connection_made(transport)
    self._expect()

  def data_received(self, data: bytes) -> None:
    super().data_received(data)
    self._expect()

  def connection_lost(self, exc: Exception | None) -> None:
    super().connection_lost(exc)
    if self._waiting:
      self._waiting.cancel()

  def _expect(self) -> None:
    in_headers = self.cycle is None or self.cycle.response_complete
    if not in_headers and self._waiting:
      self._waiting.cancel()
      self._waiting = None
    elif in_headers and not self._waiting:
      self._waiting = self.loop.call_later(_HEADERS, self._close)

  def _close(self) -> None:
    self._waiting = None
    if self.cycle is None or self.cycle.response_complete:
      self.transport.close()
