"""The layering of docs/architecture.md: who may import whom."""

import ast
import pathlib
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).parents[1]

PURE = ('errors', 'fields', 'answers', 'datasets', 'metrics', 'equations', 'data/packing')
NO_TENSORFLOW = {'tensorflow', 'seqio', 'gin', 't5x', 'tensorflow_datasets', 'clu'}
PROTOBUF_ONLY = 'tensorflow_datasets.proto.'  # needs no TensorFlow
FORBIDDEN = {  # folder or file of dss_jax -> parts of dss_jax that it must not import
    'records': ('teacher', 'data', 'train', 'models', 'tasks', 'datasets'),
    'teacher': ('data', 'train', 'models', 'tasks'),
    'data': ('teacher', 'train', 'models', 'tasks'),
    'models': ('teacher', 'data', 'train', 'records', 'datasets', 'tasks', 'decode', 'sharding',
               'families', 'convert'),
    'families.py': ('teacher', 'data', 'train', 'records', 'datasets', 'tasks', 'decode',
                    'predict'),
    'decode': ('teacher', 'data', 'train', 'records', 'datasets', 'tasks', 'predict'),
    'sharding.py': ('teacher', 'data', 'train', 'records', 'datasets', 'tasks', 'decode'),
    'page': ('teacher', 'data', 'train', 'records', 'tasks', 'experiments', 'inspect'),
    'objective.py': ('teacher', 'data', 'train', 'records', 'datasets', 'tasks', 'models'),
    'convert': ('teacher', 'data', 'train', 'records', 'datasets', 'tasks', 'predict'),
  'train': ('teacher', 'tasks', 'experiments', 'predict'),
  'predict': ('teacher', 'data', 'records', 'tasks', 'experiments'),
  'serve': ('teacher', 'data', 'records', 'tasks', 'experiments', 'export'),
  'export': ('teacher', 'data', 'records', 'tasks', 'experiments'),
  'precompile': ('teacher', 'data', 'records', 'tasks', 'experiments'),
}


def imports(path):
  """Dotted names that a file imports."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def files(part):
  path = REPO / 'dss_jax' / part
  return sorted(path.rglob('*.py')) if path.is_dir() else [path]


@pytest.mark.parametrize('part', FORBIDDEN)
def test_imports_go_one_way(part):
  for path in files(part):
    for name in imports(path):
      for other in FORBIDDEN[part]:
        assert not f'{name}.'.startswith(f'dss_jax.{other}.'), f'{path} imports {name}'


@pytest.mark.parametrize('part', [*(f'{name}.py' for name in PURE), 'objective.py', 'models',
                                  'train/step.py', 'train/state.py', 'train/rngs.py',
                                  'train/__init__.py', 'train/config.py', 'sharding.py',
                                  'families.py', 'decode',
                                  'convert', 'predict', 'serve', 'export', 'precompile',
                                  'student_info.py', 'tokenizer.py',
                                  'files.py', 'records', 'page', 'cli.py',
                                  'data/__init__.py', 'data/description.py', 'data/settings.py'])
def test_the_computation_and_the_records_need_no_tensorflow(part):
  for path in files(part):
    names = {name for name in imports(path) if not name.startswith(PROTOBUF_ONLY)}
    assert not {name.split('.')[0] for name in names} & NO_TENSORFLOW, path


@pytest.mark.parametrize('modules', [
    'dss_jax.models, dss_jax.families, dss_jax.decode, dss_jax.objective, dss_jax.sharding, '
    'dss_jax.train.step',
    'dss_jax.records, dss_jax.data'])
def test_these_load_no_tensorflow_seqio_gin_or_t5x(modules):
  code = (f'import sys, {modules}; '
          "assert not {'tensorflow', 'seqio', 'gin', 't5x'} & set(sys.modules)")
  subprocess.run([sys.executable, '-c', code], check=True, timeout=600)
