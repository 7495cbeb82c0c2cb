"""Low-rank adapters."""

from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from srch3.errors import ConfigError


class LoRA:
    """Trains low-rank adapters and the embed token's row, and freezes the rest (arXiv 2106.09685).

    Args:
        r: Rank of the adapters.
        alpha: Their scale is ``alpha / r``.
        dropout: Probability of dropping an adapter's input.
        target_modules: Names of the linear layers that get an adapter; ``all-linear`` means every one.
    """

    def __init__(
        self, r: int = 16, alpha: int = 32, dropout: float = 0.0, target_modules: list[str] | str = "all-linear"
    ) -> None:
        self.r = r
        self.alpha = alpha
        self.dropout = dropout
        self.target_modules = target_modules

    def apply(self, model: PreTrainedModel, embed_token_id: int) -> PreTrainedModel:
        """Puts the adapters into ``model`` in place and returns it.

        Args:
            model: The causal LM to adapt.
            embed_token_id: The one row of the embedding matrix that is trained too, as it starts from nothing.

        Raises:
            ConfigError: No layer of the model has one of the names.
        """
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.target_modules,
            trainable_token_indices={_embedding_name(model): [embed_token_id]},
            task_type="CAUSAL_LM",
        )
        try:
            get_peft_model(model, config)
        except ValueError as error:
            raise ConfigError(
                f"model.init_args.backbone.init_args.lora.target_modules: expected names of linear layers of "
                f"{type(model).__name__}, got {self.target_modules!r} ({str(error).splitlines()[0]})"
            ) from error
        return model


def _embedding_name(model: PreTrainedModel) -> str:
    embedding = model.get_input_embeddings()
    name: str = next(name for name, module in model.named_modules() if module is embedding)
    return name.rpartition(".")[2]
