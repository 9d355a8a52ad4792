"""`dss serve`: a trained student as an HTTP server."""

import argparse
import asyncio
import dataclasses
import importlib.util
import os
import sys
from collections.abc import Sequence

from dss_jax import arguments, cli, errors, ranking
from dss_jax.predict import __main__ as predict_main
from dss_jax.predict import options as options_lib

_DESCRIPTION = """\
Serve a trained student over HTTP. Requests of all clients share batches; whatever they can need is
compiled at the start. SIGTERM ends what is in flight, then the server.
"""
_EPILOG = """\
examples:
  dss serve --model_dir=runs/dss_cqa --port=8080
  curl localhost:8080/predict --json '{"input": "Where do birds live?"}'

  # With rationales; and with the scores of a closed label set in place of decoding:
  dss serve --model_dir=runs/dss_cqa --rationale
  dss serve --model_dir=runs/tickets --rank

endpoints: POST /predict, GET /healthz, /readyz, /metrics (Prometheus), /docs
"""
_NEEDS = ('fastapi', 'uvicorn', 'prometheus_client')


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  parser = argparse.ArgumentParser(
      prog=cli.program('serve'), description=_DESCRIPTION, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add('--model_dir', required=True, metavar='DIR', help='the student, as of `dss predict`')
  add('--host', default='127.0.0.1', help='to listen at (default: 127.0.0.1; 0.0.0.0 for all)')
  add('--port', type=int, default=8080, help='0 for any that is free (default: 8080)')
  add('--rationale', action='store_true', help='write rationales, unless a request says no')
  add('--rank', action='store_true',
      help='score the allowed labels, no decoding, unless a request says no')
  add('--rank_by', choices=ranking.WAYS, help='as of `dss predict`')
  add('--max_labels', type=int, metavar='N',
      help="that a request may bring (default: as many as the student has, or 8)")
  add('--max_label_tokens', type=int, metavar='N',
      help="of a label that a request brings (default: as the student's have, or 16)")
  add('--max_input_length', type=int, help="tokens; longer inputs are cut (default: the student's)")
  add('--max_target_length', type=int, help="tokens (default: the student's)")
  add('--max_batch', type=int, default=32, help='inputs that are decoded at once (default: 32)')
  add('--max_wait_ms', type=float, default=5.0, metavar='MS',
      help='that an input waits for others to share a batch (default: 5)')
  add('--queue', type=int, default=256,
      help='inputs that wait for a batch; more are answered with 429 (default: 256)')
  add('--max_inputs', type=int, default=64, help='of one request (default: 64)')
  add('--max_body', type=int, default=1_000_000, metavar='BYTES', help='default: 1000000')
  add('--timeout', type=float, default=30.0, metavar='SECONDS',
      help='to send a request, and to answer it (default: 30)')
  add('--grace', type=float, default=30.0, metavar='SECONDS',
      help='to finish what is in flight when told to stop (default: 30)')
  add('--dataset', default='', metavar='NAME', help='of a student of several: whose labels')
  predict_main.loading_flags(add)
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Parses the command line, serves until told to stop."""
  args = arguments.parse(parser(), argv)
  if missing := [name for name in _NEEDS if importlib.util.find_spec(name) is None]:
    raise errors.UserError(f"dss serve needs {', '.join(missing)}: pip install 'dss_jax[serve]'")
  with cli.flags_named(vars(args)):
    return _serve(args)


def _serve(args: argparse.Namespace) -> int:
  from dss_jax.serve import engine, server, service  # Late: of what only this verb needs.
  limits = service.Limits(**{field.name: getattr(args, field.name)
                             for field in dataclasses.fields(service.Limits)})
  options = options_lib.Options(**{
      name: getattr(args, name) for name in ('rationale', 'rank', 'rank_by', 'max_input_length',
                                             'max_target_length')})
  if args.rank_by and not args.rank:
    raise errors.UserError('--rank_by is how --rank compares labels: give --rank too')

  def load() -> engine.Engine:
    return engine.Engine(predict_main.load(args), options, max_batch=limits.max_batch,
                         max_labels=args.max_labels, max_label_tokens=args.max_label_tokens)
  with server.bind(args.host, args.port) as sock:
    print(f'loading {args.model_dir} for {server.url(sock)}', flush=True)
    code = asyncio.run(server.run(sock, limits, load))
  if code:
    sys.stdout.flush()
    os._exit(code)  # Its grace is over: what the decoder is at is not waited for.
  return 0


if __name__ == '__main__':
  cli.run(main)
