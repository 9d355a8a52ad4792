"""Evaluation: greedy decoding scored by `seqio.Evaluator`, and teacher-forced losses."""

import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import seqio
import tensorflow as tf
import tqdm

from dss_jax import classes, decode, errors, models, objective
from dss_jax import metrics as metrics_lib
from dss_jax import sharding as sharding_lib
from dss_jax.data import checks, feature_converter, pipeline, preprocessors, record_task
from dss_jax.data import source as source_lib
from dss_jax.train import config as config_lib
from dss_jax.train import processes
from dss_jax.train import step as step_lib


class Evaluator:
  """Scores parameters on one split.

  The label tasks of the run's mixture are decoded greedily and scored by their SeqIO metrics;
  all losses are computed teacher-forced over the whole mixture.
  """

  def __init__(
      self,
      config: config_lib.TrainConfig,
      split: str,
      model: models.Network,
      sharding: sharding_lib.Sharding,
      log_dir: str = '',
      between: Callable[[], None] = lambda: None,
  ):
    """Reads and caches the split; UserError if its records are missing.

    `between` is called between batches, and may raise.
    """
    self._between = between
    self._config = config
    self._split = split
    self._sharding = sharding
    limit = config.evaluation.num_examples or None
    self._log_dir = log_dir
    self._seqio = seqio.Evaluator(
        config.data.mixture_or_task, feature_converter.DssFeatureConverter(pack=False), split,
        sequence_length=None, num_examples=limit, async_compute_metrics=False,
        logger_cls=[TextLogger] if log_dir and processes.is_main() else [],
        log_dir=log_dir or None)
    for task in self._seqio.eval_tasks:
      if self._seqio.cached_task_datasets[task.name].cardinality() == 0:
        raise checks.no_rows(task, split)
    # Layers stay scanned, if they are. Sliced into layers before the loop, 8 + 8 of them decode 1.2
    # to 1.5 times as fast on a CPU, but compile in 1.3 to 1.4 times as long, for each input length,
    # and hold a second copy of their parameters (127 MiB of T5 v1.1 small's) beside the optimizer's
    # state: who scans has chosen against both.
    self._decoder = decode.BatchDecoder(model, sharding)
    self._eval_step = sharding.jit(
        step_lib.make_eval_step(model, config.objectives, config.loss_chunk),
        out_shardings=sharding.replicated)

  def __call__(self, params: Any, step: int) -> dict[str, float]:
    """Metrics by name: `loss`, `label_loss`, ..., and those of `scores`."""
    return self.losses(params) | self.scores(params, step)

  def scores(self, params: Any, step: int) -> dict[str, float]:
    """Metrics of the decoded text, see `combine`; {} where no task has any."""
    if not self._seqio.eval_tasks:
      return {}
    with_text, _ = self._seqio.evaluate(
        compute_metrics=True, step=step,
        predict_fn=lambda examples: self.predict(params, list(examples.as_numpy_iterator())))
    return combine(with_text.result())

  def classes(self, step: int) -> dict[str, classes.Report]:
    """Of each task with a closed label set, from what `scores` wrote at this step."""
    found = {}
    for task in self._seqio.eval_tasks:
      labels = (isinstance(task.source, source_lib.RecordsSource)
                and task.source.dataset.metric == 'text' and task.source.dataset.labels)
      path = os.path.join(self._log_dir, f'{task.name}-{step:06d}.jsonl')
      if labels and self._log_dir and tf.io.gfile.exists(path):
        with tf.io.gfile.GFile(path) as f:
          if one := classes.of_lines(map(json.loads, f), labels):
            found[task.name] = one
    return found

  def losses(self, params: Any) -> dict[str, float]:
    """Objective and per-task losses over the split, exact: sums first, division last."""
    total: Any = None
    for batch in self._loss_batches:
      self._between()
      sums = self._eval_step(params, self._sharding.shard_batch(step_lib.features(batch)))
      total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    fetched = jax.device_get(objective.summarize(
        total, objective.at_step(self._config.objectives)))
    summary = objective.only_present(fetched)
    return {name: value for name, value in summary.items() if not name.endswith('_tokens')}

  @functools.cached_property
  def _loss_batches(self) -> list[pipeline.Batch]:
    """Read once: a validation split is small, and it is needed at every evaluation."""
    data = self._config.data
    return list(pipeline.eval_batches(
        data.mixture_or_task, self._split, data.feature_lengths, batch_size=data.batch_size,
        pack=data.pack, num_examples=self._config.evaluation.num_examples))

  def predict(
      self, params: Any, examples: Sequence[tuple[int, dict[str, np.ndarray]]]
  ) -> list[tuple[int, list[int]]]:
    """Greedy decoding of SeqIO's enumerated examples -> (index, token ids).

    Sorted by length into batches, so that short inputs are not padded to the longest. Those
    longer than the limit are cut as in training, EOS at the end.
    """
    given = _given(examples[0][1])
    max_target = self._decode_length([ex for _, ex in examples], len(given))
    limit = self._config.data.limits['inputs']
    inputs = [self._cut(ex['encoder_input_tokens'], limit) for _, ex in examples]
    size = self._config.evaluation.batch_size
    batches = self._decoder.search_batches(
        params, inputs, size, limit, max_target, given=given)
    predictions = []
    for rows, ids, _ in tqdm.tqdm(
        batches, total=-(-len(inputs) // self._sharding.whole(size)),
        desc=f'decoding {self._split}', unit='batch', delay=3, leave=False,
        disable=not processes.is_main()):
      self._between()
      predictions += [(examples[row][0], answer.tolist()) for row, answer in zip(rows, ids)]
    return predictions

  def _cut(self, tokens: np.ndarray, limit: int) -> np.ndarray:
    """One input without its padding, at most `limit` tokens."""
    ids = tokens[tokens > 0]
    if len(ids) <= limit:
      return ids
    feature = self._seqio.eval_tasks[0].output_features['inputs']
    return np.append(ids[:limit - 1], feature.vocabulary.eos_id if feature.add_eos
                     else ids[limit - 1])

  def _decode_length(self, examples: Sequence[dict[str, np.ndarray]], given: int) -> int:
    """As many tokens as the longest target has (EOS included), at most where targets are cut.

    The tokens that are `given` do not count.

    An answer that runs on has lost already where only the label itself is right. Where it stands
    behind a rationale, or has a value that its beginning may have too, it may take all tokens.
    """
    limit = self._config.data.limits['targets']
    if not all(_is_exact(task) for task in self._seqio.eval_tasks):
      return limit
    longest = max(int(np.sum(ex['decoder_target_tokens'] > 0)) for ex in examples) - given
    return min(_round_up(longest, 8), limit)


def read_classes(path: str) -> dict[str, list[str]]:
  """Lines for a terminal, by task, from test_metrics.json; {} of one without any."""
  if not tf.io.gfile.exists(path):  # The first process's, where files are not shared.
    return {}
  with tf.io.gfile.GFile(path) as f:
    found = json.loads(f.read()).get('classes', {})
  return {task: classes.Report(tuple(one['labels']), np.array(one['confusion'])).lines()
          for task, one in found.items()}


class TextLogger(seqio.JSONLogger):
  """Writes <task>-<step>.jsonl, a row's texts a line, and <task>-metrics.jsonl.

  {"input": {"id": "7", "text": "[label] Where do birds live?"}, "target": "nest",
   "output": "nest", "prediction": "nest"}
  """

  def __init__(self, output_dir: str):
    super().__init__(output_dir, write_n_results=0)

  def __call__(self, task_name, step, metrics, dataset, inferences, targets):
    super().__call__(task_name, step, metrics, dataset, inferences, targets)
    features = seqio.get_mixture_or_task(task_name).output_features
    found = {name: list(inferences[name]) for name in ('output', 'prediction')
             if name in inferences}
    path = os.path.join(self.output_dir, f'{task_name}-{step or 0:06d}.jsonl')
    with tf.io.gfile.GFile(path, 'w') as f:
      for i, (row, target) in enumerate(zip(dataset.as_numpy_iterator(), targets, strict=True)):
        texts = {name: values[i] for name, values in found.items()}
        f.write(json.dumps({'input': _as_texts(row, features), 'target': target, **texts},
                           cls=seqio.TensorAndNumpyEncoder) + '\n')


def _as_texts(row: Mapping[str, Any], features: Mapping[str, seqio.Feature]) -> dict[str, str]:
  found = {'id': row['id'].decode()} if 'id' in row else {}
  ids = np.asarray(row['inputs'])
  return found | {'text': features['inputs'].vocabulary.decode(ids[ids > 0].tolist())}


def combine(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
  """Metrics of each task -> those of the run.

  {'cqa_finetune': {'accuracy': 60}} -> {'accuracy': 60.0}; of several tasks all are kept, and
  what they share is the mean over tasks:
  {'dss_cqa_label': {'accuracy': 60}, 'dss_svamp_label': {'accuracy': 40, 'text_accuracy': 10}}
  -> {'accuracy': 50.0, 'dss_cqa_label/accuracy': 60.0, 'dss_svamp_label/accuracy': 40.0,
      'dss_svamp_label/text_accuracy': 10.0}
  """
  found = [{name: float(value) for name, value in one.items()} for one in tasks.values()]
  shared = [name for name in found[0] if all(name in one for one in found)]
  means = {name: sum(one[name] for one in found) / len(found) for name in shared}
  if len(found) == 1:
    return means
  return means | {f'{task}/{name}': value for task, one in zip(tasks, found, strict=True)
                  for name, value in one.items()}


def check_metric(name: str, metric: str) -> None:
  """UserError if no evaluation of a task or mixture will have `metric`.

  What metrics functions of a user's own return is not known before they are called.
  """
  tasks = seqio.get_subtasks(pipeline.get_mixture_or_task(name))
  scores, losses = {}, {'loss'}
  for task in tasks:
    if not isinstance(task, record_task.RecordTask):
      return
    losses |= {f'{task.objective.name}_loss', f'{task.objective.name}_token_accuracy'}
    if task.metric_fns:
      dataset = task.source.dataset
      one = [(dataset.labels or ('1',))[0]]
      scores[task.name] = {name: value for score in metrics_lib.for_training(dataset)
                           for name, value in score(one, one).items()}
  known = {*losses, *(combine(scores) if scores else ())}
  if metric not in known:
    raise no_metric(metric, known)


def no_metric(metric: str, known: Iterable[str]) -> errors.UserError:
  """The error to raise where checkpoints cannot be chosen by `metric`."""
  return errors.UserError(
      f'EvalConfig.metric={metric}: checkpoints are chosen by a metric of the evaluation: '
      f'{errors.did_you_mean(metric, known)}, or set EvalConfig.every=0 to choose none')


def _given(example: Mapping[str, np.ndarray]) -> tuple[int, ...]:
  """The tokens of a task's prompt, which no objective learns, see `preprocessors.prepend`."""
  tokens = example['decoder_target_tokens']
  is_given = (tokens > 0) & (example[feature_converter.OBJECTIVE] == objective.PADDING)
  return tuple(tokens[is_given].tolist())


def _is_exact(task: seqio.Task) -> bool:
  """Whether nothing but the label's own text is right."""
  read = task.postprocessor
  return (isinstance(task.source, source_lib.RecordsSource)
          and task.source.dataset.metric == 'text'
          and isinstance(read, preprocessors.ReadAnswer) and not read.phrase)


def _round_up(value: int, multiple: int) -> int:
  return -(-value // multiple) * multiple
