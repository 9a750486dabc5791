"""Images in folders, archives and LMDBs: all are found, none leads outside, nothing is run."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from lmdb_world import hostile, normalised, pickled, pixels, write_lmdb
from PIL import Image

from recbole_morec.convert import _image_sources
from recbole_morec.convert._image_sources import Unreadable, open_images
from recbole_morec.convert._images import ImageFiles
from recbole_morec.convert._westlake_records import (
    _Record,
    _Unpickler,
    read_listed_keys,
    read_record,
)
from recbole_morec.data.content.decoding import BadImageError
from recbole_morec.errors import ConfigError, DataError


def jpeg(shade: int = 0) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, 90, 40)).save(out, "JPEG")
    return out.getvalue()


FILES = {"covers/b.jpg": jpeg(0), "covers/a.JPG": jpeg(100), "covers/sub/c.png": jpeg(200)}
OTHERS = {"covers/readme.txt": b"no image", "covers/._a.jpg": b"of macOS", "covers/.jpg": b"?"}


def make_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def make_zip(path: Path, files) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items() if isinstance(files, dict) else files:
            archive.writestr(name, data)
    return path


def member(name: str, data: bytes = b"", **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def make_tar(path: Path, members, mode: str = "w") -> Path:
    if isinstance(members, dict):
        members = [member(name, data) for name, data in members.items()]
    with tarfile.open(path, mode) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return path


MAKE = {
    "folder": make_folder,
    "zip": make_zip,
    "tar": make_tar,
    "tar.gz": lambda path, files: make_tar(path, files, "w:gz"),
    "tar.bz2": lambda path, files: make_tar(path, files, "w:bz2"),
    "tar.xz": lambda path, files: make_tar(path, files, "w:xz"),
}


def read_all(source) -> dict[str, object]:
    return dict(source.stream(source.names()))


# --- all kinds ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKE)
def test_every_kind_gives_the_same_bytes(tmp_path, kind):
    path = MAKE[kind](tmp_path / "any.thing", {**FILES, **OTHERS})  # the name says nothing
    source = open_images(path)
    assert source.kind == kind.partition(".")[0]
    order = sorted(FILES) if kind == "folder" else list(FILES)
    assert list(source.names()) == order
    assert read_all(source) == FILES
    assert [name for name, _ in source.stream(set(order[1:]))] == order[1:]
    assert list(source.stream([])) == []
    assert source.notes() == []
    assert len({source.fingerprint(name) for name in order}) == len(order)


@pytest.mark.parametrize("kind", MAKE)
def test_items_are_found_by_name_in_every_kind(tmp_path, kind):
    path = MAKE[kind](tmp_path / "raw" / "covers.x" if kind == "folder" else tmp_path / "covers.x",
                      FILES)  # fmt: skip
    files = ImageFiles(open_images(path), tmp_path)
    assert files.of_item("a") == "covers/a.JPG"
    assert files.of_item("covers/sub/c") == "covers/sub/c.png"
    assert files.of_item("d") is None
    assert files.of_value("./covers\\b.jpg") == "covers/b.jpg"
    assert files.of_value("covers/b") == "covers/b.jpg"
    assert files.of_value("../covers/b.jpg") is None
    assert files.paths == set(FILES)


def test_a_table_may_put_the_name_of_the_archive_before_a_member(tmp_path):
    for name in ("covers.zip", "covers.tar.gz"):
        make = make_zip if name.endswith("zip") else MAKE["tar.gz"]
        files = ImageFiles(open_images(make(tmp_path / name, {"b.jpg": jpeg()})), tmp_path)
        assert files.of_value("covers/b.jpg") == "b.jpg"


def test_names_in_two_folders_of_an_archive_are_ambiguous_and_jpeg_is_preferred(tmp_path):
    names = {"x/i1.png": jpeg(), "y/i1.jpg": jpeg(), "x/i2.png": jpeg(), "x/i2.jpg": jpeg()}
    files = ImageFiles(open_images(make_zip(tmp_path / "a.zip", names)), tmp_path)
    assert files.of_item("i1") is None
    assert files.several("i1") == ("x/i1.png", "y/i1.jpg")
    assert files.of_item("i2") == "x/i2.jpg"


def test_what_is_no_source_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        open_images(tmp_path / "gone")
    for data in (b"", b"hello", jpeg(), b"\0" * 2000):
        (tmp_path / "x.zip").write_bytes(data)
        with pytest.raises(DataError, match="is no zip, tar"):
            open_images(tmp_path / "x.zip")


# --- members that are no images -----------------------------------------------------------------

OUTSIDE = ["../x.jpg", "a/../../x.jpg", "/etc/x.jpg", "..\\x.jpg", "C:\\x.jpg", "\\x.jpg"]


def before_and_after(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_members_that_lead_outside_are_left_out_and_counted(tmp_path):
    work = tmp_path / "deep" / "er"
    work.mkdir(parents=True)
    names = {name: jpeg() for name in ["in.jpg", *OUTSIDE]}
    make_zip(work / "a.zip", names)
    make_tar(work / "a.tar", names)
    MAKE["tar.gz"](work / "a.tgz", names)
    there = before_and_after(tmp_path)
    for archive in ("a.zip", "a.tar", "a.tgz"):
        source = open_images(work / archive)
        assert list(read_all(source)) == ["in.jpg"], archive
        (note,) = source.notes()
        assert f"{archive}: 6 members were left out: the name leads outside" in note
        assert "../x.jpg" in note
    assert before_and_after(tmp_path) == there


def test_links_and_devices_in_archives_are_left_out_and_counted(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(jpeg())
    secret = str(tmp_path / "secret.jpg")
    members = [
        member("soft.jpg", type=tarfile.SYMTYPE, linkname=secret),
        member("hard.jpg", type=tarfile.LNKTYPE, linkname="in.jpg"),
        member("pipe.jpg", type=tarfile.FIFOTYPE),
        member("device.jpg", type=tarfile.CHRTYPE),
        member("folder.jpg", type=tarfile.DIRTYPE),
        member("in.jpg", jpeg(7)),
    ]
    for mode in ("w", "w:gz"):
        source = open_images(make_tar(tmp_path / "a", members, mode))
        assert read_all(source) == {"in.jpg": jpeg(7)}
        assert source.skipped == {
            "a link or device, not a file": ["soft.jpg", "hard.jpg", "pipe.jpg", "device.jpg"]
        }
    link = zipfile.ZipInfo("soft.jpg")
    link.external_attr = 0o120777 << 16
    source = open_images(make_zip(tmp_path / "b", [(link, secret), ("in.jpg", jpeg(7))]))
    assert read_all(source) == {"in.jpg": jpeg(7)}
    assert list(source.skipped.values()) == [["soft.jpg"]]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_a_repeated_member_the_last_one_counts(tmp_path):
    pairs = [("x.jpg", jpeg(1)), ("y.jpg", jpeg(2)), ("./x.jpg", jpeg(3))]
    tar = [member(*pair) for pair in pairs]
    for path in (
        make_zip(tmp_path / "a", pairs),
        make_tar(tmp_path / "b", tar),
        make_tar(tmp_path / "c", tar, "w:gz"),
    ):
        source = open_images(path)
        assert list(source.names()) == ["y.jpg", "x.jpg"]
        assert read_all(source) == {"x.jpg": jpeg(3), "y.jpg": jpeg(2)}
        assert "earlier version" in source.notes()[0]


def test_a_pipe_in_a_folder_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    (tmp_path / "dead.jpg").symlink_to("nowhere")
    found = read_all(open_images(tmp_path))
    assert "pipe" in found["x.jpg"].reason
    assert found["dead.jpg"] == Unreadable("the file does not exist")


def test_what_is_too_large_for_a_picture_is_not_read(tmp_path, monkeypatch):
    big = {"big.jpg": b"\0" * 5000, "small.jpg": jpeg()}
    monkeypatch.setattr(_image_sources, "MOST_BYTES", 1000)
    monkeypatch.setattr("recbole_morec.convert._archive_images.MOST_BYTES", 1000)
    for kind, make in MAKE.items():
        found = read_all(open_images(make(tmp_path / kind, big)))
        assert "too large (5,000 bytes" in found["big.jpg"].reason, kind
        assert found["small.jpg"] == jpeg()


# --- damaged archives ---------------------------------------------------------------------------


def many(count: int = 40) -> dict[str, bytes]:
    return {f"i{n}.jpg": np.random.default_rng(n).bytes(3000) + bytes([n]) for n in range(count)}


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.3])
def test_cut_off_archives_are_errors(tmp_path, kind, share):
    path = MAKE[kind](tmp_path / "a", many())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match="damaged or cut off"):
        open_images(path)


def test_a_tar_cut_off_between_two_members_is_noted(tmp_path):
    path = make_tar(tmp_path / "a.tar", many())
    data = path.read_bytes()[:-10240]
    cut = data[: data.index(b"i20.jpg")]
    for name, content in (("a.tar", cut), ("a.tgz", gzip.compress(cut))):
        (tmp_path / name).write_bytes(content)
        source = open_images(tmp_path / name)
        assert len(source.names()) == 20
        assert source.notes() == [f"{name}: has no end mark, so it may be cut off after a member."]


def test_a_damaged_member_header_does_not_end_the_archive_silently(tmp_path):
    path = make_tar(tmp_path / "a.tar", many())
    data = bytearray(path.read_bytes())
    at = data.index(b"i20.jpg")
    data[at] ^= 1
    for name, content in (("a.tar", bytes(data)), ("a.tgz", gzip.compress(bytes(data)))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: the archive is damaged"):
            open_images(tmp_path / name)


def test_a_flipped_byte_in_a_compressed_tar_is_found_by_the_checksum_at_its_end(tmp_path):
    data = make_tar(tmp_path / "a.tar", many()).read_bytes() + bytes(2**20)
    packed = bytearray(gzip.compress(data, compresslevel=0))  # any byte unpacks to something
    packed[packed.index(b"i20.jpg") + 1000] ^= 1
    (tmp_path / "a.tgz").write_bytes(packed)
    with pytest.raises(DataError, match="CRC check failed"):
        open_images(tmp_path / "a.tgz")


def test_a_huge_header_in_a_tar_is_refused(tmp_path):
    bomb = tarfile.TarInfo("x")
    bomb.type, bomb.size = tarfile.XHDTYPE, 2**31
    (tmp_path / "a.tar").write_bytes(bomb.tobuf() + b"\0" * 10240)
    with pytest.raises(DataError, match="a header of 2,147,483,648 bytes"):
        open_images(tmp_path / "a.tar")


def test_a_damaged_member_of_a_zip_has_a_reason_and_an_encrypted_one_is_an_error(tmp_path):
    path = make_zip(tmp_path / "a.zip", many(3))
    data = bytearray(path.read_bytes())
    data[data.index(b"i1.jpg") + 50] ^= 1
    path.write_bytes(data)
    found = read_all(open_images(path))
    assert "Bad CRC-32" in found["i1.jpg"].reason
    assert found["i2.jpg"] == many(3)["i2.jpg"]
    data[data.rindex(b"PK\x01\x02") + 8] |= 1  # the flag of encryption in the list of contents
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"i2\.jpg is encrypted.*password"):
        open_images(path)


# --- LMDB ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("module", ["__main__", "lmdb_tools"])
def test_records_of_raw_pixels(tmp_path, protocol, module):
    records = {f"i{n}": pickled(pixels(n), f"i{n}", module, protocol) for n in range(3)}
    for folder in (False, True):
        path = write_lmdb(tmp_path / f"image{folder}.lmdb", records, list(records), folder)
        files = before_and_after(tmp_path)
        source = open_images(path)
        assert source.kind == "lmdb"
        assert list(source.names()) == ["i0", "i1", "i2"]
        found = read_all(source)
        for n in range(3):
            assert found[f"i{n}"].dtype == np.uint8
            np.testing.assert_array_equal(found[f"i{n}"], pixels(n))
        assert before_and_after(tmp_path) == files  # no lock file


def test_normalised_floats_come_back_as_the_very_pixels():
    every = np.arange(3 * 224 * 224, dtype=np.int64) % 256
    image = every.astype(np.uint8).reshape(224, 224, 3)
    record = pickled(normalised(image), "a")
    np.testing.assert_array_equal(read_record(record), image)
    small = pixels(1, (5, 7, 3))
    np.testing.assert_array_equal(read_record(pickled(normalised(small), "a")), small)


def test_floats_and_pixels_of_one_length_are_told_apart_by_their_size():
    image = pixels(3, (448, 448, 3))  # as many bytes as 3 x 224 x 224 floats
    np.testing.assert_array_equal(read_record(pickled(image, "a")), image)


def test_records_that_do_not_fit_have_a_reason():
    def reason(data: bytes) -> str:
        with pytest.raises(BadImageError) as caught:
            read_record(data)
        return str(caught.value)

    assert "the record is None" in reason(pickle.dumps(None))
    assert "no LMDB_Image" in reason(pickle.dumps({"image": b"x"}))
    short = pickled(pixels(0), 1, data=pixels(0).tobytes()[:60])
    assert "60 bytes do not fit 6 x 4 x 3" in reason(short)
    assert "has no bytes" in reason(pickled(pixels(0), 1, data=None))
    assert "16 bytes do not fit 4 x 4 x 1" in reason(pickled(pixels(0, (4, 4, 1)), 1))
    assert "not normalised" in reason(pickled(normalised(pixels(0)) * 3, 1))
    spoilt = normalised(pixels(0))
    spoilt[0, 0, 0] = np.nan
    assert "not normalised" in reason(pickled(spoilt, 1))
    assert "no pickle" in reason(pickled(pixels(0), 1)[:-20])


def test_what_is_listed_but_not_there_or_empty_has_a_reason(tmp_path):
    records = {"a": pickled(pixels(0), "a"), "none": pickle.dumps(None), "empty": b""}
    path = write_lmdb(tmp_path / "x", records, [*records, "lost2", "lost1"])
    source = open_images(path)
    assert list(source.names()) == ["a", "empty", "none", "lost1", "lost2"]
    found = read_all(source)
    assert found["lost1"].reason == "listed in __keys__, but it has no record"
    assert found["none"].reason == "the record is None"
    assert found["empty"] == b""  # decoding will say so


def test_encoded_images_in_an_lmdb_are_read_as_they_are(tmp_path):
    path = write_lmdb(tmp_path / "x", {"a": jpeg(1), "b.jpg": jpeg(2)})
    assert read_all(open_images(path)) == {"a": jpeg(1), "b.jpg": jpeg(2)}


def test_numbered_keys_belong_to_items_with_a_v(tmp_path):
    names = ["7", "12", "v7", "i3"]
    path = write_lmdb(tmp_path / "x", {name: jpeg() for name in names})
    files = ImageFiles(open_images(path), tmp_path)
    assert files.of_item("v7") == "v7"  # the key itself comes first
    assert files.by_number == {}
    assert files.of_item("v12") == "12"
    assert files.of_item("v0012") == "12"
    assert files.of_item("v3") is None
    assert files.of_item("i3") == "i3"
    assert files.of_item("i12") is None
    (note,) = files.notes()
    assert '2 items were found by their number ("v12" under the key "12"); 1 of them' in note


def test_a_cut_off_lmdb_is_an_error_and_not_the_end_of_the_process(tmp_path):
    path = write_lmdb(tmp_path / "x", {f"i{n}": np.random.bytes(20_000) for n in range(50)})
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(DataError, match="cut off"):
        open_images(path)


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    path = write_lmdb(tmp_path / "x", {"a": jpeg()})
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ConfigError, match=r"recbole-morec\[lmdb\]"):
        open_images(path)


# --- hostile pickles ----------------------------------------------------------------------------


def test_hostile_records_are_refused_and_nothing_runs(tmp_path):
    marker = tmp_path / "ran"
    tricks = hostile(marker)
    for name, trick in tricks.items():
        with pytest.raises(BadImageError):
            read_record(trick)
        assert not marker.exists(), name
        with pytest.raises(BadImageError):
            read_listed_keys(trick)
        assert not marker.exists(), name
    # The class is as before, for the records that follow.
    np.testing.assert_array_equal(read_record(pickled(pixels(5), 1)), pixels(5))
    assert not hasattr(_Record, "image")
    path = write_lmdb(tmp_path / "x", {**tricks, "good": pickled(pixels(1), 1)})
    found = read_all(open_images(path))
    assert found["global and reduce"].reason == (
        "refused, nothing was run: the pickle asks for posix.system"
    )
    assert sum(isinstance(payload, Unreadable) for payload in found.values()) == len(tricks)
    assert not marker.exists()


def test_instructions_that_call_anything_are_refused_before_one_is_followed(tmp_path):
    tricks = hostile(tmp_path / "ran")
    for name, instruction in {
        "stack global": "REDUCE",
        "inst": "INST",
        "obj": "OBJ",
        "newobj_ex": "NEWOBJ_EX",
        "reduce of the record class": "REDUCE",
        "persistent id": "PERSID",
        "binary persistent id": "BINPERSID",
        "extension": "EXT1",
    }.items():
        with pytest.raises(BadImageError, match="nothing was run") as caught:
            read_record(tricks[name])
        if name not in ("inst", "obj", "newobj_ex"):
            assert str(caught.value).endswith(f"contains the instruction {instruction}"), name
    with pytest.raises(BadImageError, match="numbers its values beyond its length"):
        read_record(tricks["huge memo"])


def test_the_tricks_do_work_where_nobody_guards(tmp_path):
    marker = tmp_path / "ran"
    trick = hostile(marker)["reduce"]
    subprocess.run(
        [sys.executable, "-c", "import pickle, sys; pickle.load(sys.stdin.buffer)"],
        input=trick, check=True,
    )  # fmt: skip
    assert marker.exists()


def test_the_unpickler_alone_refuses_too(tmp_path):
    """The second line of defence does not lean on the first."""
    marker = tmp_path / "ran"
    for name, trick in hostile(marker).items():
        if name in ("huge memo", "huge frame"):
            continue
        with contextlib.suppress(Exception):
            _Unpickler(trick, True).load()
        assert not marker.exists(), name


def test_a_hostile_list_of_keys_is_an_error(tmp_path):
    marker = tmp_path / "ran"
    path = write_lmdb(tmp_path / "x", {"a": jpeg(), "__keys__": hostile(marker)["reduce"]})
    with pytest.raises(DataError, match=r"__keys__.*refused"):
        open_images(path)
    assert not marker.exists()
