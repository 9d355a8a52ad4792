"""Rationale records: the one contract between the teacher job and training.

A record set is `<dataset>-<split>`: sharded TFRecords of `tf.train.Example`, beside one
`manifest.json` that lists, for every set in the folder, its shards with sizes and checksums.
A shard is complete or absent (written aside, fsynced, renamed), and a set exists only once
the manifest names it, so a reader never sees half of one. Paths may be local or `gs://`.
No TensorFlow: it would be most of the memory of a teacher job.
"""

from dss_jax.records.manifest import (
    MANIFEST,
    SAMPLES_VERSION,
    SCHEMA_VERSION,
    RecordSet,
    Shard,
    check_folder,
    find_set,
    set_names,
)
from dss_jax.records.record import (
    FIELDS,
    PARSED,
    TARGETS,
    TEXT_FIELDS,
    RationaleRecord,
    distribution_of,
    from_bytes,
    numbered,
    to_bytes,
)
from dss_jax.records.sets import (
    publish,
    read_records,
    shard_bounds,
    shard_name,
    stage_shard,
    write_records,
)

__all__ = [
    'FIELDS', 'MANIFEST', 'PARSED', 'SAMPLES_VERSION', 'SCHEMA_VERSION', 'TARGETS', 'TEXT_FIELDS',
    'RationaleRecord', 'RecordSet', 'Shard', 'check_folder', 'distribution_of', 'find_set',
    'from_bytes', 'numbered', 'publish', 'read_records', 'set_names', 'shard_bounds', 'shard_name',
    'stage_shard', 'to_bytes', 'write_records']
