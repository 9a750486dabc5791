"""Mends that let the unmodified RecBole 1.2.1 run on today's numpy, scipy, torch and hyperopt.

:func:`apply` imports nothing heavy: it registers an import hook, and each mend runs at the moment
the RecBole module that needs it is imported. The package's ``__init__`` calls it, so
``import recbole_morec`` before the first ``import recbole...`` is all that is needed. A process
started by ``spawn`` imports the main script anew: there too ``import recbole_morec`` must stand at
the top of that script (``python -m`` and console scripts satisfy this).

Line numbers are those of the RecBole 1.2.1 wheel.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.metadata
import importlib.util
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

RECBOLE_VERSION = "1.2.1"

# Set on what we install, so that it is recognised even by a second copy of this module.
_MARK = "_recbole_morec_compat"


def apply() -> None:
    """Check that RecBole can run here and register its mends; calling it again does nothing.

    RecBole modules that are already imported are mended at once.

    Raises:
        ImportError: RecBole is not installed, or pandas is version 3 or newer; the message says
            what to type.
    """
    _require_recbole()
    _refuse_pandas_3()
    if any(getattr(finder, _MARK, False) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _MendingFinder())
    for name, mends in MENDS.items():
        if name in sys.modules:
            for mend in mends:
                mend(sys.modules[name])


# --- checks -------------------------------------------------------------------------------------


def _require_recbole() -> None:
    """Raise ImportError with the command to type when RecBole is not installed."""
    if "recbole" in sys.modules or importlib.util.find_spec("recbole") is not None:
        return
    message = f"recbole_morec needs RecBole {RECBOLE_VERSION}, which is not installed. "
    if sys.version_info >= (3, 12):
        message += (
            f"Type `pip install --no-deps recbole=={RECBOLE_VERSION}`. On Python 3.12 and newer it "
            "has to be installed by this separate command, because it asks for ray<=2.6.3, which "
            "has no wheels there (and is not used); its other needs came with recbole_morec."
        )
    else:
        message += f"Type `pip install recbole=={RECBOLE_VERSION}`."
    raise ImportError(message, name="recbole")


def _refuse_pandas_3() -> None:
    """Raise ImportError when pandas is version 3 or newer.

    With pandas 3, `Series.agg(len)` and `frame[column].fillna(inplace=True)` changed their meaning
    and break recbole/data/dataset/dataset.py:501, :648, :650 (loading) and its `_remap`,
    `_normalize` and `_discretization`; one of the breaks is silent.
    """
    release = _release("pandas")
    if release is not None and release[0] >= 3:
        found = importlib.metadata.version("pandas")
        raise ImportError(
            f"RecBole {RECBOLE_VERSION} reads data wrongly with pandas 3 or newer, and pandas "
            f'{found} is installed. Type `pip install "pandas>=2.2,<3"`.',
            name="pandas",
        )


def _warn_other_recbole(recbole: types.ModuleType) -> None:
    """Warn when RecBole is another version than the one these mends were written for."""
    found = getattr(recbole, "__version__", "of unknown version")
    if found != RECBOLE_VERSION:
        warnings.warn(
            f"recbole_morec is written for RecBole {RECBOLE_VERSION}, but RecBole {found} is "
            f"installed; other versions are not tested. Type "
            f"`pip install --no-deps recbole=={RECBOLE_VERSION}` to get the tested one.",
            stacklevel=3,
        )


def _release(package: str) -> tuple[int, ...] | None:
    """Return the first three numbers of an installed package's version, None if not installed."""
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


# --- mends, each called with the RecBole module that has just been imported -----------------------


def mend_numpy_names(_recbole: types.ModuleType) -> None:
    """Give numpy back the type names that numpy 1.24 and 2.0 removed.

    `Config.compatibility_settings` (recbole/config/configurator.py:625-635) reads `np.float_`,
    `np.complex_` and `np.unicode_`, and sets the others itself; but recbole/data/interaction.py:31,
    recbole/evaluator/metrics.py:90, :128, :131, :190, :196, :287,
    recbole/data/dataset/dataset.py:652, recbole/trainer/hyper_tuning.py:386 and the layers of the
    context-aware models read them also where no Config was ever built (a loaded dataset, a worker
    process).

    Narrow: only names that numpy does not have are added, with the values that RecBole gives them.
    """
    import numpy as np

    names = {
        "float_": np.float64,
        "complex_": np.complex128,
        "unicode_": np.str_,
        "bool": np.bool_,
        "int": np.int_,
        "float": np.float64,
        "complex": np.complex128,
        "object": np.object_,
        "str": np.str_,
        "long": np.int_,
        "unicode": np.str_,
    }
    for name, value in names.items():
        # Not hasattr: numpy answers that for a removed name with a warning.
        if name not in vars(np):
            setattr(np, name, value)


def mend_scipy_dok_update(_recbole: types.ModuleType) -> None:
    """Give scipy's `dok_matrix` back the `_update` method that scipy 1.13 removed.

    Called with a dict of {(row, column): value} by lightgcn.py:111, ngcf.py:110, gcmc.py:174,
    spectralcf.py:123, ncl.py:131 (in recbole/model/general_recommender), kgin.py:356 and
    mcclk.py:425 (in recbole/model/knowledge_aware_recommender).

    Narrow: adds one private method where it is missing, and changes none.
    """
    from scipy.sparse import dok_matrix

    if hasattr(dok_matrix, "_update"):
        return

    def _update(self: dok_matrix, values: dict[tuple[int, int], Any]) -> None:
        self._dict.update(values)

    dok_matrix._update = _update


def mend_torch_load(_recbole: types.ModuleType) -> None:
    """Let RecBole's own code load its checkpoints, which hold a pickled Config.

    Since torch 2.6 `torch.load` reads weights only unless told otherwise. RecBole does not tell it:
    recbole/trainer/trainer.py:323, :583, recbole/quick_start/quick_start.py:250 and the pretrained
    models (convncf.py:82, nais.py:127, ract.py:75, :84, neumf.py:84, :85, kd_dagfm.py:56,
    s3rec.py:120). `torch.serialization.add_safe_globals` does not help, because the files are
    written with pickle protocol 4, which the weights-only reader does not know.

    Narrow: only calls made from a module named `recbole.*` get `weights_only=False`, only when they
    do not pass `weights_only` themselves, and torch's environment variable
    TORCH_FORCE_WEIGHTS_ONLY_LOAD still wins. All other callers keep torch's safe default.
    """
    import torch

    plain_load = torch.load
    if getattr(plain_load, _MARK, False):
        return

    @functools.wraps(plain_load)
    def load(*args: Any, **kwargs: Any) -> Any:
        caller = sys._getframe(1).f_globals.get("__name__") or ""
        if caller.startswith("recbole."):
            kwargs.setdefault("weights_only", False)
        return plain_load(*args, **kwargs)

    setattr(load, _MARK, True)
    torch.load = load


def mend_collector(collector: types.ModuleType) -> None:
    """Let the metrics that need plain counts run (ItemCoverage, GiniIndex, AveragePopularity, ...).

    `Collector.get_data_struct` (recbole/evaluator/collector.py:226-227) calls `.cpu()` on all that
    was collected, and `data.num_items` and its kin are ints and Counters.

    Narrow: RecBole's method runs unchanged while what has no `.cpu()` is set aside; as it does with
    the rest, it is then kept in the collector and copied into the result.
    """
    plain_method = collector.Collector.get_data_struct
    if getattr(plain_method, _MARK, False):
        return

    @functools.wraps(plain_method)
    def get_data_struct(self: Any) -> Any:
        collected = self.data_struct._data_dict
        aside = {name: value for name, value in collected.items() if not hasattr(value, "cpu")}
        for name in aside:
            del collected[name]
        try:
            returned = plain_method(self)
        finally:
            collected.update(aside)
        returned._data_dict.update(copy.deepcopy(aside))
        return returned

    setattr(get_data_struct, _MARK, True)
    collector.Collector.get_data_struct = get_data_struct


def mend_exhaustive_search(hyper_tuning: types.ModuleType) -> None:
    """Let `HyperTuning(algo="exhaustive")` draw with a numpy Generator.

    `exhaustive_search` (recbole/trainer/hyper_tuning.py:117) gives hyperopt a
    `np.random.RandomState`, but hyperopt draws from a `Generator` since 0.2.6 (`rng.integers`).

    Narrow: only that function sees the other random source. Nothing happens unless a hyperopt of
    0.2.6 or newer is installed, and hyperopt itself is not imported.
    """
    release = _release("hyperopt")
    plain_search = hyper_tuning.exhaustive_search
    if release is None or release < (0, 2, 6) or getattr(plain_search, _MARK, False):
        return
    import numpy as np

    # The function's own global `np` is all that differs; it uses nothing else of numpy.
    as_generator = types.SimpleNamespace(RandomState=np.random.default_rng)
    search = types.FunctionType(
        plain_search.__code__,
        {**vars(hyper_tuning), "np": types.SimpleNamespace(random=as_generator)},
        plain_search.__name__,
        plain_search.__defaults__,
    )
    functools.update_wrapper(search, plain_search)
    setattr(search, _MARK, True)
    hyper_tuning.exhaustive_search = search


@contextlib.contextmanager
def keep_anomaly_mode() -> Iterator[None]:
    """Leave autograd's anomaly detection as it was.

    recbole/model/sequential_recommender/sine.py:25 switches it on for the whole process as it is
    imported, and every sequential model's import brings it in. Each backward pass then keeps a
    Python traceback per operation, which slows training, and stops at any NaN on the way.

    Narrow: only what that module's body changes is put back; a user's own choice stays.
    """
    import torch

    before = torch.is_anomaly_enabled()
    try:
        yield
    finally:
        torch.autograd.set_detect_anomaly(before)


@contextlib.contextmanager
def ray_stand_in() -> Iterator[None]:
    """Hold a stand-in for ray in `sys.modules`, so that ray itself is never imported.

    recbole/quick_start/quick_start.py:20 does `from ray import tune` only to call
    `tune.report(**test_result)` at the end of `objective_function` (line 223), and asks for a ray
    (<=2.6.3) that cannot be imported beside numpy 2 or setuptools 82.

    Narrow: held only while the body of that one module runs. The modules which it imports are
    imported before, because others (transformers, accelerate) look for ray with `find_spec`. What
    was in `sys.modules` comes back afterwards. `report` goes to the real `ray.tune` if the user has
    imported one, and is otherwise without effect, as it is in ray outside of a ray run.
    """
    for name in ("torch.distributed", "recbole.config", "recbole.data", "recbole.utils"):
        importlib.import_module(name)
    importlib.import_module("recbole.data.transform")

    def report(**metrics: Any) -> None:
        real = sys.modules.get("ray.tune")
        if real is not None:
            real.report(**metrics)

    tune = types.ModuleType("ray.tune", "Stand-in for ray.tune while RecBole is imported.")
    tune.report = report
    ray = types.ModuleType("ray", "Stand-in for ray while RecBole is imported.")
    ray.tune = tune
    stand_ins = {"ray": ray, "ray.tune": tune}

    before = {name: sys.modules[name] for name in stand_ins if name in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)
        sys.modules.update(before)


# Module -> what is called with it right after its import.
MENDS: dict[str, list[Callable[[types.ModuleType], None]]] = {
    # recbole/__init__.py imports nothing, so these run before any other module of RecBole.
    "recbole": [_warn_other_recbole, mend_numpy_names, mend_scipy_dok_update, mend_torch_load],
    "recbole.evaluator.collector": [mend_collector],
    "recbole.trainer.hyper_tuning": [mend_exhaustive_search],
}

# Module -> the context in which its body runs.
CONTEXTS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "recbole.quick_start.quick_start": ray_stand_in,
    "recbole.model.sequential_recommender.sine": keep_anomaly_mode,
}


# --- the import hook ------------------------------------------------------------------------------


class _MendingFinder(MetaPathFinder):
    """Finds the modules named in `MENDS` and `CONTEXTS` as usual, and mends them as they load."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname not in MENDS and fullname not in CONTEXTS:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    _mend_on_load(spec.loader, fullname)
                return spec
        return None


setattr(_MendingFinder, _MARK, True)


def _mend_on_load(loader: Any, name: str) -> None:
    """Make this loader (there is one per module) run the context and the mends of `name`."""
    plain_exec = loader.exec_module

    def exec_module(module: types.ModuleType) -> None:
        with CONTEXTS.get(name, contextlib.nullcontext)():
            plain_exec(module)
        for mend in MENDS.get(name, ()):
            mend(module)

    loader.exec_module = exec_module
