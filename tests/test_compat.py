"""Each mend of RecBole works, is needed, and reaches no further than it says.

The behaviours that need RecBole run in forks of one helper process (this file run as a script),
which has imported torch and the like but not RecBole: so every case sees a RecBole that is imported
afresh, with all mends or with one left out, and pays for the slow imports once.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import json
import os
import subprocess
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from recbole_morec import compat

REPOSITORY = Path(__file__).resolve().parent.parent


# --- behaviours, run in the forks ---------------------------------------------------------------


def check_whole_run() -> None:
    """RecBole's own run: train, save, reload the best checkpoint, measure."""
    from recbole.quick_start import run_recbole

    write_tiny_dataset(Path("tiny"))
    settings = {
        "data_path": ".",
        "load_col": {"inter": ["user_id", "item_id"]},
        "epochs": 1,
        "embedding_size": 4,
        "topk": 3,
        "metrics": ["Recall", "ItemCoverage", "GiniIndex"],
        "valid_metric": "Recall@3",
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
    }
    result = run_recbole(model="LightGCN", dataset="tiny", config_dict=settings)
    # 12 users are shown 3 of 8 items each, so at least 3 of the 8 are covered.
    assert 3 / 8 <= result["test_result"]["itemcoverage@3"] <= 1
    assert_no_ray()


def check_without_config() -> None:
    """Batches and metrics are used where no Config was ever built."""
    import numpy as np
    import torch
    from recbole.data.interaction import Interaction
    from recbole.evaluator.metrics import NDCG

    assert torch.equal(Interaction({"item": [1, 2]})["item"], torch.tensor([1, 2]))
    hits = np.array([[True, False]])
    assert NDCG.metric_info(NDCG, hits, np.array([1])).tolist() == [[1.0, 1.0]]


def check_exhaustive_search() -> None:
    from recbole.trainer import HyperTuning

    def objective(params: dict, _files: list | None) -> dict:
        score = params["a"] * 10 + params["b"]
        result = {"recall": score}
        return {
            "model": "none",
            "best_valid_score": score,
            "valid_score_bigger": True,
            "best_valid_result": result,
            "test_result": result,
        }

    tuning = HyperTuning(objective, params_dict={"choice": {"a": [1, 2, 3], "b": [4, 5]}})
    tuning.run()
    assert len(tuning.params2result) == 6
    assert tuning.best_params == {"a": 3, "b": 5}


def check_ray_of_the_user_is_kept() -> None:
    """A ray that was there before is there again, and gets the reports."""
    reports: list[dict] = []
    ray, tune = types.ModuleType("ray"), types.ModuleType("ray.tune")
    tune.report = lambda **metrics: reports.append(metrics)
    sys.modules.update({"ray": ray, "ray.tune": tune})
    import recbole.quick_start.quick_start as quick_start

    assert sys.modules["ray"] is ray
    assert sys.modules["ray.tune"] is tune
    quick_start.tune.report(recall=0.5)
    assert reports == [{"recall": 0.5}]


def check_ray_is_hidden_from_others() -> None:
    """While the stand-in is there, nothing is imported but the module that asks for ray."""
    seen: list[str] = []

    class Watcher:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if "ray.tune" in sys.modules:
                seen.append(name)

    sys.meta_path.insert(0, Watcher())
    import recbole.quick_start.quick_start as quick_start

    assert seen == []
    assert_no_ray()
    quick_start.tune.report(recall=0.5)  # without ray: no error, no effect
    assert_no_ray()


def check_ray_stand_in_goes_when_the_import_fails() -> None:
    sys.modules["recbole.utils"] = types.ModuleType("recbole.utils")  # lacks what is asked of it
    for name in ("recbole.config", "recbole.data", "recbole.data.transform"):
        sys.modules[name] = types.ModuleType(name)
    with pytest.raises(ImportError):
        import recbole.quick_start  # noqa: F401
    assert_no_ray()


def check_spawned_child() -> None:
    """A spawned child imports the main script anew: this file, whose top imports us."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from recbole.quick_start import run_recboles

    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        found = pool.submit(where_it_comes_from, run_recboles).result()
    assert found == ("recbole.quick_start.quick_start", [])


def where_it_comes_from(function: Callable) -> tuple[str, list[str]]:
    return function.__module__, [name for name in sys.modules if name.split(".")[0] == "ray"]


def check_collector_keeps_counts() -> None:
    """What has no `.cpu()` stays collected from one evaluation to the next; results go."""
    import torch
    from recbole.evaluator.collector import Collector, DataStruct

    collector = Collector.__new__(Collector)
    collector.data_struct = DataStruct()
    counts = {1: 2}
    collector.data_struct.set("data.num_items", 7)
    collector.data_struct.set("data.count_items", counts)
    for _ in range(2):
        collector.data_struct.set("rec.items", torch.tensor([1]))
        returned = collector.get_data_struct()
        assert returned.get("data.num_items") == 7
        assert returned.get("data.count_items") == counts
        assert returned.get("data.count_items") is not counts
        assert torch.equal(returned.get("rec.items"), torch.tensor([1]))
        assert set(collector.data_struct._data_dict) == {"data.num_items", "data.count_items"}


def check_only_recbole_loads_pickles() -> None:
    import pickle

    import recbole  # noqa: F401
    import torch

    def load_as(module: str, **kwargs: object) -> object:
        names = {"__name__": module, "torch": torch, "file": io.BytesIO(stored), "kwargs": kwargs}
        return eval("torch.load(file, **kwargs)", names)

    buffer = io.BytesIO()
    torch.save({"config": types.SimpleNamespace(a=1)}, buffer, pickle_protocol=4)
    stored = buffer.getvalue()

    assert load_as("recbole.trainer.trainer")["config"].a == 1
    for other in ("recbole_morec.training.checkpoint", "recbole_gnn.trainer", "__main__"):
        with pytest.raises(pickle.UnpicklingError, match="Weights only"):
            load_as(other)
    with pytest.raises(pickle.UnpicklingError, match="Weights only"):
        load_as("recbole.trainer.trainer", weights_only=True)


def check_late_and_repeated_apply() -> None:
    """RecBole modules imported before us are mended too, and nothing is mended twice."""
    ours = [finder for finder in sys.meta_path if isinstance(finder, compat._MendingFinder)]
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder not in ours]
    assert len(ours) == 1
    import recbole  # noqa: F401
    import torch
    from recbole.evaluator import collector

    assert not hasattr(torch.load, "__wrapped__")
    compat.apply()
    load, method = torch.load, collector.Collector.get_data_struct
    assert hasattr(load, "__wrapped__")
    assert hasattr(method, "__wrapped__")
    compat.apply()
    for name, mends in compat.MENDS.items():
        for mend in mends:
            mend(sys.modules.get(name) or importlib.import_module(name))
    assert torch.load is load
    assert collector.Collector.get_data_struct is method
    assert sum(isinstance(finder, compat._MendingFinder) for finder in sys.meta_path) == 1


def assert_no_ray() -> None:
    assert [name for name in sys.modules if name.split(".")[0] == "ray"] == []
    importlib.util.find_spec("ray")  # raises ValueError on a stand-in that was left behind


def write_tiny_dataset(folder: Path) -> None:
    folder.mkdir()
    rows = [f"u{user}\ti{(user + step) % 8}" for user in range(12) for step in range(6)]
    text = "\n".join(["user_id:token\titem_id:token", *rows]) + "\n"
    (folder / f"{folder.name}.inter").write_text(text, encoding="utf-8")


def check_anomaly_detection_stays_off() -> None:
    import recbole.model.sequential_recommender  # noqa: F401
    import torch

    assert not torch.is_anomaly_enabled(), "anomaly detection was switched on"


CHECKS: list[Callable[[], None]] = [
    check_whole_run,
    check_without_config,
    check_ray_of_the_user_is_kept,
    check_ray_is_hidden_from_others,
    check_ray_stand_in_goes_when_the_import_fails,
    check_spawned_child,
    check_collector_keeps_counts,
    check_only_recbole_loads_pickles,
    check_late_and_repeated_apply,
    check_exhaustive_search,
    check_anomaly_detection_stays_off,
]
# (check, mend left out, what the failure must then say)
BROKEN: list[tuple[Callable[[], None], str, str]] = [
    (check_whole_run, "mend_numpy_names", "np.float_"),
    (check_without_config, "mend_numpy_names", "no attribute 'float'"),
    (check_whole_run, "mend_scipy_dok_update", "no attribute '_update'"),
    (check_whole_run, "mend_torch_load", "Weights only load failed"),
    (check_whole_run, "mend_collector", "'int' object has no attribute 'cpu'"),
    (check_whole_run, "ray_stand_in", "from ray import tune"),
    (check_exhaustive_search, "mend_exhaustive_search", "no attribute 'integers'"),
    (check_anomaly_detection_stays_off, "keep_anomaly_mode", "anomaly detection was switched on"),
]


# --- the helper process ---------------------------------------------------------------------------


def run_all_in_forks(folder: Path) -> dict[str, str]:
    """Run every case in a fork of its own; return {case: traceback, empty if it passed}."""
    import pandas  # noqa: F401
    import scipy.sparse  # noqa: F401
    import sklearn  # noqa: F401
    import torch
    import torch._dynamo  # torch's optimizers import it when they are first used
    import torch.utils.tensorboard

    torch.set_num_threads(1)
    assert "recbole" not in sys.modules
    cases = [(check, "") for check in CHECKS] + [(check, mend) for check, mend, _ in BROKEN]
    results = {}
    for check, left_out in cases:
        case = case_name(check, left_out)
        place = folder / case
        place.mkdir()
        child = os.fork()
        if child == 0:
            os.chdir(place)
            Path("result").write_text(outcome(check, left_out), encoding="utf-8")
            os._exit(0)
        os.waitpid(child, 0)
        report = place / "result"
        results[case] = report.read_text(encoding="utf-8") if report.exists() else "died"
    return results


def outcome(check: Callable[[], None], left_out: str) -> str:
    try:
        if left_out:
            leave_out(left_out)
        check()
    except BaseException:
        return traceback.format_exc()
    return ""


def leave_out(name: str) -> None:
    before = sum(map(len, compat.MENDS.values())) + len(compat.CONTEXTS)
    for module, mends in compat.MENDS.items():
        compat.MENDS[module] = [mend for mend in mends if mend.__name__ != name]
    for module, context in list(compat.CONTEXTS.items()):
        if context.__name__ == name:
            del compat.CONTEXTS[module]
    assert sum(map(len, compat.MENDS.values())) + len(compat.CONTEXTS) == before - 1


def case_name(check: Callable[[], None], left_out: str) -> str:
    return f"{check.__name__}-{left_out}" if left_out else check.__name__


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    folder = tmp_path_factory.mktemp("compat")
    done = python(str(Path(__file__).resolve()), str(folder), cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "outcomes.json").read_text(encoding="utf-8"))


# --- tests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_with_all_mends(outcomes: dict[str, str], check: Callable[[], None]) -> None:
    skip_without_its_package(check)
    assert outcomes[case_name(check, "")] == ""


@pytest.mark.parametrize(
    ("check", "mend", "message"), BROKEN, ids=[case_name(check, mend) for check, mend, _ in BROKEN]
)
def test_each_mend_is_needed(
    outcomes: dict[str, str], check: Callable[[], None], mend: str, message: str
) -> None:
    skip_without_its_package(check)
    assert message in outcomes[case_name(check, mend)]


def skip_without_its_package(check: Callable[[], None]) -> None:
    if check is check_exhaustive_search and importlib.util.find_spec("hyperopt") is None:
        pytest.skip("needs hyperopt")


def test_every_mend_is_left_out_once() -> None:
    """A mend that nobody leaves out in `BROKEN` would be untested."""
    mends = {mend.__name__ for mends in compat.MENDS.values() for mend in mends}
    mends |= {context.__name__ for context in compat.CONTEXTS.values()}
    mends.discard("_warn_other_recbole")
    assert mends == {mend for _, mend, _ in BROKEN}


def test_apply_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys, recbole_morec.compat as compat; compat.apply(); "
        "print([m for m in ('numpy', 'pandas', 'scipy', 'torch', 'recbole', 'ray', 'hyperopt')"
        " if m in sys.modules])"
    )
    assert python("-c", script, cwd=tmp_path).stdout.strip() == "[]"


def test_missing_recbole_is_an_import_error(tmp_path: Path) -> None:
    done = python("-S", "-c", "import recbole_morec", cwd=tmp_path)  # -S: no site-packages
    assert done.returncode == 1
    assert "ImportError: recbole_morec needs RecBole 1.2.1" in done.stderr


@pytest.mark.parametrize(
    ("version", "command"),
    [
        ((3, 11), "`pip install recbole==1.2.1`"),
        ((3, 12), "`pip install --no-deps recbole==1.2.1`"),
        ((3, 14), "`pip install --no-deps recbole==1.2.1`"),
    ],
)
def test_missing_recbole_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], command: str
) -> None:
    monkeypatch.delitem(sys.modules, "recbole", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(ImportError) as caught:
        compat.apply()
    assert command in str(caught.value)


@pytest.mark.parametrize("version", ["3.0.0", "3.1.1rc1", "4.0"])
def test_pandas_3_is_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda package: version)
    with pytest.raises(ImportError, match=f'pandas {version} .*`pip install "pandas>=2.2,<3"`'):
        compat.apply()


@pytest.mark.parametrize("version", ["1.2.0", "1.2.2", None])
def test_another_recbole_is_warned_about(version: str | None) -> None:
    recbole = types.ModuleType("recbole")
    if version:
        recbole.__version__ = version
    with pytest.warns(UserWarning, match="recbole==1.2.1"):
        compat._warn_other_recbole(recbole)


def test_the_right_recbole_is_not_warned_about(recwarn: pytest.WarningsRecorder) -> None:
    recbole = types.ModuleType("recbole")
    recbole.__version__ = "1.2.1"
    compat._warn_other_recbole(recbole)
    assert not recwarn.list


if __name__ == "__main__":
    place = Path(sys.argv.pop())  # RecBole's Config reads what is left in sys.argv
    (place / "outcomes.json").write_text(json.dumps(run_all_in_forks(place)), encoding="utf-8")
