"""The README.md of an exported student: task, data, metrics, how it was trained, how to use it."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from dss_jax import families, student_info, tokenizer
from dss_jax.convert import tokenizer_json

FILE = 'README.md'
_PAPER = 'https://arxiv.org/abs/2305.02301'


def describe_run(path: str) -> dict[str, Any]:
  """What the run in or above `path` says of itself; {} if there is none.

  Args:
    path: MODEL_DIR, or the folder of one of its steps' arrays.

  Returns: `task`, `steps`, `settings`, `records`, `versions`, and, as far as they were measured
    with these parameters, `validation` and `test` metrics with their `step`.
  """
  places = student_info.folders(path)
  run_dir = next((p for p in places if (p / 'run.json').exists()), None)
  if run_dir is None:
    return {}
  run = json.loads((run_dir / 'run.json').read_text())
  config = run['config']
  found: dict[str, Any] = {
      'task': config['data']['mixture_or_task'],
      'settings': {
          'steps': config['steps'], 'batch_size': config['data']['batch_size'],
          'packed': config['data']['pack'],
          'row_lengths': config['data']['feature_lengths'], 'alpha': config['alpha'],
          'optimizer': config['optimizer']['name'],
          **{key: config['optimizer'].get(key) for key in (
              'learning_rate', 'schedule', 'warmup_steps', 'weight_decay', 'clip_norm')},
          'dropout_rate': config['model'].get('dropout_rate'),
          'dtype': config['model'].get('dtype'),
          'train_fraction': config['data']['train_fraction'], 'seed': config['seed'],
          'initial_checkpoint': config.get('initial_checkpoint_path') or 'none (from scratch)'},
      'records': {name: one.get('num_inputs', one['num_records'])
                  for name, one in run['records'].items()},
      'versions': {name: run['versions'][name] for name in ('dss_jax', 'jax', 'flax')}}
  step = next((p.name for p in places if p.name.isdigit()), None)
  return found | _metrics(run_dir, step)


def _metrics(run_dir: epath.Path, step: str | None) -> dict[str, Any]:
  if step is None:
    return {}
  found: dict[str, Any] = {'step': int(step)}
  validation = run_dir / 'best' / step / 'metrics' / 'metrics'
  if validation.exists():
    found['validation'] = json.loads(validation.read_text())
  test = run_dir / 'test_metrics.json'
  if test.exists():
    measured = json.loads(test.read_text())
    if measured['step'] == int(step):
      found['test'] = measured['metrics']
  return found


def text(info: student_info.StudentInfo, library: str, vocabulary: bytes | None = None) -> str:
  """The card, Markdown with the front matter that model hubs read.

  Args:
    info: of the student.
    library: that loads the folder: 'jax', 'transformers' or 'ctranslate2'.
    vocabulary: contents of its SentencePiece model, for how it writes the labels.
  """
  # No pipeline_tag: transformers 5 has no pipeline for these networks.
  front = ['---', f'library_name: {library}', 'tags:', '- t5',
           *(['- distilling-step-by-step'] if info.training else []), '---']
  sections = [_title(info), _task(info), _spelling(info, vocabulary), _metrics_table(info),
              _training(info), _use(info, library, vocabulary)]
  return '\n'.join(front) + '\n\n' + '\n\n'.join(filter(None, sections)) + '\n'


def _title(info: student_info.StudentInfo) -> str:
  model = info.model
  version = 'umT5' if getattr(model, 'relpos_per_layer', False) else (
      'T5 v1.0' if model.logits_via_embedding else 'T5 v1.1')
  return (f"# {info.training.get('task', 'T5')}\n\nA {version} with "
          f'{model.num_encoder_layers} + {model.num_decoder_layers} layers of width '
          f'{model.emb_dim}, {model.vocab_size:,} vocabulary rows.')


def _task(info: student_info.StudentInfo) -> str:
  lines = ['## Task', '']
  asked = 'give to the decoder first' if info.shared_encoder else 'write before the input'
  if not info.training:
    lines += ['Converted weights; not trained by this project. The task is not known.']
  elif info.datasets:
    lines += ['Trained on several data sets:', '', f'| data set | {asked} | labels |',
              '|---|---|---|',
              *(f"| {name} | `{one['label_prefix']}` | {', '.join(one['labels']) or 'any text'} |"
                for name, one in info.datasets.items())]
  elif info.rationale_prefix is None:
    lines += ['Input text to label, no prefix.']
  else:
    lines += [f'Trained with [Distilling Step-by-Step]({_PAPER}): two tasks from the same input.',
              '', f'| {asked} | the model answers with |', '|---|---|',
              f'| `{info.label_prefix}` | the label |',
              f'| `{info.rationale_prefix}` | a rationale |']
  if info.answer_phrase:
    lines += ['', f'The label stands behind "{info.answer_phrase}" in the output.']
  if info.labels:
    lines += ['', 'Labels: ' + ', '.join(f'`{label}`' for label in info.labels)]
  lines += ['', f'Inputs are cut at {info.input_length:,} tokens, outputs at '
            f'{info.target_length:,}.']
  return '\n'.join(lines)


def _spelling(info: student_info.StudentInfo, vocabulary: bytes | None) -> str:
  """Labels that the model's text does not equal; `dss_jax` reads them, transformers cannot."""
  if vocabulary is None or not info.closed_set():
    return ''
  pieces = tokenizer.SentencePieceTokenizer(vocabulary, info.model.eos_id)
  rows = [f'| `{label}` | `{written}` |' for label in info.closed_set()
          if (written := pieces.decode(pieces.encode_target(label))) != label]
  return '\n'.join(['The vocabulary writes these labels otherwise:', '',
                    '| label | as the model writes it |', '|---|---|', *rows]) if rows else ''


def _metrics_table(info: student_info.StudentInfo) -> str:
  rows = [f'| {split} | {name} | {value:.4g} |'
          for split in ('validation', 'test')
          for name, value in sorted(info.training.get(split, {}).items())]
  if not rows:
    return ''
  return '\n'.join([
      '## Metrics', '',
      f"At step {info.training['step']:,}. Accuracies in percent, losses in nats per token. The "
      'checkpoint was chosen on validation; test was read once.', '',
      '| split | metric | value |', '|---|---|---|', *rows])


def _training(info: student_info.StudentInfo) -> str:
  if not info.training:
    return ''
  records = ', '.join(f'{name} ({count:,} records)'
                      for name, count in info.training['records'].items())
  return '\n'.join(['## Training', '', f'Data: {records}.', '', '| setting | value |', '|---|---|',
                    *_rows(info.training['settings']), *_rows(info.training['versions'])])


def _rows(values: Mapping[str, Any]) -> list[str]:
  return [f'| {name} | {value} |' for name, value in values.items()]


_WITH_TRANSFORMERS = """\
```python
from transformers import {tokenizer}, {network}

tokenizer = {tokenizer}.from_pretrained('.')
model = {network}.from_pretrained('.')
for prefix in {prefixes!r}:
  batch = tokenizer(prefix + 'your input', truncation=True, max_length={input_length},
                    return_tensors='pt')
  print(tokenizer.decode(model.generate(**batch)[0], skip_special_tokens=True))
```

`generate` decodes greedily and ends after {length:,} tokens: generation_config.json says so.
Transformers 5 has no pipeline that does this.

`tokenizers` decides between two equally likely splits of a word differently from
SentencePiece, which the model was trained with: of 12,970 inputs of public data sets, 23 had
two pieces in another order. `dss_jax.load('.')` uses SentencePiece itself."""
_WITH_A_SHARED_ENCODER = """\
```python
import torch
from transformers import {tokenizer}, {network}

tokenizer = {tokenizer}.from_pretrained('.')
model = {network}.from_pretrained('.')
batch = tokenizer('your input', truncation=True, max_length={input_length}, return_tensors='pt')
for given in {given!r}:  # the start, then a prefix's tokens
  found = model.generate(**batch, decoder_input_ids=torch.tensor([given]),
                         max_new_tokens={length})
  print(tokenizer.decode(found[0, len(given):], skip_special_tokens=True))
```

The tokens of the prefix are the decoder's first, and no part of the input."""
_WITHOUT_ITS_TOKENIZER = """\
```python
import sentencepiece
import torch
from transformers import {network}

pieces = sentencepiece.SentencePieceProcessor(model_file='{file}')
model = {network}.from_pretrained('.')
for prefix in {prefixes!r}:
  ids = [*pieces.encode(prefix + 'your input')[:{input_length} - 1], {eos_id}]
  found = model.generate(torch.tensor([ids]))[0].tolist()
  known = [i if i < pieces.vocab_size() else pieces.unk_id() for i in found]
  print(pieces.decode([i for i in known if i not in ({pad_id}, {eos_id})]))
```

transformers cannot read this vocabulary: what `AutoTokenizer` makes of the folder is another one.
`generate` decodes greedily and ends after {length:,} tokens: generation_config.json says so."""
_WITH_CTRANSLATE2 = """\
```python
import ctranslate2{imports}

model = ctranslate2.Translator('.')
text = {text}
tokens = [*{encode}][:{input_length} - 1] + ['</s>']
found = model.translate_batch([tokens], beam_size=1, max_decoding_length={length}{more})
answer = found[0].hypotheses[0]{behind}
print({decode})
```"""
_PIECES = {'imports': '\nimport sentencepiece\n\n'
                      "pieces = sentencepiece.SentencePieceProcessor(model_file='spiece.model')",
           'encode': 'pieces.encode(text, out_type=str)', 'decode': 'pieces.decode(answer)'}
_BYTES = {'imports': '', 'encode': 'map(chr, text.encode())',
          'decode': "bytes(ord(one) for one in answer if len(one) == 1).decode('utf-8', 'ignore')"}
_WITH_DSS_JAX = """\
```python
import dss_jax

student = dss_jax.load('.')
print(student.predict(['your input']))
```"""


def _use(info: student_info.StudentInfo, library: str, vocabulary: bytes | None) -> str:
  how = _WITH_DSS_JAX
  if library == 'transformers':
    network, = families.of(info.model).to_hugging_face(info.model)['architectures']
    # The other one does not look which tokenizer an umT5's folder names.
    is_umt5s_bytes = network.startswith('UMT5') and info.vocabulary == student_info.BYTES
    tokenizer_class = 'ByT5Tokenizer' if is_umt5s_bytes else 'AutoTokenizer'
    prefixes = [info.label_prefix, *([] if info.rationale_prefix is None else
                                     [info.rationale_prefix])]
    is_unreadable = vocabulary is not None and tokenizer_json.why_not(vocabulary)
    if info.shared_encoder and is_unreadable:
      return '## Use\n\n' + how
    how = (_WITHOUT_ITS_TOKENIZER if is_unreadable else
           _WITH_A_SHARED_ENCODER if info.shared_encoder else _WITH_TRANSFORMERS).format(
        prefixes=prefixes, given=[
            _given(info, one, vocabulary) for one in prefixes if info.shared_encoder],
        length=info.target_length, input_length=info.input_length,
        tokenizer=tokenizer_class, network=network, file=student_info.VOCABULARY_FILE,
        eos_id=info.model.eos_id, pad_id=info.model.pad_id)
  elif library == 'ctranslate2':
    parts = _BYTES if info.vocabulary == student_info.BYTES else _PIECES
    text = f"{info.label_prefix!r} + 'your input'"
    asked = {'text': text, 'more': '', 'behind': ''}
    if info.shared_encoder:
      given = parts['encode'].replace('text', repr(info.label_prefix))
      asked = {'text': f"'your input'\ngiven = [*{given}]", 'behind': '[len(given):]',
               'more': ' + len(given),\n                              target_prefix=[given]'}
    how = _WITH_CTRANSLATE2.format(
        length=info.target_length, input_length=info.input_length, **parts, **asked)
  return '## Use\n\n' + how


def _given(
    info: student_info.StudentInfo, prefix: str, vocabulary: bytes | None) -> list[int]:
  """The decoder's first tokens."""
  if vocabulary is None:
    ids = tokenizer.ByteTokenizer().encode_target(prefix)
  else:
    ids = tokenizer.SentencePieceTokenizer(vocabulary, info.model.eos_id).encode_target(prefix)
  return [info.model.start_id, *ids]
