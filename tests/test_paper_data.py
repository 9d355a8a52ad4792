"""The paper's data sets by name and from their sources' files: docs/data.md's second half.

There is no network: the real loading code reads small data of the same make, which lie where it
finds them.
"""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from dss_jax import datasets, errors, records
from dss_jax.tasks import anli, asdiv, cqa, esnli, svamp
from dss_jax.teacher import __main__ as teacher_main
from dss_jax.teacher.inputs import sources

PAGE = (pathlib.Path(__file__).parents[1] / 'docs' / 'data.md').read_text().partition(
    "## The paper's data sets")[2]
COMMANDS = [' '.join(line.split()) for block in re.findall(r'```sh\n(.*?)```', PAGE, re.DOTALL)
            for line in block.replace('\\\n', ' ').splitlines()]
NLI = {'uid': 'u0', 'premise': 'It rains.', 'hypothesis': 'It is wet.', 'reason': ''}
CHOICES = {'label': ['A', 'B'], 'text': ['nest', 'sea']}
AT_HUB = {  # name: (split, a row as it is there, what is made of it)
    'anli': ('train_r1', {**NLI, 'label': 0}, datasets.Example(
        'u0', 'It rains.</s>It is wet.', 'entailment')),
    'cqa': ('train', {'id': '07', 'question': 'Where?', 'question_concept': 'x', 'choices': CHOICES,
                      'answerKey': 'B'}, datasets.Example(
        '07', 'Where?\nAnswer Choices:\n(a) nest\n(b) sea', 'sea', ('nest', 'sea'))),
    'svamp': ('train', {'ID': 'chal-1', 'Body': 'He had 3.', 'Question': 'What?', 'Answer': '2.0',
                        'Equation': '( 3.0 - 1.0 )', 'Type': 'Subtraction',
                        'question_concat': 'He had 3. What?'},
              datasets.Example('chal-1', 'He had 3.\nWhat?', '( 3.0 - 1.0 )')),
    'asdiv': ('validation', {'body': 'He had 3.', 'question': 'What?', 'solution_type': 'x',
                             'answer': '2 (apples)', 'formula': '3-1=2'},
              datasets.Example('asdiv-0', 'He had 3.\nWhat?', '( 3-1 )'))}
TASKS = {'anli': anli, 'cqa': cqa, 'svamp': svamp, 'asdiv': asdiv, 'esnli': esnli}


def put(split, row, place, features=None):
  """A dataset as the hub has it, where the library looks before it asks the hub."""
  folder = pathlib.Path(place.removeprefix('hf://').partition(':')[0]) / 'data'
  folder.mkdir(parents=True, exist_ok=True)
  import datasets as library
  library.Dataset.from_list([row], features=features).to_parquet(
      folder / f'{split}-00000-of-00001.parquet')


@pytest.fixture
def offline(tmp_path, monkeypatch):
  pytest.importorskip('datasets')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HF_HOME', str(tmp_path / 'hub'))
  return tmp_path


@pytest.mark.parametrize('name', AT_HUB)
def test_by_name_from_the_hub(offline, name):
  split, row, example = AT_HUB[name]
  dataset = TASKS[name].DATASET
  import datasets as library
  features = library.Features({key: library.Value('string') for key in NLI} | {
      'label': library.ClassLabel(names=list(anli.nli.LABELS))}) if name == 'anli' else None
  put(split, row, dataset.hub['train'], features)
  found = sources.find(dataset, 'train', 'hub', None)
  assert list(found) == [example] and found.path == dataset.hub['train']
  place = dataset.hub['train'].rpartition(':')[0]
  if split == 'train':  # The teacher's split is that of a name without one.
    assert list(sources.find(dataset, 'train', place, None)) == [example]


def test_every_name_of_the_table_is_that_of_the_task():
  for cells in re.findall(r'^\| `(\w+)`[^|]* \| ([^|]+) \| ([^|]*) \| ([^|]+) \|$', PAGE, re.M):
    dataset = TASKS[cells[0]].DATASET
    assert re.findall(r'`([^`]+)`', cells[2]) == [dataset.tfds] * bool(dataset.tfds)
    named = re.findall(r'`([^`]+)`', cells[3])
    assert named == sorted({place[5:].partition(':')[0] for place in dataset.hub.values()})
    for split in dataset.hub:
      assert split in cells[1]
  assert len(AT_HUB) == 4


@pytest.mark.parametrize('name, split, path, message', [
    ('esnli', 'train', 'hub', r"--inputs=hub: dataset 'esnli' has no split at the .*hf://OWNER/NA"),
    ('svamp', 'validation', 'hub', r"has train, test at the Hugging Face hub .*not 'validation'"),
    ('svamp', 'train', 'tfds', r"'svamp' is in neither TFDS .*--inputs=FILE, or --inputs=hub"),
    ('svamp', 'train', None, r'--inputs=FILE, or --inputs=hub \(github.com/arkilpatel/SVAMP'),
])
def test_what_has_no_such_place(name, split, path, message):
  with pytest.raises(errors.UserError, match=message):
    sources.find(TASKS[name].DATASET, split, path, 'r')


def run(command, *more):
  words = shlex.split(command)
  assert words[:2] == ['dss', 'teacher']
  teacher_main.main([*words[2:], *more])


def command(name):
  found, = (one for one in COMMANDS if f'--dataset={name} ' in one)
  return found


def test_the_commands_of_the_page(offline):
  assert [one.split()[0] for one in COMMANDS] == [
      'dss', 'curl', 'dss', 'curl', 'dss', 'curl', 'python', 'dss']
  put('train', AT_HUB['cqa'][1], cqa.DATASET.hub['train'])
  run(command('cqa'), '--holdout=none')
  row, = records.read_records('records', 'cqa', 'train')
  assert (row.id, row.label) == ('07', 'sea')

  head = 'pairID,gold_label,Sentence1,Sentence2,Explanation_1,WorkerId\n'
  for part, line in ((1, 'a.jpg#1r1,neutral,"A man, asleep.",He dreams.,x,w\n'),
                     (2, 'b.jpg#0r1,contradiction,"A ""man"".",None.,"x\ny",w\n')):
    pathlib.Path(f'esnli_train_{part}.csv').write_text(head + line)
  run(command('esnli'))
  assert [(row.id, row.input, row.label) for row in records.read_records(
      'records', 'esnli', 'train')] == [
          ('a.jpg#1r1', 'A man, asleep.</s>He dreams.', 'neutral'),
          ('b.jpg#0r1', 'A "man".</s>None.', 'contradiction')]

  pathlib.Path('SVAMP.json').write_text(json.dumps([
      {key: AT_HUB['svamp'][1][key] for key in ('ID', 'Body', 'Question', 'Equation')}], indent=1))
  run(command('svamp'), '--holdout=none')
  row, = records.read_records('records', 'svamp', 'train')
  assert (row.id, row.label) == ('chal-1', '( 3.0 - 1.0 )')


def test_the_xml_file_of_asdiv(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  def problem(number, formula):
    return (f'<Problem ID="nluds-{number}" Grade="1" Source="x">\n'
            '\t<Body>7 apples &amp; 2.</Body>\n\t<Question>How many?</Question>\n'
            '\t<Solution-Type>Addition</Solution-Type>\n'
            f'\t<Answer>9 (apples)</Answer>\n\t<Formula>{formula}</Formula>\n</Problem>')
  (tmp_path / 'ASDiv.xml').write_text(
      '<?xml version="1.0" encoding="UTF-8" ?><Machine-Reading-Corpus-File><ProblemSet>'
      f'{problem(1, "7+2=9")}{problem(2, "lcm(4,6)=12")}{problem(3, "x=3*2; x=6")}'
      '</ProblemSet></Machine-Reading-Corpus-File>')
  script, = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
  subprocess.run([sys.executable, '-c', script], check=True)
  run(command('asdiv'))
  assert [(row.id, row.input, row.label) for row in records.read_records(
      'records', 'asdiv', 'train')] == [(f'nluds-{i}', '7 apples & 2.\nHow many?', label)
                                        for i, label in ((1, '( 7+2 )'), (2, ''), (3, ''))]
