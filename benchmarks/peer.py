"""The other side: T5 of Hugging Face transformers on PyTorch, as one would train it there.

The optimizer is what its Trainer takes, fused AdamW; batches are padded to their longest row.
On a GPU its float32 products use TF32, as JAX's do.
"""

import contextlib
import functools
import tempfile
from collections.abc import Sequence
from typing import Any

import batches as batches_lib
import machine
import numpy as np

from dss_jax import errors, models, objective

WHY = "--peer=transformers needs PyTorch and transformers: pip install -e '.[parity]'"


def _import() -> tuple[Any, Any]:
  try:
    import torch
    import transformers
  except ImportError as error:
    raise errors.UserError(f'{error}; {WHY}') from error
  return torch, transformers


class Peer:
  """A transformers T5 of the shape of `config` with random weights."""

  def __init__(self, config: models.T5Config, threads: int):
    self._torch, transformers = _import()
    torch = self._torch
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision('high')
    torch.manual_seed(0)
    self._device = 'cuda' if torch.cuda.is_available() else 'cpu'
    self._dtype = config.dtype.name
    self._model = _make_model(torch, transformers, config).to(self._device)
    attention = self._model.config._attn_implementation
    self.description = (f'torch {torch.__version__}, transformers {transformers.__version__}, '
                        f'{self._device}, {torch.get_num_threads()} threads, {attention} attention')

  def matmul_peak(self, dtype: str, tiny: bool) -> float:
    """FLOP/s of PyTorch's fastest square matrix product; as `machine.matmul_peak`."""
    torch, best = self._torch, 0.0
    for size in machine.matmul_sizes(self._device != 'cpu', tiny):
      matrix = torch.randn(size, size, device=self._device).to(getattr(torch, dtype))
      result = torch.empty_like(matrix)

      def run(matrix=matrix, result=result):
        torch.matmul(matrix, matrix, out=result)
        self._wait()
      best = max(best, machine.best_rate(run, size))
    return best

  def parameters(self) -> int:
    """How many parameters the model has, a tied head not counted twice."""
    return sum(p.numel() for p in self._model.parameters())

  def peak_memory(self) -> int | None:
    """Most bytes of the GPU that PyTorch had in use since the last time; None on a CPU."""
    if self._device == 'cpu':
      return None
    peak = self._torch.cuda.max_memory_allocated()
    self._torch.cuda.reset_peak_memory_stats()
    return peak

  def trainer(self, kind: str, alpha: float, steps: Sequence[batches_lib.Rows],
              compiled: bool = False):
    """Returns run(steps): the first steps (None: all) of DSS or standard fine-tuning.

    DSS makes two passes, over the label rows and over the rationale rows, and adds up
    alpha * mean label loss + (1 - alpha) * mean rationale loss. With `compiled` they are those of
    `torch.compile`, and batches are as wide as ours when padded: few shapes.
    """
    torch = self._torch
    model = torch.compile(self._model, dynamic=False) if compiled else self._model
    multiple = batches_lib.WIDTHS if compiled else 1
    optimizer = torch.optim.AdamW(self._model.parameters(), lr=5e-5, weight_decay=0.0, fused=True)
    tasks = (objective.LABEL, objective.RATIONALE) if kind == 'dss' else (objective.LABEL,)
    weights = (alpha, 1.0 - alpha) if kind == 'dss' else (1.0,)
    work = [[self._tensors(rows.of_task(task), multiple) for task in tasks] for rows in steps]

    def run(count: int | None = None):
      self._model.train()
      for parts in work[:count]:
        with self._autocast():
          loss = sum(weight * model(**part).loss
                     for weight, part in zip(weights, parts, strict=True))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        optimizer.step()
      self._wait()
    return run

  def _tensors(self, rows: batches_lib.Rows, multiple: int) -> dict[str, Any]:
    """Padded to the longest row; padding of the labels is -100, which has no loss."""
    source, target = (
        self._torch.from_numpy(batches_lib.pad_rows(side, multiple)).long().to(self._device)
                      for side in (rows.inputs, rows.targets))
    return {'input_ids': source, 'attention_mask': (source > 0).long(),
            'labels': target.masked_fill(target == 0, -100)}

  def decoder(self, inputs: Sequence[np.ndarray], max_decode_length: int, beams: int):
    """Returns run(batches): generates `max_decode_length` tokens per row, neither more nor less."""
    torch = self._torch
    # Padded to its longest row exactly, as a user of transformers does.
    work = [torch.from_numpy(batch[:, batch.any(axis=0)]).long().to(self._device)
            for batch in inputs]

    def run(count: int | None = None):
      self._model.eval()
      for tokens in work[:count]:
        with self._autocast():
          done = self._model.generate(
              input_ids=tokens, attention_mask=(tokens > 0).long(), do_sample=False,
              num_beams=beams, min_new_tokens=max_decode_length, max_new_tokens=max_decode_length)
        if done.shape[1] != max_decode_length + 1:  # The start token is in front.
          raise RuntimeError(f'generate made {done.shape[1] - 1} tokens, not {max_decode_length}')
      self._wait()
    return run

  def ctranslate2_decoders(
      self, inputs: Sequence[np.ndarray], max_decode_length: int, beams: int, threads: int):
    """{'ctranslate2-float32': run, 'ctranslate2-int8': run}, of the same weights; as `decoder`."""
    import ctranslate2
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):
      def load_tokenizer(self, *args, **kwargs):
        return _Names()

    runs = {}
    with tempfile.TemporaryDirectory() as folder:
      self._model.save_pretrained(folder)
      for kind in ('float32', 'int8'):
        path = f'{folder}/{kind}'
        Converter(folder).convert(path, quantization=kind)
        translator = ctranslate2.Translator(path, 'cpu', compute_type=kind, intra_threads=threads)
        work = [[[_Names.of(i) for i in row[row > 0]] for row in batch] for batch in inputs]
        runs[f'ctranslate2-{kind}'] = functools.partial(
            _translate, translator, work, max_decode_length, beams)
    return runs

  def _autocast(self):
    if self._dtype == 'float32':
      return contextlib.nullcontext()
    return self._torch.autocast(self._device, getattr(self._torch, self._dtype))

  def _wait(self):
    if self._device == 'cuda':
      self._torch.cuda.synchronize()


class _Names:
  """In a tokenizer's place for CTranslate2's converter: names of ids, most of which it makes up."""

  pad_token, eos_token, unk_token = _SPECIAL = ('<pad>', '</s>', '<unk>')

  def get_vocab(self) -> dict[str, int]:
    return {name: i for i, name in enumerate(self._SPECIAL)}

  def convert_ids_to_tokens(self, token: int) -> str:
    return self.of(token)

  @classmethod
  def of(cls, token: int) -> str:
    count = len(cls._SPECIAL)
    return cls._SPECIAL[token] if token < count else f'<extra_id_{token - count}>'


def _translate(translator, work, max_decode_length: int, beams: int, count: int | None = None):
  for rows in work[:count]:
    done = translator.translate_batch(
        rows, beam_size=beams, min_decoding_length=max_decode_length,
        max_decoding_length=max_decode_length, return_end_token=True)
    if {len(one.hypotheses[0]) for one in done} != {max_decode_length}:
      raise RuntimeError(f'CTranslate2 did not make {max_decode_length} tokens of every row')


def _make_model(torch, transformers, config: models.T5Config):
  """Random weights; the head is tied in v1.0 and is not in v1.1."""
  from dss_jax.convert import hugging_face_config
  fields = hugging_face_config.write(config, np.float32)
  del fields['dtype'], fields['architectures']
  model = transformers.T5ForConditionalGeneration(transformers.T5Config(**fields))
  if not config.logits_via_embedding:  # transformers 5 ties every fresh T5.
    head = torch.randn(config.vocab_size, config.emb_dim) * config.emb_dim**-0.5
    model.lm_head.weight = torch.nn.Parameter(head)
  tied = model.lm_head.weight is model.shared.weight
  if tied != config.logits_via_embedding:
    raise RuntimeError(f'the peer\'s head is {"" if tied else "not "}tied, ours is the opposite')
  return model
