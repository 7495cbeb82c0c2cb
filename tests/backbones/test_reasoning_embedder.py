from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM

from srch3.backbones import ChatPrompts, PlainPrompts, ReasoningEmbedder
from srch3.backbones.batching import length_batches, pad
from srch3.backbones.embed_token import add_embed_token, embedding_matrix, special_tokens
from srch3.errors import ConfigError, ModelError
from tests.models import FAMILIES, make_model_folder, make_tokenizer

TEXTS = [
    "parse a date",
    "the quick brown fox jumps over the lazy dog while reading",
    "embeddings",
    "raise a value error",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {family: make_model_folder(root / family, family) for family in FAMILIES}


def built(model: str, **settings: object) -> ReasoningEmbedder:
    embedder = ReasoningEmbedder(model, **settings)  # type: ignore[arg-type]
    embedder.build()
    return embedder.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_do_not_depend_on_padding_order_or_batch_size(folders: dict[str, str], family: str) -> None:
    embedder = built(folders[family])
    with torch.no_grad():
        sequences = embedder.tokenize(TEXTS, "document")
        together = embedder.embed(sequences)
        alone = torch.cat([embedder.embed([sequence]) for sequence in sequences])
        backwards = embedder.embed(sequences[::-1]).flip(0)
        sides = []
        for side in ("left", "right"):
            ids, mask, positions = pad(sequences, embedder.pad_id, side, "cpu")  # type: ignore[arg-type]
            hidden = embedder.hidden_states(ids, mask, positions)
            at = [row.tolist().index(embedder.embed_token_id) for row in ids]
            sides.append(torch.nn.functional.normalize(hidden[torch.arange(len(ids)), at], dim=1))
    assert together.dtype == torch.float32
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(TEXTS)), atol=1e-6, rtol=0)
    for other in (alone, backwards, *sides):
        torch.testing.assert_close(together, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("spare_rows", [0, 24])
def test_the_embed_token_gets_a_row_and_no_other_row_changes(tmp_path: Path, spare_rows: int) -> None:
    folder = make_model_folder(tmp_path / "m", spare_rows=spare_rows)
    embedder, again = built(folder, seed=1), built(folder, seed=1)
    matrix = embedder.causal_lm.get_input_embeddings().weight
    import transformers

    before = transformers.AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight
    row = embedder.embed_token_id
    assert row == len(embedder.tokenizer) - 1
    assert len(matrix) == max(len(before), len(embedder.tokenizer))
    torch.testing.assert_close(matrix[:row], before[:row], atol=0, rtol=0)
    torch.testing.assert_close(matrix, again.causal_lm.get_input_embeddings().weight, atol=0, rtol=0)
    assert (matrix[row] - before[:row].mean(0)).abs().max() > 0
    assert (matrix[row] - before[:row].mean(0)).norm() < before[:row].norm(dim=1).mean()


def test_a_saved_model_embeds_alike_after_loading(folders: dict[str, str], tmp_path: Path) -> None:
    embedder = built(folders["qwen3"])
    embedder.save_pretrained(tmp_path / "saved")
    loaded = built(str(tmp_path / "saved"), seed=9)
    assert loaded.embed_token_id == embedder.embed_token_id
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.embed(loaded.tokenize(TEXTS, "direct")),
            embedder.embed(embedder.tokenize(TEXTS, "direct")),
            atol=1e-6,
            rtol=0,
        )


def test_prompts_without_a_system_role_open_the_users_turn(tmp_path: Path) -> None:
    embedder = built(make_model_folder(tmp_path / "m", system_role=False), prompts=ChatPrompts(document="Represent."))
    text = embedder.tokenizer.decode(embedder.tokenize(["fox"], "document")[0])
    assert (
        text == "<|im_start|>user\nRepresent.\n\nfox<|im_end|>\n<|im_start|>assistant\nThe embedding is <|embed_token|>"
    )


def test_plain_prompts_need_no_template(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "m", chat=False)
    embedder = built(folder, prompts=PlainPrompts())
    assert embedder.tokenizer.decode(embedder.tokenize(["fox"], "thinking")[0]) == "query: fox\nthought:"
    thought = embedder.tokenize_thoughts(["lazy dog"]).inputs[0]
    assert embedder.tokenizer.decode(thought) == " lazy dog<|embed_token|>"
    assert embedder.decode_thought(thought) == "lazy dog"
    with pytest.raises(ModelError, match="PlainPrompts"):
        built(folder)


def test_bad_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"backbone.init_args.model: expected a folder .* './absent'"):
        built("./absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="safetensors"):
        built(str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="max_thought_tokens: expected at least 1, got 0"):
        ReasoningEmbedder("x", max_thought_tokens=0)
    with pytest.raises(RuntimeError, match="build"):
        ReasoningEmbedder("x").dim  # noqa: B018


def test_remembered_weights_serve_as_the_frozen_reference(folders: dict[str, str]) -> None:
    embedder = built(folders["qwen2"])
    with pytest.raises(RuntimeError, match="remember"), embedder.as_remembered():
        pass
    sequences = embedder.tokenize(TEXTS, "direct")
    with torch.no_grad():
        before = embedder.embed(sequences)
        embedder.remember()
        for parameter in embedder.parameters():
            parameter.mul_(1.1).add_(0.05)
        after = embedder.embed(sequences)
        with embedder.as_remembered():
            remembered = embedder.embed(sequences)
        restored = embedder.embed(sequences)
    torch.testing.assert_close(remembered, before, atol=0, rtol=0)
    torch.testing.assert_close(restored, after, atol=0, rtol=0)
    assert (before - after).abs().max() > 1e-3
    assert embedder.remembered_fingerprint() > 0


def test_length_batches_hold_every_index_once_within_the_budget() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 200, (500,), generator=generator).tolist()
    batches = list(length_batches(lengths, max_tokens=1024))
    assert sorted(index for batch in batches for index in batch) == list(range(500))
    for batch in batches:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= 1024 or len(batch) == 1
        if len(batch) > 16:
            assert padded - sum(lengths[index] for index in batch) <= 0.15 * padded
    assert list(length_batches([5000], max_tokens=10)) == [[0]]


def test_the_reference_and_the_model_keep_apart_under_autocast(folders: dict[str, str]) -> None:
    embedder = built(folders["qwen2"])
    embedder.remember()
    sequences = embedder.tokenize(TEXTS, "document")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = embedder.embed(sequences).detach()
    with torch.no_grad():
        for parameter in embedder.parameters():
            parameter.mul_(torch.linspace(0.5, 1.5, len(parameter)).view(-1, *[1] * (parameter.ndim - 1)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        now = embedder.embed(sequences).detach()
    assert (now - before).abs().max() > 0.1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = embedder.embed(sequences).detach()
        with embedder.as_remembered():
            reference = embedder.embed(sequences)
        last = embedder.embed(sequences).detach()
    torch.testing.assert_close(reference, before, atol=1e-6, rtol=0)
    torch.testing.assert_close(first, now, atol=1e-6, rtol=0)
    torch.testing.assert_close(last, now, atol=1e-6, rtol=0)


def test_the_embed_token_has_the_same_row_whatever_the_default_device(folders: dict[str, str]) -> None:
    rows = []
    for default in ("cpu", "meta"):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folders["qwen2"]), make_tokenizer()
        model.resize_token_embeddings(len(tokenizer) + 8, mean_resizing=False)
        with torch.device(default):
            token = add_embed_token(model, tokenizer, "<|embed_token|>", seed=1)
        rows.append(embedding_matrix(model)[token].detach())
    torch.testing.assert_close(rows[0], rows[1], atol=0, rtol=0)


def test_markers_that_no_setting_names_are_special_too() -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("<|header|>", special=True), AddedToken("word", special=False)])
    assert {"<|header|>", "<|im_start|>", "<|pad|>"} <= special_tokens(tokenizer)
    assert "word" not in special_tokens(tokenizer)


def test_a_chat_template_that_tells_the_date_renders_alike_every_day() -> None:
    tokenizer = make_tokenizer()
    today = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    tokenizer.chat_template = f"{today}Today: {{{{ date_string }}}}\n{tokenizer.chat_template}"
    assert ChatPrompts().render(tokenizer, "document", "a", "<e>").startswith("Today: 01 Jan 2025\n")
