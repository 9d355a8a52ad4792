"""A hub on loopback: the part of the Hugging Face hub's HTTP API that downloads use."""

import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

ROUTE = re.compile(r'/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)')
API = re.compile(r'/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/?]+)')
LARGE = ('.bin', '.safetensors', '.msgpack', '.h5', '.model')  # kept apart, as by Git LFS


class Hub:
  """Models by name; each a list of commits, whose last is `main`.

  Attributes:
    asked: (method, path) of every request.
    gated, private: names that want the token.
    cut: so many downloads of more than 10 kB end in the middle.
    status: answers everything with it, if it is set.
  """

  token = 'hf_secret'

  def __init__(self):
    self.repos, self.blobs, self.asked = {}, {}, []
    self.gated, self.private, self.cut, self.status = set(), set(), 0, 0

  def add(self, repo, folder):
    """A new commit of all files of a folder; returns its hash."""
    files = {str(path.relative_to(folder)): path.read_bytes()
             for path in sorted(folder.rglob('*')) if path.is_file()}
    listed = json.dumps([repo, len(self.repos.get(repo, ())), sorted(files)])
    commit = hashlib.sha1(listed.encode()).hexdigest()
    self.repos.setdefault(repo, {})[commit] = files
    self.blobs |= {hashlib.sha256(data).hexdigest(): data for data in files.values()}
    return commit

  def find(self, repo, revision):
    """(commit, files) or None."""
    commits = self.repos[repo]
    commit = list(commits)[-1] if revision == 'main' else revision
    return (commit, commits[commit]) if commit in commits else None

  def downloads(self):
    """The files that were asked for, not only looked at."""
    return [file for method, path in self.asked if method == 'GET'
            and (file := self._names.get(path))]

  @property
  def _names(self):
    found = {f'/large/{hashlib.sha256(data).hexdigest()}': name
             for commits in self.repos.values() for files in commits.values()
             for name, data in files.items()}
    return found | {f'/{repo}/resolve/{revision}/{name}': name
                    for repo, commits in self.repos.items() for commit, files in commits.items()
                    for name in files for revision in (commit, 'main')}


class Handler(http.server.BaseHTTPRequestHandler):
  """Answers for `self.server.hub`."""

  protocol_version = 'HTTP/1.1'

  def log_message(self, *args):
    pass

  def do_HEAD(self):
    self.do_GET()

  def do_GET(self):
    hub = self.server.hub
    path = urllib.parse.unquote(self.path)
    hub.asked.append((self.command, path.partition('?')[0]))
    if hub.status:
      return self._send(hub.status, {}, b'')
    if path.startswith('/large/'):
      return self._send_large(hub.blobs[path.removeprefix('/large/')])
    route = API.match(path) or ROUTE.match(path)
    if not route:
      return self._send(404, {}, b'')
    repo, revision = route['repo'], route['revision']
    given = self.headers.get('authorization')
    if given not in (None, f'Bearer {hub.token}'):
      return self._fail(401, '', 'Invalid credentials in Authorization header')
    if repo not in hub.repos or (repo in hub.private and not given):
      return self._fail(404 if given else 401, 'RepoNotFound')
    if repo in hub.gated and not given and route.re is ROUTE:
      return self._fail(401, 'GatedRepo')
    found = hub.find(repo, revision)
    if not found:
      return self._fail(404, 'RevisionNotFound')
    if route.re is API:
      listed = [{'type': 'file', 'path': name, 'size': len(data), 'oid': etag(data)}
                for name, data in found[1].items()]
      return self._send(200, {'Content-Type': 'application/json'}, json.dumps(listed).encode())
    self._send_file(*found, route['file'])

  def _send_file(self, commit, files, name):
    if name not in files:
      return self._fail(404, 'EntryNotFound', headers={'X-Repo-Commit': commit})
    data = files[name]
    if name.endswith(LARGE):
      sha256 = hashlib.sha256(data).hexdigest()
      return self._send(302, {
          'Location': f'{self.server.elsewhere}/large/{sha256}', 'X-Repo-Commit': commit,
          'X-Linked-Etag': f'"{sha256}"', 'X-Linked-Size': str(len(data))}, b'')
    self._send(200, {'X-Repo-Commit': commit, 'ETag': f'"{etag(data)}"'}, data)

  def _send_large(self, data):
    start = re.fullmatch(r'bytes=(\d+)-', self.headers.get('range', ''))
    first = int(start[1]) if start else 0
    headers = {'Content-Range': f'bytes {first}-{len(data) - 1}/{len(data)}'} if start else {}
    hub = self.server.hub
    cut = self.command == 'GET' and hub.cut > 0 and not start and len(data) > 10_000
    hub.cut -= cut
    self._send(206 if start else 200, headers, data[first:], cut=cut)

  def _fail(self, status, code, message='', headers=None):
    self._send(status, {**(headers or {}), 'X-Error-Code': code, 'X-Error-Message': message}, b'')

  def _send(self, status, headers, data, cut=False):
    self.send_response(status)
    for name, value in {**headers, 'Content-Length': str(len(data))}.items():
      if value:
        self.send_header(name, value)
    self.end_headers()
    if self.command == 'GET':
      self.wfile.write(data[:len(data) // 2] if cut else data)
    if cut:
      self.close_connection = True


def etag(data):
  """Git's hash of a file."""
  return hashlib.sha1(b'blob %d\0' % len(data) + data).hexdigest()


@contextlib.contextmanager
def running():
  """A hub and its address."""
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  server.daemon_threads = True
  server.hub = Hub()
  address = f'http://127.0.0.1:{server.server_port}'
  server.elsewhere = f'http://localhost:{server.server_port}'  # To a client another machine.
  thread = threading.Thread(target=server.serve_forever, args=(0.05,))
  thread.start()
  try:
    yield server.hub, address
  finally:
    server.shutdown()
    thread.join()
    server.server_close()
