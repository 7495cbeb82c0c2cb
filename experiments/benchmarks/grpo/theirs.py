"""The other side: the same training as a user of TRL writes it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from experiments.benchmarks.grpo.prepare import prompts_in_order
from experiments.benchmarks.grpo.reward import share_of_vowels
from experiments.benchmarks.grpo.settings import Setup, Task
from experiments.benchmarks.sft.clock import Clock


class _Watch(TrainerCallback):
    def __init__(self) -> None:
        self.lengths: list[float] = []
        self.losses: list[Tensor] = []

    def attach(self, trainer: Any) -> None:
        self.clock = Clock(trainer.processing_class.pad_token_id)
        self.trainer = trainer
        original = trainer.compute_loss

        def noted(*args: Any, **kwargs: Any) -> Tensor:
            loss: Tensor = original(*args, **kwargs)
            self.losses.append(loss.detach())
            return loss

        trainer.compute_loss = noted

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.clock.begin(self.trainer.model)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.note(torch.stack(self.losses).sum())
        self.losses.clear()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.clock.end()


def train(task: Task) -> dict[str, Any]:
    """Trains with TRL's trainer, on our prompts in our order.

    Args:
        task: What to measure.

    Returns:
        What `Clock` noted, and the mean length of the completions of each step.
    """
    setup, shape = task.setup, task.line.shape
    completions = setup.prompts * setup.samples
    watch = _Watch()
    lengths: list[list[int]] = []

    def reward(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        lengths.append([len(ids) for ids in completion_ids])
        return list(share_of_vowels(completions))

    trainer = make_trainer(
        setup,
        reward,
        prompts_in_order(setup, shape),
        beta=shape.kl_weight,
        per_device_train_batch_size=task.line.at_once or completions,
        gradient_accumulation_steps=completions // (task.line.at_once or completions),
        max_steps=setup.steps,
        callbacks=[watch],
    )
    watch.attach(trainer)
    trainer.train()
    means = [sum(some) / len(some) for some in lengths]
    return watch.clock.figures() | {"lengths": means}


def make_trainer(
    setup: Setup,
    reward: Callable[..., list[float | None]],
    prompts: list[str],
    callbacks: list[TrainerCallback] | None = None,
    rollout_func: Callable[..., Any] | None = None,
    **settings: Any,
) -> Any:
    """Their trainer on the prepared model.

    Args:
        setup: What both sides have in common.
        reward: What completions are worth.
        prompts: In the order of training.
        callbacks: What watches.
        rollout_func: Gives completions in place of sampled ones.
        **settings: Of ``GRPOConfig``, beside those that all uses have in common.
    """
    folder = Path(setup.folder) / "model"
    arguments: dict[str, Any] = {
        "num_generations": setup.samples,
        "max_completion_length": setup.max_tokens,
        "temperature": 1.0,
        "loss_type": "dapo",
        "learning_rate": setup.lr,
        "weight_decay": 0.0,
        "optim": "adamw_torch_fused",
        "lr_scheduler_type": "constant",
        "max_grad_norm": setup.max_grad_norm,
        "shuffle_dataset": False,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "seed": setup.seed,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(folder),
        reward,
        args=GRPOConfig(str(Path(setup.folder) / "trainer"), **(arguments | settings)),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=AutoTokenizer.from_pretrained(folder, padding_side="left"),
        callbacks=callbacks,
        rollout_func=rollout_func,
    )
