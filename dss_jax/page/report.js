'use strict';
// The browser of examples. Everything it shows is in the page; texts are set as text, never as HTML.
const DATA = JSON.parse(document.getElementById('data').textContent);
const PAGE = 50;
const at = (id) => document.getElementById(id);
let matches = [];
let shown = 0;

function option(value, text) {
  const one = document.createElement('option');
  one.value = value;
  one.textContent = text;
  return one;
}

function dataset() { return DATA.datasets[at('dataset').value]; }
function run() { return dataset().runs[Number(at('run').value)]; }

// Everything of an example that the search looks through, in lower case, made once per student.
function haystacks(set, student) {
  student.haystacks ??= set.examples.map((one, i) => [
    one.id, one.input, one.gold, one.teacher, one.rationale,
    set.answers[student.labels[i]] ?? '', student.rationales[i] ?? ''].join('\n').toLowerCase());
  return student.haystacks;
}

const VERDICTS = {
  all: () => true,
  right: (student, i) => student.right[i] === 1,
  wrong: (student, i) => student.right[i] === 0,
  disagree: (student, i, set) => student.labels[i] >= 0 && set.examples[i].teacher !== '' &&
      set.answers[student.labels[i]] !== set.examples[i].teacher,
};

function filter() {
  const set = dataset();
  const student = run();
  const keep = VERDICTS[at('verdict').value];
  const words = at('text').value.toLowerCase().split(/\s+/).filter(Boolean);
  const texts = haystacks(set, student);
  matches = [];
  for (let i = 0; i < set.examples.length; i++) {
    if (keep(student, i, set) && words.every((word) => texts[i].includes(word))) matches.push(i);
  }
  at('count').textContent =
      `${matches.length.toLocaleString('en')} of ${set.examples.length.toLocaleString('en')}`;
  at('list').replaceChildren();
  shown = 0;
  more();
}

function more() {
  const set = dataset();
  const student = run();
  const words = at('text').value.toLowerCase().split(/\s+/).filter(Boolean);
  const next = matches.slice(shown, shown + PAGE);
  at('list').append(...next.map((i) => card(set, student, i, words)));
  shown += next.length;
  at('more').hidden = shown >= matches.length;
}

function card(set, student, i, words) {
  const one = set.examples[i];
  const item = document.createElement('li');
  item.append(text('span', one.id, 'id', words), text('div', one.input, 'input', words));
  const facts = document.createElement('dl');
  const add = (name, value, kind) => {
    if (value) facts.append(text('dt', name), text('dd', value, kind, words));
  };
  add('gold', one.gold);
  add('teacher', one.teacher, mark(one.teacher_right));
  add("teacher's rationale", one.rationale);
  const answer = student.labels[i] < 0 ? null : set.answers[student.labels[i]];
  add('student', answer === '' ? '(nothing)' : answer, mark(student.right[i]));
  add("student's rationale", student.rationales[i]);
  item.append(facts);
  return item;
}

function mark(right) { return right === 1 ? 'right' : right === 0 ? 'wrong' : ''; }

// An element of that text, with the words that were searched for marked.
function text(tag, value, kind, words = []) {
  const one = document.createElement(tag);
  if (kind) one.className = kind;
  if (kind === 'right' || kind === 'wrong') one.title = kind;
  let rest = value;
  while (words.length && rest) {
    const lower = rest.toLowerCase();
    const found = words.map((word) => [lower.indexOf(word), word.length])
        .filter(([place]) => place >= 0).sort((a, b) => a[0] - b[0] || b[1] - a[1])[0];
    if (!found) break;
    const hit = document.createElement('mark');
    hit.textContent = rest.slice(found[0], found[0] + found[1]);
    one.append(rest.slice(0, found[0]), hit);
    rest = rest.slice(found[0] + found[1]);
  }
  one.append(rest);
  return one;
}

function chooseDataset() {
  at('run').replaceChildren(...dataset().runs.map((one, i) => option(i, one.name)));
  filter();
}

const names = Object.keys(DATA.datasets);
if (names.length) {
  at('dataset').append(...names.map((name) => option(name, name)));
  at('dataset').addEventListener('change', chooseDataset);
  for (const id of ['run', 'verdict']) at(id).addEventListener('change', filter);
  at('text').addEventListener('input', filter);
  at('more').addEventListener('click', more);
  chooseDataset();
} else {
  at('filters').hidden = true;
  at('more').hidden = true;
  at('count').textContent = 'No run left predictions on test.';
}
