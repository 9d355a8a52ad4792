"""The record: one input with what the teacher said about it, as a `tf.train.Example`."""

import dataclasses

from tensorflow_datasets.proto import tf_example_pb2  # tf.train.Example, from protobuf alone

from dss_jax.records.manifest import SCHEMA_VERSION

PARSED = 'ok'  # parse_status of a row whose completion gave a rationale and a label


@dataclasses.dataclass(frozen=True)
class RationaleRecord:
  """One input with what the teacher said about it. All fields are text, '' where unknown."""

  id: str
  input: str  # what the student reads, without task prefix
  label: str = ''  # gold
  teacher_label: str = ''
  rationale: str = ''
  dataset: str = ''
  split: str = ''
  teacher_model: str = ''
  prompt_sha256: str = ''
  request_key: str = ''
  finish_reason: str = ''
  parse_status: str = PARSED  # or the reason why there is no rationale
  schema_version: int = SCHEMA_VERSION


FIELDS = tuple(field.name for field in dataclasses.fields(RationaleRecord))
TEXT_FIELDS = tuple(name for name in FIELDS if name != 'schema_version')


def to_bytes(record: RationaleRecord) -> bytes:
  """A serialized tf.train.Example, the same bytes for the same record."""
  example = tf_example_pb2.Example()
  feature = example.features.feature
  for name in TEXT_FIELDS:
    feature[name].bytes_list.value.append(getattr(record, name).encode('utf-8'))
  feature['schema_version'].int64_list.value.append(record.schema_version)
  return example.SerializeToString(deterministic=True)


def from_bytes(data: bytes) -> RationaleRecord:
  """Inverse of `to_bytes`."""
  feature = tf_example_pb2.Example.FromString(data).features.feature
  texts = {name: feature[name].bytes_list.value[0].decode('utf-8') for name in TEXT_FIELDS}
  return RationaleRecord(**texts, schema_version=feature['schema_version'].int64_list.value[0])
