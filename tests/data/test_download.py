"""The downloader against a local server that resumes, ignores Range, cuts the line, fails, and lies."""

import hashlib
import importlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from robustrestore.data.download import DownloadError, download

module = importlib.import_module("robustrestore.data.download")  # the package's attribute of this name is the function
CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; the attributes say how it misbehaves, `asked` keeps the Range headers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.content = CONTENT
        self.ranges = True
        self.length = True
        self.chunked = False  # a body in chunks and no length, as GitHub sends archives
        self.most = len(CONTENT)  # bytes in one answer to a Range, however many are wanted
        self.cuts: list[int] = []  # for each coming answer: bytes to send before the line is cut
        self.codes: list[int] = []  # status codes of the coming answers
        self.shift = 0  # send bytes that far behind the wanted ones
        self.url = f"http://127.0.0.1:{self.server_address[1]}/file"
        self.location = self.url

    def handle_error(self, *_: object) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        if server.codes:
            return self.answer(server.codes.pop(0), {"Content-Length": "0", "Location": server.location})
        start = int(wanted[6:-1]) if wanted and server.ranges else 0
        size = len(server.content)
        if start >= size:
            return self.answer(416, {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
        start += server.shift if start else 0
        part = bool(wanted) and server.ranges
        end = min(size, start + server.most) if part else size
        headers = {"Content-Length": str(end - start)} if server.length and not server.chunked else {}
        headers |= {"Content-Range": f"bytes {start}-{end - 1}/{size}"} if part else {}
        headers |= {"Transfer-Encoding": "chunked"} if server.chunked else {}
        self.answer(206 if part else 200, headers)
        body = server.content[start : start + server.cuts.pop(0) if server.cuts else end]
        if server.chunked:
            done = b"\r\n0\r\n\r\n" if start + len(body) == end else b""
            body = b"%x\r\n" % (end - start) + body + done
        self.wfile.write(body)

    def answer(self, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server()
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def test_a_file_arrives_whole(tmp_path: Path, server: Server) -> None:
    told: list[tuple[int, int | None]] = []
    path = tmp_path / "new" / "file"
    assert download(server.url, str(path), DIGEST.upper(), lambda done, total: told.append((done, total))) == DIGEST
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert told == sorted(told)
    assert len(told) > 1
    assert server.asked == [None]


def test_without_digest_and_length(tmp_path: Path, server: Server) -> None:
    server.length = False
    told: list[tuple[int, int | None]] = []
    assert download(server.url, tmp_path / "file", None, lambda *now: told.append(now)) == DIGEST
    assert told[-1] == (len(CONTENT), None)


def test_an_existing_file_is_kept_if_its_digest_is_right(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    assert download(server.url, tmp_path / "file", DIGEST) == DIGEST
    assert download(server.url, tmp_path / "file", None) == DIGEST
    assert server.asked == []
    (tmp_path / "file").write_bytes(b"old")
    assert download(server.url, tmp_path / "file", DIGEST) == DIGEST
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_part_file_is_continued_in_the_middle(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT[:700_001])
    told: list[tuple[int, int | None]] = []
    assert download(server.url, tmp_path / "file", DIGEST, lambda *now: told.append(now)) == DIGEST
    assert server.asked == ["bytes=700001-"]
    assert told[0][0] > 700_001
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert not (tmp_path / "file.part").exists()


def test_an_unprovable_part_file_is_dropped(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file.part").write_bytes(b"of another version")
    assert download(server.url, tmp_path / "file", None) == DIGEST
    assert server.asked == [None]


def test_a_server_without_ranges_starts_anew(tmp_path: Path, server: Server) -> None:
    server.ranges = False
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    assert download(server.url, tmp_path / "file", DIGEST) == DIGEST
    assert server.asked == ["bytes=1000-"]


def test_a_complete_part_file_is_only_renamed(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert download(server.url, tmp_path / "file", DIGEST) == DIGEST
    assert server.asked == [f"bytes={len(CONTENT)}-"]


def test_a_part_file_longer_than_the_file_starts_anew(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT + b"more")
    assert download(server.url, tmp_path / "file", DIGEST) == DIGEST
    assert server.asked[1:] == [None]


def test_a_server_that_sends_other_bytes_starts_anew(tmp_path: Path, server: Server) -> None:
    server.shift = 10
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    assert download(server.url, tmp_path / "file", DIGEST) == DIGEST
    assert server.asked == ["bytes=1000-", None]


@pytest.mark.parametrize("digest", [DIGEST, None])
def test_a_cut_connection_is_continued(tmp_path: Path, server: Server, digest: str | None) -> None:
    server.cuts = [300_000, 0, 200_000]
    assert download(server.url, tmp_path / "file", digest) == DIGEST
    assert server.asked == [None, "bytes=300000-", "bytes=300000-", "bytes=500000-"]
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_between_chunks_is_noticed_without_a_length(tmp_path: Path, server: Server, ranges: bool) -> None:
    server.chunked, server.ranges, server.cuts = True, ranges, [600_000]
    assert download(server.url, tmp_path / "file", None) == DIGEST
    assert len(server.asked) == 2
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("digest", [DIGEST, None])
def test_an_answer_with_less_than_the_wanted_range_is_not_the_end(tmp_path: Path, server: Server, digest: str | None) -> None:
    server.cuts, server.most = [500_000], 400_000
    assert download(server.url, tmp_path / "file", digest) == DIGEST
    assert server.asked == [None, "bytes=500000-", "bytes=900000-"]


def test_too_many_cuts_keep_the_part_for_the_next_call(tmp_path: Path, server: Server) -> None:
    server.cuts = [100, 100, 100, 100]
    with pytest.raises(DownloadError, match=r"ended after 400 of 1048576 bytes.*last of 4 tries"):
        download(server.url, tmp_path / "file", DIGEST)
    assert [p.name for p in tmp_path.iterdir()] == ["file.part"]
    assert download(server.url, tmp_path / "file", DIGEST) == DIGEST
    assert server.asked[-1] == "bytes=400-"


def test_a_wrong_digest_deletes_the_bytes_and_keeps_the_old_file(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(DownloadError, match=rf"expected SHA-256 {'0' * 64}, got {DIGEST}"):
        download(server.url, tmp_path / "file", "0" * 64)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_busy_server_is_asked_again(tmp_path: Path, server: Server, code: int) -> None:
    server.codes = [code, code, code]
    assert download(server.url, tmp_path / "file", DIGEST) == DIGEST
    server.codes = [code] * 4
    with pytest.raises(DownloadError, match=f"{code}.*last of 4 tries"):
        download(server.url, tmp_path / "other", DIGEST)


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_refusal_is_final(tmp_path: Path, server: Server, code: int) -> None:
    server.codes = [code]
    with pytest.raises(DownloadError, match=f"/file: expected the file, got HTTP Error {code}"):
        download(server.url, tmp_path / "file", DIGEST)
    assert len(server.asked) == 1
    assert not list(tmp_path.iterdir())


def test_redirects_stay_on_the_web(tmp_path: Path, server: Server) -> None:
    server.codes = [302]
    assert download(server.url, tmp_path / "file", DIGEST) == DIGEST
    (tmp_path / "secret").write_bytes(CONTENT)
    for location in ((tmp_path / "secret").as_uri(), "ftp://127.0.0.1/file", "data:,text"):
        server.codes, server.asked, server.location = [302], [], location
        with pytest.raises(DownloadError, match="check the address"):
            download(server.url, tmp_path / "other", DIGEST)
        assert len(server.asked) == 1


def test_an_address_with_spaces_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda _: pytest.fail("tried again"))
    with pytest.raises(DownloadError, match="check the address"):
        download("http://127.0.0.1/a file", tmp_path / "file", DIGEST)


def test_no_server(tmp_path: Path, server: Server) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match=r"Connection refused|URLError"):
        download(server.url, tmp_path / "file", DIGEST)


@pytest.mark.parametrize("url", ["file:///etc/hosts", "ftp://127.0.0.1/file", "weights.safetensors", ""])
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="expected an http:// or https:// address"):
        download(url, tmp_path / "file", None)


@pytest.mark.parametrize("digest", ["", "abc", "g" * 64, "0" * 65])
def test_half_a_digest_is_refused(tmp_path: Path, server: Server, digest: str) -> None:
    with pytest.raises(ValueError, match="expected sha256 as 64 hexadecimal digits"):
        download(server.url, tmp_path / "file", digest)
    assert server.asked == []
