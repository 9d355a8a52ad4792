"""`dss <verb>`: the console command, and how every main turns a UserError into one line."""

import contextlib
import errno
import functools
import importlib
import importlib.util
import logging
import os
import re
import select
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Container, Iterator, Sequence

from dss_jax import __version__, datasets, errors, files

VERBS = {  # verb: (module, what it does); the order is that of a project's life
    'quickstart': ('dss_jax.quickstart', 'the whole method on a toy task, with a picture'),
    'new': ('dss_jax.new', 'a folder to begin a task of your own with'),
    'teacher': ('dss_jax.teacher.__main__', "a teacher LLM's rationales and labels -> TFRecords"),
    'merge': ('dss_jax.merge', "several teachers' records as samples of the same inputs"),
    'distributions': ('dss_jax.distributions', "a T5 teacher's distribution at each target token"),
    'vocab': ('dss_jax.vocab', 'train a SentencePiece model on records'),
    'pretrain': ('dss_jax.pretrain', "a student from scratch on text alone, T5's way"),
    'inspect': ('dss_jax.inspect.__main__', 'show rows of a task: raw, tokenized, packed and back'),
    'precompile': ('dss_jax.precompile.__main__', 'what fits on a TPU slice, without one'),
    'train': ('dss_jax.train.__main__', 'train a student T5 from records'),
    'sweep': ('dss_jax.experiments.sweep', 'a grid of runs: methods, data and model sizes, seeds'),
    'report': ('dss_jax.experiments.report', "a sweep's tables and figures, as one page"),
    'predict': ('dss_jax.predict.__main__', "a trained student's answers to a file of inputs"),
    'serve': ('dss_jax.serve.__main__', 'a student as an HTTP server'),
    'export': ('dss_jax.export.__main__', 'a student as StableHLO, to run without this project'),
    'convert': ('dss_jax.convert.__main__', 'checkpoints to and from Hugging Face and T5X'),
    'completion': ('dss_jax.completion', "the shell's completion of verbs and flags"),
}


def run(main: Callable[[Sequence[str] | None], int | None]) -> None:
  """Runs a main as the program; a UserError becomes `error: ...` and exit code 2."""
  be_quiet()
  print_anything()
  try:
    try:
      code = _exit_code(main)
    finally:
      sys.stdout.flush()  # Here, where it can still be caught that nobody reads it.
  except BrokenPipeError:
    if not _close_unread():
      raise
    code = _UNREAD
  sys.exit(code)


@functools.cache  # Once: filters and hooks would pile up.
def be_quiet() -> None:
  """Leaves out what libraries say to their own authors; before TensorFlow is imported."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  logging.getLogger('absl').setLevel(logging.ERROR)  # SeqIO and Orbax chatter.
  _pass_over_orbax()
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # Only tf.data runs: no gain, many lines.


def _pass_over_orbax() -> None:
  """What goes wrong in Orbax's threads is raised again where they are waited for, and told once."""
  logging.getLogger('absl').addFilter(
      lambda record: not str(record.msg).startswith('[process='))
  logging.getLogger('asyncio').addFilter(lambda record: 'never retrieved' not in str(record.msg))
  warnings.filterwarnings('ignore', message='coroutine .* was never awaited')
  # TensorStore's writers, of which one had failed and ended the loop that waits for all.
  hook = sys.unraisablehook
  sys.unraisablehook = lambda told: (
      None if 'Event loop is closed' in str(told.exc_value) else hook(told))


def print_anything() -> None:
  """Lets this process print characters that its terminal lacks, as \\u escapes."""
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(AttributeError):  # What a test or a notebook put in its place.
      stream.reconfigure(errors='backslashreplace')  # type: ignore[union-attr]


def _exit_code(main: Callable[[Sequence[str] | None], int | None]) -> int:
  try:
    _check_words(sys.argv[1:])
    return main(None) or 0
  except errors.UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  except errors.Stop as stop:
    print(f'{stop}: saved; start the same command again to continue', file=sys.stderr)
    return stop.exit_code
  except KeyboardInterrupt:
    print('interrupted', file=sys.stderr)
    return 130
  except Exception as error:
    if (says := _outside(error)) is None:
      raise
    print(f'error: {says}', file=sys.stderr)
    return 2


def _outside(error: Exception) -> str | None:
  """What to say of a full disk, a path that is none, a silent object store; None for our faults."""
  # TensorFlow and TensorStore have errors of their own for what the system says.
  says = errors.system_error(error)
  if any(os.strerror(number) in says for number in _NO_ROOM):
    return f'{says}: make room, or write elsewhere'
  if isinstance(error, OSError) and error.errno in _PATH and error.filename is not None:
    return f'{os.fsdecode(error.filename)}: {error.strerror}: check the path, and who may use it'
  # TensorFlow reads object stores for us, with errors of its own.
  if type(error).__module__.startswith('tensorflow') and 'gs://' in str(error):
    return f'{" ".join(str(error).split())[:300]}: check the path and your credentials'
  return None


_HUB = ('--input', '--inputs', '--completions', '--calibration', '--model_dir', '--model',
        '--gin.INITIAL_CHECKPOINT_PATH')


def _check_words(words: Sequence[str]) -> None:
  """What no verb can use is told apart before anything begins: other stores, garbled text."""
  for word in words:
    # A locale that knows ASCII alone: labels would be no labels.
    if not _is_utf8(word, 'surrogatepass') and _is_utf8(word, 'surrogateescape'):
      raise errors.UserError(f'{word.partition("=")[0]!a}: the locale of this terminal cannot read '
                             'it; set PYTHONUTF8=1, or LC_ALL=C.UTF-8')
  own = words[:words.index('--')] if '--' in words else words  # Beam's follow.
  for before, word in zip(['', *own], own):
    flag, _, value = word.partition('=') if word.startswith('--') else (before, '', word)
    if flag != '--base_url':
      files.check_path(flag if flag.startswith('--') else 'path', value.strip('\'"'),
                       hub=flag in _HUB)


def _is_utf8(word: str, undecoded: str) -> bool:
  """Of a word's bytes, with what Python could not decode handled as this handler does."""
  try:
    word.encode('utf-8', undecoded).decode('utf-8')
  except UnicodeError:
    return False
  return True


def _close_unread() -> bool:
  """Whether the reader of our output has gone (`dss ... | head`); nothing more is written then."""
  gone = []
  for stream in (sys.stdout, sys.stderr):
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    gone += [stream.fileno() for _, event in poll.poll(0) if event & select.POLLERR]
  for fd in gone:
    os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
  return bool(gone)


_UNREAD = 141  # as a program that SIGPIPE ends
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_PATH = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
         errno.ENAMETOOLONG, errno.ELOOP)
_BANNER = ('WARNING: All log messages before absl', 'I0000 ', 'W0000 ', 'To enable the')
_NO_CUDA = 'cuda_platform.cc'  # TensorFlow looks for a GPU that it is not to use.


def import_quietly(*modules: str) -> None:
  """Imports modules that may load TensorFlow, without its C++ start-up lines on stderr.

  Those are written before any logging flag is read; anything else is passed on. TensorFlow,
  where it was loaded, only reads data: it is kept off the accelerator, which is JAX's.
  """
  sys.stderr.flush()
  kept_fd = os.dup(2)
  with tempfile.TemporaryFile(mode='w+') as captured:
    os.dup2(captured.fileno(), 2)
    try:
      for module in modules:
        _import(module)
      _hide_gpus_from_tensorflow()
    finally:
      os.dup2(kept_fd, 2)
      os.close(kept_fd)
      captured.seek(0)
      sys.stderr.writelines(line for line in captured
                            if not line.startswith(_BANNER) and _NO_CUDA not in line)


def import_tasks(modules: Sequence[str]) -> None:
  """Imports our datasets and the user's modules.

  Without modules the datasets are only described, without TensorFlow, until `data.configure`; a
  module may make mixtures of our tasks, so they must be there.
  """
  with contextlib.nullcontext() if modules else datasets.described_only():
    import_quietly('dss_jax.tasks', *modules)


def _hide_gpus_from_tensorflow() -> None:
  if 'tensorflow' not in sys.modules:  # The teacher's programs do without its 700 MB.
    return
  # Inside a program that has used TensorFlow already, its choice stands.
  with contextlib.suppress(RuntimeError):
    sys.modules['tensorflow'].config.set_visible_devices([], 'GPU')


def _import(module: str) -> None:
  if os.getcwd() not in sys.path:  # The console script, unlike `python -m`, leaves it out.
    sys.path.insert(0, os.getcwd())
  folder, name = os.path.split(module)
  name = name.removesuffix('.py')
  if name != module or not all(name.split('.')):
    there = f', with PYTHONPATH={folder}' if folder not in ('', '.') else ''
    raise errors.UserError(f'--import={module}: give the name of a module, not its file: '
                           f'--import={name.strip(".") or "my_tasks"}{there}')
  try:
    importlib.import_module(module)
  except (ImportError, ValueError, TypeError, SyntaxError, errors.UserError) as error:
    if isinstance(error, ModuleNotFoundError) and error.name in (module, module.split('.')[0]):
      raise errors.UserError(
          f'--import={module}: no module {error.name!r}; run from the folder that holds it, or '
          'add that to PYTHONPATH') from error
    if module.startswith('dss_jax.'):
      raise
    raise errors.UserError(f'--import={module}: {_place(error, module)}{error}') from error


def _place(error: Exception, module: str) -> str:
  """'my_tasks.py, line 3: ' where a user's module was when it failed."""
  path = getattr(importlib.util.find_spec(module), 'origin', None)
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
           if frame.filename == path]
  return f'{os.path.basename(path)}, line {lines[-1]}: ' if path and lines else ''


def program(verb: str) -> str:
  """The name to show in `--help`: as the user called it."""
  module = VERBS[verb][0].removesuffix('.__main__')
  return f'dss {verb}' if sys.argv[0].startswith('dss ') else f'python -m {module}'


def _usage() -> str:
  verbs = '\n'.join(f'  {verb:<13} {what}' for verb, (_, what) in VERBS.items())
  return (f'usage: dss <verb> [flags]\n       dss --version\n\n{verbs}\n\n'
          '`dss <verb> --help` explains one; `python -m dss_jax.<verb>` is the same program.')


def main(argv: Sequence[str] | None = None) -> int | None:
  """Dispatches to the verb's own main."""
  args = list(sys.argv[1:] if argv is None else argv)
  if not args or args[0] in ('-h', '--help', 'help'):
    print(_usage())
    return 0
  if args[0] == '--version':
    print(f'dss_jax {__version__}')
    return 0
  verb, *rest = args
  if verb not in VERBS:
    raise errors.UserError(f'unknown verb {verb!r}: {errors.did_you_mean(verb, VERBS)}')
  sys.argv = [f'dss {verb}', *rest]  # argparse shows it as the program's name
  return importlib.import_module(VERBS[verb][0]).main(rest)


def entry_point() -> None:
  """The `dss` console script."""
  if sys.argv[1:2] == ['teacher']:
    datasets.describe_only()  # As `dss teacher`: it starts without TensorFlow.
  run(main)


@contextlib.contextmanager
def flags_named(flags: Container[str]) -> Iterator[None]:
  """A library's error about its parameter, `beams=0: ...`, becomes one about `--beams`.

  So does one about a field of that name: `DataSettings.vocabulary=x: ...`, about `--vocabulary`.
  """
  try:
    yield
  except errors.UserError as error:
    name = re.match(r'(?:\w+\.)?(\w+)', str(error))
    if name and name[1] in flags:
      raise errors.UserError(f'--{str(error)[name.start(1):]}') from error
    raise


def end_with_parent() -> None:
  """Ends this process soon after its parent is gone: nobody waits for what it does."""
  def watch(parent: int) -> None:
    while os.getppid() == parent:
      time.sleep(1)
    os._exit(1)
  threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()


if __name__ == '__main__':
  entry_point()
