"""Protocols: which interactions train, which are targets, and what a target is ranked against.

A protocol is a view on the histories; it never rewrites a dataset. Each one follows a published
system, and ``docs/protocols.md`` says what it keeps of it:

============ ==== ============== ========== ============ ==========================================
name          L    shortest user  truncated  history mask source
============ ==== ============== ========== ============ ==========================================
pixelrec      10   3 (to test)    no         full         PixelRec, SDM 2024
ninerec       20   5              L + 3      truncated    NineRec, TPAMI 2024
morec         20   5              L + 3      truncated    IDvs.MoRec, SIGIR 2023
recbole       50   3 (to test)    no         none         RecBole 1.2.1, leave-one-out
============ ==== ============== ========== ============ ==========================================
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """How histories are cut and targets ranked.

    Args:
        name: its public name.
        max_length: L, the number of items a model reads.
        min_user_inter: users with fewer interactions are left out altogether.
        truncate: only the newest this many interactions of a user exist; 0 = all.
        history_mask: ``full`` bars all earlier items of the user from the ranking, ``truncated``
            those left after truncation, ``none`` bars nothing.
        catalogue: ``interactions`` ranks the items of the interactions that are left,
            ``content`` those of the content file as well.
        eval_mode: ``full`` or sampled candidates (``uni100``: 100 drawn uniformly, ``pop100``: by
            popularity).
        valid_needs: fewest interactions of a user who has a validation target. RecBole gives a
            user of three interactions a test target only.
    """

    name: str
    max_length: int
    min_user_inter: int
    truncate: int
    history_mask: str
    catalogue: str
    eval_mode: str = "full"
    valid_needs: int = 3

    def fingerprint(self) -> str:
        """A short hash that two runs share only if their numbers may be compared."""
        facts = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:12]


_PUBLISHED: dict[str, dict[str, Any]] = {
    "pixelrec": {"L": 10, "min_user_inter": 0, "extra": None, "mask": "full", "valid_needs": 3},
    "ninerec": {"L": 20, "min_user_inter": 5, "extra": 3, "mask": "truncated", "valid_needs": 3},
    "morec": {"L": 20, "min_user_inter": 5, "extra": 3, "mask": "truncated", "valid_needs": 3},
    "recbole": {"L": 50, "min_user_inter": 0, "extra": None, "mask": "none", "valid_needs": 4},
}

PROTOCOLS = tuple(_PUBLISHED)


def resolve(values: dict[str, Any]) -> dict[str, Any]:
    """Return the protocol's value for every protocol setting that ``values`` leaves ``None``.

    Args:
        values: settings; ``protocol`` names the protocol.
    """
    published = _PUBLISHED.get(values.get("protocol"))
    if published is None:
        return {}
    length = values.get("MAX_ITEM_LIST_LENGTH") or published["L"]
    extra = published["extra"]
    defaults = {
        "MAX_ITEM_LIST_LENGTH": length,
        "min_user_inter": published["min_user_inter"],
        "truncate_history": 0 if extra is None or not isinstance(length, int) else length + extra,
        "history_mask": published["mask"],
    }
    return {key: value for key, value in defaults.items() if values.get(key) is None}


def build_protocol(config: Any) -> Protocol:
    """Build the protocol that the (resolved) settings describe."""
    name = config["protocol"]
    return Protocol(
        name=name,
        max_length=config["MAX_ITEM_LIST_LENGTH"],
        min_user_inter=config["min_user_inter"],
        truncate=config["truncate_history"],
        history_mask=config["history_mask"],
        catalogue=config["catalogue"],
        eval_mode=config["eval_mode"],
        valid_needs=_PUBLISHED[name]["valid_needs"],
    )
