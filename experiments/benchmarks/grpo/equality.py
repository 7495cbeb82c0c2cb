"""Are the loss and its gradient the same? Given the same completions, rewards and log-probabilities, in float32."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from experiments.benchmarks.grpo.prepare import backbone, prompts_in_order
from experiments.benchmarks.grpo.settings import Setup, Shape
from experiments.benchmarks.grpo.theirs import make_trainer
from srch3.backbones import Completions, ReasoningEmbedder
from srch3.backbones.scoring import Scores, score_completions
from srch3.functional.advantages import group_advantages
from srch3.functional.policy import Normaliser, Ratio
from srch3.losses import PolicyLoss, ReferenceKL

CLIP_LOW, CLIP_HIGH = 0.2, 0.28
KL_WEIGHT = 0.04


class Case(NamedTuple):
    """One form of the loss.

    Attributes:
        normaliser: What tokens are averaged over.
        ratio: What has a ratio of its own.
        scale_by_std: Whether advantages are divided by the standard deviation.
        mask_truncated: Whether completions that used up their tokens are left out.
    """

    normaliser: Normaliser
    ratio: Ratio = "token"
    scale_by_std: bool = True
    mask_truncated: bool = False

    @property
    def title(self) -> str:
        """Its settings."""
        extras = ["std off"] * (not self.scale_by_std) + ["truncated left out"] * self.mask_truncated
        return ", ".join([f"`{self.normaliser}`, {self.ratio} ratios", *extras])


CASES = [
    Case("grpo"),
    Case("dapo"),
    Case("dr_grpo"),
    Case("grpo", "sequence"),
    Case("dapo", "sequence"),
    Case("dr_grpo", "sequence"),
    Case("dr_grpo", scale_by_std=False),
    Case("dapo", mask_truncated=True),
]


class Given(NamedTuple):
    """What both sides are given; one entry per completion, those of a prompt after one another.

    Attributes:
        prompts: As text.
        tokens: Of each completion, no two of which are the same.
        ended: Whether a completion ended of its own accord; the others used up their tokens.
        rewards: Of each completion.
        old: Log-probabilities of the tokens, so far from the present ones that the clip takes effect.
    """

    prompts: list[str]
    tokens: list[list[int]]
    ended: list[bool]
    rewards: list[float]
    old: Tensor


def equality(setup: Setup, shape: Shape) -> dict[str, Any]:
    """Differences of the loss and of its gradient, by case.

    Args:
        setup: What both sides have in common.
        shape: Says how long prompts are.

    Returns:
        For each case both losses, the share of clipped tokens, and the largest difference of a parameter's gradient, as
        a share of that gradient's largest entry.
    """
    given = _given(setup, shape)
    return {case.title: _compare(setup, case, given) for case in CASES}


def _given(setup: Setup, shape: Shape) -> Given:
    embedder = _built(setup)
    _move(embedder.causal_lm, setup.seed)
    generator = torch.Generator().manual_seed(setup.seed)
    count = setup.prompts * setup.samples
    lengths = torch.randint(2, setup.max_tokens + 1, (count,), generator=generator)
    lengths[:2] = torch.tensor([setup.max_tokens, 1])
    stops = [token for token in embedder.stop_ids if token != embedder.pad_id]
    usual = torch.tensor([token for token in range(len(embedder.tokenizer)) if token not in embedder.stop_ids])
    tokens, ended = [], (lengths < setup.max_tokens).tolist()
    for length, ends in zip(lengths.tolist(), ended, strict=True):
        ids = usual[torch.randint(len(usual), (length,), generator=generator)].tolist()
        tokens.append([*ids[:-1], stops[length % len(stops)]] if ends else ids)
    rewards = torch.rand(count, generator=generator).tolist()
    given = Given(prompts_in_order(setup, shape)[: setup.prompts], tokens, ended, rewards, torch.empty(0))
    with torch.no_grad():
        present = _score(embedder, given).logprobs
    drift = torch.randn(present.shape, generator=generator) + torch.randn(count, 1, generator=generator)
    return given._replace(old=present + 0.3 * drift)


def _compare(setup: Setup, case: Case, given: Given) -> dict[str, float]:
    theirs = _their_gradient(setup, case, given)
    embedder = _built(setup)
    _move(embedder.causal_lm, setup.seed)
    loss, clipped = _our_loss(setup, case, given, embedder)
    loss.backward()
    ours = float(loss.detach())
    gaps = [
        float((_gradient(value) - theirs.gradients[name]).abs().max() / theirs.gradients[name].abs().max())
        for name, value in embedder.causal_lm.named_parameters()
    ]
    return {
        "their_loss": theirs.loss,
        "our_loss": ours,
        "clipped": float(clipped),
        "loss_difference": abs(ours - theirs.loss),
        "gradient_difference": max(gaps),
    }


def _move(model: nn.Module, seed: int) -> None:
    """Takes a policy away from the prepared model, which stays its reference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)


class _Keep(TrainerCallback):
    """Keeps the gradients that a step is taken with."""

    def on_pre_optimizer_step(self, *_: Any, **given: Any) -> None:
        self.gradients = {name: _gradient(value).clone() for name, value in given["model"].named_parameters()}


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


class _Theirs(NamedTuple):
    loss: float
    gradients: dict[str, Tensor]


def _their_gradient(setup: Setup, case: Case, given: Given) -> _Theirs:
    """What a training step of theirs gives, whose completions and old log-probabilities are the given ones."""

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        ids = trainer.processing_class(text=prompts)["input_ids"]
        return {"prompt_ids": ids, "completion_ids": given.tokens, "logprobs": [[0.0] * len(t) for t in given.tokens]}

    keep = _Keep()
    trainer = make_trainer(
        setup,
        lambda **_: list(given.rewards),
        given.prompts,
        [keep],
        rollout,
        per_device_train_batch_size=len(given.tokens),
        loss_type=case.normaliser,
        importance_sampling_level=case.ratio,
        scale_rewards="group" if case.scale_by_std else "none",
        mask_truncated_completions=case.mask_truncated,
        epsilon=CLIP_LOW,
        epsilon_high=CLIP_HIGH,
        beta=KL_WEIGHT,
        use_bias_correction_kl=False,
        max_grad_norm=0.0,
        max_steps=1,
    )
    original, pad = trainer.compute_loss, trainer.processing_class.pad_token_id
    losses: list[float] = []

    def with_old(model: nn.Module, inputs: dict[str, Tensor], **others: Any) -> Tensor:
        ids = inputs["completion_ids"]
        rows = [given.tokens.index([token for token in row if token != pad]) for row in ids.tolist()]
        loss: Tensor = original(model, inputs | {"old_per_token_logps": given.old[rows][:, : ids.shape[1]]}, **others)
        losses.append(float(loss.detach()))
        return loss

    trainer.compute_loss = with_old
    _move(trainer.model, setup.seed)
    trainer.train()
    return _Theirs(losses[0], keep.gradients)


def _our_loss(setup: Setup, case: Case, given: Given, embedder: ReasoningEmbedder) -> tuple[Tensor, Tensor]:
    """Our loss, and the share of clipped tokens."""
    with torch.no_grad():
        anchor = _score(_built(setup), given).logprobs
    scores = _score(embedder, given)
    advantages, active = group_advantages(torch.tensor(given.rewards), _groups(given), case.scale_by_std)
    kept = active & torch.tensor(given.ended) if case.mask_truncated else active
    mask = scores.counted & kept[:, None]
    policy = PolicyLoss(clip_low=CLIP_LOW, clip_high=CLIP_HIGH, ratio=case.ratio, normaliser=case.normaliser)
    terms = policy(scores.logprobs, given.old, advantages, mask, setup.max_tokens)
    kl = ReferenceKL()(scores.logprobs, anchor, mask, case.normaliser, setup.max_tokens)
    return terms.loss + KL_WEIGHT * kl, terms.clipped_share


def _built(setup: Setup) -> ReasoningEmbedder:
    embedder = backbone(setup)
    embedder.build()
    return embedder


def _groups(given: Given) -> Tensor:
    return torch.arange(len(given.prompts)).repeat_interleave(len(given.tokens) // len(given.prompts))


def _score(embedder: ReasoningEmbedder, given: Given) -> Scores:
    """The completions as our rollouts have them: an embed token in place of the end, or after the last token."""
    end = embedder.embed_token_id
    inputs = [[*ids[:-1], end] if ends else [*ids, end] for ids, ends in zip(given.tokens, given.ended, strict=True)]
    targets = [ids if ends else [*ids, end] for ids, ends in zip(given.tokens, given.ended, strict=True)]
    counted = [[True] * len(ids) + [False] * (not ends) for ids, ends in zip(given.tokens, given.ended, strict=True)]
    prompts = [list(ids) for ids in embedder.tokenizer(given.prompts)["input_ids"]]
    return score_completions(embedder, prompts, _groups(given).tolist(), Completions(inputs, targets, counted))
