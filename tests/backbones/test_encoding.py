import copy
from pathlib import Path

import pytest
import torch

from srch3.backbones import LoRA, PlainPrompts, ReasoningEmbedder, encoding, last_layer
from srch3.backbones.last_layer import LastLayer
from srch3.backbones.loading import Attention
from srch3.inference.embedder import keep_weights_in
from tests.models import FAMILIES, make_model_folder
from tests.toy import WORDS

TEXTS = [" ".join(WORDS[: 1 + number % 17]) for number in range(40)]


def make(folder: Path, family: str = "qwen2", attention: Attention | None = None) -> ReasoningEmbedder:
    model = make_model_folder(folder / family, family, chat=False)
    embedder = ReasoningEmbedder(model, PlainPrompts(), tokens_per_batch=256, attn_implementation=attention)
    embedder.build()
    return embedder.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> ReasoningEmbedder:
    return make(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize(
    ("family", "attention"), [*((family, None) for family in FAMILIES), ("qwen2", "eager"), ("mistral", "eager")]
)
def test_embeddings_are_those_of_the_backbone(family: str, attention: Attention | None, tmp_path: Path) -> None:
    embedder = make(tmp_path, family, attention)
    sequences = embedder.tokenize(TEXTS, "document")
    assert LastLayer.fits(embedder.causal_lm)
    found, expected = encoding.embed(embedder, sequences), embedder.embed(sequences)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    own = "eager" if family == "gemma2" else "sdpa"
    assert embedder.causal_lm.config._attn_implementation == (attention or own)


def test_a_pass_leaves_no_trace(qwen: ReasoningEmbedder) -> None:
    sequences = qwen.tokenize(TEXTS, "document")
    before = qwen.embed(sequences)
    encoding.embed(qwen, sequences)
    last = LastLayer(qwen.causal_lm)
    with pytest.raises(KeyboardInterrupt), last.only_at(torch.tensor([0])):
        raise KeyboardInterrupt
    assert torch.equal(qwen.embed(sequences), before)
    assert "srch3_places" not in vars(last.attention)


def test_the_last_layer_is_computed_at_one_token_of_each_sequence(
    qwen: ReasoningEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    attended, fed = [], []
    original = last_layer.sdpa_attention_forward

    def watched(module: torch.nn.Module, query: torch.Tensor, *args: object, **settings: object) -> object:
        attended.append(query.shape[2])
        return original(module, query, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(last_layer, "sdpa_attention_forward", watched)
    layers = qwen.causal_lm.base_model.layers
    handles = [
        layer.mlp.down_proj.register_forward_hook(lambda _, inputs, __: fed.append(inputs[0].shape[1]))
        for layer in layers
    ]
    sequences = qwen.tokenize(["file of numbers"], "document")
    encoding.embed(qwen, sequences)
    for handle in handles:
        handle.remove()
    assert attended == fed == [len(sequences[0]), 1]


def test_padding_neighbours_and_order_change_nothing(qwen: ReasoningEmbedder) -> None:
    sequences = qwen.tokenize(TEXTS, "document")
    together = encoding.embed(qwen, sequences)
    alone = torch.cat([encoding.embed(qwen, [sequence]) for sequence in sequences])
    turned = encoding.embed(qwen, sequences[::-1]).flip(0)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together, turned, atol=1e-5, rtol=0)


def test_what_follows_the_embed_token_is_not_read(qwen: ReasoningEmbedder) -> None:
    sequences = qwen.tokenize(TEXTS[:3], "document")
    longer = [[*sequence, 7, 8] for sequence in sequences]
    torch.testing.assert_close(encoding.embed(qwen, longer), encoding.embed(qwen, sequences), atol=1e-5, rtol=0)


def test_bfloat16_stays_near_and_comes_back_as_float32(qwen: ReasoningEmbedder) -> None:
    half = copy.deepcopy(qwen)
    keep_weights_in(half, torch.bfloat16)
    sequences = qwen.tokenize(TEXTS, "document")
    found, exact = encoding.embed(half, sequences), encoding.embed(qwen, sequences)
    assert found.dtype == torch.float32
    assert 0.999 < float((found * exact).sum(1).min()) < 0.9999999
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(TEXTS)))


def test_passes_on_a_cpu_hold_as_many_bytes_in_any_precision(
    qwen: ReasoningEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = copy.deepcopy(qwen)
    keep_weights_in(half, torch.bfloat16)
    sequence = qwen.tokenize(["file"], "document")[0]
    monkeypatch.setattr(encoding, "CPU_BYTES", 16 * len(sequence))
    for embedder, expected in ((qwen, 4), (half, 8)):
        passes: list[int] = []
        encoding.embed(embedder, [sequence] * 9, passes.append)
        assert max(passes) == expected
        assert sum(passes) == 9


def test_the_tokens_per_batch_of_a_model_are_not_exceeded(qwen: ReasoningEmbedder) -> None:
    sequence = qwen.tokenize(["file"], "document")[0]
    passes: list[int] = []
    encoding.embed(qwen, [sequence] * 40, passes.append)
    assert max(passes) == 256 // len(sequence)


def test_models_that_look_ahead_or_are_unknown_are_left_to_the_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = make(tmp_path)
    sequences = embedder.tokenize(TEXTS[:3], "document")
    expected = embedder.embed(sequences)
    monkeypatch.setattr(last_layer.LastLayer, "only_at", None)
    for name, value in (("use_bidirectional_attention", True), ("model_type", "unknown")):
        with monkeypatch.context() as patched:
            patched.setattr(embedder.causal_lm.config, name, value, raising=False)
            assert torch.equal(encoding.embed(embedder, sequences), expected)


def test_no_texts_have_no_embeddings(qwen: ReasoningEmbedder) -> None:
    assert encoding.embed(qwen, []).shape == (0, qwen.dim)


def test_adapters_and_mixed_precision_are_those_of_the_backbone(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "base", chat=False)
    embedder = ReasoningEmbedder(folder, PlainPrompts(), lora=LoRA(r=4), gradient_checkpointing=True)
    embedder.build()
    for name, weight in embedder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
    embedder.eval()
    sequences = embedder.tokenize(TEXTS, "document")
    with torch.no_grad():
        torch.testing.assert_close(encoding.embed(embedder, sequences), embedder.embed(sequences), atol=1e-5, rtol=0)
        with torch.autocast("cpu", torch.bfloat16):
            mixed, expected = encoding.embed(embedder, sequences), embedder.embed(sequences)
    assert mixed.dtype == expected.dtype == torch.float32
    assert float((mixed * expected).sum(dim=1).min()) > 0.999
