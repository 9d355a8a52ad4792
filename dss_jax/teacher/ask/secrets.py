"""The API key out of Google Secret Manager, for workers that have no environment of yours.

Only the secret's name travels: on command lines, in a job's options and in its files.
"""

import argparse
import importlib
import os
import re
from typing import Any

from dss_jax import errors

_NAME = re.compile(r'projects/[^/]+/secrets/[^/]+/versions/[^/]+')


def provide(flags: argparse.Namespace) -> None:
  """Puts what `--api_key_secret` names where `--api_key_env` says, in this process.

  Raises:
    UserError: not a secret's full name, no client library, or no access; never with the key.
  """
  name = flags.api_key_secret
  if not name:
    return
  if not _NAME.fullmatch(name):
    raise errors.UserError(f'--api_key_secret={name}: give its full name, '
                           'projects/PROJECT/secrets/SECRET/versions/latest')
  manager = _library()
  try:
    response = manager.SecretManagerServiceClient().access_secret_version(name=name)
    key = response.payload.data.decode('utf-8').strip()
  except Exception as error:  # Google's own kinds, for credentials, permissions, networks.
    raise errors.UserError(
        f'--api_key_secret={name}: cannot be read ({type(error).__name__}: {str(error)[:200]}); '
        'whoever runs this needs the role Secret Manager Secret Accessor') from None
  if not key:
    raise errors.UserError(f'--api_key_secret={name}: is empty')
  os.environ[flags.api_key_env] = key


def _library() -> Any:
  try:
    return importlib.import_module('google.cloud.secretmanager')
  except ImportError as error:
    raise errors.UserError(
        f'--api_key_secret needs the library of Secret Manager ({error}): '
        'pip install google-cloud-secret-manager') from error
