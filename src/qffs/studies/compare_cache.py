"""What a comparison that was stopped goes on with: the rows of methods that were measured, beside its results."""

from __future__ import annotations

import json
from pathlib import Path

from qffs.files import Results, to_json, write_text

PARTS = "parts"
"""The folder beside the results in which they lie."""


class RowCache:
    """The rows of methods that were measured with one seed, each in a file of its own.

    cache_key: all that a row depends on, as plain data: a row is reused only where every entry is the same. Where the
    library's code has changed since its last commit, nothing is reused: rows may be those of other code.
    ``reused_rows``: those that were taken from there.
    """

    def __init__(self, folder: Path, seed: int, cache_key: Results) -> None:
        self.folder = folder / PARTS / f"seed-{seed}"
        self.cache_key = cache_key
        self.is_cacheable = not str(cache_key["commit"]).endswith("-dirty")
        self.reused_rows: list[Results] = []

    def read(self, method: str, latencies: list[int]) -> Results | None:
        """Return the row of a method, as it would be measured now; None where there is none."""
        try:
            part: Results = json.loads(self._path(method).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not self.is_cacheable or not isinstance(part, dict):
            return None
        if part.get("cache_key") != self._key(method, latencies):
            return None
        self.reused_rows.append(part["row"])
        return dict(part["row"])

    def write(self, method: str, latencies: list[int], row: Results) -> None:
        """Keep the row of a method."""
        write_text(self._path(method), to_json({"cache_key": self._key(method, latencies), "row": row}))

    def _path(self, method: str) -> Path:
        return self.folder / f"{method}.json"

    def _key(self, method: str, latencies: list[int]) -> Results:
        return {**self.cache_key, "method": method, "latencies": latencies}


def seconds_of(rows: list[Results]) -> float:
    """Return the seconds that rows took when they were measured: measuring, and each training once."""
    trainings = {(row["seed"], row["activation"]): row["training_seconds"] for row in rows}
    return float(sum(trainings.values()) + sum(row["seconds"] for row in rows))
