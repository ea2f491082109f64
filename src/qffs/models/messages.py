"""What others' code raises, and names that do not exist, in one sentence."""

from __future__ import annotations

import difflib
import importlib
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qffs.errors import InvalidArgument, QffsError


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a sentence that says a name does not exist: those of ``names`` that are like it, if any."""
    close = difflib.get_close_matches(name, list(names))
    return f"; nearest to it: {', '.join(close)}" if close else ""


@contextmanager
def reporting(what: str) -> Iterator[None]:
    """Turn whatever another's code raises, or a call of ``sys.exit``, into one sentence that says where."""
    try:
        yield
    except QffsError:
        raise
    except (Exception, SystemExit) as error:
        raise InvalidArgument(f"{what}: {type(error).__name__}: {error}{_place(error)}") from error


def _place(error: BaseException) -> str:
    """File and line of the innermost code that is neither this package's, nor torch's, nor that of imports."""
    names = ("find", "function", "libraries", "messages", "vision")
    own = {str(Path(__file__).with_name(f"{name}.py")) for name in names}
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in own
        and frame.filename != importlib.__file__
        and not frame.filename.startswith("<")
        and "torch" not in Path(frame.filename).parts
    ]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
