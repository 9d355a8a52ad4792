"""A sweep's folder as the sweep writes it, with results that nobody trained for."""

import json
import random

from dss_jax.experiments import grid

LABELS = ('left', 'right')


def sweep(folder, cells, examples=60, accuracy=lambda cell: 0.7):
  """Fills `folder`; every cell's predictions have about its accuracy."""
  (folder / 'datasets').mkdir(parents=True)
  for dataset in dict.fromkeys(cell.dataset for cell in cells):
    describe(folder, dataset, examples)
  for cell in cells:
    add(folder, cell, examples, accuracy(cell))
  (folder / 'sweep.json').write_text(json.dumps({'cells': [cell.key for cell in cells]}))
  return folder


def rows(dataset, examples):
  drawn = random.Random(dataset)
  return [{'id': f'{dataset}-{i}', 'input': f'Parcel {i} <b>of</b> {dataset} & sons',
           'label': drawn.choice(LABELS), 'teacher_label': drawn.choice(LABELS),
           'rationale': f'Reason {i}: the lane.'} for i in range(examples)]


def describe(folder, dataset, examples):
  made = rows(dataset, examples)
  (folder / 'datasets' / f'{dataset}.jsonl').write_text(
      ''.join(json.dumps(row) + '\n' for row in made))
  right = sum(row['label'] == row['teacher_label'] for row in made)
  (folder / 'datasets' / f'{dataset}.json').write_text(json.dumps({
      'train': 400, 'test': examples, 'metric': 'text',
      'labels': LABELS, 'teacher': {'accuracy': 100 * right / examples},
      'teachers': {f'{dataset}-train': {'model': 'palm-540b', 'usage': {
          'prompt_tokens': 1_200_000, 'completion_tokens': 54_321}}}}))


def add(folder, cell, examples, accuracy):
  """The run's folder and its line in results.jsonl."""
  drawn = random.Random(cell.key)
  run = folder / 'runs' / cell.key
  (run / 'predictions' / 'test').mkdir(parents=True)
  lines = []
  for row in rows(cell.dataset, examples):
    other = LABELS[row['label'] == LABELS[0]]
    lines.append({'input': {'id': row['id']}, 'target': row['label'], 'output': '',
                  'prediction': row['label'] if drawn.random() < accuracy else other})
  (run / 'predictions' / 'test' / 'label-000100.jsonl').write_text(
      ''.join(json.dumps(line) + '\n' for line in lines))
  (run / 'predictions' / 'test' / 'label-metrics.jsonl').write_text('{"step": 100}\n')
  (run / 'metrics.jsonl').write_text(''.join(json.dumps(
      {'step': step, 'train/label_loss': 2 / step, 'validation/accuracy': step / 2}) + '\n'
      for step in range(10, 110, 10)))
  if cell.method.startswith('dss'):
    (run / 'rationales.jsonl').write_text(''.join(
        json.dumps({'id': f'{cell.dataset}-{i}', 'rationale': f'I think {i}.'}) + '\n'
        for i in range(5)))
  right = sum(line['target'] == line['prediction'] for line in lines)
  append(folder, {
      'key': cell.key, **vars(cell), 'inputs': round(400 * cell.fraction), 'steps': 100,
      'parameters': {'small': 60_000_000, 'base': 220_000_000}.get(cell.model, 37_280),
      'best_step': 100, 'seconds': 12.5, 'test': {'accuracy': 100 * right / examples},
      'validation': {'accuracy': 50.0}, 'model_dir': f'runs/{cell.key}', 'settings': {}})


def append(folder, row):
  with (folder / 'results.jsonl').open('a') as f:
    f.write((row if isinstance(row, str) else json.dumps(row)) + '\n')


def toy(**changes):
  """The cells of a small sweep."""
  return grid.cells(grid.Sweep(**{
      'datasets': ('toy',), 'methods': ('dss', 'finetune', 'dss_shuffled'),
      'fractions': (0.25, 0.5, 1.0), **changes}))
