"""Makes the helpers beside the teacher's tests importable."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture(scope='module')
def teacher():
  """A server with the OpenAI API."""
  import server
  with server.Server() as running:
    yield running


@pytest.fixture
def fault(teacher):
  """Sets what goes wrong with every request of this test."""
  def set_fault(one):
    teacher.faults = lambda number, body: one
  yield set_fault
  set_fault(None)
