"""Programs that no Python package brings. A test that needs one is skipped where it is missing.

Under ``CI`` a skip is a failure (``tests/conftest.py``).
"""

import shutil
from pathlib import Path

import pytest


def require_binary(name: str, *packages: str) -> Path:
    """Find a program by name, or a file by its path; skip with the line that installs it."""
    found = shutil.which(name) or (name if Path(name).is_file() else None)
    if found is None:
        pytest.skip(f"needs {name}: apt-get install {' '.join(packages)}")
    return Path(found)
