"""One file of cells for each module of tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_files import write_cells


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    return write_cells(tmp_path_factory.mktemp("cells") / "cells.h5ad")
