"""No golden lies unread: each is a case of some test here, and a folder without any is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from . import test_cold_and_new_items, test_data_pipelines, test_item_encoders, test_metrics
from .conftest import folder_of, goldens_in
from .test_loading import MODELS

READ = {
    *MODELS,
    *(case.name for case in test_item_encoders.CASES),
    *(f"{system}/data_pipeline" for system in ("pixelrec", *test_data_pipelines.SYSTEMS)),
    test_metrics.NAME,
    test_cold_and_new_items.NAME,
    "odmt/fusion_blocks",  # test_item_encoders
    "pixelrec/item_encoder_wrappers",
    "pixelrec/visrank",  # test_frozen_models
}


def test_every_golden_is_read_by_a_test(pytestconfig):
    assert set(goldens_in(folder_of(pytestconfig))) - READ == set()


def test_a_folder_without_goldens_is_refused(tmp_path):
    config = SimpleNamespace(getoption=lambda name: tmp_path)
    with pytest.raises(pytest.UsageError, match="there are no goldens"):
        folder_of(config)
