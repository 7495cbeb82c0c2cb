"""The command lines of a model that learns a line."""

from srch3.cli import SearchCLI, main

TOY = ["--data=tests.programs.NumberData", "--environment=NoEnvironment", "--trainer.accelerator=cpu"]
FAST = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.devices=1"]
SHORT = ["--trainer.max_epochs=2", "--trainer.num_sanity_val_steps=0", *FAST]
LAST = "runs/version_0/checkpoints/last.ckpt"


def toy(subcommand: str, *more: str, model: str = "Line") -> list[str]:
    return [subcommand, f"--model=tests.programs.{model}", *TOY, *SHORT, *more]


def built(*more: str, model: str = "Line") -> SearchCLI:
    return main(toy("fit", *more, model=model)[1:], run=False)
