"""Makes the helpers beside the teacher's tests importable."""

import os
import pathlib
import subprocess
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


@pytest.fixture
def small_disk(tmp_path):
  """Makes `tmp_path/disk`, a disk of so many kB."""
  folder = tmp_path / 'disk'

  def mount(kilobytes):
    folder.mkdir()
    done = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={kilobytes}k', 'tmpfs',
                           str(folder)], capture_output=True, check=False)
    if done.returncode:
      pytest.skip('no disk may be mounted here')
    return folder
  yield mount
  if os.path.ismount(folder):
    subprocess.run(['umount', '-l', str(folder)], check=True)
