"""`register`: a dataset is described once, for the teacher's programs and for training."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dss_jax import datasets, errors, fields
from dss_jax.data import settings


def register(
    name: str,
    *,
    read_row: Callable[[Mapping[str, Any], int], datasets.Example] = datasets.read_plain_row,
    labels: Iterable[str | int | float] | None = None,
    metric: str = 'text',
    completion: datasets.CompletionFormat | None = None,
    holdout: str | None = 'hash',
    records: Mapping[str, Sequence[str]] | None = None,
    source: str = '',
    tfds: str | None = None,
    tfds_splits: Mapping[str, str] | None = None,
    hub: Mapping[str, str] | None = None,
    load: Callable[[str], Iterable[Mapping[str, Any]]] | None = None,
    extra_fields: Iterable[str] = (),
) -> datasets.Dataset:
  """Registers a dataset D under all the names of its recipe; touches no file.

    dss_D           mixture 1:1 of dss_D_label and dss_D_rationale, gold labels
    dss_D_teacher   mixture 1:1 of dss_D_teacher_label and dss_D_rationale
    dss_D_shuffled  the control: dss_D_label and other inputs' rationales
    D_finetune      standard fine-tuning: input -> gold label
    D_distill       standard distillation: input -> teacher label
    D_rationale_then_label   the single-task ablation
    D_pretrain      T5's span corruption on the inputs, see `dss pretrain`

  For a dataset of your own, rows with `input` and `label` are enough:

    dss_jax.data.register('tickets', labels=('billing', 'bug', 'other'))

  Args:
    name: D; letters, digits and underscores.
    read_row: turns one JSON row into an Example, if it is not `id`, `input`, `label` already.
    labels: the closed label set, if there is one, as a list or another iterable with an order;
      others in the data are refused. Each is taken exactly, spaces included; numbers become
      texts as they do in rows: (0, 1) is ('0', '1').
    metric: 'text' (exact match), 'equation' (equal value) or 'normalized_text' (as SQuAD: case,
      punctuation and articles do not count).
    completion: how the teacher's completions end; by default `... So the answer is <label>.`
    holdout: how 10 % of train become validation if there is no validation split:
      'hash' (of the id), 'permutation' (the released code's rows), None (there is one).
    records: which datasets' records each split reads, where not its own.
    source: where the data comes from, one line.
    tfds: the TFDS dataset that `dss teacher` reads if no --inputs is given, e.g. 'anli/r1'.
    tfds_splits: our split -> its TFDS split, where the names differ.
    hub: our split -> its rows at the Hugging Face hub, 'hf://OWNER/NAME:SPLIT', which
      `dss teacher --inputs=hub` reads.
    load: split -> rows, for data that is neither in a file nor in TFDS; `read_row` gets each.
    extra_fields: further fields of the rows, such as ('hint',), that records keep for
      `DSS_OBJECTIVES` to read and to write; a row may lack them.

  Returns: the description, also found by `dss_jax.datasets.get(name)`.

  Raises:
    UserError: labels, records or extra_fields that are one text, a set, empty, or hold what is no
      text; an extra field that records have anyway; a name whose tasks would replace another
      dataset's.
    ValueError: a bad metric, holdout or split, tfds as well as load, or a name that SeqIO
      refuses.
  """
  kind = 'class' if labels is not None else 'equation' if metric == 'equation' else 'text'
  dataset = datasets.Dataset(
      name=name, read_row=read_row,
      labels=None if labels is None else fields.label_set(labels, f'dataset {name!r}: labels'),
      metric=metric,
      completion=completion or datasets.CompletionFormat(label_kind=kind), holdout=holdout,
      records={split: fields.as_texts(sets, f'dataset {name!r}: records[{split!r}]')
               for split, sets in (records or {}).items()}, source=source,
      tfds=tfds or '', tfds_splits=dict(tfds_splits or {}), hub=dict(hub or {}), load=load,
      extra_fields=_extra_fields(name, extra_fields))
  datasets.add(dataset)
  if not datasets.only_described():
    from dss_jax.data import registration  # Late: it loads TensorFlow and SeqIO.
    registration.add_tasks(dataset, settings.current())
  return dataset


def _extra_fields(name: str, given: Iterable[str]) -> tuple[str, ...]:
  found = fields.as_texts(given, f'dataset {name!r}: extra_fields')
  if found:
    from dss_jax import records  # Late: most datasets need none of it.
    if taken := set(found) & set(records.FIELDS):
      raise errors.UserError(
          f'dataset {name!r}: extra_fields has {", ".join(sorted(taken))}, which a record has '
          'anyway: leave it out, or name the column otherwise')
  return found
