import math
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from srch3.backbones import logits
from srch3.backbones.logits import next_token_log_probs, next_token_logits
from tests.models import SMALL

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "granite": ("GraniteConfig", {"logits_scaling": 7.0}),
    "granitemoe": ("GraniteMoeConfig", {"logits_scaling": 3.0, "num_local_experts": 2, "num_experts_per_tok": 1}),
    "cohere": ("CohereConfig", {"logit_scale": 0.25}),
    "cohere2": ("Cohere2Config", {"logit_scale": 0.25}),
    "gemma2": ("Gemma2Config", {"head_dim": 8, "final_logit_softcapping": 2.0}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 8, "final_logit_softcapping": 2.0}),
    "llama": ("LlamaConfig", {}),
    "phi": ("PhiConfig", {}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_models_own_forward_pass(family: str) -> None:
    name, settings = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, name)(
        vocab_size=50, **SMALL, initializer_range=0.5, pad_token_id=0, bos_token_id=1, eos_token_id=2, **settings
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    ids = torch.tensor([[3, 9, 27, 4]])
    with torch.no_grad():
        expected = model(ids).logits
        hidden = model.base_model(ids).last_hidden_state
        got = next_token_logits(model, hidden[0])
        unscaled = model.get_output_embeddings()(hidden[0])
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected[0], atol=1e-5, rtol=0)
    assert (unscaled - got).abs().max() > 0.1 or not settings


def a_model(vocabulary: int = 50) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=vocabulary, **SMALL, initializer_range=0.5)
    return transformers.AutoModelForCausalLM.from_config(config)


def test_log_probs_and_entropy_by_hand() -> None:
    model = a_model(4)
    with torch.no_grad():
        model.get_output_embeddings().weight[:] = torch.tensor([0.8, 0.4, 0.2, 0.2]).log()[:, None]
    hidden = torch.zeros(2, 32)
    hidden[0, 0] = hidden[1, 3] = 0.5
    found = next_token_log_probs(model, hidden, torch.tensor([0, 3]), temperature=0.5)
    torch.testing.assert_close(found.logprobs.exp(), torch.tensor([0.5, 0.125]))
    expected = 0.5 * math.log(2) + 0.25 * math.log(4) + 0.25 * math.log(8)
    torch.testing.assert_close(found.entropy, torch.full((2,), expected))


@pytest.mark.parametrize(
    ("at_once", "bound", "most"),
    [(None, 1, 1), (None, 3 * 50 + 20, 3), (None, 7 * 50, 7), (None, 10**9, 7), (2, 10**9, 2), (5, 3 * 50, 3)],
)
def test_logits_are_held_in_parts_that_change_nothing(
    monkeypatch: pytest.MonkeyPatch, at_once: int | None, bound: int, most: int
) -> None:
    monkeypatch.setattr(logits, "LOGITS_AT_ONCE", bound)
    model = a_model()
    hidden, targets = torch.randn(7, 32, requires_grad=True), torch.tensor([1, 2, 3, 4, 5, 6, 49])
    sizes: list[int] = []
    output = model.get_output_embeddings()
    output.register_forward_hook(lambda module, inputs, result: sizes.append(len(result)))

    def gradients(logprobs: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((logprobs * torch.arange(7)).sum(), (hidden, output.weight))

    found = next_token_log_probs(model, hidden, targets, 0.7, at_once)
    assert max(sizes) == most
    assert sum(sizes) == 7
    slopes = gradients(found.logprobs)
    assert sum(sizes) == (7 if most == 7 else 14)
    everything = (next_token_logits(model, hidden) / 0.7).log_softmax(1)
    expected = everything[torch.arange(7), targets]
    torch.testing.assert_close(found.logprobs, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.entropy, -(everything.exp() * everything).sum(1), atol=1e-5, rtol=0)
    for slope, wanted in zip(slopes, gradients(expected), strict=True):
        torch.testing.assert_close(slope, wanted, atol=1e-5, rtol=1e-5)


def test_no_tokens_have_no_log_probs_but_gradients() -> None:
    model = a_model()
    hidden = torch.zeros(0, 32, requires_grad=True)
    found = next_token_log_probs(model, hidden, torch.zeros(0, dtype=torch.int64))
    found.logprobs.sum().backward()
    assert found.logprobs.shape == found.entropy.shape == (0,)
    assert hidden.grad is not None
