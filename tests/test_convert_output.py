"""The folder that is written: whole or absent, and nobody else's work is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from folder_world import (
    INTERACTIONS,
    convert_folder,
    failure,
    make_source,
    write,
)

from recbole_morec.convert import _output, _pipeline
from recbole_morec.data.atomic import (
    read_content,
)
from recbole_morec.data.held import held
from recbole_morec.errors import DataError


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "raw")


def test_output_in_use(tmp_path, source):
    out = tmp_path / "tiny"
    write(out / "thesis.tex", "years of work")
    assert "--overwrite" in failure(DataError, source, out)
    assert "convert_report.json" in failure(DataError, source, out, overwrite=True)
    assert (out / "thesis.tex").read_text() == "years of work"
    for place in (source, source.parent):
        assert "holds the source" in failure(DataError, source, place, overwrite=True)
    for place in (out / "thesis.tex", out / "thesis.tex" / "a" / "b"):
        assert "thesis.tex is a file" in failure(DataError, source, place)


def test_overwrite_replaces_all_and_leaves_no_traces(tmp_path, source):
    out = tmp_path / "data" / "tiny"
    out.mkdir(parents=True)  # an empty folder may be used as it is
    convert_folder(source, out)
    write(source / "interactions.csv", "user,item,t\nu,i1,1\n")
    write(source / "items.csv", "item,title\ni1,New\n")
    assert "not empty" in failure(DataError, source, out)
    convert_folder(source, out, overwrite=True)
    assert read_content(out / "tiny.content").columns["title"] == ["New"]
    assert not (out / "images" / "i2.png").exists()
    assert [entry.name for entry in out.parent.iterdir()] == ["tiny"]


def test_what_a_killed_conversion_left_is_removed(tmp_path, source):
    others = {".other.4711.converting", ".tiny.mine.converting", ".tiny.2.4711.converting"}
    for name in (".tiny.4711.converting", *others):
        write(tmp_path / "data" / name / "tiny.inter", "half")
    convert_folder(source, tmp_path / "data" / "tiny")
    assert {entry.name for entry in (tmp_path / "data").iterdir()} == {"tiny", *others}
    running = tmp_path / "data" / ".tiny.4711.converting"
    write(running / "tiny.inter", "of a conversion that runs")
    with held(running):
        convert_folder(source, tmp_path / "data" / "tiny", overwrite=True)
        assert running.exists()


def test_a_dataset_that_was_being_replaced_is_put_back(tmp_path, source):
    out = tmp_path / "data" / "tiny"
    convert_folder(source, out)
    out.rename(out.with_name(".tiny.4711.replaced"))  # as a kill between two renames leaves it
    assert "not empty" in failure(DataError, source, out)
    assert (out / "tiny.inter").exists()
    write(out.with_name(".tiny.4711.replaced") / "tiny.inter", "old")  # killed after the second
    convert_folder(source, out, overwrite=True)
    assert [entry.name for entry in out.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_appears_at_the_output_meanwhile_is_kept(tmp_path, source, monkeypatch, overwrite):
    out = tmp_path / "tiny"
    if overwrite:
        convert_folder(source, out)
    real = _pipeline.write_interactions

    def meanwhile(*args):
        write(out / "notes.txt", "precious")
        real(*args)

    monkeypatch.setattr(_pipeline, "write_interactions", meanwhile)
    text = failure(DataError, source, out, overwrite=overwrite)
    assert ("notes.txt (new)" if overwrite else "not empty") in text
    assert (out / "notes.txt").read_text() == "precious"


def test_what_the_system_refuses_is_one_error(tmp_path, source):
    long = tmp_path / ("x" * 250)
    assert "File name too long" in failure(DataError, source, long)
    code = (
        "import resource, sys; from recbole_morec.cli import main;"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)); sys.exit(main(sys.argv[1:]))"
    )
    write(source / "interactions.csv", INTERACTIONS + "u1,i1,5,5\n" * 2000)
    words = ["convert", "folder", "--input", str(source), "--output", str(tmp_path / "tiny")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Nothing was written to" in done.stderr
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(
    ("file", "listed"),
    [
        ("minilm.npy", "minilm.npy (new)"),
        ("images/mine.png", "images/ (files added or removed)"),
        ("tiny.yaml", "tiny.yaml"),
        ("tiny.content", "tiny.content"),
    ],
)
def test_overwrite_stops_at_what_others_put_there(tmp_path, source, file, listed):
    out = tmp_path / "tiny"
    convert_folder(source, out)
    write(out / file, "precious")
    write(out / ".DS_Store", "of a file manager")
    text = failure(DataError, source, out, overwrite=True)
    assert f"changed since the conversion: {listed}. Move it away" in text
    assert (out / file).read_text() == "precious"
    (out / file).unlink()
    convert_folder(source, out, overwrite=True)


def test_what_was_derived_from_a_dataset_is_in_nobodys_way(tmp_path, source):
    out = tmp_path / "tiny"
    convert_folder(source, out)
    for listed in (True, False):
        write(out / "prepared" / "texts-0123" / "ids.npy", "tokens")
        write(out / "prepared" / "texts.lock", "")
        write(out / "prepared" / "states-0123" / "block-000000.bin", "states")
        if not listed:  # the report of an earlier version
            report = json.loads((out / "convert_report.json").read_text())
            del report["files"]
            write(out / "convert_report.json", json.dumps(report))
        convert_folder(source, out, overwrite=True)
        assert [path.name for path in (out / "prepared").iterdir()] == ["histories"]
    write(out / "prepared" / "texts-0123" / "ids.npy", "tokens")
    convert_folder(out, tmp_path / "again")  # a dataset folder is a source too
    assert [path.name for path in (tmp_path / "again" / "prepared").iterdir()] == ["histories"]
    write(out / "prepared" / "notes.txt", "precious")
    assert "prepared/notes.txt (new)" in failure(DataError, source, out, overwrite=True)


def test_overwrite_with_the_report_of_an_earlier_version(tmp_path, source):
    out = tmp_path / "tiny"
    convert_folder(source, out)
    report = json.loads((out / "convert_report.json").read_text())
    del report["files"]
    write(out / "convert_report.json", json.dumps(report))
    convert_folder(source, out, overwrite=True)
    write(out / "convert_report.json", json.dumps(report))
    write(out / "minilm.npy", "precious")
    assert "minilm.npy" in failure(DataError, source, out, overwrite=True)
    write(out / "convert_report.json", "[]")
    assert "no report of a conversion" in failure(DataError, source, out, overwrite=True)


@pytest.mark.parametrize("step", ["write_interactions", "put_images", "_write_yaml"])
@pytest.mark.parametrize("stop", [OSError(28, "disk full"), KeyboardInterrupt()])
def test_a_failed_conversion_leaves_the_old_state(tmp_path, source, monkeypatch, step, stop):
    def fail(*args, **kwargs):
        raise stop

    fresh, old = tmp_path / "data" / "fresh", tmp_path / "data" / "tiny"
    convert_folder(source, old)
    before = {p: p.read_bytes() for p in old.rglob("*") if p.is_file()}
    monkeypatch.setattr(f"recbole_morec.convert._pipeline.{step}", fail)
    for out, overwrite in [(fresh, False), (old, True)]:
        with pytest.raises((DataError, KeyboardInterrupt)):
            convert_folder(source, out, overwrite=overwrite)
    assert [entry.name for entry in old.parent.iterdir()] == ["tiny"]
    assert {p: p.read_bytes() for p in old.rglob("*") if p.is_file()} == before


def test_a_failed_last_rename_puts_the_old_folder_back(tmp_path, monkeypatch):
    write(tmp_path / "tiny" / "old.txt", "old")
    real = Path.rename

    def rename(self, target):
        if self.name.endswith(".converting"):
            raise OSError("busy")
        return real(self, target)

    monkeypatch.setattr(_output.Path, "rename", rename)
    with pytest.raises(OSError, match="busy"), _output.new_folder(tmp_path / "tiny") as folder:
        write(folder / "new.txt", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]
    assert (tmp_path / "tiny" / "old.txt").exists()
