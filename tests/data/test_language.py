from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from srch3.data import Corpus, MinedTextDataModule, PythonSourceDataModule, RetrievalDataModule
from srch3.data.selection import stable_share
from srch3.errors import CheckpointError, ConfigError, DataError
from srch3.types import Query, Split

WORDS = ["red", "green", "blue", "small", "large", "round", "square", "heavy", "light", "quick"]


class Listed(RetrievalDataModule):
    """Queries ``{split} {word} {number}`` for documents ``is {number} {word}``."""

    def __init__(self, count: int = 60, words: int = 10) -> None:
        super().__init__()
        self.count = count
        self.words = words
        self.prepared = False

    def prepare_data(self) -> None:
        self.prepared = True

    def load(self, split: Split) -> list[Query]:
        numbers = range(self.count if split == "train" else 12)
        return [Query(f"{split}{n}", f"{split} {WORDS[n % 10]} {n}", {f"d{n}": 1, f"e{n}": 2}) for n in numbers]

    def load_corpus(self, split: Split) -> Corpus:
        numbers = range(max(self.count, 12))
        ids = [f"{kind}{n}" for kind in "de" for n in numbers]
        return Corpus(ids, [f"{kind} is {n}" + f" {WORDS[n % 10]}" * self.words for kind in "de" for n in numbers])


def language(**kwargs: Any) -> MinedTextDataModule:
    settings = {"source": Listed(), "vocab_size": 320, "sequence_length": 16, "batch_size": 4}
    return MinedTextDataModule(**{**settings, **kwargs})


def text_of(data: MinedTextDataModule, split: Split) -> str:
    return data.tokenizer.decode(data.blocks(split).flatten())


def test_each_text_holds_a_query_and_its_best_document_in_one_of_two_orders() -> None:
    texts = text_of(language(), "train").split("<|endoftext|>")
    queries = Listed().load("train")
    for query, text in list(zip(queries, texts, strict=False))[:-2]:
        number = int(query.id.removeprefix("train"))
        document = f"e is {number}" + f" {WORDS[number % 10]}" * 10
        parts = [query.text, document]
        assert text == "\n".join(parts if stable_share(query.id, "layout") < 0.5 else parts[::-1])
    first = sum(text.startswith("train") for text in texts)
    assert len(texts) * 0.25 < first < len(texts) * 0.75


def test_blocks_are_full_and_of_the_split_alone() -> None:
    data = language()
    data.setup("fit")
    for split in ("train", "val"):
        assert data.blocks(split).shape[1] == 16
        assert data.blocks(split).dtype == torch.int64
        assert data.tokenizer.pad_token_id not in data.blocks(split)
    assert "val" not in text_of(data, "train")
    assert "train" not in text_of(data, "val")


def test_documents_are_cut_by_tokens() -> None:
    data = language(max_document_tokens=3, source=Listed(words=500))
    assert max(len(text) for text in text_of(data, "train").split("<|endoftext|>")) < 60


def test_validation_is_limited() -> None:
    full, limited = language(), language(max_val_blocks=2)
    assert len(full.blocks("val")) > 2
    assert torch.equal(limited.blocks("val"), full.blocks("val")[:2])


def test_the_tokenizer_learns_from_training_texts_alone() -> None:
    few, many = language(max_tokenizer_texts=1), language()
    assert len(few.tokenizer) < len(many.tokenizer) <= 320
    assert many.tokenizer is many.tokenizer
    assert "Ġval" not in many.tokenizer.get_vocab()
    assert "train" in many.tokenizer.get_vocab()


def test_loaders_give_every_block_once_in_an_order_per_epoch() -> None:
    data = language()
    data.setup("fit")
    blocks = data.blocks("train")
    loader = data.train_dataloader()
    epochs = [torch.cat(list(loader)) for _ in range(2)]
    assert next(iter(loader)).shape == (4, 16)
    for epoch in epochs:
        assert len(epoch) == len(blocks) // 4 * 4
        assert {tuple(row) for row in epoch.tolist()} <= {tuple(row) for row in blocks.tolist()}
    assert not torch.equal(*epochs)
    assert torch.equal(torch.cat(list(data.val_dataloader())), data.blocks("val"))


def test_the_seed_decides_the_order_and_nothing_else_does() -> None:
    first, same, other = (torch.cat(list(language(seed=seed).train_dataloader())) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_processes_share_the_blocks() -> None:
    parts: list[list[tuple[int, ...]]] = []
    for rank in range(2):
        data = language(batch_size=2)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        parts.append([tuple(row) for batch in data.val_dataloader() for row in batch.tolist()])
    whole = [tuple(row) for row in language().blocks("val").tolist()]
    assert parts[0] == whole[::2]
    assert parts[1] == whole[1::2]


class Recorder(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []

    def training_step(self, batch: Tensor) -> Tensor:
        self.seen.append(batch.flatten().tolist())
        return self.weight.sum()

    def validation_step(self, batch: Tensor) -> None:
        """Is there so that the validation loader is accepted."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data: MinedTextDataModule, steps: int, saved: Path, resume: Path | None = None) -> list[list[int]]:
    recorder = Recorder()
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(recorder, data, ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(saved)
    return recorder.seen


def test_a_resumed_run_sees_the_remaining_blocks(tmp_path: Path) -> None:
    per_epoch = len(language().train_dataloader())
    whole = fit(language(), per_epoch + 5, tmp_path / "whole.ckpt")
    half = per_epoch // 2
    first = fit(language(), half, tmp_path / "half.ckpt")
    rest = fit(language(), per_epoch + 5, tmp_path / "rest.ckpt", resume=tmp_path / "half.ckpt")
    assert len(whole) == per_epoch + 5
    assert first == whole[:half]
    assert rest == whole[half:]


def test_another_tokenizer_refuses_the_state_of_this_one() -> None:
    state = language().state_dict()
    language().load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"^ckpt_path: expected a run with the same tokenizer"):
        language(vocab_size=300).load_state_dict(state)


def test_too_little_text_is_refused() -> None:
    data = language(source=Listed(count=1), sequence_length=500)
    with pytest.raises(DataError, match=r"sequence_length: expected at least 500 tokens of text in train; got \d+"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [
        ("sequence_length", 1, 2),
        ("max_document_tokens", 0, 1),
        ("batch_size", 0, 1),
        ("max_tokenizer_texts", 0, 1),
        ("max_val_blocks", 0, 1),
        ("seed", -1, 0),
    ],
)
def test_numbers_out_of_range_are_refused(name: str, value: int, least: int) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.init_args\.{name}: expected at least {least}; got {value}$"):
        language(**{name: value})


def test_preparation_and_setup_for_validation_alone() -> None:
    data = language()
    data.prepare_data()
    assert isinstance(data.source, Listed)
    assert data.source.prepared
    data.setup("validate")
    assert len(data.blocks("val")) > 0


def test_the_default_source_is_installed_python() -> None:
    assert isinstance(MinedTextDataModule().source, PythonSourceDataModule)
