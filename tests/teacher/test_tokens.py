"""How many tokens a text is, without asking a server."""

import pathlib

import pytest

from dss_jax import errors
from dss_jax.teacher.ask import tokens

# Counted with GPT-4o's, Llama 3's, Qwen 3's and DeepSeek V3's tokenizers.
COUNTED = {
    'A ferry crosses the strait twice a day, once at dawn and once when the shops hav'
    'e closed. The question asks how often it is seen from the tower.':
        [33, 33, 33, 33],
    'A: Omar has 14 apples and Lena has 20. The answer is ( 14.0 + 20.0 ).':
        [27, 27, 31, 27],
    'Q: Where would you put a wet umbrella when you come home?\nAnswer Choices:\n(a) wa'
    'rdrobe\n(b) umbrella stand\n(c) bookshelf\n(d) bed\n(e) cinema':
        [37, 38, 38, 38],
    '{"rationale": "It didn\'t rain; so, the street is dry.", "label": "bug"}':
        [22, 23, 23, 23],
    'Professor Adeyemi taught physics in Ibadan for thirty years and wrote three text'
    'books, the last of them in 1998.':
        [26, 27, 29, 27],
    'Премия присуждается ежегодно за лучший роман, изданный на русском языке. В 2004 '
    'году её получил писатель из Петербурга, который до этого работал врачом в сельск'
    'ой больнице. Почему автор отказался от вручения':
        [52, 62, 69, 62],
    '这座桥建于一八四八年，自一九七三年起禁止汽车通行。根据前提，'
    '一九九〇年汽车不能过桥，所以答案是矛盾。顾客说同一笔费用被扣'
    '了两次，希望把':
        [54, 57, 50, 45],
    '이 다리는 십구 세기에 지어졌고 오래전부터 자동차가 다'
    '닐 수 없습니다. 전제에 따르면 자동차는 다리를 건널 '
    '수 없으므로 답은 모순입니다. 고객은'
    ' 같은 요금이 두 번 청구되었다고 하며 환불을 원합니다'
    '. 두 번째 페이지를 열면 앱이 저절로 닫힙니다.':
        [81, 84, 89, 92],
}


@pytest.mark.parametrize('text', COUNTED)
def test_the_rule_is_near_the_usual_tokenizers(text):
  counts = COUNTED[text]
  assert tokens.estimate(text) == pytest.approx(sum(counts) / len(counts), rel=0.16)


def test_english_on_the_whole_is_nearer():
  english = [text for text in COUNTED if text.isascii()]
  for i in range(4):
    real = sum(COUNTED[text][i] for text in english)
    assert sum(map(tokens.estimate, english)) == pytest.approx(real, rel=0.07)


def test_turns_have_marks():
  said = [{'role': 'user', 'content': 'one two three'}, {'role': 'assistant', 'content': 'four'}]
  assert tokens.of_request({'messages': said}, lambda text: len(text.split())) == 3 + 9 + 4
  assert tokens.of_request({'prompt': 'one two three'}, lambda text: len(text.split())) == 3


def test_a_tokenizer_file(tmp_path):
  tokenizers = pytest.importorskip('tokenizers')
  made = tokenizers.Tokenizer(tokenizers.models.WordLevel({'a': 0, 'b': 1, '?': 2}, unk_token='?'))
  made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  made.save(str(tmp_path / 'tokenizer.json'))
  for path in (tmp_path, tmp_path / 'tokenizer.json'):
    assert tokens.load(str(path))('a b a c') == 4


def test_a_sentencepiece_file(tmp_path):
  import sentencepiece
  (tmp_path / 'text').write_text('a b ab ba aab bba\n' * 50)
  sentencepiece.SentencePieceTrainer.train(
      input=str(tmp_path / 'text'), model_prefix=str(tmp_path / 'tokenizer'), vocab_size=9,
      minloglevel=2)
  count = tokens.load(str(tmp_path))
  assert count('a b') >= 2 and count('') == 0


@pytest.mark.parametrize('name, says', [
    ('nowhere.json', 'no such file'), ('bad.model', 'cannot be read'),
    ('bad.json', 'cannot be read'), ('', 'the folder holds no tokenizer.json')])
def test_files_to_mend(tmp_path: pathlib.Path, name, says):
  if name == 'bad.json':
    pytest.importorskip('tokenizers')
  (tmp_path / 'bad.json').write_text('{}')
  (tmp_path / 'bad.model').write_text('{}')
  with pytest.raises(errors.UserError, match=f'--tokenizer=.*{says}'):
    tokens.load(str(tmp_path / name))
