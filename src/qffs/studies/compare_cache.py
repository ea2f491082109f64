"""The cache from which a stopped comparison continues: the rows of measured methods, next to its results."""

from __future__ import annotations

import json
from pathlib import Path

from qffs.files import Results, read_text, to_json, write_text

PARTS = "parts"
"""The folder of the rows, next to the results."""


class RowCache:
    """The rows of methods that were measured with one seed, one file per row.

    cache_key: everything that a row depends on, as plain data; a row is reused only if every entry is equal. If the
    library's code has changed since its last commit, no row is reused, because rows may be from other code.
    ``reused_rows``: the rows that `read` returned.
    """

    def __init__(self, folder: Path, seed: int, cache_key: Results) -> None:
        self.folder = folder / PARTS / f"seed-{seed}"
        self.cache_key = cache_key
        self.is_cacheable = not str(cache_key["commit"]).endswith("-dirty")
        self.reused_rows: list[Results] = []

    def read(self, method: str, latencies: list[int]) -> Results | None:
        """Return the row of a method if the cache holds one with the same key, else None."""
        try:
            part: Results = json.loads(read_text(self._path(method)))
        except (OSError, ValueError):
            return None
        if not self.is_cacheable or not isinstance(part, dict):
            return None
        if part.get("cache_key") != self._key(method, latencies):
            return None
        self.reused_rows.append(part["row"])
        return dict(part["row"])

    def write(self, method: str, latencies: list[int], row: Results) -> None:
        """Write the row of a method to its file."""
        write_text(self._path(method), to_json({"cache_key": self._key(method, latencies), "row": row}))

    def _path(self, method: str) -> Path:
        return self.folder / f"{method}.json"

    def _key(self, method: str, latencies: list[int]) -> Results:
        return {**self.cache_key, "method": method, "latencies": latencies}


def seconds_of(rows: list[Results]) -> float:
    """Return the seconds that rows took: those of all measurements, and of each training once."""
    trainings = {(row["seed"], row["activation"]): row["training_seconds"] for row in rows}
    return float(sum(trainings.values()) + sum(row["seconds"] for row in rows))
