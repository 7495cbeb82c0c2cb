import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonargparse
import lightning as L
import pytest

from srch3.data import BeirDataModule, ColumnThoughts, Corpus, KeywordThoughts, RetrievalDataModule
from srch3.errors import ConfigError, DataError
from srch3.types import Query, Split

NAMES = ("zero", "one", "two", "three", "four")
DOCUMENTS = Corpus([f"d{n}" for n in range(10)], [f"text {n % 5} {NAMES[n % 5]}" for n in range(10)])


class Listed(RetrievalDataModule):
    def __init__(self, splits: dict[Split, list[Query]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.splits = splits
        self.loads: list[Split] = []

    def load(self, split: Split) -> list[Query]:
        self.loads.append(split)
        return self.splits["test" if split == "predict" else split]

    def load_corpus(self, split: Split) -> Corpus:
        return DOCUMENTS

    def has(self, split: Split) -> bool:
        return split in self.splits


def queries(split: str, count: int) -> list[Query]:
    return [Query(f"{split}{n}", f"{split} query {n}", {f"d{n % 10}": 1}) for n in range(count)]


def three_splits() -> dict[Split, list[Query]]:
    return {"train": queries("train", 40), "val": queries("val", 7), "test": queries("test", 5)}


def ids(found: list[Query]) -> set[str]:
    return {query.id for query in found}


def test_trains_without_a_trainer() -> None:
    data = Listed(three_splits(), batch_size=8)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert len(data.train_dataloader()) == 5
    assert len(set(batch.ids)) == len(batch.texts) == 8
    for query_id, relevant, positive_id, positive in zip(
        batch.ids, batch.relevant, batch.positive_ids, batch.positives, strict=True
    ):
        number = int(query_id.removeprefix("train"))
        assert relevant == {f"d{number % 10}": 1}
        assert positive_id == [f"d{number % 10}"]
        assert positive == [f"text {number % 5} {NAMES[number % 5]}"]
    assert batch.weights == [1.0] * 8


def test_a_batch_holds_thoughts_and_negatives() -> None:
    one = Query("a", "query", {"d0": 1}, negatives=("d3", "d9"), thought="hm")
    data = Listed({"train": [one], "val": queries("val", 1)}, batch_size=4)
    batch = next(iter(data.train_dataloader()))
    assert (batch.thoughts, batch.negative_ids, batch.negatives) == (
        ["hm"],
        [["d3", "d9"]],
        [["text 3 three", "text 4 four"]],
    )


def test_thoughts_are_fitted_on_the_training_corpus() -> None:
    splits = three_splits() | {"train": [Query("a", "query", {"d3": 1})]}
    data = Listed(splits, thoughts=KeywordThoughts(max_document_frequency=0.2))
    assert next(iter(data.train_dataloader())).thoughts == ["three"]
    assert isinstance(Listed(splits).thoughts, ColumnThoughts)


def test_queries_of_equal_positive_text_stand_in_different_batches() -> None:
    batches = list(Listed(three_splits(), batch_size=4).train_dataloader())
    assert all(len({text for texts in batch.positives for text in texts}) == 4 for batch in batches[:7])


def test_a_batch_holds_weights_and_as_many_positives_and_negatives_as_asked_for() -> None:
    wide = Query("a", "query", {"d0": 1, "d1": 2, "d2": 1}, ("d3", "d4", "d8"), weight=0.5)
    narrow = Query("b", "other", {"d3": 1}, ("d4",), weight=3)
    splits = three_splits() | {"train": [wide, narrow]}
    batch = next(iter(Listed(splits, positives=2, negatives=2).train_dataloader()))
    a, b = batch.ids.index("a"), batch.ids.index("b")
    assert (batch.weights[a], batch.weights[b]) == (0.5, 3)
    assert len(set(batch.positive_ids[a])) == 2
    assert set(batch.positive_ids[a]) < {"d0", "d1", "d2"}
    assert batch.positives[a] == [DOCUMENTS.texts[int(name[1:])] for name in batch.positive_ids[a]]
    assert len(set(batch.negative_ids[a])) == 2
    assert batch.negative_ids[a] == sorted(batch.negative_ids[a])
    assert batch.negatives[a] == [DOCUMENTS.texts[int(name[1:])] for name in batch.negative_ids[a]]
    assert (batch.positive_ids[b], batch.negative_ids[b]) == (["d3"], ["d4"])
    assert batch.relevant[a] == wide.relevant


@pytest.mark.parametrize(("negatives", "expected"), [(None, ["d3", "d4"]), (5, ["d3", "d4"]), (0, [])])
def test_all_negatives_or_none(negatives: int | None, expected: list[str]) -> None:
    splits = three_splits() | {"train": [Query("a", "query", {"d0": 1}, ("d3", "d4"))]}
    assert next(iter(Listed(splits, negatives=negatives).train_dataloader())).negative_ids == [expected]


def test_negatives_are_drawn_anew_in_each_epoch_and_for_each_query_and_seed() -> None:
    many = tuple(f"d{n}" for n in (1, 2, 3, 4, 6, 7, 8, 9))
    splits = three_splits() | {"train": [Query(f"a{n}", f"query {n}", {"d0": 1}, many) for n in range(4)]}

    def drawn(seed: int) -> list[dict[str, tuple[str, ...]]]:
        loader = Listed(splits, negatives=2, seed=seed, batch_size=4).train_dataloader()
        batches = [next(iter(loader)) for _ in range(60)]
        return [dict(zip(batch.ids, map(tuple, batch.negative_ids), strict=True)) for batch in batches]

    found = drawn(seed=0)
    assert found == drawn(seed=0) != drawn(seed=1)
    assert len({epoch["a0"] for epoch in found}) > 15
    assert sum(epoch["a0"] == epoch["a1"] for epoch in found) < 15
    counts = Counter(name for epoch in found for names in epoch.values() for name in names)
    assert set(counts) == set(many)
    assert min(counts.values()) > 30


def test_similar_lengths_stand_together_where_asked_for() -> None:
    train = [Query(f"q{n}", "x" * (1 + 10 * (n % 4)), {f"d{n % 5}": 1}) for n in range(40)]
    splits = three_splits() | {"train": train}
    texts = [{len(text) for text in batch.texts} for batch in Listed(splits, batch_size=5).train_dataloader()]
    assert max(map(len, texts)) > 2
    bucketed = Listed(splits, batch_size=5, bucket_batches=8).train_dataloader()
    lengths = [[len(text) for text in batch.texts] for batch in bucketed]
    assert max(len(set(each)) for each in lengths) <= 2
    assert [max(each) for each in lengths] != sorted(max(each) for each in lengths)


def test_negatives_are_written_only_in_a_format_that_can_be_read() -> None:
    with pytest.raises(ConfigError, match=r"data: expected a BeirDataModule, .*; got Listed"):
        Listed(three_splits()).write_negatives(Path("new"), {})


def test_evaluates_every_query_in_order() -> None:
    data = Listed(three_splits(), eval_batch_size=3)
    batches = list(data.val_dataloader())
    assert [len(batch.ids) for batch in batches] == [3, 3, 1] == [3, 3, len(batches[-1].texts)]
    assert [query_id for batch in batches for query_id in batch.ids] == [f"val{n}" for n in range(7)]
    assert len(data.test_dataloader()) == len(data.predict_dataloader()) == 2
    assert next(iter(data.test_dataloader())).relevant == [{"d0": 1}, {"d1": 1}, {"d2": 1}]


def test_ranks_share_evaluation_without_repeating_a_query() -> None:
    parts = []
    for rank in range(3):
        data = Listed(three_splits())
        data.trainer = SimpleNamespace(global_rank=rank, world_size=3)  # type: ignore[assignment]
        parts.append([query_id for batch in data.val_dataloader() for query_id in batch.ids])
    assert parts == [["val0", "val3", "val6"], ["val1", "val4"], ["val2", "val5"]]


def test_everything_is_loaded_once_and_only_where_needed() -> None:
    data = Listed(three_splits())
    data.setup("validate")
    assert data.loads == ["val"]
    data.setup("fit")
    data.setup("fit")
    assert sorted(data.loads) == ["test", "train", "val"]
    assert data.corpus("train") is data.corpus("val")
    assert data.corpus("train").base is DOCUMENTS


def test_train_queries_of_val_or_test_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    splits = three_splits()
    splits["train"] += [
        Query("val3", "another text", {"d0": 1}),
        Query("own1", "val query 1", {"d0": 1}),
        Query("own2", "test query 2", {"d0": 1}),
        Query("own3", "val  query 1", {"d0": 1}),
    ]
    data = Listed(splits)
    assert ids(data.queries("train")) == ids(queries("train", 40)) | {"own3"}
    assert "left out 3 queries whose id or text is in validation or test" in caplog.text


def test_limits_on_val_and_test_do_not_let_their_queries_into_train() -> None:
    splits = three_splits()
    splits["train"] += splits["val"] + splits["test"]
    data = Listed(splits, limit_val=1, limit_test=1)
    assert len(data.queries("val")) == len(data.queries("test")) == 1
    assert ids(data.queries("train")) == ids(queries("train", 40))


def test_a_test_split_that_is_absent_is_not_asked_for() -> None:
    splits = three_splits()
    del splits["test"]
    data = Listed(splits)
    data.setup("fit")
    assert len(data.queries("train")) == 40


def test_unjudged_queries_are_left_out_but_not_of_prediction() -> None:
    splits = three_splits()
    splits["val"].append(Query("unjudged", "what?", {}))
    splits["test"].append(Query("unjudged", "what?", {}))
    data = Listed(splits)
    assert "unjudged" not in ids(data.queries("val")) | ids(data.queries("test"))
    assert "unjudged" in ids(data.queries("predict"))


def test_an_unjudged_training_query_is_an_error_or_left_out() -> None:
    splits = three_splits()
    splits["train"].append(Query("unjudged", "what?", {}))
    with pytest.raises(
        DataError, match=r"query 'unjudged' with no relevant document; .*data\.init_args\.invalid: skip"
    ):
        Listed(splits).setup("fit")
    assert ids(Listed(splits, invalid="skip").queries("train")) == ids(queries("train", 40))


@pytest.mark.parametrize("invalid", ["error", "skip"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_a_query_to_measure_with_must_have_a_text(split: Split, invalid: str) -> None:
    splits = three_splits()
    splits[split].append(Query("blank", " \n", {"d1": 1}))
    with pytest.raises(DataError, match=rf"a text for every query in {split}; got ' \\n' for query 'blank'"):
        Listed(splits, invalid=invalid).setup("fit")


def test_slices_of_train_are_disjoint_and_together_all_of_it() -> None:
    low = Listed(three_splits(), train_slice=(0.0, 0.6)).queries("train")
    high = Listed(three_splits(), train_slice=(0.6, 1.0)).queries("train")
    assert low
    assert high
    assert ids(low) | ids(high) == ids(queries("train", 40))
    assert len(low) + len(high) == 40


@pytest.mark.parametrize("interval", [(0.5, 0.5), (-0.1, 1.0), (0.0, 1.1), (0.7, 0.2)])
def test_an_impossible_slice_is_refused(interval: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match=r"data\.init_args\.train_slice: expected .* got \["):
        Listed(three_splits(), train_slice=interval)


def test_limits_draw_by_seed() -> None:
    chosen = [ids(Listed(three_splits(), limit_train=5, seed=seed).queries("train")) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[2]) == 5


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 0},
        {"eval_batch_size": 0},
        {"num_workers": -1},
        {"seed": -1},
        {"limit_val": 0},
        {"positives": 0},
        {"negatives": -1},
        {"bucket_batches": 0},
    ],
)
def test_numbers_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=rf"data\.init_args\.{next(iter(settings))}: expected at least"):
        Listed(three_splits(), **settings)


def test_an_unknown_way_with_invalid_data_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.init_args\.invalid: expected error or skip; got 'ignore'"):
        Listed(three_splits(), invalid="ignore")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([Query("a", "x", {"d77": 1})], "got 'd77', judged for query 'a', without a document"),
        ([Query("a", "x", {"d1": 1}, negatives=("d78",))], "got 'd78', judged for query 'a', without a document"),
        ([Query("a", "x", {"d1": 1}), Query("a", "y", {"d1": 1})], "unique query ids in train; got 'a' 2 times"),
        ([Query(7, "x", {"d1": 1})], "query ids that are strings in train; got 7"),  # type: ignore[arg-type]
        ([], "at least one query with a relevant document in train; got none"),
    ],
)
def test_wrong_queries_are_named(wrong: list[Query], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        Listed(three_splits() | {"train": wrong}).setup("fit")


def test_settings_of_the_base_class_reach_the_command_line(tmp_path: Path) -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(RetrievalDataModule, "data")
    thoughts = {"class_path": "srch3.data.KeywordThoughts", "init_args": {"terms": 3}}
    settings = {"root": str(tmp_path), "batch_size": 3, "train_slice": [0.1, 0.5], "thoughts": thoughts}
    settings |= {"positives": 2, "negatives": None, "invalid": "skip", "bucket_batches": 4}
    config = parser.parse_object({"data": {"class_path": "srch3.data.BeirDataModule", "init_args": settings}})
    data = parser.instantiate(config).data
    assert isinstance(data, BeirDataModule)
    assert (data.batch_size, data.train_slice) == (3, (0.1, 0.5))
    assert (data.positives, data.negatives, data.invalid, data.bucket_batches) == (2, None, "skip", 4)
    assert isinstance(data.thoughts, KeywordThoughts)
    assert data.thoughts.terms == 3


def test_prediction_through_a_trainer_gets_every_query(tmp_path: Path) -> None:
    class Echo(L.LightningModule):
        def predict_step(self, batch: Any) -> list[str]:
            return list(batch.ids)

    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )
    data = Listed(three_splits(), eval_batch_size=2)
    predicted = trainer.predict(Echo(), datamodule=data)
    assert predicted == [["test0", "test1"], ["test2", "test3"], ["test4"]]
