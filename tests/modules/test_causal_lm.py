from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from srch3.backbones import PlainPrompts, ReasoningEmbedder
from srch3.errors import ConfigError, NumericError
from srch3.modules import CausalLMModule
from tests.models import SENTENCES, make_tokenizer
from tests.toy import quiet_trainer


class Text(L.LightningDataModule):
    def __init__(self, tokenizer: Any = None) -> None:
        super().__init__()
        if tokenizer is not None:
            self.tokenizer = tokenizer
        ids = make_tokenizer()(" ".join(SENTENCES * 4))["input_ids"]
        self.blocks = torch.tensor(ids[: len(ids) // 16 * 16]).view(-1, 16)

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(self.blocks, batch_size=4)  # type: ignore[arg-type]

    val_dataloader = train_dataloader


def module(folder: Path, **settings: Any) -> CausalLMModule:
    return CausalLMModule(str(folder), **{"hidden_size": 32, "layers": 2, **settings})


def test_it_learns_and_leaves_a_folder_that_the_backbone_loads(tmp_path: Path) -> None:
    model = module(tmp_path / "base", optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2))
    trainer = quiet_trainer(tmp_path, max_steps=60)
    data = Text(make_tokenizer())
    before = trainer.validate(model, data, verbose=False)[0]["val/loss"]
    trainer.fit(model, data)
    after = trainer.validate(model, data, verbose=False)[0]["val/loss"]
    assert after < before - 2
    embedder = ReasoningEmbedder(str(tmp_path / "base"), prompts=PlainPrompts())
    embedder.build()
    assert embedder.dim == 32
    ids = data.blocks[:2]
    assert model.model is not None
    with torch.no_grad():
        torch.testing.assert_close(embedder.causal_lm(ids).logits[..., :-1], model.model(ids).logits, atol=1e-5, rtol=0)


def test_the_loss_is_the_mean_cross_entropy_of_the_next_token(tmp_path: Path) -> None:
    model = module(tmp_path / "base")
    trainer = quiet_trainer(tmp_path)
    data = Text(make_tokenizer())
    logged = trainer.validate(model, data, verbose=False)[0]["val/loss"]
    assert model.model is not None
    with torch.no_grad():
        logits = model.model(data.blocks).logits
    losses = [
        -float(logits[row, place].log_softmax(0)[data.blocks[row, place + 1]])
        for row in range(len(data.blocks))
        for place in range(15)
    ]
    assert logged == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    weights = []
    for seed in (1, 1, 2):
        model = module(tmp_path / "base", seed=seed)
        quiet_trainer(tmp_path).validate(model, Text(make_tokenizer()), verbose=False)
        assert model.model is not None
        weights.append(model.model.get_input_embeddings().weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_bad_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="heads: expected a divisor of hidden_size 32, got 5"):
        module(tmp_path, heads=5)
    with pytest.raises(ConfigError, match="MinedTextDataModule"):
        quiet_trainer(tmp_path, max_steps=1).fit(module(tmp_path), Text())
    rising = module(tmp_path, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e12))
    with pytest.raises(NumericError, match="learning rate"):
        quiet_trainer(tmp_path, max_steps=20).fit(rising, Text(make_tokenizer()))
