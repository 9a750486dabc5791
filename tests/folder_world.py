"""A small folder of tables and images, as `recbole-morec convert folder` reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from recbole_morec import convert


def convert_folder(*args, **choices):
    """Convert with images as files, which are easier to look at than a store."""
    return convert.convert_folder(*args, **{"image_form": "copy"} | choices)


INTERACTIONS = """\
user,item,timestamp,rating
u2,i1,30,5
u1,i2,10,4
u2,i3,20,3
u1,i1,10,5
u3,i9,40,1
"""


ITEMS = """\
item,title,genres,image,width,image_source
i1,"Alpha, the ""first"" one",A|B,i1.png,10,http://x/1
i2,NaN,B,i2.png,20,http://x/2
i3,"two
lines\tand a \\ ",,i3.png,,
i4,Delta,C,i4.png,40,
"""


def make_source(
    folder: Path, interactions=INTERACTIONS, items=ITEMS, images=("i1", "i2", "i3", "i4")
) -> Path:
    folder.mkdir(parents=True)
    write(folder / "interactions.csv", interactions)
    if items is not None:
        write(folder / "items.csv", items)
    for n, name in enumerate(images):
        save_image(folder / "images" / f"{name}.png", n)
    return folder


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def save_image(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 6), (shade, 0, 0)).save(path)
    return path


def failure(error, *args, **kwargs) -> str:
    with pytest.raises(error) as caught:
        convert_folder(*args, **kwargs)
    return str(caught.value)
