"""The first fit of an installation says that it compiles; the next has nothing to say."""

from __future__ import annotations

import os
import subprocess
import sys

FIT = """
import cellflow as cf
cf.tl.fit(cf.datasets.embryoid()[::20], time_key="day", n_dims=2, method="otcfm", steps=20)
"""


def test_compilation_is_told_once_and_before_the_bar(tmp_path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run(
            [sys.executable, "-c", FIT], env=environment, capture_output=True, text=True, check=True
        ).stderr
        for _ in range(2)
    )
    assert first.count("Compiling") == 1
    assert first.index("Compiling") < first.index("20/20")
    assert "Compiling" not in second
    assert "20/20" in second
