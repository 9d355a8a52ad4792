"""A checkout with the scripts of launch/, and programs that stand for clouds and clusters."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

REPO = pathlib.Path(__file__).parents[2]
FAKES = pathlib.Path(__file__).parent / 'fakes'


@pytest.fixture
def checkout(tmp_path):
  """A git repository with the real scripts, so that nothing here touches the real one."""
  tree = tmp_path / 'checkout'
  shutil.copytree(REPO / 'launch', tree / 'launch')
  (tree / '.gitignore').write_text('/dist/\n/runs/\n.venv/\n')
  git = ['git', '-c', 'user.name=t', '-c', 'user.email=t@localhost', '-c', 'commit.gpgsign=false']
  for words in (['init', '--quiet'], ['add', '.'], ['commit', '--quiet', '--message=all']):
    subprocess.run([*git, *words], cwd=tree, check=True)
  return tree


class Cloud:
  """The folder in which the fakes keep their state, and the environment that leads to them."""

  def __init__(self, folder: pathlib.Path, checkout: pathlib.Path):
    self.folder, self.checkout = folder, checkout
    self.environment = {**os.environ, 'CLOUD': str(folder), 'HOME': str(folder / 'home'),
                        'PATH': f'{FAKES}{os.pathsep}{os.environ["PATH"]}'}
    (folder / 'home').mkdir(parents=True)

  def plan(self, *steps, hosts=2):
    """What the trainer does, start by start, on every host."""
    for host in range(hosts):
      self.write(f'plan-{host}', steps)

  def write(self, name, lines):
    (self.folder / name).write_text(''.join(f'{line}\n' for line in lines))

  def lines(self, name):
    path = self.folder / name
    return path.read_text().splitlines() if path.exists() else []

  def words(self, name):
    """Recorded arguments, as the program got them."""
    return (self.folder / name).read_text().split('\0')[:-1]

  def calls(self):
    """`group verb` of every call of gcloud, repeated ones once."""
    found = [' '.join(line.split()[2:4]) for line in self.lines('calls')]
    return [call for i, call in enumerate(found) if found[i - 1:i] != [call]]

  def starts(self):
    """How often the trainer was started on host 0, the one whose end is waited for."""
    return self.lines('started').count('0')

  def wait_for(self, *names):
    deadline = time.monotonic() + 20
    while not all((self.folder / name).exists() for name in names):
      assert time.monotonic() < deadline, names
      time.sleep(0.01)

  def run(self, script, *flags, check=None):
    done = subprocess.run(['bash', str(self.checkout / 'launch' / script), *flags], text=True,
                          capture_output=True, timeout=600, env=self.environment)
    assert check is None or done.returncode == check, f'{done.stdout}\n{done.stderr}'
    return done


@pytest.fixture
def cloud(tmp_path, checkout):
  made = Cloud(tmp_path / 'cloud', checkout)
  yield made
  # What a failed test may have left running, by the process ids that it wrote down.
  for pid in made.folder.glob('host-*/dss_run/pid'):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(int(pid.read_text()), signal.SIGKILL)
