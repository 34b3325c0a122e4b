"""Settings of all tests."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: one thread of torch each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
