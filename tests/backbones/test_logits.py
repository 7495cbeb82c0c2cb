from typing import Any

import pytest
import torch
import transformers

from srch3.backbones.logits import next_token_logits
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
