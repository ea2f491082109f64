"""Choices by pattern: the first match decides, and no pattern and no path is passed over in silence."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qffs.errors import InvalidArgument
from qffs.method import Levels, by_pattern, resolve

PATHS = ["stem.relu", "layer1.0.relu", "layer1.0.relu_2", "layer4.0.relu", "head.relu"]
names = st.text("ab.", min_size=1, max_size=3)
patterns = st.text("ab.*?", min_size=1, max_size=3)


@given(st.dictionaries(patterns, st.integers()), st.lists(names, unique=True))
def test_the_first_match_decides(choices: dict[str, int], paths: list[str]) -> None:
    """Either every path has the choice of its first match and every pattern a path, or it is refused."""
    first = {path: [pattern for pattern in choices if fnmatchcase(path, pattern)][:1] for path in paths}
    complete = all(first.values()) and {pattern for match in first.values() for pattern in match} == set(choices)
    if complete:
        resolved = resolve(choices, paths)
        assert list(resolved) == paths
        assert resolved == {path: choices[pattern] for path, (pattern,) in first.items()}
    else:
        with pytest.raises(InvalidArgument):
            resolve(choices, paths)


def test_capitals_count_and_brackets_choose() -> None:
    assert resolve({"layer[14].*": 3, "*": 2}, PATHS) == dict(zip(PATHS, (2, 3, 3, 3, 2), strict=True))
    with pytest.raises(InvalidArgument, match=r"'Layer4\.\*' matches no activation"):
        resolve({"Layer4.*": 3, "*": 2}, PATHS)


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        (
            {"head.rellu": 3, "*": 2},
            "'head.rellu' matches no activation that is to be quantized; there are head.relu, ",
        ),
        ({"zzz": 3, "*": 2}, "there are stem.relu, layer1.0.relu, layer1.0.relu_2 and 2 more"),
        ({"*": 2, "layer4.*": 3}, "'layer4.*' decides nothing: '*' before it matches layer4.0.relu; put it first"),
        ({"layer1.*": 2, "head.*": 3}, 'no pattern matches stem.relu, layer4.0.relu: end with "*"'),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(choices: dict[str, int], sentence: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        resolve(choices, PATHS)
    assert sentence in str(caught.value)


@given(st.integers(1, 8))
def test_bits_and_levels_say_the_same(bits: int) -> None:
    highest = 2**bits - 1
    assert by_pattern(bits) == by_pattern(levels=highest) == {"*": Levels(highest)}
    assert by_pattern({"a": bits, "*": "full"}) == by_pattern(levels={"a": highest, "*": "full"})


def test_without_either_it_is_two_bits() -> None:
    assert by_pattern() == by_pattern(2)


@pytest.mark.parametrize("highest", [1, 2, 5, 6, 1000])
def test_any_highest_level(highest: int) -> None:
    assert by_pattern(levels={"*": highest}) == {"*": Levels(highest)}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"bits": 2, "levels": 3}, "give bits, or levels, but not both"),
        ({"bits": {}}, "bits by pattern must map at least one text"),
        ({"levels": {}}, "levels by pattern must map at least one text"),
        ({"bits": {3: 2}}, "bits by pattern must map at least one text"),
        (
            {"bits": {"a.*": 9}},
            """for 'a.*', bits must be a whole number from 1 to 8, not 9; "full" keeps it in full""",
        ),
        ({"bits": {"a.*": "ful"}}, "for 'a.*', bits must be a whole number from 1 to 8, not 'ful'"),
        ({"bits": {"*": Levels(3)}}, "for '*', bits must be a whole number"),
        ({"levels": {"*": 0}}, "for '*', the highest level must be a whole number of at least 1, not 0"),
        ({"bits": "full"}, "bits must be a whole number from 1 to 8, not 'full'"),
        ({"levels": 0}, "the highest level must be a whole number of at least 1, not 0"),
        ({"levels": 2.0}, "the highest level must be a whole number of at least 1, not 2.0"),
        ({"levels": True}, "the highest level must be a whole number of at least 1, not True"),
    ],
    ids=str,
)
def test_impossible_choices(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        by_pattern(**given)
    assert sentence in str(caught.value)
