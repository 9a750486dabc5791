"""A backbone cut in two: the frozen *prefix*, which gives an item the same states in every step,
and the *tail* from its first trained unit on.

Both halves are the library's own forward. To run the prefix, the forward is left as soon as the
last module of it has answered. To run the tail, the modules of the prefix answer without computing:
the last one with the item's stored states, those before it with memory that is never filled. What
the forward does between the modules (masks, positions) stays as it is. Whether this gives the item
vectors of the uncut backbone is tried before it is relied on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from recbole_morec.errors import MoRecError
from recbole_morec.item_encoders.freezing import (
    batch_norms,
    find_units,
    record_order,
    unit_of_names,
)

if TYPE_CHECKING:
    from recbole_morec.item_encoders.backbone import BackboneEncoder
    from recbole_morec.item_encoders.base import Content


class NoPrefix(MoRecError):
    """Why a backbone cannot be cut; says so in words that follow "its states are not stored: "."""


class _Reached(Exception):
    def __init__(self, states: Tensor):
        self.states = states


Fill = Callable[..., Tensor]  # a shape -> a tensor that nobody should read
Answer = Callable[[Tensor, tuple, dict, Fill], Any]  # states, and the module's own arguments


@dataclass
class _Call:
    """One call of a module: when it began and ended, and what it gave."""

    name: str
    parent: _Call | None
    start: int
    end: int = -1
    output: Any = None


class Prefix:
    """Where a backbone is cut, and both ways of running it.

    Args:
        encoder: an encoder of which some units are frozen.
        unit: number of units in the prefix; by default all before the first one that trains.

    Attributes:
        unit: number of units in the prefix.
        units: names of all units.
        names: entries of the backbone's ``state_dict`` that the prefix may read.
        module: the module whose output the states are.

    Raises:
        NoPrefix: nothing before the first trained unit can be left out.
    """

    def __init__(self, encoder: BackboneEncoder, unit: int | None = None):
        backbone = encoder.backbone
        units = find_units(backbone)
        if units is None:
            raise NoPrefix("the backbone has no list of blocks or stages")
        self.units = units.names
        self._encoder = encoder
        self._trying = False
        with self._evaluating(), record_order(backbone) as order:
            encoder.read(encoder.probe_content())
        unit_of = unit_of_names(units, order, backbone.state_dict())
        trained = {unit_of[name] for name, p in backbone.named_parameters() if p.requires_grad}
        self.unit = min(trained, default=len(self.units)) if unit is None else unit
        if self.unit < 1:
            raise NoPrefix("its first block trains, or what comes before")
        self.names = [name for name, number in unit_of.items() if number < self.unit]
        self._reads_text = encoder.card.modality == "text"
        with self._evaluating():
            self._answers = self._choose_answers()

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """No gradient, no dropout, and BatchNorm statistics that stay as they are."""
        training = self._encoder.training
        try:
            with torch.no_grad():
                self._encoder.eval()
                yield
        finally:
            self._encoder.train(training)

    def _choose_answers(self) -> dict[str, Answer]:
        """Settle which modules answer without computing, and which of them gives the states."""
        content = self._encoder.sample_content()
        another = {name: value[1:2] for name, value in content.items()}
        calls, others = self._trial(self._encoder.probe_content()), self._trial(another)
        if [call.name for call in calls] != [call.name for call in others]:
            raise NoPrefix("its modules run in another order from item to item")
        cut = self._cut(calls)
        again = {call.name for call in calls if call.start >= cut}
        own = set(self.units[: self.unit])
        chosen = []
        for call, other in zip(calls, others, strict=True):
            whole = call.end < cut and call.parent is not None and call.parent.end >= cut
            states = _first(call.output)
            if not whole or states is None or _equal(states, _first(other.output)):
                continue  # the same for every item: positions, for example
            if self._reads_text and call.name not in own:
                continue  # embeddings cost little, and their shape varies with the texts
            chosen.append(call)
        if not any(call.name in own for call in chosen):
            raise NoPrefix("its frozen blocks are not called one by one")
        last = max(chosen, key=lambda call: call.end)
        if last.name in again or sum(call.name == last.name for call in calls) > 1:
            raise NoPrefix(f"{last.name} is called more than once")
        self.module = last.name
        states = _first(last.output)
        self._shape = tuple(states.shape[1:])
        self._channels_first = states.ndim == 4 and _channels_last_in_memory(states)
        answers = {
            call.name: _passed if self._reads_text else _blank(call.output)
            for call in chosen
            if call.name not in again
        }
        return {**answers, last.name: _given(last.output)}

    def _cut(self, calls: list[_Call]) -> int:
        """When the first unit of the tail begins; without a tail, when the last unit has ended."""
        if self.unit < len(self.units):
            times = [call.start for call in calls if call.name == self.units[self.unit]]
        else:
            times = [call.end + 1 for call in calls if call.name == self.units[-1]]
        if not times:
            raise NoPrefix("its blocks are not called by themselves")
        return times[0]

    def _trial(self, content: Content) -> list[_Call]:
        """All calls of the backbone's modules, in the order in which they begin."""
        calls: list[_Call] = []
        running: list[_Call] = []
        clock = iter(range(1 << 30))

        def begin(name: str) -> Callable:
            def hook(module: nn.Module, args: tuple) -> None:
                call = _Call(name, running[-1] if running else None, next(clock))
                calls.append(call)
                running.append(call)

            return hook

        def finish(module: nn.Module, args: tuple, output: Any) -> None:
            call = running.pop()
            call.end, call.output = next(clock), output

        handles = []
        for name, module in self._encoder.backbone.named_modules():
            handles += [
                module.register_forward_pre_hook(begin(name)),
                module.register_forward_hook(finish),
            ]
        # The backbone itself may be entered by another method than its forward (timm).
        running.append(_Call("", None, next(clock), end=1 << 30))
        try:
            self._encoder.read(content)
        finally:
            for handle in handles:
                handle.remove()
        return calls

    # --- the two halves -----------------------------------------------------------------------

    def states(self, content: Content) -> Tensor:
        """Run the prefix: content of ``n`` items -> ``[n, T, D]``, the places of a map in a row."""
        states = [self._states(part) for part in self._encoder.parts(content)]
        return states[0] if len(states) == 1 else torch.cat(states)

    def _states(self, content: Content) -> Tensor:
        def leave(module: nn.Module, args: tuple, output: Any) -> None:
            raise _Reached(_first(output))

        handle = self._encoder.backbone.get_submodule(self.module).register_forward_hook(leave)
        try:
            self._encoder.read(content)
            raise NoPrefix(f"{self.module} is not called for every item")
        except _Reached as reached:
            states = reached.states
        finally:
            handle.remove()
        if states.ndim == 2:
            return states.unsqueeze(1)
        if self._channels_first:
            states = states.permute(0, 2, 3, 1)
        return states.reshape(len(states), -1, states.shape[-1])

    @contextmanager
    def resumed(self, states: Tensor) -> Iterator[None]:
        """Within the block the backbone's forward computes its tail alone.

        Args:
            states: what :meth:`states` gave, ``[n, T, D]``, in any floating dtype.
        """
        backbone = self._encoder.backbone
        states = self._restored(states.to(next(backbone.parameters()).dtype))
        # In a trial, numbers that would be seen: memory might hold what stood there before.
        noise = torch.Generator(states.device).manual_seed(0)
        fill = partial(_noise, states, noise) if self._trying else states.new_empty
        changed = []
        try:
            for name, answer in self._answers.items():
                module = backbone.get_submodule(name)
                module.forward = _bound(answer, states, fill)
                changed.append(module)
            yield
        finally:
            for module in changed:
                del module.forward  # the class's own shows again

    def _restored(self, states: Tensor) -> Tensor:
        """States ``[n, T, D]`` in the shape that the module gives."""
        if len(self._shape) == 1:
            return states[:, 0]
        if len(self._shape) == 2:
            return states
        if self._channels_first:
            return states.unflatten(1, self._shape[1:]).permute(0, 3, 1, 2)
        return states.unflatten(1, self._shape[:-1])

    def check(self) -> None:
        """Try both halves on a few items.

        Raises:
            NoPrefix: the states differ between training and evaluation (dropout, BatchNorm), or
                the tail does not give the item vectors of the whole.
        """
        encoder = self._encoder
        before, encoder.prefix, self._trying = encoder.prefix, self, True
        content = encoder.sample_content()
        rest = {key: value for key, value in content.items() if key != "image"}
        try:
            with self._evaluating():
                states = self.states(content)
                if self._reads_text and states.shape[:2] != content["text_mask"].shape:
                    raise NoPrefix("it lengthens or shortens its texts")
                whole, tail = encoder(content), encoder({encoder.states_key: states, **rest})
                encoder.train()
                if self._follows_batches() or not alike(self.states(content), states):
                    raise NoPrefix("its frozen part draws dropout or follows batch statistics")
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            reason = f"its tail does not run alone ({type(error).__name__}: {error})"
            raise NoPrefix(reason) from None
        finally:
            encoder.prefix, self._trying = before, False
        if not alike(whole, tail):
            raise NoPrefix("its tail alone gives other vectors than the whole")

    def _follows_batches(self) -> bool:
        modules = (self._encoder.backbone.get_submodule(name) for name in self._answers)
        return any(norm.training for module in modules for norm in batch_norms(module))


# --- what modules of the prefix answer -----------------------------------------------------------


def _bound(answer: Answer, states: Tensor, fill: Fill) -> Callable:
    return lambda *args, **kwargs: answer(states, args, kwargs, fill)


def _given(template: Any) -> Answer:
    """The states, in the place of the first tensor of what the module gives."""
    return lambda states, args, kwargs, fill: _filled(template, states, len(states), fill)


def _blank(template: Any) -> Answer:
    """A tensor in the shape of what the module gives; its values mean nothing."""
    shape = _first(template).shape

    def answer(states: Tensor, args: tuple, kwargs: dict, fill: Fill) -> Any:
        n = len(states)
        return _filled(template, fill((shape[0] * n, *shape[1:])), n, fill)

    return answer


def _passed(states: Tensor, args: tuple, kwargs: dict, fill: Fill) -> Any:
    """What the module is given."""
    return args[0] if args else next(v for v in kwargs.values() if isinstance(v, Tensor))


def _filled(template: Any, value: Tensor, n: int, fill: Fill) -> Any:
    """``value``, or a tuple that begins with it where the module gives one for an item."""
    if isinstance(template, Tensor):
        return value
    rest = [
        fill((x.shape[0] * n, *x.shape[1:])) if isinstance(x, Tensor) else x for x in template[1:]
    ]
    return type(template)([value, *rest])


def _noise(like: Tensor, generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return like.new_empty(shape).normal_(generator=generator)


def _first(output: Any) -> Tensor | None:
    """A tensor, or the first entry of a tuple that begins with one."""
    if isinstance(output, tuple | list) and type(output) in (tuple, list) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def _equal(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and torch.equal(one, other)


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether they are equal but for rounding."""
    scale = one.abs().max().clamp_min(1e-30)
    return one.shape == other.shape and bool(((one - other).abs().max() <= 1e-5 * scale).item())


def _channels_last_in_memory(states: Tensor) -> bool:
    last = states.is_contiguous(memory_format=torch.channels_last)
    return last and not states.is_contiguous()
