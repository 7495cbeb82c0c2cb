import pytest
import torch
from torch import Tensor, tensor

from srch3.modules.candidates import Pool, Wanted, find_targets, key, list_documents, pool

IDS = [["a", "b"], ["c"], ["d"], ["b", "e"]]
TEXTS = [["apple", "bread"], ["cider"], ["apple"], ["bread", "eggs"]]


def candidates() -> tuple[Pool, list[str]]:
    """Four distinct texts (a and d share one), in the order of the pool."""
    local = list_documents(IDS, TEXTS)
    found = pool(local, torch.eye(4), across_ranks=False)
    return found, [local.texts[int(row.argmax())] for row in found.embeddings]


def names(mask: Tensor, texts: list[str]) -> list[set[str]]:
    return [{text for text, known in zip(texts, row, strict=True) if known} for row in mask.tolist()]


def test_each_text_is_embedded_once() -> None:
    local = list_documents(IDS, TEXTS)
    assert local.texts == ["apple", "bread", "cider", "eggs"]
    assert local.text_keys.tolist() == [key(text) for text in local.texts]
    assert len(local.id_keys) == len(local.id_texts) == 5


def test_keys_are_the_same_everywhere() -> None:
    assert key("apple") == -2328654269316264298
    assert key("\ud800") != key("apple")


def test_documents_that_are_judged_or_copies_are_known() -> None:
    found, texts = candidates()
    wanted = Wanted(["q", "r"], [["apple"], ["cider"]], [{"a"}, {"c", "d", "elsewhere"}], [1.0, 1.0])
    targets = find_targets(found, wanted, tensor([0, 1]), across_ranks=False)
    assert names(targets.known, texts) == [{"apple"}, {"cider", "apple"}]  # a copy of the judged d is known too
    assert targets.queries.tolist() == [0, 1]
    assert [texts[column] for column in targets.documents] == ["apple", "cider"]
    assert targets.same is None


def test_a_positive_that_no_judgement_names_is_known() -> None:
    found, texts = candidates()
    targets = find_targets(found, Wanted(["q"], [["eggs"]], [[]], [1.0]), tensor([0]), across_ranks=False)
    assert names(targets.known, texts) == [{"eggs"}]


def test_a_weight_is_shared_by_the_positives_of_every_row() -> None:
    found, texts = candidates()
    wanted = Wanted(["q", "r"], [["apple", "cider"], ["eggs"]], [{"a", "c"}, {"e"}], [3.0, 0.5])
    targets = find_targets(found, wanted, tensor([1, 0, 0]), across_ranks=False)
    pairs = zip(targets.queries.tolist(), [texts[column] for column in targets.documents], strict=True)
    weighed = dict(zip(pairs, targets.weights.tolist(), strict=True))
    assert weighed == {
        (0, "eggs"): 0.5, (1, "apple"): 1.5, (1, "cider"): 1.5, (2, "apple"): 1.5, (2, "cider"): 1.5,
    }  # fmt: skip


def test_positives_of_the_same_text_are_one() -> None:
    found, _ = candidates()
    targets = find_targets(found, Wanted(["q"], [["apple", "apple"]], [{"a", "d"}], [1.0]), tensor([0]), False)
    assert len(targets.documents) == 1
    assert targets.weights.tolist() == [1.0]


def test_queries_that_ask_the_same_or_share_a_document_are_no_negatives_of_each_other() -> None:
    found, _ = candidates()
    wanted = Wanted(
        ["q", "r", "q", "s"], [["apple"], ["bread"], ["cider"], ["eggs"]], [{"a"}, {"b", "e"}, {"c"}, {"e"}], [1.0] * 4
    )
    targets = find_targets(found, wanted, tensor([0, 1, 2, 3]), across_ranks=False, with_queries=True)
    assert targets.same is not None
    assert targets.same.int().tolist() == [
        [1, 0, 1, 0],
        [0, 1, 0, 1],  # eggs is relevant for r too
        [1, 0, 1, 0],
        [0, 0, 0, 1],
    ]


@pytest.mark.parametrize("missing", [[], ["elsewhere"]])
def test_an_empty_list_of_judgements_is_possible(missing: list[str]) -> None:
    found, texts = candidates()
    targets = find_targets(found, Wanted(["q"], [["apple"]], [missing], [1.0]), tensor([0]), across_ranks=False)
    assert names(targets.known, texts) == [{"apple"}]
