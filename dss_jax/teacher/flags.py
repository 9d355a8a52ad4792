"""The command line of the teacher job."""

import argparse

from dss_jax import cli
from dss_jax.teacher.ask import clients

_DESCRIPTION = """\
Asks a large language model (the teacher) about each input, cuts what it wrote into a rationale
and a label, and writes both, with the input and its gold label, as TFRecords to train on.
Prints how many rows parsed, why the others did not, and how often the teacher was right.
Every answer is written down before anything else is done with it: start the same command again
after a crash, and only what is missing is asked for."""

_EPILOG = """\
examples:
  # any OpenAI-compatible server: vLLM, SGLang, llama.cpp, JetStream, or a hosted one
  export OPENAI_API_KEY=...    # the only place for a key; a local server needs none
  dss teacher --client=openai --base_url=http://localhost:8000/v1 --model=NAME \\
      --dataset=cqa --split=train --inputs=cqa_train.json --records_dir=records

  # what that would ask for and cost (add --prompt_price and --completion_price)
  dss teacher --dry_run --client=openai --model=NAME --dataset=cqa --split=train \\
      --inputs=cqa_train.json --records_dir=records

  # what it would send for the first input: instruction, demonstrations, question
  dss teacher --show_prompt --dataset=cqa --split=train --inputs=cqa_train.json

  # completions that were saved as JSON lists, one string per input row
  dss teacher --client=recorded --dataset=cqa --split=train \\
      --inputs=cqa_train.json --completions='palm/train_CoT_*.json' --records_dir=records

  # in batches: at half the price, within a day; start it again after a crash, or elsewhere
  dss teacher --batch --client=openai --model=NAME --dataset=cqa --split=train \\
      --inputs=cqa_train.json --records_dir=records

  # what the first teacher refuses is asked of a second one
  dss teacher --client=openai --model=NAME --dataset=cqa --split=train \\
      --inputs=cqa_train.json --records_dir=records --fallback='--model=OTHER'

  # standard fine-tuning needs no teacher
  dss teacher --client=none --dataset=svamp --split=test \\
      --inputs=svamp_test.json --records_dir=records

  # a dataset of your own: my_tasks.py calls dss_jax.data.register('mine', ...)
  dss teacher --import=my_tasks --dataset=mine --split=train --prompt=mine.toml \\
      --inputs=mine.jsonl --client=openai --model=NAME --records_dir=records

--inputs holds rows as JSON lines, a JSON list, CSV, TSV or Parquet, or is a Hugging Face dataset,
also compressed; a dataset of your own needs input and, where known, label and id. --completions are
JSON lists of strings, in the order of the inputs (files in natural order, x_10 after x_9), or rows
joined by id, of any of those formats: {"id": ..., "completion": ...} (also generation, response,
output; or rationale and label apart), or the JSON lines of a batch result. Several of an id vote; a
null or absent one is a failed row.
Where a dataset has no validation split, 10 % of train is written as one.
exit codes: 0 the records are written; 2 an error to mend; 3 stopped, run it again to go on."""


def parser() -> argparse.ArgumentParser:
  """All flags, in groups."""
  made = argparse.ArgumentParser(
      prog=cli.program('teacher'), description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  _data(made.add_argument_group('data'))
  _teacher(made.add_argument_group('teacher'))
  _request(made.add_argument_group('what it is asked'))
  _run(made.add_argument_group('how it is asked'))
  _records(made.add_argument_group('records'))
  return made


def _data(group) -> None:
  add = group.add_argument
  add('--dataset', required=True, metavar='D',
      help='cqa, svamp, asdiv, anli, esnli, toy, or one of your own (--import)')
  add('--split', required=True, help='train, validation or test')
  add('--inputs', metavar='FILE',
      help="the inputs with gold labels: a file, a 'GLOB', - for stdin, hf://OWNER/NAME:SPLIT; "
      "or tfds, hub: the dataset's own place there (default: tfds, where it has one)")
  add('--columns', metavar='FIELD=COLUMN,...',
      help='which columns of --inputs the fields are: input=text,label=intent,id=key')
  add('--tfds_data_dir', metavar='DIR', help='where TFDS keeps prepared datasets')
  add('--import', dest='imports', action='append', default=[], metavar='MODULE',
      help='a Python module that registers a dataset or a teacher; may repeat')


def _teacher(group) -> None:
  add = group.add_argument
  add('--client', default='recorded', metavar='NAME',
      help=f'where completions come from: {", ".join(clients.names())}, or one of your own '
      '(--import) (default: recorded)')
  add('--completions', metavar="'GLOB'",
      help='recorded: what the teacher wrote (quote the pattern)')
  add('--completion_columns', metavar='FIELD=COLUMN,...',
      help='recorded: which columns of --completions the fields are: rationale=why,label=answer')
  add('--teacher_model', metavar='NAME',
      help='recorded: who wrote the completions, for the records (default: recorded)')
  add('--model', metavar='NAME',
      help="openai: the model's name at the server; litellm: with its provider's, "
      'anthropic/NAME; vllm, t5: its folder, or its name at the hub')
  add('--base_url', action='append', default=[], metavar='URL',
      help='openai, litellm: the server, up to /v1 (default: the hosted API); several are asked '
      'in turns, and one that fails is left alone for a while')
  add('--header', action='append', default=[], metavar="'NAME: VALUE'",
      help="openai: another header of every request; may repeat; $VARIABLE in it is taken from the "
      "environment: --header='api-key: $AZURE_KEY'")
  add('--endpoint', choices=('chat', 'completions'), default='chat',
      help='openai: chat turns, or one text to go on with, for models without a chat template '
      '(default: chat)')
  add('--api_key_env', default='OPENAI_API_KEY', metavar='VARIABLE',
      help='openai: the environment variable with the key (default: OPENAI_API_KEY)')
  add('--api_key_secret', metavar='NAME',
      help='openai: fetch the key from Google Secret Manager and put it there: '
      'projects/P/secrets/S/versions/latest (for workers on other machines)')
  add('--mesh', default='', metavar='DxFxM',
      help='t5: devices along data, fsdp and model, e.g. 1x1x8 (default: all along data)')
  add('--batch_size', type=int, default=32, metavar='N',
      help='t5, vllm: rows at a time (default: 32)')
  add('--dtype', default='bfloat16', choices=('bfloat16', 'float32'),
      help='t5: of parameters and activations (default: bfloat16)')
  add('--engine', default='{}', metavar='JSON',
      help='vllm: arguments of its engine: \'{"tensor_parallel_size": 2, "max_model_len": 4096}\'')
  add('--fallback', metavar="'FLAGS'",
      help='another teacher, for rows that the first refused, rejected or never answered: flags '
      "that differ, '--model=NAME --base_url=URL --prompt_price=3'; records name who answered")
  add('--prompt', metavar='FILE',
      help='the prompt (default: tasks/prompts/<dataset>.toml of the package)')
  add('--answer', choices=('text', 'json'), default='text',
      help='json: demonstrations and a schema (response_format, where the server takes it) ask for '
      '{"rationale": ..., "label": ...}; JSON is read in any case (default: text)')
  add('--show_prompt', action='store_true',
      help='print the request for the first input, and stop')


def _request(group) -> None:
  add = group.add_argument
  add('--max_tokens', type=int, default=256, metavar='N',
      help='tokens of an answer, without thoughts (default: 256)')
  add('--thinking_room', type=int, default=8192, metavar='N',
      help='openai: tokens more for a model that is seen to think before it answers '
      '(default: 8192)')
  add('--reasoning_effort', default='', metavar='WORD',
      help="openai: how long to think, in the server's words: none, low, medium, high")
  add('--temperature', type=float, metavar='T',
      help='default: 0 for one sample, 0.7 for several')
  add('--params', default='{}', metavar='JSON',
      help='more fields of every request; null drops one: '
      '\'{"top_p": 0.9, "max_tokens": null, "max_completion_tokens": 300}\'')
  add('--samples', type=int, default=1, metavar='N',
      help='completions of each input; the label that most of them reach wins (default: 1)')
  add('--label_logprobs', type=int, nargs='?', const=20, default=0, metavar='N',
      help="of a closed label set: write how probable each label was, from the N likeliest "
      'alternatives to each token (logprobs; default of the flag alone: 20), for SOFT_LABELS; '
      'openai, litellm, vllm, t5, and recorded answers that have them')
  add('--retry_failed', type=int, default=0, metavar='N',
      help='ask up to N times more about rows whose answer was refused, cut or did not parse, '
      'with twice the tokens and temperature 0.7 (default: 0)')


def _run(group) -> None:
  add = group.add_argument
  add('--in_flight', type=int, default=64, metavar='N', help='requests at a time (default: 64)')
  add('--batch', nargs='?', const='', metavar='DIR',
      help='openai: in batches, which hosted servers do at half price within a day; the same '
      'command again goes on, from another machine too. With DIR nothing is sent: request files '
      'are written there, and result files read, as `vllm run-batch` takes and writes them')
  add('--no_wait', action='store_true',
      help='batch: end (exit code 3) once the batches are sent; the same command again looks '
      'whether they are done')
  add('--rpm', type=float, default=0, metavar='N', help='requests per minute at most')
  add('--tpm', type=float, default=0, metavar='N', help='tokens per minute at most')
  add('--timeout', type=float, default=120, metavar='SECONDS',
      help='of one request (default: 120)')
  add('--max_retries', type=int, default=8, metavar='N',
      help='of one request, besides waiting as long as a busy server says (default: 8)')
  add('--max_fatal', type=int, default=5, metavar='N',
      help='after N requests in a row without an answer, ask what is sure to be answered, and '
      'stop if that is not either (default: 5)')
  add('--max_failed', type=float, default=0.02, metavar='SHARE',
      help='write the set if the server gave no answer for at most this share of its rows, or for '
      'one (default: 0.02)')
  add('--go_on', action='store_true',
      help='go on even if fewer than half of the first 50 answers can be read')
  add('--dry_run', action='store_true',
      help='estimate requests, tokens, cost and room on the disk, and stop')
  add('--tokenizer', metavar='FILE',
      help="dry run: the teacher's tokenizer.json or SentencePiece model, or its folder (default: "
      'a rule, within 5 to 10 %% of the usual ones in English)')
  add('--prompt_price', type=float, default=0, metavar='USD', help='for a million tokens read')
  add('--completion_price', type=float, default=0, metavar='USD',
      help='for a million tokens written')
  add('--budget_usd', type=float, default=0, metavar='USD',
      help='stop before the journal has cost more')
  add('--max_requests', type=int, default=0, metavar='N', help='stop after N requests of this run')
  add('--journal', metavar='DIR',
      help='where answers are written down (default: <records_dir>/journal)')
  add('--runner', choices=('local', 'beam'), default='local',
      help='beam: shards on Apache Beam; its own options follow after -- '
      '(-- --runner=DataflowRunner --project=...)')
  add('--workers', type=int, default=1, metavar='N',
      help='beam: workers among which --in_flight, --rpm and --tpm are divided (default: 1)')


def _records(group) -> None:
  add = group.add_argument
  add('--records_dir', metavar='DIR', help='where the records go (default: $DSS_DATA_DIR)')
  add('--num_shards', type=int, metavar='N',
      help='files per set (default: one for each 100 inputs, 16 at most)')
  add('--parser', default='strict', metavar='NAME',
      help='strict: repairs slips, gives each failure a reason (default); '
      "released: row for row what the paper's released code reads")
  add('--rationale_from', default='answer', metavar='WHICH',
      help='answer: what the teacher explains before its label (default); '
      'thinking: what a thinking model thought before its answer')
  add('--max_thinking', type=int, default=180, metavar='N',
      help='words of a rationale from thinking; longer ones fail (long_thinking), since what '
      'decides the label is at their end; 0: any length (default: 180, about the 256 tokens of a '
      'target)')
  add('--keep', default='all', metavar='WHICH',
      help='all rationales that parsed (default), or agree: only those whose label is the gold one')
  add('--keep_samples', action='store_true',
      help='write all samples of an input that parsed, the one that the vote chose first, and of a '
      'closed set the votes (default: that one alone)')
  add('--allow_unparsed', action='store_true',
      help='write the set even if no row parsed (default: refuse, and leave what was there)')
  add('--holdout', default='auto', metavar='HOW',
      help='auto: 10 %% of train becomes validation where the dataset has none (default); '
      'none: keep all of train')
