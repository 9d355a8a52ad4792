"""Files that are whole or absent, on local disks and object stores."""

import os

import tensorflow as tf


def write(path: str, data: bytes | str) -> None:
  """Writes aside, fsyncs, renames: a kill or a full disk leaves the earlier file intact."""
  aside = f'{path}.writing-{os.getpid()}'
  try:
    with tf.io.gfile.GFile(aside, 'w' if isinstance(data, str) else 'wb') as f:
      f.write(data)
    fsync(aside)
    tf.io.gfile.rename(aside, path, overwrite=True)
  finally:
    if tf.io.gfile.exists(aside):
      tf.io.gfile.remove(aside)


def fsync(path: str) -> None:
  """Forces a local file to disk; an object store keeps an object whole once it is closed."""
  if '://' in path:
    return
  with open(path, 'rb') as f:
    os.fsync(f.fileno())
