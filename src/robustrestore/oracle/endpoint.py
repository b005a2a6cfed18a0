"""Endpoint: a model behind HTTP as a target: batches, time-outs, retries with back-off, a rate that is kept."""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..identity import of_callable
from .encoding import Encoding, JSONPath, JSONValues
from .queried import Sending

AGAIN = {408, 425, 429, 500, 502, 503, 504}
LONGEST = 60.0  # seconds between two attempts


class Unanswered(ConnectionError):
    """A target that gave no answer after all attempts; what it answered before is kept."""


@dataclass(frozen=True)
class Patience:
    """`timeout` seconds for an answer, then up to `retries` more attempts after `wait`, 2 `wait`, 4 `wait` ... seconds.

    A minute at most, or as long as the service's Retry-After asks. `rate`: requests a second at most, None for no limit.
    """

    timeout: float = 30.0
    retries: int = 5
    wait: float = 0.5
    rate: float | None = None

    def __post_init__(self) -> None:
        if not (self.timeout > 0 and self.retries >= 0 and self.wait >= 0 and (self.rate is None or self.rate > 0)):
            raise ValueError(f"patience: expected a time-out and a rate above 0, no negative retries or wait, got {self!r}")


class Endpoint:
    """A model that answers to HTTP POST: `Queried(Endpoint("https://{host}/v1/predict", fields={"host": "..."}))`.

    `url`: http or https, with {names} that `fields` fill in. `encoding`: how images are written, see `oracle.PNG`, `JSONPngs`,
    `JSONValues`, `NPY`. `parse`: response body to answers, a function or the path of a `JSONPath`. `batch`: images a request; 1
    where the encoding holds one, whose answer then comes without a batch axis ("predictions.0" takes one off). `headers`: keys
    and tokens belong here, for the URL is told in files and errors and headers are not. Time-outs, lost connections and
    statuses such as 429 and 503 are tried again (`patience`); other statuses raise at once, redirections among them. Requests
    go one after another, through the standard library alone.
    """

    def __init__(
        self,
        url: str,
        encoding: Encoding | None = None,
        parse: str | Callable[[bytes], Any] = "predictions",
        batch: int = 16,
        headers: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        patience: Patience | None = None,
    ) -> None:
        try:
            self.url = url.format_map(dict(fields or {}))
        except (KeyError, ValueError, IndexError) as error:
            raise ValueError(f"url: expected {url!r} to be filled in by fields {sorted(fields or {})}: {error!r}") from error
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url: expected one of http:// or https://, got {self.url!r}")
        if isinstance(batch, bool) or batch < 1:
            raise ValueError(f"batch: expected a whole number >= 1, got {batch!r}")
        self.encoding: Encoding = JSONValues() if encoding is None else encoding
        self.batch = 1 if self.encoding.single else batch
        self.parse: Callable[[bytes], Any] = JSONPath(parse) if isinstance(parse, str) else parse
        self.patience = Patience() if patience is None else patience
        self._headers = {"Content-Type": self.encoding.kind, **(headers or {})}
        self._next = 0.0

    @property
    def about(self) -> str:
        """URL, encoding and parsing: what tells it from other targets."""
        read = self.parse if isinstance(self.parse, JSONPath) else of_callable(self.parse)
        return f"{self.url} {self.encoding!r} {read!r}"

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r}, {self.encoding!r}, batch={self.batch})"

    def ask(self, images: Tensor, sending: Sending) -> Any:
        """The answers to one request's images; Unanswered after the last attempt, ValueError where the service refuses."""
        body, reason = self.encoding.body(images), "no attempt"
        for attempt in range(self.patience.retries + 1):
            self._keep_the_rate()
            sending(len(images))
            pause: float | None = None
            try:
                return self._read(self._post(body))
            except urllib.error.HTTPError as error:
                if error.code not in AGAIN:
                    shown = error.read(200).decode("utf-8", "replace")
                    raise ValueError(
                        f"{self.url}: expected an answer, got HTTP {error.code} {error.reason}: {shown!r}"
                    ) from error
                reason, pause = f"HTTP {error.code} {error.reason}", _asked_pause(error)
            except (OSError, http.client.HTTPException) as error:  # time-outs and lost connections among them
                reason = f"{type(error).__name__}: {error}"
            if attempt < self.patience.retries:
                own = self.patience.wait * 2**attempt
                time.sleep(min(LONGEST, own if pause is None else max(own, pause)))
        raise Unanswered(
            f"{self.url}: expected an answer in {self.patience.retries + 1} attempts, got {reason}; what was answered "
            "before is kept: call again to go on"
        )

    def _post(self, body: bytes) -> bytes:
        request = urllib.request.Request(self.url, body, self._headers, method="POST")
        with _opener().open(request, timeout=self.patience.timeout) as response:
            found: bytes = response.read()
        return found

    def _read(self, body: bytes) -> Any:
        """The parsed answers; of one image that comes alone, with the batch axis."""
        found = self.parse(body)
        return torch.as_tensor(found)[None] if self.encoding.single else found

    def _keep_the_rate(self) -> None:
        if self.patience.rate is None:
            return
        now = time.monotonic()
        if now < self._next:
            time.sleep(self._next - now)
        self._next = max(now, self._next) + 1 / self.patience.rate


class _Stay(urllib.request.HTTPRedirectHandler):
    """No redirection: it would hand tokens to another host, and turn a POST into a GET."""

    def redirect_request(self, *args: Any) -> None:
        return None


@cache
def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Stay)


def _asked_pause(error: urllib.error.HTTPError) -> float | None:
    """Seconds of a Retry-After header; dates are not read."""
    text = error.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None
