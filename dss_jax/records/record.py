"""The record: one input with what the teacher said about it, as a `tf.train.Example`."""

import dataclasses
from collections.abc import Mapping, Sequence

from tensorflow_datasets.proto import tf_example_pb2  # tf.train.Example, from protobuf alone

from dss_jax.records.manifest import SAMPLES_VERSION, SCHEMA_VERSION

PARSED = 'ok'  # parse_status of a row whose completion gave a rationale and a label
TARGETS = ('label', 'teacher_label', 'rationale')  # what may have token distributions


@dataclasses.dataclass(frozen=True)
class RationaleRecord:
  """One input with what the teacher said about it. Fields are text, '' where unknown.

  Schema 2 has two more. Several samples of an input are several records of one `id`, one behind
  the other; the first of them, `sample` 0, is the one that schema 1 would have alone.
  """

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
  sample: int = 0
  # Of sample 0, for a closed set: how many samples reached each label, in the order of the set's.
  label_votes: tuple[float, ...] = ()
  # Of `datasets.Dataset.extra_fields`, each a feature of its own.
  extra: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
  # Of TARGETS: what a teacher would have written at each of its tokens, see `dss distributions`.
  distributions: Mapping[str, bytes] = dataclasses.field(default_factory=dict, hash=False)

  def field(self, name: str) -> str:
    """A text field, or an extra one: '' where it has none."""
    return getattr(self, name) if name in TEXT_FIELDS else self.extra.get(name, '')


FIELDS = tuple(field.name for field in dataclasses.fields(RationaleRecord))
TEXT_FIELDS = tuple(field.name for field in dataclasses.fields(RationaleRecord)
                    if field.type is str)


def distribution_of(target: str) -> str:
  """The feature that holds a target's token distributions."""
  return f'{target}_token_distribution'


def numbered(
    records: Sequence[RationaleRecord], label_votes: Sequence[float] = ()
) -> list[RationaleRecord]:
  """The samples of an input as schema 2 has them, in this order; the first has the votes."""
  return [dataclasses.replace(record, sample=i, schema_version=SAMPLES_VERSION,
                              label_votes=() if i else tuple(label_votes))
          for i, record in enumerate(records)]


def to_bytes(record: RationaleRecord) -> bytes:
  """A serialized tf.train.Example, the same bytes for the same record."""
  example = tf_example_pb2.Example()
  feature = example.features.feature
  for name in TEXT_FIELDS:
    feature[name].bytes_list.value.append(getattr(record, name).encode('utf-8'))
  for name, text in record.extra.items():
    feature[name].bytes_list.value.append(text.encode('utf-8'))
  for name, data in record.distributions.items():
    feature[distribution_of(name)].bytes_list.value.append(data)
  feature['schema_version'].int64_list.value.append(record.schema_version)
  if record.schema_version >= SAMPLES_VERSION:
    feature['sample'].int64_list.value.append(record.sample)
    if record.label_votes:
      feature['label_votes'].float_list.value.extend(record.label_votes)
  return example.SerializeToString(deterministic=True)


def from_bytes(data: bytes) -> RationaleRecord:
  """Inverse of `to_bytes`; of votes to float32."""
  feature = tf_example_pb2.Example.FromString(data).features.feature
  known = {distribution_of(name): name for name in TARGETS}
  texts = {name: value.bytes_list.value[0].decode('utf-8') for name, value in feature.items()
           if value.HasField('bytes_list') and name not in known}
  return RationaleRecord(
      **{name: texts.pop(name) for name in TEXT_FIELDS}, extra=texts,
      schema_version=feature['schema_version'].int64_list.value[0],
      sample=sum(feature['sample'].int64_list.value),
      label_votes=tuple(feature['label_votes'].float_list.value),
      distributions={target: feature[name].bytes_list.value[0]
                     for name, target in known.items() if name in feature})
