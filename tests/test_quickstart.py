"""The quick start's records, of a sure teacher and of an unsure one."""

import collections

from dss_jax import quickstart, records


def test_an_unsure_teacher_explains_in_several_ways_and_is_sometimes_wrong(tmp_path, monkeypatch):
  monkeypatch.setattr(quickstart, 'SPLITS', {'train': (200, 1)})
  folder, _ = quickstart.make_records(str(tmp_path), samples=4)
  found = collections.defaultdict(list)
  for row in records.read_records(folder, 'toy', 'train', samples=True):
    found[row.id].append(row)
  rows = [row for samples in found.values() for row in samples]
  assert len(found) == 200 and len(rows) == 800
  wrong = [row for row in rows if row.rationale.split()[-1] != row.label]
  assert 0.15 < len(wrong) / len(rows) < 0.25
  assert all(row.rationale.split()[-1] == row.teacher_label for row in rows)
  for first, *_ in found.values():  # The vote's, over ('left', 'right').
    votes = dict(zip(('left', 'right'), first.label_votes))
    assert sum(votes.values()) == 4 and votes[first.teacher_label] == max(votes.values())
  for samples in found.values():  # The same facts, in orders of their own.
    assert len({frozenset(row.rationale.split()[::2]) for row in samples}) == 1
  assert sum(len({row.rationale for row in samples}) > 1 for samples in found.values()) > 190


def test_a_sure_teacher_is_right(tmp_path, monkeypatch):
  monkeypatch.setattr(quickstart, 'SPLITS', {'train': (40, 1)})
  folder, _ = quickstart.make_records(str(tmp_path))
  rows = list(records.read_records(folder, 'toy', 'train'))
  assert len(rows) == 40 and all(row.teacher_label == row.label for row in rows)
