"""--answer=json: what is asked for, and that what is asked as text stays as it was."""

import dataclasses
import json

import live
import pytest
import server

from dss_jax import datasets
from dss_jax.teacher.ask import prompts, structured
from dss_jax.teacher.read import parsing

from dss_jax.tasks import anli, cqa, svamp  # isort: skip


def load(name):
  prompt = prompts.load(prompts.path_of(name))
  return prompt, structured.of(prompt, datasets.get(name).labels)


@pytest.mark.parametrize('dataset, label', [
    (anli.DATASET, {'type': 'string', 'enum': ['entailment', 'neutral', 'contradiction']}),
    (cqa.DATASET, {'type': 'string', 'enum': ['(a) bank', '(b) mall']}),
    (svamp.DATASET, {'type': 'string'})])
def test_the_schema_has_the_labels(dataset, label):
  _, asked = load(dataset.name)
  example = datasets.Example('1', 'x', choices=('bank', 'mall'))
  form = asked.fields(example)['response_format']
  schema = form['json_schema']['schema']
  assert form['type'] == 'json_schema' and form['json_schema']['strict'] is True
  assert list(schema['properties']) == schema['required'] == ['rationale', 'label']
  assert schema['properties']['label'] == label and schema['additionalProperties'] is False


@pytest.mark.parametrize('name', ['anli', 'cqa', 'svamp', 'esnli', 'asdiv'])
def test_demonstrations_are_json_that_is_read_back(name):
  text, asked = load(name)
  dataset = dataclasses.replace(datasets.get(name), completion=asked.completion)
  for shown in asked.demonstrations:
    said = asked.reply(shown)
    assert list(json.loads(said)) == ['rationale', 'label']
    choices = tuple(line[4:] for line in shown.input.splitlines() if line.startswith('('))
    found = parsing.parse_strict(said, datasets.Example('x', shown.input, choices=choices), dataset)
    assert found.rationale == shown.rationale and found.label in shown.label
  assert asked.sha256() != text.sha256() and asked.lead_in == ''
  assert '{"rationale"' in asked.as_messages('a</s>b' if text.parts else 'a')[0]['content']


def test_a_job_that_asks_for_json(tmp_path):
  live.write_inputs(tmp_path, 4)
  def answer(asked):
    return json.dumps({'rationale': 'It says "Q: what".\n\nSo it is.', 'label': '(c) many'})
  with server.Server(answer) as teacher:
    done = live.run(teacher, tmp_path, '--answer=json')
    assert done.returncode == 0, done.stderr
    body = teacher.last[0]
  assert body['response_format']['json_schema']['schema']['properties']['label']['enum'] == [
      '(a) one', '(b) two', '(c) many']
  rows = live.read(tmp_path)
  assert {(row.teacher_label, row.rationale) for row in rows.values()} == {
      ('many', 'It says "Q: what".\n\nSo it is.')}
  manifest = json.loads((tmp_path / 'records/manifest.json').read_text())
  assert '"answer": "json"' in json.dumps(manifest)


def test_who_is_not_asked_gives_no_json(tmp_path):
  live.write_inputs(tmp_path, 1)
  with server.Server() as teacher:
    done = live.run(teacher, tmp_path, '--answer=json', '--client=recorded', '--completions=x')
  assert done.returncode == 2 and 'drop it' in done.stderr


def test_a_doubled_brace_of_a_template_is_one(tmp_path):
  file = tmp_path / 'braces.toml'
  with open(prompts.path_of('cqa'), encoding='utf-8') as source:
    file.write_text(source.read().replace(
        "answer = 'A: {rationale} So the answer is {label}.'",
        "answer = '{{A}}: {rationale} {{So}} it is {label}.'").replace(
            "answer_phrase = 'So the answer is'", "answer_phrase = '{So} it is'"))
  prompt = prompts.load(str(file))
  assert prompt.lead_in == prompt.completion.lead_in == '{A}:'
  assert prompt.as_text('x').endswith('\n{A}:')
  assert prompt.reply(prompt.demonstrations[0]).startswith('{A}: A wet umbrella')
