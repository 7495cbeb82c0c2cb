from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from srch3.backbones import LoRA
from srch3.environments import SearchEnvironment
from srch3.errors import ConfigError, NumericError
from srch3.functional.advantages import group_advantages
from srch3.losses import InfoNCE, PolicyLoss, ReferenceKL
from srch3.modules import RLModule
from srch3.rewards import BaseReward
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
    """Pays for a high cosine of the first hit, right or wrong."""

    def forward(self, outcome: Outcome) -> torch.Tensor:
        return self.judge(outcome)

    def judge(self, outcome: Outcome) -> torch.Tensor:
        return outcome.hits.scores[:, 0] * 100


def test_an_update_makes_rewarded_completions_likelier(folder: Path, tmp_path: Path) -> None:
    model = module(
        folder,
        reward=Confidence(k=10),
        reference_kl=ReferenceKL(weight=0.0),
        info_nce=InfoNCE(weight=0.0),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.02),
        samples=8,
    )
    seen: dict[str, Any] = {}
    original = model.backbone.score

    def spy(prompts: Any, completions: Any) -> Any:
        scored = original(prompts, completions)
        seen.update(prompts=prompts, completions=completions, before=model._logprobs(scored).detach().sum(1))
        return scored

    judge = model._judge
    model._judge = lambda *args: seen.setdefault("judged", judge(*args))  # type: ignore[method-assign]
    model.backbone.score = spy  # type: ignore[method-assign]
    fit(tmp_path, model, 1)
    before = seen["before"]
    with torch.no_grad():
        after = model._logprobs(original(seen["prompts"], seen["completions"])).sum(1)
    advantages, active = group_advantages(seen["judged"].rewards, seen["judged"].groups)
    assert active.any()
    assert float(((after - before) * advantages).sum()) > 1e-3


def test_terms_equal_a_slow_loop(folder: Path, tmp_path: Path) -> None:
    model = module(folder, policy_loss=PolicyLoss(weight=1.0), reference_kl=ReferenceKL(weight=0.5))
    seen: dict[str, Any] = {}
    original = model._policy_terms

    def spy(scored: Any, judged: Any, reference: Any) -> Any:
        terms = original(scored, judged, reference)
        seen.update(scored=scored, judged=judged, reference=reference, terms=terms)
        return terms

    model._policy_terms = spy  # type: ignore[method-assign]
    fit(tmp_path, model, 2)
    judged, scored = seen["judged"], seen["scored"]
    advantages, active = group_advantages(judged.rewards, judged.groups)
    policy, kl, tokens, all_tokens, flat = 0.0, 0.0, 0, 0, 0
    for row in range(len(judged.groups)):
        for column in range(scored.counted.shape[1]):
            if not scored.counted[row, column]:
                continue
            logp = scored.logits[flat].log_softmax(0)[scored.targets[flat]]
            difference = float(seen["reference"][row, column] - logp.detach())
            kl += float(torch.tensor(difference).exp()) - difference - 1
            all_tokens += 1
            if active[row]:
                policy -= float(advantages[row])
                tokens += 1
            flat += 1
    assert float(seen["terms"]["policy_loss"].detach()) == pytest.approx(policy / max(tokens, 1), abs=1e-5)
    assert float(seen["terms"]["reference_kl"].detach()) == pytest.approx(kl / all_tokens, abs=1e-5)
    assert kl > 0


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
    model = module(folder, optimizer=lambda p: torch.optim.SGD(p, lr=0.5), reference_kl=ReferenceKL(0.001))
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
        fit(tmp_path, module(folder, reward=Broken(k=10)), 1)
    blown = module(folder)
    blown.configure_model()
    with torch.no_grad():
        blown.backbone.causal_lm.get_input_embeddings().weight[5] = float("nan")
    with pytest.raises(NumericError):
        fit(tmp_path, blown, 1)
