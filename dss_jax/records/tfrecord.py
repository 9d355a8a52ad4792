"""TFRecord files, the same bytes as TensorFlow's, without TensorFlow.

A file is a sequence of records, each framed as

  uint64 length | uint32 checksum of the length | data | uint32 checksum of the data

little-endian; a checksum is a CRC-32C, "masked" so that data which itself holds checksums does
not weaken it. Paths may be local or `gs://`.
"""

import dataclasses
import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import IO, cast

import google_crc32c
from etils import epath

_LENGTH = struct.Struct('<Q')
_CRC = struct.Struct('<I')
_MASK_DELTA = 0xA282EAD8


class DamagedError(Exception):
  """A file ends inside a record, or a checksum is wrong; the message says of which record."""


@dataclasses.dataclass(frozen=True)
class Written:
  """What `write` wrote: number of records, and the file's size and sha256."""

  records: int
  bytes: int
  sha256: str


def write(path: str, rows: Iterable[bytes]) -> Written:
  """Writes one record per row, as the rows come; an existing file is replaced.

  Size and checksum are those of the bytes that were meant, so that comparing them with the
  file later also finds what was lost on the way to the disk.
  """
  digest, size, count = hashlib.sha256(), 0, 0
  with _open(path, 'wb') as f:
    for data in rows:
      length = _LENGTH.pack(len(data))
      frame = b''.join((length, _checksum(length), data, _checksum(data)))
      f.write(frame)
      digest.update(frame)
      size += len(frame)
      count += 1
  return Written(count, size, digest.hexdigest())


def read(path: str) -> Iterator[bytes]:
  """The records in order, each after both its checksums.

  Raises:
    DamagedError: at the first record that is cut or changed; those before it are whole.
  """
  with _open(path, 'rb') as f:
    number = 0
    while header := f.read(_LENGTH.size + _CRC.size):
      number += 1
      # The length first: a wrong one would ask for any amount of memory.
      length = header[:_LENGTH.size]
      _check(length, header[_LENGTH.size:], number)
      data = f.read(_LENGTH.unpack(length)[0])
      _check(data, f.read(_CRC.size), number)
      yield data


def _check(data: bytes, checksum: bytes, number: int) -> None:
  if len(checksum) < _CRC.size:
    raise DamagedError(f'the file ends inside record {number}')
  if checksum != _checksum(data):
    raise DamagedError(f'wrong checksum in record {number}')


def _checksum(data: bytes) -> bytes:
  crc = google_crc32c.value(data)
  rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
  return _CRC.pack((rotated + _MASK_DELTA) & 0xFFFFFFFF)


def _open(path: str, mode: str) -> IO[bytes]:
  return cast(IO[bytes], epath.Path(path).open(mode))
