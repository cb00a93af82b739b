"""Downloads from a server of the test's own: whole, resumed, damaged, refused."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import archives
import pytest
from command import command

from metacontrast.tasks import _download, _sources, _structure
from metacontrast.tasks._download import download

CONTENT = bytes(range(256)) * 5000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files`, and notes what it was asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/data": CONTENT}
        self.ranges = True
        self.cut = None  # end each answer after so many bytes
        self.status = None  # answer so, and nothing else
        self.asked = []

    def url(self, path="/data"):
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        content = self.server.files.get(urlsplit(self.path).path)
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        if content is None or self.server.status:
            self.send_error(self.server.status or 404)
            return
        first = int(wanted.removeprefix("bytes=")[:-1]) if wanted and self.server.ranges else 0
        if first and first >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        end = len(content) if self.server.cut is None else first + self.server.cut
        self.wfile.write(content[first:end])

    def log_message(self, *args): ...


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "downloads" / "file"


def part(path):
    return path.with_name("file.part")


def fetched(server, path):
    download(server.url(), path, MD5, progress=False)
    assert path.read_bytes() == CONTENT
    assert not part(path).exists()


def test_a_whole_file(server, path):
    fetched(server, path)
    assert server.asked == [("/data", None)]


def test_a_file_that_is_there_is_not_loaded_again(server, path):
    fetched(server, path)
    fetched(server, path)
    assert len(server.asked) == 1


def test_a_file_that_was_damaged_since_is_loaded_again(server, path):
    fetched(server, path)
    path.write_bytes(b"x")
    fetched(server, path)


def interrupted(server, path, cut=300_000):
    server.cut = cut
    with pytest.raises(
        ConnectionError, match=f"ended after {cut} of {len(CONTENT)}.*again to go on"
    ):
        fetched(server, path)
    assert part(path).read_bytes() == CONTENT[:cut]
    assert not path.exists()
    server.cut = None


def test_an_interrupted_download_goes_on_where_it_stopped(server, path):
    interrupted(server, path)
    fetched(server, path)
    assert server.asked[-1] == ("/data", "bytes=300000-")


def test_it_may_be_interrupted_again(server, path):
    interrupted(server, path)
    server.cut = 1000
    with pytest.raises(ConnectionError, match="after 301000 of"):
        fetched(server, path)
    server.cut = None
    fetched(server, path)


def test_a_server_without_ranges_starts_again(server, path):
    server.ranges = False
    interrupted(server, path)
    fetched(server, path)


def test_all_had_arrived_when_it_was_interrupted(server, path):
    path.parent.mkdir()
    part(path).write_bytes(CONTENT)
    fetched(server, path)


def test_a_part_longer_than_the_file_is_none_of_it(server, path):
    path.parent.mkdir()
    part(path).write_bytes(CONTENT + b"x")
    fetched(server, path)


def test_a_wrong_checksum_leaves_nothing(server, path):
    server.files["/data"] = CONTENT[::-1]
    with pytest.raises(ValueError, match=f"{hashlib.md5(CONTENT[::-1]).hexdigest()}, not {MD5}"):
        fetched(server, path)
    assert not part(path).exists()
    server.files["/data"] = CONTENT
    fetched(server, path)


def test_the_part_of_another_file_fails_by_its_checksum_and_is_dropped(server, path):
    path.parent.mkdir()
    part(path).write_bytes(b"another")
    with pytest.raises(ValueError, match="checksum"):
        fetched(server, path)
    fetched(server, path)


def test_a_server_that_has_it_not(server, path):
    with pytest.raises(ConnectionError, match="404"):
        download(server.url("/other"), path, MD5, progress=False)
    server.server_close()
    with pytest.raises(ConnectionError, match="data import"):
        download(server.url(), path, MD5, progress=False)


def test_what_is_unfinished_is_private_and_follows_no_links(server, path, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    path.parent.mkdir()
    for plant in (part(path).symlink_to, part(path).hardlink_to):
        plant(victim)
        interrupted(server, path)
        assert victim.read_bytes() == b"" and not part(path).is_symlink()
        assert part(path).stat().st_mode & 0o777 == 0o600
        part(path).unlink()
    victim.write_bytes(CONTENT[:1000])
    part(path).hardlink_to(victim)
    with pytest.raises(ConnectionError, match=r"file\.part is a link; delete it"):
        fetched(server, path)
    assert victim.read_bytes() == CONTENT[:1000]


def test_a_server_that_does_not_stop(server, path, monkeypatch):
    monkeypatch.setattr(_download, "LARGEST", 1000)
    with pytest.raises(ConnectionError, match="more than 1,000 bytes"):
        fetched(server, path)
    assert not part(path).exists() or part(path).stat().st_size <= 1000


def test_an_answer_of_nothing_beyond_nothing(server, path):
    server.status = 416
    with pytest.raises(ConnectionError, match="416"):
        fetched(server, path)


def test_fetch_downloads_and_imports(server, tmp_path, monkeypatch, capsys):
    (tmp_path / "official").mkdir()
    archives.mnist(tmp_path / "official")
    contents = {f"/{p.name}": p.read_bytes() for p in (tmp_path / "official").iterdir()}
    server.files = contents
    md5s = {server.url(p): hashlib.md5(content).hexdigest() for p, content in contents.items()}
    mnist = _sources.SOURCES["mnist"]._replace(downloads=md5s)
    monkeypatch.setitem(_sources.SOURCES, "mnist", mnist)
    monkeypatch.setitem(_structure.COUNTS, "mnist.npz", 8)
    monkeypatch.setenv("METACONTRAST_DATA", str(tmp_path / "cache"))
    server.cut = 100
    assert command(monkeypatch, "data", "fetch", "mnist") == 2
    assert "run the same command again" in capsys.readouterr().err
    server.cut = None
    assert command(monkeypatch, "data", "fetch", "mnist") == 0
    assert "mnist.npz: 8 images" in capsys.readouterr().out
    assert command(monkeypatch, "data", "verify", "mnist") == 0


def test_what_cannot_be_fetched(monkeypatch, capsys):
    assert command(monkeypatch, "data", "fetch", "miniimagenet") == 2
    assert "data import miniimagenet" in capsys.readouterr().err
    assert command(monkeypatch, "data", "fetch", "imagenet") == 2
    assert "choose one of omniglot" in capsys.readouterr().err


def test_the_official_places():
    for source in _sources.SOURCES.values():
        for url, md5 in source.downloads.items():
            assert urlsplit(url).scheme == "https"
            assert len(bytes.fromhex(md5)) == 16
