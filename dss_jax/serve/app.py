"""The HTTP of `dss serve`: routes, what they take and answer, and the schema of both at /docs."""

import asyncio
import time
from typing import Any

import fastapi
import prometheus_client
import pydantic
from fastapi import responses
from starlette import requests, types

from dss_jax import __version__
from dss_jax.serve import engine as engine_lib
from dss_jax.serve import service as service_lib

_ABOUT = """\
Answers of a student T5. `POST /predict` with one `input`, or several `inputs`; answers are in
order. Inputs of all connections share batches; an answer does not depend on them."""
_REFUSALS = {
    408: 'the body did not arrive in time', 413: 'too long a body, or too many inputs',
    422: 'no JSON, or a field that is wrong: `detail` names it',
    429: 'the queue is full: come again after `Retry-After` seconds',
    500: 'the student failed', 503: 'loading or draining',
    504: 'no answer in time'}


class Ask(pydantic.BaseModel):
  """What is asked of the student."""

  model_config = pydantic.ConfigDict(extra='forbid', strict=True)
  input: str | None = pydantic.Field(None, description='One text, as in training, no prefix.')
  inputs: list[str] | None = pydantic.Field(None, description='Several of them, in its place.')
  rationale: bool | None = pydantic.Field(
      None, description="Also write the rationale; by default as the server's --rationale says.")
  rank: bool | None = pydantic.Field(
      None, description='Score every allowed label instead of decoding; needs --rank of the server,'
                        ' and is its default then.')
  labels: list[str] | None = pydantic.Field(
      None, description="The labels that `rank` scores; by default the student's.")

  @pydantic.model_validator(mode='after')
  def _has_input(self) -> 'Ask':
    if (self.input is None) == (self.inputs is None):
      raise ValueError('input: give one `input`, or a list of `inputs`')
    name = 'inputs' if self.input is None else 'input'
    for field, texts in ((name, self.texts()), ('labels', self.labels)):
      if texts == [] or texts and not all(text.strip() for text in texts):
        raise ValueError(f'{field}: empty, or nothing but space')
    return self

  def texts(self) -> list[str]:
    """The inputs."""
    return [self.input] if self.input is not None else self.inputs or []


class Prediction(pydantic.BaseModel):
  """One answer, with the fields of a line of `dss predict`."""

  predicted_label: str = pydantic.Field(description='The answer.')
  probability: float = pydantic.Field(
      description='That the student writes exactly it; with `rank`, its share among the labels.')
  rationale: str | None = pydantic.Field(None, description='If it was asked for.')
  scores: dict[str, float] | None = pydantic.Field(
      None, description='With `rank`, the share of every label; they sum to 1.')
  truncated: bool = pydantic.Field(
      description='Whether the input was longer than the student reads, and cut.')


class Predictions(pydantic.BaseModel):
  """Of a request with `inputs`."""

  predictions: list[Prediction] = pydantic.Field(description='One for each input, in order.')


class Error(pydantic.BaseModel):
  """Of a request that is not answered."""

  detail: str = pydantic.Field(description='What is wrong, and with which field.')


def make(service: service_lib.Service) -> types.ASGIApp:
  """The ASGI application."""
  app = fastapi.FastAPI(title='dss serve', version=__version__, description=_ABOUT)

  @app.post('/predict', response_model=Prediction | Predictions,
            responses={status: {'model': Error, 'description': why}
                       for status, why in _REFUSALS.items()},
            openapi_extra={'requestBody': {'required': True, 'content': {
                'application/json': {'schema': Ask.model_json_schema()}}}})
  async def predict(request: fastapi.Request) -> fastapi.Response:
    """Labels, and rationales or scores if asked for."""
    try:
      service.check_ready()
      ask = _parse(await _body(request, service.limits))
      questions = await service.questions(ask.texts(), rationale=ask.rationale, rank=ask.rank,
                                          labels=ask.labels or ())
      answers = await service.answers(questions, lambda: _gone(request))
    except service_lib.Refused as refused:
      return _refusal(refused)
    rows = [_row(question, answer) for question, answer in zip(questions, answers, strict=True)]
    return responses.JSONResponse(rows[0] if ask.input is not None else {'predictions': rows})

  @app.get('/', include_in_schema=False)
  async def about() -> fastapi.Response:
    return responses.RedirectResponse('docs')  # Relative, as a proxy may stand before it.

  @app.get('/healthz')
  async def healthz() -> dict[str, str]:
    """Whether the process is alive."""
    return {'status': 'alive'}

  @app.get('/readyz', responses={503: {'model': Error, 'description': _REFUSALS[503]}})
  async def readyz() -> Any:
    """Whether it answers: the student is loaded, everything compiled, and nobody said stop."""
    try:
      service.check_ready()
    except service_lib.Refused as refused:
      return _refusal(refused)
    return {'status': 'ready'}

  @app.get('/metrics', response_class=responses.PlainTextResponse)
  async def metrics() -> fastapi.Response:
    """For Prometheus."""
    return fastapi.Response(service.metrics.text(),
                            media_type=prometheus_client.CONTENT_TYPE_LATEST)

  return _Measured(app, service)


class _Measured:
  """Counts and times /predict, whatever its answer."""

  def __init__(self, app: types.ASGIApp, service: service_lib.Service):
    self._app = app
    self._service = service

  async def __call__(self, scope: types.Scope, receive: types.Receive, send: types.Send) -> None:
    if scope['type'] != 'http' or scope['path'] != '/predict':
      await self._app(scope, receive, send)
      return
    status = 500
    began = time.perf_counter()

    async def noted(message: types.Message) -> None:
      nonlocal status
      if message['type'] == 'http.response.start':
        status = message['status']
      await send(message)
    try:
      with self._service.request():
        await self._app(scope, receive, noted)
    finally:
      self._service.metrics.requests.labels(str(status)).inc()
      self._service.metrics.seconds.observe(time.perf_counter() - began)


async def _body(request: fastapi.Request, limits: service_lib.Limits) -> bytes:
  """The whole body; Refused if it is too long or comes too slowly."""
  too_long = service_lib.Refused(413, f'the body has over {limits.max_body:,} bytes')
  length = request.headers.get('content-length', '')
  if length.isdigit() and int(length) > limits.max_body:
    raise too_long
  found = bytearray()
  try:
    async with asyncio.timeout(limits.timeout):
      async for chunk in request.stream():
        found += chunk
        if len(found) > limits.max_body:
          raise too_long
  except TimeoutError as error:
    raise service_lib.Refused(408, f'no whole body within {limits.timeout:g} s') from error
  except requests.ClientDisconnect as error:
    raise service_lib.Refused(service_lib.GONE, 'the client went away') from error
  return bytes(found)


async def _gone(request: fastapi.Request) -> None:
  """Returns when the client has closed the connection."""
  while (await request.receive())['type'] != 'http.disconnect':
    pass


def _parse(body: bytes) -> Ask:
  try:
    return Ask.model_validate_json(body)
  except pydantic.ValidationError as error:
    raise service_lib.Refused(422, '; '.join(map(_in_words, error.errors()[:5]))) from error


def _in_words(error: Any) -> str:
  """'inputs[2]: input should be a valid string'."""
  if error['type'] == 'value_error':
    return str(error['ctx']['error'])
  where = ''.join(f'[{part}]' if isinstance(part, int) else str(part) for part in error['loc'])
  if error['type'] == 'extra_forbidden':
    return f'{where}: no such field; there are {", ".join(Ask.model_fields)}'
  return f'{where or "the body"}: {error["msg"][:1].lower()}{error["msg"][1:]}'


def _row(question: engine_lib.Question, answer: engine_lib.Answer) -> dict[str, Any]:
  return answer.prediction.as_row() | {'truncated': question.truncated}


def _refusal(refused: service_lib.Refused) -> fastapi.Response:
  close = {'connection': 'close'} if refused.status in (408, 503) else {}
  return responses.JSONResponse({'detail': str(refused)}, refused.status,
                                refused.headers | close)
