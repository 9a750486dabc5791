"""``recbole-morec convert amazon``: Amazon Reviews 2018 and 2023, one category.

Layout: a JSON object per line, plain or gzipped.

2018 (https://nijianmo.github.io/amazon): ``Office_Products.json.gz`` (all reviews) or
``Office_Products_5.json.gz`` (5-core) with ``reviewerID``, ``asin``, ``overall``,
``unixReviewTime`` in seconds; ``meta_Office_Products.json.gz`` with ``asin``, ``title``, ``brand``,
``category`` (a list), ``description`` (a list).

2023 (https://amazon-reviews-2023.github.io, and ``Amazon-Review-2023.py`` of McAuley-Lab on the
Hugging Face hub): ``Office_Products.jsonl`` with ``user_id``, ``asin`` (the variant),
``parent_asin`` (the product), ``rating``, ``timestamp`` in milliseconds;
``meta_Office_Products.jsonl`` with ``parent_asin``, ``title``, ``store``, ``categories``,
``description``.

Both name images by links only (``imageURL``, ``images``), so that they are read from a folder of
files named by item.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from recbole_morec.convert._events import EventColumns
from recbole_morec.convert._find_images import find_images, name_in
from recbole_morec.convert._json_lines import SUFFIXES, JsonRows, first_object
from recbole_morec.convert._search import choose_variant, files_below, item_file, the_file
from recbole_morec.convert._source import COLUMNS, FILES, Counts, Options, Source
from recbole_morec.convert._tables import Table, given_file, table_of
from recbole_morec.convert.report import Report
from recbole_morec.errors import DataError, counted, suggest

READS = (*FILES, "variant", *COLUMNS)

# Reviews per category of the 2018 release, as its page lists them ("complete review data"). The
# 2023 page rounds its counts, so that they cannot be compared to the last digit.
PUBLISHED = {
    "AMAZON_FASHION": Counts(interactions=883_636),
    "All_Beauty": Counts(interactions=371_345),
    "Appliances": Counts(interactions=602_777),
    "Arts_Crafts_and_Sewing": Counts(interactions=2_875_917),
    "Automotive": Counts(interactions=7_990_166),
    "Books": Counts(interactions=51_311_621),
    "CDs_and_Vinyl": Counts(interactions=4_543_369),
    "Cell_Phones_and_Accessories": Counts(interactions=10_063_255),
    "Clothing_Shoes_and_Jewelry": Counts(interactions=32_292_099),
    "Digital_Music": Counts(interactions=1_584_082),
    "Electronics": Counts(interactions=20_994_353),
    "Gift_Cards": Counts(interactions=147_194),
    "Grocery_and_Gourmet_Food": Counts(interactions=5_074_160),
    "Home_and_Kitchen": Counts(interactions=21_928_568),
    "Industrial_and_Scientific": Counts(interactions=1_758_333),
    "Kindle_Store": Counts(interactions=5_722_988),
    "Luxury_Beauty": Counts(interactions=574_628),
    "Magazine_Subscriptions": Counts(interactions=89_689),
    "Movies_and_TV": Counts(interactions=8_765_568),
    "Musical_Instruments": Counts(interactions=1_512_530),
    "Office_Products": Counts(interactions=5_581_313),
    "Patio_Lawn_and_Garden": Counts(interactions=5_236_058),
    "Pet_Supplies": Counts(interactions=6_542_483),
    "Prime_Pantry": Counts(interactions=471_614),
    "Software": Counts(interactions=459_436),
    "Sports_and_Outdoors": Counts(interactions=12_980_837),
    "Tools_and_Home_Improvement": Counts(interactions=9_015_203),
    "Toys_and_Games": Counts(interactions=8_201_231),
    "Video_Games": Counts(interactions=2_565_349),
}


@dataclass(frozen=True)
class _Release:
    """Keys of a release.

    Attributes:
        year: of the release.
        user, item, time, rating: keys of a review.
        product: key of the item in the metadata.
        texts: field -> key of the metadata.
    """

    year: int
    user: str
    item: str
    time: str
    rating: str
    product: str
    texts: dict[str, str]
    citation: str


_RELEASES = (
    _Release(
        2018,
        *("reviewerID", "asin", "unixReviewTime", "overall"),
        "asin",
        {name: name for name in ("title", "brand", "category", "description", "price")},
        "Ni, Li, McAuley, Justifying Recommendations using Distantly-Labeled Reviews and "
        "Fine-Grained Aspects, EMNLP 2019",
    ),
    _Release(
        2023,
        *("user_id", "parent_asin", "timestamp", "rating"),
        "parent_asin",
        {
            "title": "title",
            "brand": "store",
            "category": "categories",
            "description": "description",
            "price": "price",
        },
        "Hou et al., Bridging Language and Items for Retrieval and Recommendation (arXiv "
        "2403.03952)",
    ),
)
# Lists become texts.
_JOINED = {"category": ", ", "description": " "}
# What the text-based recommenders of these data sets usually read; description is in the content.
_TEXTS = ("title", "brand", "category")


def find(options: Options, report: Report) -> Source:
    """Find the reviews of a category, its metadata and its images.

    Raises:
        DataError: there are no reviews, or those of several categories; the first review or
            product lacks a field.
    """
    reviews, metas = _tables(options.input)
    if options.interactions is not None:
        path = given_file(options.input, options.interactions, "--interactions")
        name = choose_variant([_stem(path)], options, "reviews")
    else:
        name = choose_variant(reviews, options, "reviews such as Office_Products.jsonl.gz")
        path = the_file(reviews[name], "--interactions")
    report.detected["data set"] = name
    release, rows, columns = _open_reviews(path, options, report)
    report.detected["interactions"] = f"{name_in(path, options.input)} ({rows.form})"
    category = name.removesuffix("_5")
    items = _open_items(options, metas.get(category, []), release, report)
    published = PUBLISHED.get(name) if release.year == 2018 else None
    near = (path.parent, options.input, path.parent.parent)
    names = (f"{category}_images", f"images_{category}", "images")
    return Source(
        rows,
        columns,
        items,
        "item" if items is not None else None,
        find_images(options, report, near, names),
        _TEXTS,
        "pixelrec",
        published,
        release.citation,
    )


def _tables(folder: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Reviews by category (and ``_5``), and metadata by category."""
    reviews: dict[str, list[Path]] = {}
    metas: dict[str, list[Path]] = {}
    for path in files_below(folder):
        if path.name.lower().endswith(SUFFIXES) and not path.name.startswith("asin2category"):
            name = _stem(path)
            found, name = (
                (metas, name.removeprefix("meta_")) if name.startswith("meta_") else (reviews, name)
            )
            found.setdefault(name, []).append(path)
    return reviews, metas


def _stem(path: Path) -> str:
    suffix = max((each for each in SUFFIXES if path.name.lower().endswith(each)), key=len)
    return path.name[: -len(suffix)]


def _open_reviews(
    path: Path, options: Options, report: Report
) -> tuple[_Release, JsonRows, EventColumns]:
    first = first_object(path)
    release = next((each for each in _RELEASES if each.user in first), None)
    if release is None and options.user_field is None:
        raise DataError(
            f"{path} line 1: no reviewerID (2018) and no user_id (2023) in a review; its fields "
            f"are {', '.join(first)}. Name them with --user-field, --item-field and --time-field."
        )
    release = release or _RELEASES[1]
    user = _key(path, first, options.user_field or release.user, "--user-field")
    item = _key(path, first, options.item_field or release.item, "--item-field")
    time = _key(path, first, options.time_field or release.time, "--time-field")
    keys = [user, item, time, *([release.rating] if release.rating in first else [])]
    fields = {key if key != release.rating else "rating": key for key in keys}
    _note_left_out(path, first, keys, report)
    report.detected["release"] = str(release.year)
    report.detected["columns"] = f"user {user}, item {item}, time {time}, by name"
    return (
        release,
        JsonRows(path, fields, ids=(user, item)),
        EventColumns(user, item, time, options.time_unit),
    )


def _key(path: Path, first: dict[str, object], key: str, flag: str) -> str:
    if key not in first:
        raise DataError(
            f'{path} line 1: there is no field "{key}" ({flag}).{suggest(key, first)} The fields '
            f"are {', '.join(first)}."
        )
    return key


def _open_items(
    options: Options, named: list[Path], release: _Release, report: Report
) -> Table | None:
    path = item_file(options, named, report)
    if path is None:
        report.notes.append("No metadata (meta_<category>.json or .jsonl) was found.")
        return None
    first = first_object(path)
    product = _key(path, first, release.product, "--items")
    rows = JsonRows(path, {"item": product, **release.texts}, _JOINED, ids=("item",))
    _note_left_out(path, first, [product, *release.texts.values()], report)
    report.detected["items"] = f"{name_in(path, options.input)} ({rows.form}; item {product})"
    table = table_of(rows)
    if rows.halves:
        report.notes.append(
            f"{path.name}: {counted(rows.halves, 'half of a character', 'halves of characters')} "
            "(lone surrogates, as a cut emoji leaves) in the texts became U+FFFD."
        )
    return table


def _note_left_out(
    path: Path, first: dict[str, object], taken: Iterable[str], report: Report
) -> None:
    left = [key for key in first if key not in {*taken}]
    if left:
        report.notes.append(f"{path.name}: not taken over: {', '.join(left)}.")
