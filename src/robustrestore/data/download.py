"""A file from the web: resumed, verified, and in place whole or not at all. Standard library only."""

import hashlib
import os
import re
import ssl
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from urllib.error import HTTPError, URLError

PAUSES = (0.5, 1.0, 2.0)
TIMEOUT = 30.0
_CHUNK = 1 << 18
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_TRANSIENT = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)

Progress = Callable[[int, int | None], None]


class DownloadError(RuntimeError):
    """A download that did not give the wanted file; the message names the address and says why."""


def download(url: str, path: str | Path, sha256: str | None, progress: Progress | None = None) -> str:
    """Fetch an http(s) address into `path` and return its SHA-256 as 64 hexadecimal digits.

    An existing file is kept if it has the digest `sha256`, or if that is None. What a broken call left in `path`.part
    is continued if a digest can prove the result, and dropped if not. `progress` is told (bytes so far, bytes in all or
    None). One process a path at a time. Raises DownloadError after three more tries, on refusal and on a wrong digest.
    """
    _check(url, sha256)
    path = Path(path)
    if path.is_file() and (found := _digest(path)) == (sha256 or found).lower():
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    if sha256 is None:
        part.unlink(missing_ok=True)
    _persist(url, part, progress)
    found = _digest(part)
    if sha256 is not None and found != sha256.lower():
        part.unlink()
        raise DownloadError(f"{url}: expected SHA-256 {sha256.lower()}, got {found}: part file deleted, try again")
    os.replace(part, path)
    return found


def _check(url: str, sha256: str | None) -> None:
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError(f"expected an http:// or https:// address, got {url!r}: open local files directly")
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"expected sha256 as 64 hexadecimal digits or None, got {sha256!r}: copy the whole digest")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _persist(url: str, part: Path, progress: Progress | None) -> None:
    """Try until `part` is complete; each try goes on where the last one stopped."""
    for pause in (*PAUSES, None):
        try:
            return _attempt(url, part, progress)
        except _TRANSIENT as error:
            if isinstance(error, HTTPError):
                error.close()
            if _hopeless(error):
                raise DownloadError(f"{url}: expected the file, got {error}: check the address") from error
            if pause is None:
                last = f"{error!r} at the last of {len(PAUSES) + 1} tries"
                raise DownloadError(f"{url}: expected the file, got {last}: try again later") from error
            time.sleep(pause)


def _hopeless(error: Exception) -> bool:
    if isinstance(error, HTTPError):
        return error.code not in _BUSY
    reason = getattr(error, "reason", error)
    return isinstance(reason, ssl.SSLCertVerificationError | InvalidURL) or "unknown url type" in str(reason)


def _attempt(url: str, part: Path, progress: Progress | None) -> None:
    """Ask for the bytes that `part` lacks; a part that the server cannot continue is deleted for the next try."""
    start = part.stat().st_size if part.exists() else 0
    try:
        response = _request(url, start)
    except HTTPError as error:
        if error.code != 416 or not start:
            raise
        error.close()
        if _range(error.headers.get("Content-Range"))[1] == start:
            return  # the last call got every byte and was stopped before it could rename the file
        part.unlink()
        raise ConnectionError(f"the server has no bytes after {start}") from error
    with response:
        if response.status == 206 and _range(response.headers.get("Content-Range"))[0] != start:
            part.unlink(missing_ok=True)
            raise ConnectionError(f"the server sent other bytes than those from {start}")
        _append(response, part, start if response.status == 206 else 0, progress)


def _append(response: HTTPResponse, part: Path, done: int, progress: Progress | None) -> None:
    """Write the answer behind the first `done` bytes; ConnectionError if it ends too early."""
    length = response.headers.get("Content-Length")
    total = _range(response.headers.get("Content-Range"))[1] or (None if length is None else done + int(length))
    with part.open("ab" if done else "wb") as file:
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    if total is not None and done != total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")


def _request(url: str, start: int) -> HTTPResponse:
    """An answer over http(s) alone: a redirect to ftp, file or data finds no handler."""
    web = urllib.request
    opener = web.OpenerDirector()
    for handler in (web.ProxyHandler, web.HTTPHandler, web.HTTPSHandler, web.HTTPRedirectHandler, web.UnknownHandler):
        opener.add_handler(handler())
    opener.add_handler(web.HTTPDefaultErrorHandler())
    opener.add_handler(web.HTTPErrorProcessor())
    headers = {"User-Agent": "robustrestore"} | ({"Range": f"bytes={start}-"} if start else {})
    response: HTTPResponse = opener.open(web.Request(url, headers=headers), timeout=TIMEOUT)
    return response


def _range(header: str | None) -> tuple[int | None, int | None]:
    """(first byte, bytes in all) of a Content-Range header such as `bytes 5-9/10` or `bytes */10`."""
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", header or "")
    first, total = match.groups() if match else (None, None)
    return (int(first) if first else None), (int(total) if total and total != "*" else None)
