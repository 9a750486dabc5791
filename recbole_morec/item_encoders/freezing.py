"""Which parts of a backbone train, chosen by named blocks and never by parameter index.

A backbone falls into *units*: the blocks of a ViT or BERT (``layers``), or the stages of a ConvNet
or Swin (``stages``). The order in which its modules run, recorded in one probe, assigns every
parameter to the unit that was running; what runs before the first unit (patch or word
embeddings) is the stem, what runs after the last one (final norm, pooler) belongs to the last.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from recbole_morec.errors import ConfigError

_NUMBERED = re.compile(r"^(.*?)(\d+)[a-z]?$")
_LAST = re.compile(r"^last_(\d+)$")
_STAGES = re.compile(r"^stages:\s*\[?\s*(\d+(?:\s*,\s*\d+)*)\s*\]?$")


@dataclass(frozen=True)
class Units:
    """The blocks of a backbone: what they are called, their module names, in running order."""

    kind: str  # "layers" (blocks of equal shape) or "stages" (widths change)
    names: tuple[str, ...]


@contextmanager
def record_order(backbone: nn.Module) -> Iterator[dict[str, int]]:
    """Record when each module of ``backbone`` first runs, by module name, inside the block."""
    order: dict[str, int] = {}

    def hook_for(name: str):
        def hook(module, args, kwargs):
            order.setdefault(name, len(order))

        return hook

    handles = [
        module.register_forward_pre_hook(hook_for(name), with_kwargs=True)
        for name, module in backbone.named_modules()
    ]
    try:
        yield order
    finally:
        for handle in handles:
            handle.remove()


def find_units(backbone: nn.Module) -> Units | None:
    """Find the list of blocks or stages that holds most of the backbone's parameters.

    Candidates are ``ModuleList``/``Sequential`` containers and numbered siblings
    (``layer1 .. layer4``); of each, the children of the class with most parameters count.
    Returns None for a backbone without any such list.
    """
    best: tuple[int, list[tuple[str, nn.Module]]] = (0, [])
    for name, module in backbone.named_modules():
        for children in _child_lists(name, module):
            sizes: Counter[type] = Counter()
            for _, child in children:
                sizes[type(child)] += _size(child)
            if not sizes:
                continue
            main_class = sizes.most_common(1)[0][0]
            blocks = [item for item in children if type(item[1]) is main_class and _size(item[1])]
            covered = sum(_size(child) for _, child in blocks)
            if len(blocks) > 1 and covered > best[0]:
                best = (covered, blocks)
    blocks = best[1]
    if not blocks:
        return None
    shapes = Counter(tuple(tuple(p.shape) for p in child.parameters()) for _, child in blocks)
    equal = shapes.most_common(1)[0][1] * 2 >= len(blocks)
    return Units("layers" if equal else "stages", tuple(name for name, _ in blocks))


def _child_lists(name: str, module: nn.Module) -> Iterator[list[tuple[str, nn.Module]]]:
    prefix = f"{name}." if name else ""
    children = [(prefix + child_name, child) for child_name, child in module.named_children()]
    if isinstance(module, nn.ModuleList | nn.Sequential):
        yield children
        return
    numbered: dict[str, list[tuple[str, nn.Module]]] = {}
    for child_name, child in children:
        match = _NUMBERED.match(child_name)
        if match:
            numbered.setdefault(match.group(1), []).append((child_name, child))
    yield from numbered.values()


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def apply_train_layers(
    backbone: nn.Module, choice: str | list[str], order: dict[str, int], owner: str
) -> None:
    """Set ``requires_grad`` of the backbone's parameters.

    Args:
        backbone: the module whose parameters to choose from.
        choice: ``all``, ``none``, ``last_N``, ``stages:[3,4]`` (counted from 1) or a list of
            ``fnmatch`` patterns of parameter or module names.
        order: what :func:`record_order` recorded.
        owner: name of the item encoder, for messages.

    Raises:
        ConfigError: an unknown choice, a stage that does not exist, a pattern without a match.
    """
    if choice == "all":
        return
    chosen = _chosen_names(backbone, choice, order, owner)
    for name, parameter in backbone.named_parameters():
        if name not in chosen:
            parameter.requires_grad_(False)


def _chosen_names(
    backbone: nn.Module, choice: str | list[str], order: dict[str, int], owner: str
) -> set[str]:
    if choice == "none":
        return set()
    if isinstance(choice, list):
        return _matching(backbone, choice, owner)
    units, wanted = units_to_train(backbone, choice, owner)
    unit_of = unit_of_names(units, order, (name for name, _ in backbone.named_parameters()))
    return {name for name, unit in unit_of.items() if unit in wanted}


def units_to_train(backbone: nn.Module, choice: str, owner: str) -> tuple[Units, set[int]]:
    """The units of a backbone and which of them ``last_N`` or ``stages:[3,4]`` means, from 0 on.

    Shapes of parameters are all that is read, so that a backbone on the meta device will do.

    Raises:
        ConfigError: another choice, or one of more units than there are.
    """
    last, stages = _LAST.match(choice), _STAGES.match(choice)
    if not last and not stages:
        raise ConfigError(
            f"train_layers: {choice!r} is not known for {owner}; use all, none, last_N (last_2), "
            "stages:[3,4], lora, ia3 or a list of name patterns."
        )
    units = find_units(backbone)
    if units is None:
        raise ConfigError(
            f"train_layers: {choice}: {owner} has no list of blocks or stages to count; give "
            f"name patterns instead, for example [{_example_pattern(backbone)!r}]."
        )
    count = len(units.names)
    if last:
        n = int(last.group(1))
        if not 1 <= n <= count:
            raise ConfigError(
                f"train_layers: {choice}: {owner} has {count} {units.kind} "
                f"({units.names[0]} .. {units.names[-1]}); use last_1 to last_{count}."
            )
        wanted = set(range(count - n, count))
    else:
        numbers = [int(number) for number in stages.group(1).split(",")]
        if units.kind != "stages":
            raise ConfigError(
                f"train_layers: {choice}: {owner} has {count} layers of equal shape and no "
                f"stages; use last_N with N from 1 to {count}."
            )
        if not all(1 <= number <= count for number in numbers):
            raise ConfigError(
                f"train_layers: {choice}: {owner} has stages 1 to {count} "
                f"({', '.join(units.names)})."
            )
        wanted = {number - 1 for number in numbers}
    return units, wanted


def unit_of_names(units: Units, order: dict[str, int], names: Iterable[str]) -> dict[str, int]:
    """Return, for each parameter or buffer name, the index of the unit that was running (-1: the
    stem)."""
    starts = []
    for name in units.names:
        inside = (o for m, o in order.items() if m == name or m.startswith(name + "."))
        # A unit that never ran directly starts no earlier than the one before it.
        starts.append(max([min(inside, default=-1), *starts]))
    result = {}
    for name in names:
        module = name.rpartition(".")[0]
        while module and module not in order:  # used by its parent without a call of its own
            module = module.rpartition(".")[0]
        result[name] = bisect_right(starts, order.get(module, 0)) - 1
    return result


def _matching(backbone: nn.Module, patterns: list[str], owner: str) -> set[str]:
    names = [name for name, _ in backbone.named_parameters()]
    chosen: set[str] = set()
    problems = []
    for pattern in patterns:
        hits = {n for n in names if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*")}
        if not hits:
            problems.append(
                f"train_layers: no parameter of {owner} matches {pattern!r}; its names look like "
                f"{_example_pattern(backbone)!r} or {names[-1]!r}."
            )
        chosen |= hits
    if problems:
        raise ConfigError(problems)
    return chosen


def _example_pattern(backbone: nn.Module) -> str:
    units = find_units(backbone)
    return f"{units.names[-1]}.*" if units else next(iter(dict(backbone.named_parameters())))


def freeze_unreached(backbone: nn.Module, output: Tensor) -> list[str]:
    """Freeze the parameters that ``output`` does not depend on; return their names.

    They could never get a gradient (an unused pooler, the norm of another pooling head), and
    DistributedDataParallel would wait for them. Found by walking the autograd graph of
    ``output``, so no backward pass is run.
    """
    reached: set[int] = set()
    seen = set()
    stack = [output.grad_fn] if output.grad_fn is not None else []
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            reached.add(id(variable))
        stack.extend(parent for parent, _ in node.next_functions if parent is not None)
    unused = []
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad and id(parameter) not in reached:
            parameter.requires_grad_(False)
            unused.append(name)
    return unused


def frozen_modules(backbone: nn.Module) -> list[nn.Module]:
    """Return the largest submodules that do not train: they stay in eval mode.

    A module without parameters (dropout) counts as frozen when siblings that come before it
    have parameters and none of these train.
    """
    found: list[nn.Module] = []

    def visit(module: nn.Module) -> None:
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            found.append(module)
            return
        some_before = trained_before = False
        for child in module.children():
            trains = [p.requires_grad for p in child.parameters()]
            if trains:
                visit(child)
                some_before = True
                trained_before = trained_before or any(trains)
            elif some_before and not trained_before:
                found.append(child)

    visit(backbone)
    return found


def batch_norms(backbone: nn.Module) -> list[nn.Module]:
    """Return the modules that compute statistics over a batch in train mode."""
    return [m for m in backbone.modules() if _is_batch_norm(m)]


def _is_batch_norm(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return True
    name = type(module).__name__  # timm's EvoNorm-B family keeps a running variance too
    return name.startswith("EvoNorm2dB") and getattr(module, "running_var", None) is not None


@dataclass(frozen=True)
class TrainingReport:
    """What trains: number of parameters by part, the part named by its first name components."""

    trained: dict[str, int]
    frozen: dict[str, int]

    def __str__(self) -> str:
        def line(title: str, parts: dict[str, int]) -> str:
            listed = ", ".join(f"{name} {count:,}" for name, count in parts.items())
            return f"{title} {sum(parts.values()):,}" + (f" ({listed})" if listed else "")

        return f"{line('trained', self.trained)}; {line('frozen', self.frozen)}"


def training_report(encoder: nn.Module, depth: int = 2) -> TrainingReport:
    """Count trained and frozen parameters of ``encoder`` by the first ``depth`` name parts."""
    trained: Counter[str] = Counter()
    frozen: Counter[str] = Counter()
    for name, parameter in encoder.named_parameters():
        part = ".".join(name.split(".")[:-1][:depth]) or name
        (trained if parameter.requires_grad else frozen)[part] += parameter.numel()
    return TrainingReport(dict(trained), dict(frozen))
