"""A page of several parts: each script replaces its own and keeps the others."""

from __future__ import annotations

from page_parts import with_part

FIRST, SECOND = "# One\n\ntext\n\n## Section\n\nmore # text\n", "# Two\n\n- a\n"


def test_a_part_is_replaced_and_the_others_stay() -> None:
    page = f"{FIRST}\n{SECOND}"
    assert with_part(page, "# One\n\nnew\n") == f"# One\n\nnew\n\n{SECOND}"
    assert with_part(page, "# Two\n\nnew\n") == f"{FIRST}\n# Two\n\nnew\n"
    assert with_part(page, FIRST) == page
    assert with_part(page, SECOND) == page


def test_a_new_part_goes_to_the_end() -> None:
    assert with_part(FIRST, SECOND) == f"{FIRST}\n{SECOND}"
    assert with_part("", SECOND) == SECOND
    assert with_part("\n", SECOND) == SECOND
