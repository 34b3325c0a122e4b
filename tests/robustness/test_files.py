"""Files and folders are written whole or not at all: by writers that are killed, or not alone."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cellflow import OTCFM, TimeCourse, _files
from cellflow._files import obstacle, recover, whole_file, whole_folder, write_state
from cellflow.batches import Batching
from cellflow.networks import MLPConfig
from cellflow.training import Checkpointing
from cellflow.training.trainer import Training

PARTS = {"net": MLPConfig(8, 2), "batching": Batching(16, 16), "training": Training(check_every=10)}
SWAPS = pytest.mark.parametrize("swaps", [True, False])
#: What a writer does to the disk, at any of which it may be killed.
DEEDS = [(os, "replace"), (shutil, "rmtree"), (Path, "unlink"), (_files, "_exchanged")]


def course() -> TimeCourse:
    g = torch.Generator().manual_seed(0)
    return TimeCourse.from_arrays([torch.randn(20, 2, generator=g) + k for k in range(3)])


def fit(path: Path | None):
    return OTCFM(**PARTS).fit(
        course(), steps=30, progress=False, checkpointing=Checkpointing(path, 10)
    )


def write(folder: Path, text: str) -> None:
    with whole_folder(folder) as place:
        (place / "one").write_text(text)
        (place / "two").write_text(text)


def read(folder: Path) -> str:
    texts = {(folder / name).read_text() for name in ("one", "two")}
    assert len(texts) == 1, "parts of two writers"
    return texts.pop()


def in_a_child_killed_before(deed: int, work) -> bool:
    """Do `work` in a process that ends before its deed of that number; return whether it did."""
    child = os.fork()
    if child == 0:
        done: list[object] = []

        def counted(real):
            def deed_(*args, **options):
                if len(done) == deed:
                    os._exit(9)
                done.append(real)
                return real(*args, **options)

            return deed_

        for owner, name in DEEDS:
            setattr(owner, name, counted(getattr(owner, name)))
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@SWAPS
def test_a_killed_writer_leaves_the_old_folder_or_the_new(swaps, tmp_path, monkeypatch) -> None:
    if not swaps:
        monkeypatch.setattr(_files, "_exchanged", lambda one, other: False)
    folder = tmp_path / "fit.v1"
    write(folder, "old")
    deed, killed = 0, True
    while killed:
        killed = in_a_child_killed_before(deed, lambda: write(folder, "new"))
        if swaps:
            assert read(folder) in ("old", "new")
        recover(folder)
        assert read(folder) in ("old", "new")
        assert os.listdir(tmp_path) == ["fit.v1"]
        write(folder, "old")
        deed += 1
    assert deed > 2


def test_a_killed_writer_of_a_file_leaves_nothing_for_ever(tmp_path) -> None:
    path = tmp_path / "a.txt"

    def work() -> None:
        with whole_file(path) as file:
            file.write_text("half")
            os._exit(9)

    path.write_text("old")
    assert in_a_child_killed_before(99, work)
    assert path.read_text() == "old"
    with whole_file(path) as file:
        file.write_text("new")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_others_write_just_now_stays(tmp_path) -> None:
    """Of this process, and of other files whose names begin alike."""
    with whole_folder(tmp_path / "fit") as one, whole_folder(tmp_path / "fit") as other:
        assert one != other
        recover(tmp_path / "fit")
        assert one.is_dir() and other.is_dir()
    long = "x" * 90
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / f"{long}1"):
        raise KeyboardInterrupt
    assert _files._hidden(tmp_path / f"{long}1") != _files._hidden(tmp_path / f"{long}2")


@SWAPS
def test_of_many_writers_one_wins(swaps, tmp_path, monkeypatch) -> None:
    if not swaps:
        monkeypatch.setattr(_files, "_exchanged", lambda one, other: False)
    failed = []

    def writer(k: int) -> None:
        try:
            for _ in range(10):
                write(tmp_path / "fit", f"{k}")
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=writer, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert read(tmp_path / "fit") in "0123"
    assert os.listdir(tmp_path) == ["fit"]


def test_what_has_appeared_stays_where_nothing_may_be_replaced(tmp_path) -> None:
    with whole_folder(tmp_path / "store", replace=False) as place:
        (place / "one").write_text("late")
        write(tmp_path / "store", "early")
    assert read(tmp_path / "store") == "early"
    assert os.listdir(tmp_path) == ["store"]


def test_temporary_names_cannot_be_foreseen(tmp_path) -> None:
    """A link that waits under the name would be written through, to whatever it points."""
    names = set()
    for _ in range(20):
        with whole_file(tmp_path / "a.txt") as file:
            file.write_text("")
            names.add(file.name)
    assert len(names) == 20


# --- checkpoints -----------------------------------------------------------------------------


def test_a_checkpoint_that_cannot_be_written_is_refused_before_the_work(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    bad = ["file/run", "file/deep/run", "n" * 300, "pipe", ""]
    for name in bad:
        with pytest.raises(ValueError, match=r"`checkpoint`: got .* expected a file that can"):
            Checkpointing(tmp_path / name)
    assert obstacle("/proc/nothing/run") is not None
    assert Checkpointing(tmp_path / "new" / "deep" / "run").path is not None
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]


def test_a_write_that_fails_is_said_and_the_fit_goes_on(tmp_path, monkeypatch) -> None:
    written = []

    def full(tensors, path, metadata):
        if written:
            raise SafetensorError("No space left on device (os error 28)")
        written.append(path)
        save_file(tensors, path, metadata)

    expected = fit(None)
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.warns(UserWarning, match=r"^checkpoint: .*could not be written.* The fit goes on"):
        done = fit(tmp_path / "run")
    assert done.history.step == expected.history.step
    for a, b in zip(done.networks.parameters(), expected.networks.parameters(), strict=True):
        assert torch.equal(a, b)
    assert os.listdir(tmp_path) == ["run"]  # that of step 10, from which it can go on
    monkeypatch.undo()
    again = fit(tmp_path / "run")
    assert torch.equal(again.velocity(0.5, course().x), expected.velocity(0.5, course().x))


def test_a_full_disk_is_an_error_of_the_system(tmp_path, monkeypatch) -> None:
    """So that commands answer it in one line, and nothing of it stays."""

    def full(tensors, path, metadata):
        Path(path).write_text("half")
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_state(tmp_path / "a", {}, {})
    assert os.listdir(tmp_path) == []


def edited(path: Path, change) -> None:
    """Write the checkpoint anew after a `change` of its tensors and facts."""
    from safetensors import safe_open

    tensors = load_file(path)
    with safe_open(path, "pt") as stored:
        facts = json.loads(stored.metadata()["facts"])
    facts = change(tensors, facts) or facts
    save_file(tensors, path, {"facts": json.dumps(facts)})


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "cut in its header": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 8),
    "no facts": lambda path: save_file(load_file(path), path),
    "facts of a list": lambda path: edited(path, lambda t, f: [1]),
    "other facts": lambda path: edited(path, lambda t, f: {"a": 1}),
    "no step": lambda path: edited(path, lambda t, f: f.pop("step") and None),
    "a step of text": lambda path: edited(path, lambda t, f: f | {"step": "ten"}),
    "a step beyond": lambda path: edited(path, lambda t, f: f | {"step": 10**9}),
    "another history": lambda path: edited(path, lambda t, f: f | {"history": {"a": 1}}),
    "a list of history": lambda path: edited(path, lambda t, f: f | {"history": [1]}),
    "no weights": lambda path: edited(path, lambda t, f: t.pop("value") is f),
    "other weights": lambda path: edited(path, lambda t, f: t.update(value=torch.ones(3))),
    "NaN weights": lambda path: edited(path, lambda t, f: t["average"].fill_(torch.nan) is f),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_one_line(damage, tmp_path) -> None:
    path = tmp_path / "run"
    fit(path)
    DAMAGES[damage](path)
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=r"^`checkpoint`: got '.*run'.* expected .* remove this one"
    ):
        fit(path)
    assert path.read_bytes() == before
