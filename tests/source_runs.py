"""Runs of converters on sources that a test writes down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from recbole_morec.convert import SOURCES, _pipeline
from recbole_morec.convert._source import Options
from recbole_morec.data.atomic import read_content
from recbole_morec.data.inter import read_inter
from recbole_morec.errors import DataError


def put(folder: Path, files: dict[str, str | bytes], images=()) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for name in images:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 6), (len(str(path)) % 200, 0, 0)).save(path)
    return folder


def runner(tmp_path: Path):
    """Return a function that converts a source of these files and returns what it wrote."""

    def convert_files(kind: str, files, images=(), **options):
        raw = put(tmp_path / "raw", files, images)
        options = {"image_form": "copy"} | options
        options = Options.of(input=raw, output=tmp_path / "out" / "tiny", overwrite=True, **options)
        report = _pipeline.convert_source(kind, SOURCES[kind].find, options)
        return Converted(tmp_path / "out" / "tiny", report)

    return convert_files


class Converted:
    def __init__(self, folder: Path, report):
        self.report = report
        self.rows = read_inter(folder / "tiny.inter").rows()
        content = folder / "tiny.content"
        self.content = read_content(content) if content.exists() else None
        self.settings = yaml.safe_load((folder / "tiny.yaml").read_text())
        self.yaml = (folder / "tiny.yaml").read_text()

    @property
    def found(self) -> dict[str, str]:
        return self.report.detected

    def column(self, name: str) -> dict[str, str | None]:
        return dict(zip(self.content.tokens, self.content.columns[name], strict=True))

    def noted(self, *parts: str) -> bool:
        return any(all(part in note for part in parts) for note in self.report.notes)


def failure(run, *args, error=DataError, **kwargs) -> str:
    with pytest.raises(error) as caught:
        run(*args, **kwargs)
    return str(caught.value)


QB_ITEM = 'v1,"韩国料理、家常","Korean food, home"\nv2,街舞,Street dance\nv3,猫咪,"Two ""cats"""\n'


QB = {
    "QB_item.csv": QB_ITEM,
    "QB_pair.csv": "u7,v1\nu7,v2\nu8,v3\n",
    "QB_behaviour.tsv": "u7\tv2 v1\nu8\tv3\n",
}


FOOD_ITEM = "5,韩国料理,Food\n6,街舞,Dance\n9,猫咪,Cats\n"


FOOD_PAIR = "6,1,1640995205\n5,1,1640995200\n9,5,1640995201\n"


def lines(*objects: dict) -> str:
    return "".join(json.dumps(each) + "\n" for each in objects)


REVIEWS_2018 = lines(
    {"overall": 5.0, "reviewerID": "A1", "asin": "B01", "reviewText": 'so "good"\n', "style": {},
     "unixReviewTime": 1462060800},
    {"overall": 3.0, "reviewerID": "A2", "asin": "B02", "unixReviewTime": 1462060900},
)  # fmt: skip


META_2018 = lines(
    {"asin": "B01", "title": "Pen, blue", "brand": "ACME", "category": ["Office", "Pens"],
     "description": ["Writes.", "", "Well."], "price": "$1.99", "imageURL": ["https://x/1.jpg"]},
    {"asin": "B02", "title": "", "category": [], "description": "Plain \\ text\t烎"},
)  # fmt: skip
