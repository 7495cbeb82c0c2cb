from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from srch3.environments import NoEnvironment, SearchEnvironment
from srch3.errors import CheckpointError, ConfigError
from srch3.losses import BaseKL, CrossEntropy, InfoNCE, TripletMargin
from srch3.modules import SFTModule
from srch3.types import TrainBatch
from tests.toy import ToyDataModule, quiet_trainer, toy_embedder

BATCH = TrainBatch(
    ids=["a", "b", "c"],
    texts=["parse date", "open file", "sort list"],
    relevant=[{"d0": 1, "d2": 1}, {"d1": 1}, {"d2": 1}],
    thoughts=["time zone", "", "merge"],
    weights=[1.0, 1.0, 1.0],
    positive_ids=[["d0"], ["d1"], ["d2"]],
    positives=[["date time zone parse"], ["file folder read"], ["sort merge split"]],
    negative_ids=[["d3"], [], ["d4", "d5"]],
    negatives=[["hash key"], [], ["node edge", "queue task"]],
)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=2e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    toy_embedder(path)
    return path


def module(folder: Path, **settings: Any) -> SFTModule:
    model = SFTModule(toy_embedder(folder), **{"optimizer": adamw, "hits": 40, **settings})
    model.configure_model()
    return model


def terms_of(model: SFTModule) -> dict[str, Tensor]:
    logged: dict[str, Tensor] = {}
    model.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign, assignment]
    model.log_dict = lambda values, **_: logged.update(values)  # type: ignore[method-assign, assignment]
    logged["returned"] = model.training_step(BATCH, 0)
    return {name: value.detach() for name, value in logged.items()}


def test_every_term_equals_a_slow_loop(folder: Path) -> None:
    settings = {"info_nce": InfoNCE(2.0, temperature=0.1), "triplet_margin": TripletMargin(0.5, margin=0.3)}
    model = module(folder, cross_entropy=CrossEntropy(0.7), base_kl=BaseKL(0.4), **settings)
    model.backbone.eval()
    model.backbone.remember()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    logged = terms_of(model)
    backbone = model.backbone
    with torch.no_grad():
        prompts = backbone.tokenize(BATCH.texts, "thinking")
        completions = backbone.tokenize_thoughts(BATCH.thoughts).inputs
        nll, kl, count = 0.0, 0.0, 0
        thinking = []
        for prompt, tokens in zip(prompts, completions, strict=True):
            ids = torch.tensor([[*prompt, *tokens]])
            output = backbone.causal_lm(ids, output_hidden_states=True)
            with backbone.as_remembered():
                base = backbone.causal_lm(ids).logits
            thinking.append(output.hidden_states[-1][0, -1] / output.hidden_states[-1][0, -1].norm())
            for place, token in enumerate(tokens, start=len(prompt) - 1):
                nll -= float(output.logits[0, place].log_softmax(0)[token])
                kept = [i for i in range(output.logits.shape[-1]) if i != backbone.embed_token_id]
                p, q = base[0, place, kept].log_softmax(0), output.logits[0, place, kept].log_softmax(0)
                kl += float((p.exp() * (p - q)).sum())
                count += 1
        direct = [backbone.embed([ids])[0] for ids in backbone.tokenize(BATCH.texts, "direct")]
        texts = ["date time zone parse", "file folder read", "sort merge split", "hash key", "node edge", "queue task"]
        documents = [backbone.embed([ids])[0] for ids in backbone.tokenize(texts, "document")]
        nce, triplet = 0.0, 0.0
        false = {0: {2}, 1: set(), 2: set()}
        for vectors in (thinking, direct):
            for query, vector in enumerate(vectors):
                cosines = [float(vector @ document) for document in documents]
                allowed = [i for i in range(6) if i not in false[query]]
                nce -= cosines[query] / 0.1 - float(torch.tensor([cosines[i] / 0.1 for i in allowed]).logsumexp(0))
                hardest = max(cosines[i] for i in allowed if i != query)
                triplet += max(0.0, 0.3 - cosines[query] + hardest)
    assert float(logged["train/cross_entropy"]) == pytest.approx(nll / count, abs=1e-5)
    assert float(logged["train/base_kl"]) == pytest.approx(kl / count, abs=1e-5)
    assert float(logged["train/info_nce"]) == pytest.approx(nce / 6, abs=1e-5)
    assert float(logged["train/triplet_margin"]) == pytest.approx(triplet / 6, abs=1e-5)
    total = 0.7 * nll / count + 0.4 * kl / count + 2.0 * nce / 6 + 0.5 * triplet / 6
    assert float(logged["returned"]) == pytest.approx(total, abs=1e-5)
    assert kl > 1e-3


def test_a_term_of_weight_zero_is_not_computed(folder: Path) -> None:
    off = {"cross_entropy": CrossEntropy(0.0), "base_kl": BaseKL(0.0), "triplet_margin": TripletMargin(0.0)}
    logged = terms_of(module(folder, **off))
    assert {name for name in logged if name.startswith("train/")} == {"train/loss", "train/info_nce"}
    logged = terms_of(module(folder, base_kl=BaseKL(0.0), triplet_margin=TripletMargin(0.0), info_nce=InfoNCE(0.0)))
    assert {name for name in logged if name.startswith("train/")} == {"train/loss", "train/cross_entropy"}


def test_training_finds_what_it_could_not_find(folder: Path, tmp_path: Path) -> None:
    model = module(folder, modes=["thinking", "direct", "empty", "shuffled"], base_kl=BaseKL(0.0))
    trainer = quiet_trainer(
        tmp_path, max_steps=120, check_val_every_n_epoch=1000, callbacks=[SearchEnvironment(show_progress=False)]
    )
    data = ToyDataModule(batch_size=20)
    before = trainer.validate(model, datamodule=data, verbose=False)[0]
    trainer.fit(model, datamodule=data)
    after = trainer.validate(model, datamodule=data, verbose=False)[0]
    assert after["val/ndcg@10"] == after["val/thinking/ndcg@10"]
    assert after["val/direct/ndcg@10"] > before["val/direct/ndcg@10"] + 0.15
    assert {f"val/{mode}/recall@100" for mode in ("thinking", "direct", "empty", "shuffled")} <= set(after)


def test_thoughts_of_others_do_not_depend_on_the_batch_size(folder: Path) -> None:
    model = module(folder, modes=["thinking", "shuffled"])
    texts = [f"query about word {number}" for number in range(7)]

    def shuffled(size: int) -> Tensor:
        model.on_validation_epoch_start()
        parts = [texts[first : first + size] for first in range(0, 7, size)]
        return torch.cat([model.embed_queries(part, ["shuffled"])["shuffled"].embeddings for part in parts])

    torch.testing.assert_close(shuffled(7)[1:], shuffled(2)[1:], atol=1e-5, rtol=0)
    own = model.embed_queries(texts, ["thinking"])["thinking"].embeddings
    assert (own - shuffled(7)).abs().max() > 1e-3


def test_a_stage_starts_from_another_stages_weights_alone(folder: Path, tmp_path: Path) -> None:
    first = module(folder)
    trainer = quiet_trainer(tmp_path, max_steps=2, limit_val_batches=0, callbacks=[SearchEnvironment()])
    trainer.fit(first, datamodule=ToyDataModule(batch_size=20))
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    second = module(folder, init_from=str(tmp_path / "first.ckpt"))
    for name, value in first.backbone.state_dict().items():
        assert torch.equal(second.backbone.state_dict()[name], value)
    with pytest.raises(CheckpointError, match="init_from: expected a checkpoint file"):
        module(folder, init_from=str(tmp_path / "absent.ckpt"))
    (tmp_path / "torn.ckpt").write_bytes((tmp_path / "first.ckpt").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="init_from: expected a checkpoint of srch3"):
        module(folder, init_from=str(tmp_path / "torn.ckpt"))
    torch.save({"state_dict": {"backbone.model.x": torch.ones(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="which differ"):
        module(folder, init_from=str(tmp_path / "other.ckpt"))


def test_a_resumed_run_must_keep_its_frozen_reference(folder: Path, tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, max_steps=2, limit_val_batches=0, callbacks=[SearchEnvironment()])
    model = module(folder)
    trainer.fit(model, datamodule=ToyDataModule(batch_size=20))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    moved = module(folder)
    with torch.no_grad():
        next(moved.backbone.parameters()).add_(0.1)
    again = quiet_trainer(tmp_path, max_steps=3, limit_val_batches=0, callbacks=[SearchEnvironment()])
    with pytest.raises(CheckpointError, match="init_from"):
        again.fit(moved, datamodule=ToyDataModule(batch_size=20), ckpt_path=tmp_path / "run.ckpt")


def test_checkpoints_load_safely_and_rebuild_the_module(folder: Path, tmp_path: Path) -> None:
    model = module(folder)
    trainer = quiet_trainer(tmp_path, max_steps=1, limit_val_batches=0, callbacks=[SearchEnvironment()])
    trainer.fit(model, datamodule=ToyDataModule(batch_size=20))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    saved = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert saved["srch3"]["stage"] == "SFTModule"
    loaded = SFTModule.load_from_checkpoint(tmp_path / "run.ckpt", backbone=toy_embedder(folder), weights_only=True)
    texts = ["open file", "sort list"]
    torch.testing.assert_close(loaded(texts, "direct"), model(texts, "direct"), atol=1e-6, rtol=0)
    torch.testing.assert_close(loaded.encode_documents(texts), model.encode_documents(texts), atol=1e-6, rtol=0)


def test_prediction_names_what_it_found(folder: Path, tmp_path: Path) -> None:
    model = module(folder, hits=3)
    trainer = quiet_trainer(tmp_path, callbacks=[SearchEnvironment(show_progress=False)])
    searches = trainer.predict(model, datamodule=ToyDataModule(eval_batch_size=8))
    assert searches is not None
    assert len(searches) == 5
    first: Any = searches[0]
    assert first.ids == [f"predict{row}" for row in range(8)]
    assert [[f"d{row}" for row in rows] for rows in first.hits.rows.tolist()] == first.document_ids
    assert all(len(found) == 3 for found in first.document_ids)


def test_bad_settings_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train_modes: expected thinking and direct"):
        module(folder, train_modes=["empty"])
    trainer = quiet_trainer(tmp_path, max_steps=1, callbacks=[NoEnvironment()])
    with pytest.raises(ConfigError, match="SearchEnvironment"):
        trainer.validate(module(folder), datamodule=ToyDataModule(), verbose=False)
    endless = quiet_trainer(tmp_path, max_epochs=-1, limit_val_batches=0, callbacks=[SearchEnvironment()])
    with pytest.raises(ConfigError, match="schedule"):
        endless.fit(module(folder), datamodule=ToyDataModule())


def test_token_embeddings_may_learn_at_a_rate_of_their_own(folder: Path, tmp_path: Path) -> None:
    model = module(folder, embedding_lr_scale=5.0, schedule="linear", warmup=0.0)
    trainer = quiet_trainer(tmp_path, max_steps=4, limit_val_batches=0, callbacks=[SearchEnvironment()])
    trainer.fit(model, datamodule=ToyDataModule(batch_size=20))
    rest, embeddings = trainer.optimizers[0].param_groups
    assert [parameter.shape[0] for parameter in embeddings["params"]] == [len(model.backbone.tokenizer)]
    assert embeddings["initial_lr"] == pytest.approx(5 * rest["initial_lr"]) == pytest.approx(0.01)
    assert len(rest["params"]) + 1 == len(list(model.parameters()))
    with pytest.raises(ConfigError, match="embedding_lr_scale: expected a factor above 0"):
        module(folder, embedding_lr_scale=0.0)


def test_a_model_that_was_validated_can_be_trained_and_validated_again(folder: Path, tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, max_steps=2, callbacks=[SearchEnvironment(show_progress=False)])
    model, data = module(folder), ToyDataModule(batch_size=6)
    before = trainer.validate(model, data, verbose=False)[0]
    trainer.fit(model, data)
    after = trainer.validate(model, data, verbose=False)[0]
    assert before.keys() == after.keys()
    assert trainer.global_step == 2
