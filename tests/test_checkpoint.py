"""Reading safely and writing whole. Oracles: what was saved, and a folder that code would make."""

from __future__ import annotations

import os
import pickle
import random
import resource
import signal
import struct
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ws_det import InputError, WSConv2d, fold_ws
from ws_det.checkpoint import below, load_checkpoint, save_checkpoint, state_dict_of
from ws_det.fold import is_folded


class Runs:
    """A pickle that makes a folder when it is loaded unsafely."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def refused(path: Path) -> str:
    """The sentence with which a file is refused: one line, the path in it."""
    with pytest.raises(InputError) as error:
        load_checkpoint(path)
    sentence = str(error.value)
    assert str(path) in sentence and "\n" not in sentence
    return sentence


@pytest.mark.parametrize("name", ["good.pth", "good.pth.tar", "good.pt"])
@pytest.mark.parametrize("legacy", [False, True])
def test_loads_what_torch_saved(tmp_path: Path, name: str, legacy: bool) -> None:
    """Bare, under the keys of both frameworks, from inside DDP; in the format of old torch too."""
    weights = {"conv.weight": torch.randn(4, 3, 3, 3)}
    wrapped = {"module.conv.weight": weights["conv.weight"]}
    for saved in (weights, {"state_dict": weights, "meta": {"epoch": 1}}, {"model": wrapped}):
        torch.save(saved, tmp_path / name, _use_new_zipfile_serialization=not legacy)
        state = state_dict_of(load_checkpoint(tmp_path / name))
        assert torch.equal(state["conv.weight"], weights["conv.weight"]) and len(state) == 1


ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "half": np.float16([1, 2]),
    "scalar": np.array(3),
    "flags": np.array([True, False]),
    "none": np.empty((0, 4), np.int64),
}


def check_arrays(found: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert np.array_equal(found[name].numpy(), array), name
        assert found[name].numpy().dtype == array.dtype
    found["a"] += 1  # the memory is the tensor's own


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_loads_pickled_arrays_as_tensors(tmp_path: Path, protocol: int) -> None:
    """Every protocol writes arrays in its own way. ``blobs`` is Caffe2's key."""
    path = tmp_path / "x.pkl"
    content = {"blobs": OrderedDict(ARRAYS), "lr": np.float32(0.5), "__author__": "test"}
    path.write_bytes(pickle.dumps(content, protocol))
    loaded = load_checkpoint(path)
    check_arrays(loaded["blobs"])
    assert loaded["lr"] == 0.5 and loaded["__author__"] == "test"


def test_loads_a_pickle_of_python_2_and_old_numpy(tmp_path: Path) -> None:
    """As Detectron1's files are, written here by hand: opcodes of protocol 2, bytes as str."""
    raw = np.float32([1, 2]).tobytes()
    state = b"(K\x01K\x02\x85" + b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNN"
    state += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U" + bytes([len(raw)]) + raw + b"tb"
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02}U\x01w" + made + state + b"s.")
    assert load_checkpoint(tmp_path / "x.pkl")["w"].tolist() == [1, 2]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_loads_npz_as_tensors(tmp_path: Path, save) -> None:
    save(tmp_path / "x.npz", **ARRAYS, big=np.zeros(10**6, ">f4"), name=np.array("BiT"))
    loaded = load_checkpoint(tmp_path / "x.npz")
    assert loaded.pop("big").dtype == torch.float32 and loaded.pop("name") == "BiT"
    check_arrays(loaded)


@pytest.mark.parametrize("name", ["x.pth", "x.pkl", "x.npz"])
def test_code_is_refused_by_name_and_does_not_run(tmp_path: Path, name: str) -> None:
    path, trap = tmp_path / name, tmp_path / "ran"
    if name.endswith("pth"):
        torch.save({"w": Runs(trap)}, path)
    elif name.endswith("pkl"):
        path.write_bytes(pickle.dumps({"w": Runs(trap)}))
    else:
        np.savez(path, w=np.array([Runs(trap)], dtype=object))
    words = "array of objects" if name.endswith("npz") else "mkdir"
    sentence = refused(path)
    assert "more than tensors" in sentence and words in sentence
    assert not trap.exists()


def test_arrays_that_would_break_numpy_are_refused(tmp_path: Path) -> None:
    """numpy trusts what a pickle says about it: objects in bytes, a dtype changed for all."""

    class Says:
        def __init__(self, *made: object) -> None:
            self.made = made

        def __reduce__(self) -> tuple:
            return self.made

    fake = (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)
    for content, words in (
        (Says(np.dtype, ("V8",), fake), "array of 'V8'"),
        (Says(np.dtype, ("f4",), (3, ">", None, None, None, -1, -1, 0)), "other byte order"),
        (Says(np.ndarray, ((2,),)), "by hand"),
        (np.array(["x", None]), "array of 'O8'"),
        (np.array([(1, 2.0)], "i4,f8"), "array of 'V12'"),
        (Says(getattr, ("", "join")), "getattr"),
    ):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps({"w": content}))
        assert words in refused(tmp_path / "x.pkl")
    assert np.dtype("f4").isnative


def test_broken_files(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save({"w": torch.randn(1000)}, whole)
    content = whole.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for name, damaged, words in (
        ("cut.pth", content[: len(content) // 2], "truncated"),
        ("empty.pth", b"", "truncated"),
        ("text.pth", b"not a checkpoint", "no checkpoint"),
        ("page.pkl", b"<html>", "no checkpoint"),
        ("flipped.pth", flipped, "Bad CRC-32"),
        ("list.pkl", pickle.dumps([1]), "holds a list"),
        ("cut.pkl", pickle.dumps(ARRAYS)[:-40], "truncated"),
        ("empty.npz", b"", "truncated"),
        ("text.npz", b"not a checkpoint", "no checkpoint"),
    ):
        (tmp_path / name).write_bytes(damaged)
        assert words in refused(tmp_path / name), name
    assert "no checkpoint at" in refused(tmp_path / "missing.pth")
    assert "no checkpoint at" in refused(tmp_path)


def test_weights_without_check_sums(tmp_path: Path) -> None:
    """torch can leave them out to save time."""
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(3)}, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_checkpoint(tmp_path / "x.pth")["w"].sum() == 3


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**20))
        archive.infolist()[0].file_size = 2**31 - 1


def huge_legacy(path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"M\xe8\x03" in content
    path.write_bytes(content.replace(b"M\xe8\x03", b"\x8a\x06" + struct.pack("<Q", 10**13)[:6]))


def huge_npz(path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000,)}"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)


def long_memo(path: Path) -> None:
    path.write_bytes(b"\x80\x04}r\xff\xff\xff\xff.")  # 32 GiB with the C unpickler


def long_bytes(path: Path) -> None:
    path.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 10**13))


def deep(path: Path) -> None:
    path.write_bytes(b"\x80\x04" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".")


def endless(path: Path) -> None:
    """A dict that holds itself: no reader may follow it for ever."""
    path.write_bytes(b"\x80\x04}\x94(\x8c\x05model\x94h\x00u.")


@pytest.mark.parametrize(
    ("make", "name", "words"),
    [
        (zip_bomb, "x.pth", "made to fill the memory"),
        (zip_bomb, "x.npz", "made to fill the memory"),
        (huge_legacy, "x.pth", "truncated"),
        (huge_npz, "x.npz", "truncated"),
        (long_bytes, "x.pkl", "truncated"),
        (deep, "x.pkl", "holds a list"),
    ],
)
def test_files_made_to_fill_the_memory(tmp_path: Path, make, name: str, words: str) -> None:
    make(tmp_path / name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    assert words in refused(tmp_path / name)
    assert time.monotonic() - start < 10  # a hang; each takes a fraction of a second
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB: 1 GiB


@pytest.mark.parametrize("make", [long_memo, endless])
def test_odd_but_harmless_pickles_load(tmp_path: Path, make) -> None:
    make(tmp_path / "x.pkl")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert isinstance(state_dict_of(load_checkpoint(tmp_path / "x.pkl")), dict)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20


def test_keys_that_are_no_names() -> None:
    with pytest.raises(InputError, match="weight named 3, which is no string"):
        state_dict_of({"model": {3: torch.ones(1)}})


def test_prefixes() -> None:
    """Oracle: by hand. Metadata go along; a module named ``module`` is no wrapper."""
    state = fold_ws(torch.nn.ModuleDict({"module": WSConv2d(1, 2, 3)})).state_dict()
    assert is_folded(state_dict_of(state)) and list(state_dict_of(state)) == ["weight", "bias"]
    assert state_dict_of({"module.a": 1, "b": 2}) == {"module.a": 1, "b": 2}
    assert below({"backbone.a": 1, "backbones": 2}, "backbone.") == {"a": 1}


def test_saves_what_it_is_given(tmp_path: Path) -> None:
    """Oracle: torch.load. A folder is made, an old file replaced, nothing else left behind."""
    path = tmp_path / "new/x.pth"
    for value in (1, 2):
        save_checkpoint({"w": torch.full((3,), float(value))}, path)
        assert torch.load(path)["w"].tolist() == [value] * 3
    assert list(path.parent.iterdir()) == [path]


def test_saves_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.pth").symlink_to(tmp_path / "real.pth")
    save_checkpoint({"w": 1}, tmp_path / "link.pth")
    assert (tmp_path / "link.pth").is_symlink() and (tmp_path / "real.pth").is_file()


def fork(work: Callable[[], None]) -> int:
    """Start a process that only works, and return its id; it ends with 1 after an InputError."""
    pid = os.fork()
    if pid == 0:
        with suppress(InputError):
            work()
        os._exit(1)
    return pid


def test_disk_full(tmp_path: Path) -> None:
    """A limit to the size of files stands for it. Oracle: the old file, and nothing beside it."""
    path = tmp_path / "x.pth"
    path.write_bytes(b"old")

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
        with pytest.raises(InputError) as error:
            save_checkpoint({"w": torch.zeros(10**6)}, path)
        os.write(out, str(error.value).encode())

    into, out = os.pipe()
    os.waitpid(fork(work), 0)
    os.close(out)
    with os.fdopen(into) as said:
        assert said.read() == (
            f"{path} cannot be written (File too large): free space or give another path"
        )
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "x.pth").mkdir()
    with pytest.raises(InputError, match=r"x\.pth cannot be written \(Is a directory\)"):
        save_checkpoint({}, tmp_path / "x.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """SIGKILL while it saves 8 MB again and again: the file there is whole, old or new.

    What a killed process left is removed by the next to save: never more than one part.
    """
    path = tmp_path / "x.pth"
    chance = random.Random(0)
    start = time.monotonic()
    save_checkpoint({"w": torch.zeros(2 * 10**6)}, path)
    one = time.monotonic() - start

    def work(first: int) -> None:
        for value in range(first, 10**9):
            save_checkpoint({"w": torch.full((2 * 10**6,), value, dtype=torch.int32)}, path)

    found, parts = set(), 0
    for i in range(40):
        pid = fork(partial(work, 10**6 * i))
        time.sleep(chance.uniform(0.0, 4 * one))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        others = [other for other in tmp_path.iterdir() if other != path]
        assert len(others) <= 1
        parts += len(others)
        values = load_checkpoint(path)["w"]
        assert values.numel() == 2 * 10**6 and values.unique().numel() == 1
        found.add(int(values[0]))
    assert parts > 0 and len(found) > 1  # kills in the midst of writing, and files that are whole
    save_checkpoint({}, path)
    assert list(tmp_path.iterdir()) == [path]
