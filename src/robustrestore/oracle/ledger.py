"""Ledger: what was asked of a target and what it answered, in one SQLite file, so that no paid answer is lost."""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

KINDS = {"float32": torch.float32, "int64": torch.int64}
SCHEMA = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answers (image TEXT PRIMARY KEY, kind TEXT NOT NULL, shape TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS changes (image TEXT NOT NULL, distance REAL NOT NULL);
INSERT OR IGNORE INTO about VALUES ('sent', '0');
"""
MANY = 500  # keys of one look-up: SQLite takes 999 at least


class OverBudget(RuntimeError):
    """More queries than the budget allows; nothing of the call beyond it was asked, and all answers so far are kept."""


@dataclass(frozen=True)
class Change:
    """A target that answered one image differently: its digest, and how far apart the answers lie."""

    image: str
    distance: float


class Ledger:
    """Answers by image digest, and how many images were sent, in the file `place` or, for None, in memory.

    Every change is one transaction: a process that is killed loses what it was writing and nothing else. Several processes may
    share a file. ValueError where the file holds what another target answered, or is no ledger.
    """

    def __init__(self, place: Path | None, about: Mapping[str, str]) -> None:
        self.place, self._about = place, dict(about)
        self._open()

    def _open(self) -> None:
        self._owner = os.getpid()
        if self.place is not None:
            self.place.parent.mkdir(parents=True, exist_ok=True)
        self._base = sqlite3.connect(self.place or ":memory:", timeout=60, isolation_level=None, check_same_thread=False)
        try:
            with self._changing() as base:
                for line in SCHEMA.strip().split(";\n"):
                    base.execute(line)
                for name, value in self._about.items():
                    base.execute("INSERT OR IGNORE INTO about VALUES (?, ?)", (name, value))
            known = dict(self._base.execute("SELECT name, value FROM about"))
        except sqlite3.DatabaseError as error:
            self._base.close()
            raise ValueError(f"{self.place}: expected a file of answers, or none yet: {error}: choose another file") from error
        if differ := sorted(name for name, value in self._about.items() if known[name] != value):
            told = "; ".join(f"{name}: {known[name]} there, {self._about[name]} here" for name in differ)
            self._base.close()
            raise ValueError(f"{self.place}: expected the answers of this target, got those of another ({told}): "
                             "choose another file, its answers are paid for")  # fmt: skip

    def _there(self) -> sqlite3.Connection:
        """The connection; a process that was forked opens its own."""
        if self._owner != os.getpid() and self.place is not None:
            self._open()
        return self._base

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, whole or not at all."""
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield self._base
        except BaseException:
            self._base.execute("ROLLBACK")
            raise
        self._base.execute("COMMIT")

    @property
    def sent(self) -> int:
        """Images sent to the target, over all runs."""
        return int(self._there().execute("SELECT value FROM about WHERE name = 'sent'").fetchone()[0])

    def __len__(self) -> int:
        """Images answered."""
        return int(self._there().execute("SELECT count(*) FROM answers").fetchone()[0])

    def changes(self) -> list[Change]:
        """Every answer that differed from the one before, oldest first."""
        return [Change(*row) for row in self._there().execute("SELECT image, distance FROM changes ORDER BY rowid")]

    def send(self, count: int, budget: int | None) -> None:
        """Note, before they leave, that `count` images are sent; OverBudget where that is more than `budget` in all."""
        self._there()
        with self._changing() as base:
            sent = self.sent
            if budget is not None and sent + count > budget:
                raise OverBudget(
                    f"queries: expected at most {budget}, got {sent} sent and {count} more wanted: raise the budget, or go on "
                    "with what is answered"
                )
            base.execute("UPDATE about SET value = ? WHERE name = 'sent'", (str(sent + count),))

    def find(self, images: Sequence[str]) -> dict[str, Tensor]:
        """The answers there are, by digest."""
        found, wanted = {}, list(dict.fromkeys(images))
        for start in range(0, len(wanted), MANY):
            part = wanted[start : start + MANY]
            marks = ",".join("?" * len(part))
            rows = self._there().execute(f"SELECT image, kind, shape, data FROM answers WHERE image IN ({marks})", part)
            found.update({row[0]: _tensor(*row[1:]) for row in rows})
        return found

    def keep(self, answers: Mapping[str, Tensor]) -> None:
        """Store answers; the first one to an image stays."""
        rows = [(image, *_row(answer)) for image, answer in answers.items()]
        self._there()
        with self._changing() as base:
            base.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", rows)

    def note(self, changes: Sequence[Change]) -> None:
        """Store what changed."""
        self._there()
        with self._changing() as base:
            base.executemany("INSERT INTO changes VALUES (?, ?)", [(one.image, one.distance) for one in changes])


def _row(answer: Tensor) -> tuple[str, str, bytes]:
    kind = str(answer.dtype).removeprefix("torch.")
    return kind, json.dumps(list(answer.shape)), answer.contiguous().numpy().tobytes()


def _tensor(kind: str, shape: str, data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=KINDS[kind]).reshape(json.loads(shape))
