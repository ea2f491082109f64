"""What `import qffs` offers."""

from __future__ import annotations

import subprocess
import sys

import pytest

import qffs


def test_all_names_what_is_offered_and_each_is_documented() -> None:
    assert dir(qffs) == qffs.__all__
    assert sorted(qffs.__all__) == qffs.__all__
    assert not [name for name in qffs.__all__ if name != "__version__" and not getattr(qffs, name).__doc__]


def test_a_name_that_is_not_offered_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'qffs' has no attribute 'nonsense'"):
        qffs.nonsense  # noqa: B018


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, qffs; assert 'torch' not in sys.modules; assert qffs.quantize; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("folder", ["data", "export"])
def test_a_folder_that_the_pages_name_needs_no_import_of_its_own(folder: str) -> None:
    code = f"import sys, qffs; assert 'qffs.{folder}' not in sys.modules; assert qffs.{folder}.__doc__"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
