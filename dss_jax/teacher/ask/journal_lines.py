"""How an answer is one line of a journal: compressed, with a checksum; never two ways to read it.

  z1 <escaped: checksum, key, tokens read, tokens written, deflated JSON of the rest>

Deflate starts with a dictionary of what answers usually hold, without which a line of 500 bytes
hardly shrinks. A format's name stands for its dictionary and for every rule here: none of it may
ever change; another dictionary is another name, beside this one.
Journals of earlier versions have lines of JSON, {"crc32": "8f0e2d11", "entry": {...}}; they are
read as ever.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

from dss_jax.teacher.ask import endpoint

_NAME = b'z1 '
_ESCAPES = ((b'\x1b', b'\x1be'), (b'\n', b'\x1bn'))  # In this order, and back in the other.
_LEVEL, _WINDOW = 3, -15  # raw deflate; 6 saves 2 % and takes a third longer

_OLD_PREFIX, _OLD_MIDDLE = b'{"crc32": "', b'", "entry": '
_OLD_HEAD = len(_OLD_PREFIX) + 8 + len(_OLD_MIDDLE)

# What is most often there comes last. `z1`: NEVER CHANGE A BYTE.
_DICTIONARY = (
    'question premise hypothesis statement problem number equation total amount first second third '
    'another something someone people because between however although whether without through '
    'different possible usually probably certainly likely already always never several every each '
    'before after during while where there their these those which would could should about other '
    'minus plus times divided multiplied added subtracted left more less than many much how what '
    'entailment neutral contradiction true false yes no positive negative '
    'We need to find the Let me think Let us check Okay, so the user asks Wait, First, Then, Next, '
    'Finally, Therefore, Thus, Hence, However, In this case, it follows that it is possible that '
    'it is not clear from it does not mention it does not say whether it can be is used to is a '
    'kind of is part of in order to such as for example is the same as is the opposite of '
    'The hypothesis is The premise says that The premise does not say that The statement is '
    'The question asks for the number of is asked for. The answer must be something that is a '
    'place where one of the of the in the to the on the and the is the that the for the with a '
    'from the '
    'by the at the as a it is not that is they are there are there is has been would be can be '
    'will be does not did not is not are not was not have to had to and then '
    'So the final answer is The correct answer is Therefore, the answer is The answer is ( 0.0 + '
    '0.0 ) ( 0.0 - 0.0 ) ( 0.0 * 0.0 ) ( 0.0 / 0.0 ) So the answer is (a) (b) (c) (d) (e) '
    '{"rationale": "\\n\\n**Answer:** **Explanation:** **\\n- **1. 2. 3. <think>\\n</think>\\n\\n'
    '"rejected":"400: This model\'s maximum context length is tokens. However, you requested '
    'tokens in the messages, Please reduce the length of the messages or completion."'
    '"unanswered":"500: Internal Server Error","text":"","seed":"provider":"","created_at":"'
    '"service_tier":"default","system_fingerprint":"fp_","prompt_logprobs":null,"prompt_token_ids":'
    'null,"prompt_text":null,"kv_transfer_params":null,"metrics":null,"timings":{"prompt_n":,'
    '"prompt_ms":,"predicted_n":,"predicted_ms":,"predicted_per_second":},"prompt_filter_results":['
    '{"prompt_index":0,"content_filter_results":{"hate":{"filtered":false,"severity":"safe"},'
    '"self_harm":{"filtered":false,"severity":"safe"},"sexual":{"filtered":false,"severity":"safe"},'
    '"violence":{"filtered":false,"severity":"safe"}}}],"native_finish_reason":"stop",'
    '"matched_stop":"finish_reason":"length","finish_reason":"content_filter",'
    '"id":"cmpl-","object":"text_completion","choices":[{"index":0,"text":" ","logprobs":null,'
    '"stop_reason":"Q:","finish_reason":"stop",'
    '"role":"assistant","reasoning_content":null,"reasoning":"","annotations":[],"audio":null,'
    '"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":1,"prompt_tokens_details":'
    '{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,'
    '"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},'
    '"service_tier":null,"system_fingerprint":null,"prompt_logprobs":null,"prompt_token_ids":null,'
    '"kv_transfer_params":null}}'
    '"refusal":null,"annotations":null,"audio":null,"function_call":null,"tool_calls":[],'
    '"reasoning":null,"reasoning_content":null},"logprobs":null,"finish_reason":"stop",'
    '"stop_reason":null,"token_ids":null,"routed_experts":null}],"usage":{"prompt_tokens":,'
    '"total_tokens":,"completion_tokens":,"prompt_tokens_details":null},'
    '{"id":"","response":{"id":"chatcmpl-","object":"chat.completion","created":17,"model":"",'
    '"choices":[{"index":0,"message":{"role":"assistant","content":"'
).encode('ascii')
_PRIMED = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW, 8, zlib.Z_DEFAULT_STRATEGY, _DICTIONARY)


def encode(
    key: str, entry: Mapping[str, Any], prompt_tokens: int = 0, completion_tokens: int = 0
) -> bytes:
  """The line, with its end.

  Args:
    key: 64 hexadecimal digits.
    entry: JSON values; half a surrogate pair comes back as it was.
    prompt_tokens, completion_tokens: found by `index` without reading the entry.
  """
  body = json.dumps(entry, ensure_ascii=False, separators=(',', ':'))
  deflate = _PRIMED.copy()  # A new one would hash the dictionary again.
  payload = b''.join([
      bytes.fromhex(key), _number(prompt_tokens), _number(completion_tokens),
      deflate.compress(body.encode('utf-8', 'surrogatepass')), deflate.flush()])
  data = zlib.crc32(payload).to_bytes(4, 'little') + payload
  for plain, escaped in _ESCAPES:
    data = data.replace(plain, escaped)
  return _NAME + data + b'\n'


def decode(line: bytes) -> dict[str, Any] | None:
  """{'key': ..., 'usage': [tokens read, tokens written], and the entry}; None if damaged."""
  if not line.startswith(_NAME):
    return _decode_old(line)
  if (payload := _payload(line)) is None:
    return None
  try:
    (read, written), start = _numbers(payload)
    inflate = zlib.decompressobj(_WINDOW, _DICTIONARY)
    body = inflate.decompress(payload[start:])
    entry = json.loads(body.decode('utf-8', 'surrogatepass')) if inflate.eof else None
  except (zlib.error, ValueError, IndexError):  # A checksum that happens to be right.
    return None
  return None if entry is None else {
      'key': payload[:32].hex(), **entry, 'usage': [read, written]}


def index(line: bytes) -> tuple[bytes, int, int] | None:
  """(key, tokens read, tokens written) of a line; None if it is damaged."""
  if not line.startswith(_NAME):
    if (entry := _decode_old(line)) is None:
      return None
    read, written = map(endpoint.token_count, entry['usage'])
    return bytes.fromhex(entry['key']), read, written
  if (payload := _payload(line)) is None:
    return None
  try:
    (read, written), _ = _numbers(payload)
  except IndexError:
    return None
  return payload[:32], read, written


def _payload(line: bytes) -> bytes | None:
  data = line[len(_NAME):-1]
  for plain, escaped in reversed(_ESCAPES):
    data = data.replace(escaped, plain)
  payload = data[4:]
  whole = line[-1:] == b'\n' and len(payload) > 32 and (
      data[:4] == zlib.crc32(payload).to_bytes(4, 'little'))
  return payload if whole else None


def _number(value: int) -> bytes:
  """Seven bits a byte, the lowest first; the last byte is below 128."""
  found = bytearray()
  while value > 127:
    found.append(value & 127 | 128)
    value >>= 7
  return bytes([*found, value])


def _numbers(payload: bytes) -> tuple[tuple[int, int], int]:
  """The two numbers after the key, and where the rest starts."""
  at, found = 32, []
  for _ in range(2):
    value = shift = 0
    while payload[at] > 127:
      value |= (payload[at] & 127) << shift
      shift += 7
      at += 1
    found.append(value | payload[at] << shift)
    at += 1
  return (found[0], found[1]), at


def _decode_old(line: bytes) -> dict[str, Any] | None:
  """Lines of JSON, which are written no more."""
  start = len(_OLD_PREFIX)
  checksum, body = line[start:start + 8], line[_OLD_HEAD:-2]
  if line[:_OLD_HEAD] != _OLD_PREFIX + checksum + _OLD_MIDDLE or line[-2:] != b'}\n' or (
      checksum != b'%08x' % zlib.crc32(body)):
    return None
  return json.loads(body)
