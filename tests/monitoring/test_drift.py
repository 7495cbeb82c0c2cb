import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from srch3.backbones import LoRA
from srch3.environments import SearchEnvironment
from srch3.errors import ConfigError, DataError
from srch3.losses import InfoNCE
from srch3.modules import SFTModule
from srch3.monitoring import PerplexityDrift, drift
from tests.programs import Line, NumberData
from tests.toy import ToyDataModule, quiet_trainer, toy_embedder

LINES = ["parse a date string and return seconds", "", "sort", "merge lists of numbers and words <|embed_token|> now"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    toy_embedder(path)
    return path


def by_hand(model: Any, tokenizer: Any, texts: list[str], left_out: int | None = None, longest: int = 256) -> float:
    """One text after the other, through the model's own forward pass."""
    nats, count = 0.0, 0
    for text in texts:
        ids = tokenizer(text)["input_ids"][:longest]
        logits = model(torch.tensor([ids])).logits[0].double()
        if left_out is not None:
            logits[:, left_out] = -math.inf
        nats -= sum(float(logits[place].log_softmax(0)[token]) for place, token in enumerate(ids[1:]))
        count += len(ids) - 1
    return math.exp(nats / count)


def of_the_base(folder: Path, texts: list[str], longest: int = 256) -> float:
    with torch.no_grad():
        return by_hand(
            AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), texts, None, longest
        )


def module(folder: Path, **settings: Any) -> SFTModule:
    backbone = settings.pop("backbone", None) or toy_embedder(folder)
    optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=1e-2)  # noqa: E731
    return SFTModule(backbone, optimizer=optimizer, modes=["direct"], info_nce=InfoNCE(), **settings)


def validate(root: Path, model: SFTModule, callback: PerplexityDrift) -> dict[str, float]:
    trainer = quiet_trainer(root, callbacks=[callback, SearchEnvironment(show_progress=False)])
    return dict(trainer.validate(model, ToyDataModule(), verbose=False)[0])


def fit(root: Path, model: SFTModule, callback: PerplexityDrift, steps: int, ckpt: Path | None = None) -> Any:
    callbacks = [callback, SearchEnvironment(show_progress=False)]
    trainer = quiet_trainer(root, max_steps=steps, val_check_interval=2, callbacks=callbacks)
    trainer.fit(model, ToyDataModule(batch_size=6), ckpt_path=ckpt)
    return trainer


def test_an_untrained_model_has_the_perplexity_of_its_base(folder: Path, tmp_path: Path) -> None:
    texts = list(ToyDataModule().corpus("val").texts[:7])
    logged = validate(tmp_path, module(folder), PerplexityDrift(limit=7))
    assert logged["val/perplexity"] == pytest.approx(of_the_base(folder, texts), rel=1e-5)
    assert logged["val/perplexity_ratio"] == pytest.approx(1.0, abs=1e-6)
    assert of_the_base(folder, texts[:6]) != pytest.approx(logged["val/perplexity"], rel=1e-4)


def test_a_trained_model_is_compared_with_the_base_it_came_from(folder: Path, tmp_path: Path) -> None:
    """Whatever stage it starts from: ``init_from`` is no base."""
    first = module(folder)
    begun = fit(tmp_path, first, PerplexityDrift(), 4)
    begun.save_checkpoint(tmp_path / "stage1.ckpt")
    model = module(folder, init_from=str(tmp_path / "stage1.ckpt"))
    logged = validate(tmp_path, model, PerplexityDrift())
    texts = list(ToyDataModule().corpus("val").texts)
    backbone = model.backbone
    with torch.no_grad():
        now = by_hand(backbone.causal_lm.eval(), backbone.tokenizer, texts, backbone.embed_token_id)
    assert logged["val/perplexity"] == pytest.approx(now, rel=1e-5)
    assert logged["val/perplexity_ratio"] == pytest.approx(now / of_the_base(folder, texts), rel=1e-5)
    assert abs(logged["val/perplexity_ratio"] - 1) > 1e-3
    assert float(begun.callback_metrics["val/perplexity"]) == pytest.approx(now, rel=1e-5)


def test_texts_may_come_from_a_file(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(LINES), encoding="utf-8")
    model = module(folder, backbone=toy_embedder(folder, max_document_tokens=9))
    logged = validate(tmp_path, model, PerplexityDrift(texts=str(path)))
    texts = [LINES[0], LINES[2], LINES[3].replace("<|embed_token|>", " ")]
    assert logged["val/perplexity"] == pytest.approx(of_the_base(folder, texts, longest=9), rel=1e-5)
    logged = validate(tmp_path, model, PerplexityDrift(texts=str(path), limit=2))
    assert logged["val/perplexity"] == pytest.approx(of_the_base(folder, texts[:2], longest=9), rel=1e-5)


def test_passes_of_any_size_give_the_same(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = validate(tmp_path, module(folder), PerplexityDrift())
    monkeypatch.setattr(drift, "TOKENS_AT_ONCE", 30)
    assert validate(tmp_path, module(folder), PerplexityDrift()) == pytest.approx(whole, rel=1e-5)


def test_fresh_adapters_change_nothing(folder: Path, tmp_path: Path) -> None:
    adapted = validate(tmp_path, module(folder, backbone=toy_embedder(folder, lora=LoRA(r=2))), PerplexityDrift())
    assert adapted["val/perplexity_ratio"] == pytest.approx(1.0, abs=1e-5)


def test_a_resumed_run_has_the_same_base_and_does_not_load_it_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = drift.load_causal_lm

    def spy(name: str, *args: Any, **more: Any) -> Any:
        loaded.append(name)
        return load(name, *args, **more)

    monkeypatch.setattr(drift, "load_causal_lm", spy)
    trainer = fit(tmp_path, module(folder), PerplexityDrift(), 4)
    assert len(loaded) == 1
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    logged = trainer.callback_metrics
    base = float(logged["val/perplexity"] / logged["val/perplexity_ratio"])
    resumed = fit(tmp_path, module(folder), PerplexityDrift(), 6, tmp_path / "run.ckpt").callback_metrics
    assert len(loaded) == 1
    assert float(resumed["val/perplexity"] / resumed["val/perplexity_ratio"]) == pytest.approx(base, rel=1e-6)
    assert float(resumed["val/perplexity"]) != float(logged["val/perplexity"])
    fit(tmp_path, module(folder), PerplexityDrift(limit=3), 6, tmp_path / "run.ckpt")
    assert len(loaded) == 2  # other texts, another number


def test_training_is_what_it_is_without_the_measurement(folder: Path, tmp_path: Path) -> None:
    def weights(*callbacks: Any) -> Any:
        model = module(folder)
        every = [*callbacks, SearchEnvironment(show_progress=False)]
        trainer = quiet_trainer(tmp_path, max_steps=4, val_check_interval=2, callbacks=every)
        trainer.fit(model, ToyDataModule(batch_size=6))
        assert model.backbone.training
        return model.state_dict()

    measured, plain = weights(PerplexityDrift()), weights()
    assert all(torch.equal(measured[name], value) for name, value in plain.items())


def test_what_cannot_be_measured_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"PerplexityDrift\.limit: expected at least 1 text, got 0"):
        PerplexityDrift(limit=0)
    with pytest.raises(ConfigError, match=r"PerplexityDrift expects a model with a backbone, .* got Line; take it out"):
        quiet_trainer(tmp_path, callbacks=[PerplexityDrift()]).validate(Line(), NumberData(), verbose=False)
    with pytest.raises(DataError, match=r"PerplexityDrift\.texts: expected a UTF-8 text file; got absent\.txt"):
        validate(tmp_path, module(folder), PerplexityDrift(texts="absent.txt"))
    for content in (b"", b"\n \na\n", b"\xff\xfe"):
        (tmp_path / "odd.txt").write_bytes(content)
        with pytest.raises(DataError, match=r"PerplexityDrift\.texts"):
            validate(tmp_path, module(folder), PerplexityDrift(texts=str(tmp_path / "odd.txt")))
