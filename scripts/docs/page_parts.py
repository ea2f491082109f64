"""Pages of several parts, each of which is written by a script of its own."""

from __future__ import annotations

import re


def with_part(page: str, part: str) -> str:
    """Return a page with one of its parts replaced, and all others as they are.

    A part starts with a heading ``# ...`` and ends before the next one. part: the new text, with its heading; a part
    with a heading that the page does not have is added at the end.
    """
    heading = part.partition("\n")[0]
    parts = [each for each in re.split(r"^(?=# )", page, flags=re.MULTILINE) if each.strip()]
    names = [each.partition("\n")[0] for each in parts]
    at = names.index(heading) if heading in names else len(parts)
    parts[at : at + 1] = [part]
    return "\n".join(each.rstrip("\n") + "\n" for each in parts)
