import math
import re
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from srch3.backbones import LoRA
from srch3.backbones.scoring import score_completions
from srch3.environments import SearchEnvironment
from srch3.errors import ConfigError, NumericError
from srch3.functional.advantages import group_advantages
from srch3.losses import CrossEntropy, InfoNCE, PolicyLoss, ReferenceKL
from srch3.modules import RLModule, base
from srch3.modules.rollout_figures import warn_of_unended
from srch3.rewards import BaseReward, BatchPool, Format, Length, LogRank, Sum
from srch3.types import Outcome
from tests.toy import ToyDataModule, quiet_trainer, toy_embedder


class Recorder(L.Callback):
    """Keeps every training loss, and the queries behind it."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.queries: list[list[str]] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, i: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))
        self.queries.append(batch.ids)


class Divergences(L.Callback):
    """Keeps the divergence from the reference of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.values.append(float(trainer.callback_metrics["train/reference_kl"]))


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3)


def module(folder: Path, **settings: Any) -> RLModule:
    backbone = settings.pop("backbone", None) or toy_embedder(folder)
    settings = {"optimizer": adamw, "samples": 4, "hits": 10, **settings}
    return RLModule(backbone, **settings)


def fit(root: Path, model: RLModule, steps: int, ckpt_path: str | None = None, **trainer: Any) -> Recorder:
    recorder, environment = Recorder(), SearchEnvironment(show_progress=False)
    callbacks = [recorder, environment, *trainer.pop("callbacks", [])]
    runner = quiet_trainer(root, max_steps=steps, limit_val_batches=0, callbacks=callbacks, **trainer)
    runner.fit(model, datamodule=ToyDataModule(batch_size=6), ckpt_path=ckpt_path)
    return recorder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    toy_embedder(path)
    return path


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_repeats_the_uninterrupted_one(folder: Path, tmp_path: Path) -> None:
    whole = fit(tmp_path, module(folder), 9)
    saver = ModelCheckpoint(tmp_path / "ckpt", every_n_train_steps=4, save_top_k=-1, filename="{step}")
    saving: dict[str, Any] = {"callbacks": [saver], "enable_checkpointing": True}
    fit(tmp_path, module(folder), 5, **saving)
    saving["callbacks"] = [ModelCheckpoint(tmp_path / "ckpt", every_n_train_steps=4, filename="again")]
    resumed = fit(tmp_path, module(folder), 9, ckpt_path=str(tmp_path / "ckpt" / "step=4.ckpt"), **saving)
    assert resumed.queries == whole.queries[4:]
    assert resumed.losses == whole.losses[4:]
    assert len(set(whole.losses)) == 9


class Confidence(BaseReward):
    """Pays for a high cosine of the first hit, right or wrong, with or without the embed token."""

    k = 10

    def judge(self, outcome: Outcome) -> torch.Tensor:
        return outcome.hits.scores[:, 0] * 100


class Spy:
    """Keeps what a module sampled, and what its last policy terms were computed from."""

    def __init__(self, model: RLModule) -> None:
        self.sampled: list[Any] = []
        self.scores: list[Any] = []
        self.terms: list[dict[str, torch.Tensor]] = []
        original = model._policy_terms

        def terms(scores: Any, sampled: Any) -> Any:
            self.sampled.append(sampled)
            self.scores.append(scores)
            self.terms.append(original(scores, sampled))
            return self.terms[-1]

        model._policy_terms = terms  # type: ignore[method-assign]


def test_an_update_makes_rewarded_completions_likelier(folder: Path, tmp_path: Path) -> None:
    model = module(
        folder,
        reward=Confidence(),
        reference_kl=ReferenceKL(weight=0.0),
        info_nce=InfoNCE(weight=0.0),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.02),
        samples=8,
    )
    spy = Spy(model)
    fit(tmp_path, model, 1)
    sampled = spy.sampled[0]
    with torch.no_grad():
        after = score_completions(
            model.backbone, sampled.prompts, sampled.owners.tolist(), sampled.rollouts.completions
        ).logprobs.sum(1)
    advantages, active = group_advantages(sampled.rewards, sampled.owners)
    assert active.any()
    assert float(((after - spy.scores[0].logprobs.detach().sum(1)) * advantages).sum()) > 1e-3


def test_terms_equal_a_slow_loop(folder: Path, tmp_path: Path) -> None:
    model = module(folder, reward=Confidence(), policy_loss=PolicyLoss(), reference_kl=ReferenceKL(weight=0.5))
    spy = Spy(model)
    fit(tmp_path, model, 2)
    sampled, scores, terms = spy.sampled[-1], spy.scores[-1], spy.terms[-1]
    advantages, active = group_advantages(sampled.rewards, sampled.owners)
    policy, kl, tokens = 0.0, 0.0, 0
    for row, column in scores.counted.nonzero().tolist():
        if active[row]:
            difference = float(sampled.reference[row, column] - scores.logprobs[row, column].detach())
            kl += float(torch.tensor(difference).exp()) - difference - 1
            policy -= float(advantages[row])
            tokens += 1
    assert float(terms["policy_loss"].detach()) == pytest.approx(policy / tokens, abs=1e-5)
    assert float(terms["reference_kl"].detach()) == pytest.approx(kl / tokens, abs=1e-5)
    assert kl > 0


def test_several_updates_share_their_completions_and_count_as_one_step(folder: Path, tmp_path: Path) -> None:
    clip = PolicyLoss(clip_low=0.01, clip_high=0.01)
    model = module(folder, updates=3, policy_loss=clip, reward=Confidence())
    spy = Spy(model)
    fit(tmp_path, model, 2)
    assert model.trainer.global_step == 2
    first, later = spy.sampled[:3], spy.sampled[3:]
    assert all(sampled is first[0] for sampled in first)
    assert all(sampled is later[0] for sampled in later)
    assert later[0] is not first[0]
    assert not torch.equal(spy.scores[0].logprobs, spy.scores[1].logprobs)
    assert float(model.trainer.callback_metrics["train/clipped"]) > 0


def test_truncated_completions_can_be_left_out_of_the_policy_loss(folder: Path, tmp_path: Path) -> None:
    model = module(folder, mask_truncated=True, reward=Confidence(), samples=8)
    spy = Spy(model)
    fit(tmp_path, model, 1)
    sampled, scores = spy.sampled[0], spy.scores[0]
    advantages, active = group_advantages(sampled.rewards, sampled.owners)
    counts = active & ~sampled.rollouts.truncated
    assert 0 < int(counts.sum()) < int(active.sum())
    lengths = scores.counted.sum(1)
    expected = -(advantages * lengths)[counts].sum() / lengths[counts].sum()
    assert float(spy.terms[0]["policy_loss"].detach()) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("rollouts_on", ["positives", "both"])
def test_documents_are_thought_about_too(folder: Path, tmp_path: Path, rollouts_on: str) -> None:
    model = module(folder, rollouts_on=rollouts_on, documents="thinking", reward=LogRank(k=3))
    spy = Spy(model)
    recorder = fit(tmp_path, model, 2)
    sides = spy.sampled[0].sides
    assert [side.side.of for side in sides] == (["queries", "positives"] if rollouts_on == "both" else ["positives"])
    positives = sides[-1]
    relevant = positives.side.relevant
    assert all(len(found) == 1 for found in relevant)
    for rollout, (group, rows) in enumerate(zip(positives.groups.tolist(), positives.hits.rows.tolist(), strict=True)):
        rank = rows.index(next(iter(relevant[group]))) + 1 if next(iter(relevant[group])) in rows[:3] else None
        expected = 1 - math.log(rank) / math.log(4) if rank else 0.0
        emitted = bool(spy.sampled[0].rollouts.emitted[len(spy.sampled[0].rewards) - len(positives.rewards) + rollout])
        assert float(positives.rewards[rollout]) == pytest.approx(expected if emitted else 0.0, abs=1e-6)
    assert recorder.losses[0] != recorder.losses[1]
    again = fit(tmp_path, module(folder, rollouts_on=rollouts_on, documents="thinking", reward=LogRank(k=3)), 2)
    assert again.losses == recorder.losses


def test_a_frozen_embedder_reads_with_the_weights_that_it_began_with(folder: Path, tmp_path: Path) -> None:
    texts = ["date parse"]
    model = module(folder, frozen="embedder", reward=Confidence(), optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
    spy = Spy(model)
    fit(tmp_path, model, 3)
    start = toy_embedder(folder)
    start.build()
    with torch.no_grad():
        expected = start.embed(start.tokenize(texts, "document"))
        assert not torch.allclose(model.backbone.embed(model.backbone.tokenize(texts, "document")), expected, atol=1e-3)
        torch.testing.assert_close(model.encode_documents(texts), expected)
        torch.testing.assert_close(
            model.embed_queries(texts, ["direct"])["direct"].embeddings, start.embed(start.tokenize(texts, "direct"))
        )
        side = spy.sampled[-1].sides[0]
        completions = spy.sampled[-1].rollouts.completions.inputs
        sequences = [
            [*spy.sampled[-1].prompts[owner], *tokens]
            for owner, tokens in zip(spy.sampled[-1].owners.tolist(), completions, strict=True)
        ]
        torch.testing.assert_close(side.embeddings, start.embed(sequences), atol=1e-5, rtol=0)


def test_frozen_documents_keep_their_vectors_and_are_compared_with_for_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"policy_loss": PolicyLoss(weight=0.0), "reference_kl": ReferenceKL(weight=0.0)}
    settings |= {
        "info_nce": InfoNCE(weight=1.0),
        "hard_negatives": 40,
        "optimizer": lambda p: torch.optim.SGD(p, lr=0.5),
    }
    start = toy_embedder(folder)
    start.build()
    data = ToyDataModule(batch_size=6)
    with torch.no_grad():
        corpus = start.embed(start.tokenize(data.documents.texts, "document"))
    model = module(folder, frozen="documents", **settings)
    encoded: list[int] = []

    def encode(backbone: Any, sequences: Any, on_progress: Any = None, embed: Any = base.embed) -> torch.Tensor:
        encoded.append(len(sequences))
        found: torch.Tensor = embed(backbone, sequences, on_progress)
        return found

    monkeypatch.setattr(base, "embed", encode)
    monkeypatch.setattr(model.backbone, "embed", None)
    spy = Spy(model)
    recorder = fit(tmp_path, model, 3)
    assert encoded == [len(corpus)]
    rows = torch.tensor([data.documents.row(f"d{query.removeprefix('train')}") for query in recorder.queries[-1]])
    logits = spy.scores[-1].embeddings.detach() @ corpus.T / model.info_nce.temperature
    expected = torch.nn.functional.cross_entropy(logits, rows.repeat_interleave(4))
    assert recorder.losses[-1] == pytest.approx(float(expected), abs=1e-5)
    torch.testing.assert_close(model.encode_documents(data.documents.texts), corpus)
    monkeypatch.undo()
    moved = model.embed_queries(["date parse"], ["direct"])["direct"].embeddings
    with torch.no_grad():
        assert not torch.allclose(moved, start.embed(start.tokenize(["date parse"], "direct")), atol=1e-3)


class Encodings(L.Callback):
    """Counts the documents that are encoded."""

    def __init__(self, model: RLModule) -> None:
        self.counts: list[int] = []
        original = model.encode_documents

        def encode(texts: Any, *args: Any) -> Any:
            self.counts.append(len(texts))
            return original(texts, *args)

        model.encode_documents = encode  # type: ignore[method-assign]


def test_a_pool_of_the_batch_needs_no_index(folder: Path, tmp_path: Path) -> None:
    model = module(folder, pool=BatchPool(), reward=LogRank(k=5))
    encodings = Encodings(model)
    fit(tmp_path, model, 3)
    assert len(encodings.counts) == 3
    assert max(encodings.counts) <= 6


@pytest.mark.parametrize("reward", [LogRank(k=1), Sum([Format(), Length()])])
def test_hard_negatives_are_there_whatever_the_reward_looks_at(folder: Path, tmp_path: Path, reward: Any) -> None:
    model = module(folder, reward=reward, hard_negatives=5)
    spy = Spy(model)
    fit(tmp_path, model, 1)
    assert spy.sampled[0].sides[0].hits.rows.shape[1] >= 6


def test_queries_without_a_thought_are_not_taught_to_have_none(folder: Path, tmp_path: Path) -> None:
    model = module(folder, cross_entropy=CrossEntropy(weight=1.0))
    seen: list[float] = []
    terms = model._given_thoughts

    def without(batch: Any) -> Any:
        seen.append(float(terms(batch._replace(thoughts=[""] * len(batch.ids))).detach()))
        return terms(batch)

    model._given_thoughts = without  # type: ignore[method-assign]
    fit(tmp_path, model, 1)
    assert seen == [0.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frozen": "none"}, "frozen: expected one of nothing, documents, embedder, got 'none'"),
        ({"rollouts_on": "query"}, "rollouts_on: expected one of queries, positives, both"),
        ({"documents": "think"}, "documents: expected one of direct, thinking"),
        ({"rollouts_on": "both"}, "documents: expected thinking beside `rollouts_on: both`"),
        ({"hard_negatives": 2, "pool": BatchPool()}, "hard_negatives: expected 0 where queries do not search"),
        ({"frozen": "embedder", "info_nce": InfoNCE()}, "info_nce.init_args.weight: expected 0 beside `frozen"),
        (
            {"policy_loss": PolicyLoss(0.0), "reference_kl": ReferenceKL(0.0), "info_nce": InfoNCE(0.0)},
            "expected a weight above 0 for one of policy_loss, reference_kl, info_nce, cross_entropy",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_named(folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        module(folder, **settings)


def test_audits_of_documents_that_never_age_are_refused(folder: Path, tmp_path: Path) -> None:
    runner = quiet_trainer(
        tmp_path, max_steps=2, limit_val_batches=0, callbacks=[SearchEnvironment(audit_every_n_steps=1)]
    )
    with pytest.raises(ConfigError, match="audit_every_n_steps: expected 0 where the model keeps documents fixed"):
        runner.fit(module(folder, frozen="documents"), datamodule=ToyDataModule(batch_size=6))


def test_given_thoughts_go_on_being_taught(folder: Path, tmp_path: Path) -> None:
    off = {"policy_loss": PolicyLoss(weight=0.0), "reference_kl": ReferenceKL(weight=0.0), "info_nce": InfoNCE(0.0)}
    model = module(folder, cross_entropy=CrossEntropy(weight=0.5), cache_tokens=40, **off)
    recorder = fit(tmp_path, model, 30)
    start = toy_embedder(folder)
    start.build()
    batch = next(iter(ToyDataModule(batch_size=6).train_dataloader()))
    with torch.no_grad():
        scored = start.score(start.tokenize(batch.texts, "thinking"), start.tokenize_thoughts(batch.thoughts))
        expected = torch.nn.functional.cross_entropy(scored.logits, scored.targets)
    assert batch.ids == recorder.queries[0]
    assert recorder.losses[0] == pytest.approx(0.5 * float(expected), abs=1e-5)
    assert recorder.losses[-1] < 0.7 * recorder.losses[0]


def test_accumulated_gradients_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="accumulate_grad_batches: expected 1 in stage 2"):
        fit(tmp_path, module(folder), 1, accumulate_grad_batches=2)


def test_passes_and_the_order_of_the_batch_change_nothing(folder: Path, tmp_path: Path) -> None:
    losses = [fit(tmp_path, module(folder, cache_tokens=tokens, updates=2), 3).losses for tokens in (None, 40)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_lora_trains_adapters_alone(folder: Path, tmp_path: Path) -> None:
    model = module(folder, backbone=toy_embedder(folder, lora=LoRA(r=2)))
    model.configure_model()
    frozen = {name: value.clone() for name, value in model.state_dict().items() if "base_layer" in name}
    recorder = fit(tmp_path, model, 3)
    assert len(recorder.losses) == 3
    assert frozen
    assert all(torch.equal(model.state_dict()[name], value) for name, value in frozen.items())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_the_reference_stays_behind_in_any_precision(folder: Path, tmp_path: Path, precision: str) -> None:
    model = module(
        folder,
        reward=Confidence(),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.5),
        policy_loss=PolicyLoss(weight=0.0),
        reference_kl=ReferenceKL(0.001),
    )
    watch = Divergences()
    fit(tmp_path, model, 3, precision=precision, callbacks=[watch])
    assert watch.values[0] < 0.01 < watch.values[-1]


def test_settings_out_of_range_are_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="samples: expected at least 2"):
        module(folder, samples=1)
    with pytest.raises(ConfigError, match="temperature: expected more than 0"):
        module(folder, temperature=0.0)
    with pytest.raises(ConfigError, match="warmup"):
        module(folder, warmup=1.0)


def test_without_an_environment_the_step_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="environment: RLModule searches one"):
        quiet_trainer(tmp_path, max_steps=1).fit(module(folder), datamodule=ToyDataModule())


def test_a_loss_that_is_not_finite_stops_the_run(folder: Path, tmp_path: Path) -> None:
    class Broken(Confidence):
        def judge(self, outcome: Outcome) -> torch.Tensor:
            return torch.full((len(outcome.lengths),), float("nan"))

    with pytest.raises(NumericError, match="reward"):
        fit(tmp_path, module(folder, reward=Broken()), 1)
    blown = module(folder)
    blown.configure_model()
    with torch.no_grad():
        blown.backbone.causal_lm.get_input_embeddings().weight[5] = float("nan")
    with pytest.raises(NumericError):
        fit(tmp_path, blown, 1)


def test_thoughts_that_do_not_end_are_warned_of_once(folder: Path, tmp_path: Path) -> None:
    model = module(folder)
    spy = Spy(model)
    with pytest.warns(UserWarning, match="train/emitted") as caught:
        fit(tmp_path, model, 3)
    shares = [float(sampled.rollouts.emitted.float().mean()) for sampled in spy.sampled]
    assert sum(share < 0.5 for share in shares) >= 2
    (warning,) = [str(one.message) for one in caught if "train/emitted" in str(one.message)]
    first = next(share for share in shares if share < 0.5)
    assert warning.startswith(f"train/emitted is {first:.2f}: ")
    assert "train stage 1 longer" in warning


def test_half_of_the_thoughts_is_enough() -> None:
    assert not warn_of_unended(0.5)
    with pytest.warns(UserWarning, match=r"^train/emitted is 0\.49: "):
        assert warn_of_unended(0.49)
