"""The frozen reference of a KL term: trainable weights as they once were."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from srch3.errors import ConfigError


class RememberedWeights:
    """A copy of a module's trainable weights; only what is trained is kept twice: with LoRA, the adapters.

    Args:
        module: Its trainable weights are copied as they are now.
    """

    def __init__(self, module: nn.Module) -> None:
        self._weights = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
        self.fingerprint = float(sum(p.double().abs().sum() * (i + 1) for i, p in enumerate(self._weights.values())))
        """A number that two sets of weights share only if they are the same."""

    @contextmanager
    def in_place(self, module: nn.Module) -> Iterator[None]:
        """Within it, ``module`` has these weights, without gradients.

        Autocast would go on computing with the half-precision copies that it made of the weights before, so its copies
        are dropped at both ends.

        Raises:
            ConfigError: The weights have been cut into shards since.
        """
        parameters = dict(module.named_parameters())
        if any(name not in parameters or p.shape != parameters[name].shape for name, p in self._weights.items()):
            raise ConfigError(
                "trainer.strategy: expected one that keeps whole weights in every process, such as ddp or deepspeed of "
                "stage 2, since a KL term needs the model as it was; got one that cuts them into shards; choose "
                "another, or set the weight of the KL term to 0"
            )
        current = {name: parameters[name].data for name in self._weights}
        with torch.no_grad():
            for name in self._weights:
                self._weights[name] = self._weights[name].to(current[name])
                parameters[name].data = self._weights[name]
            torch.clear_autocast_cache()
            try:
                yield
            finally:
                for name, data in current.items():
                    parameters[name].data = data
                torch.clear_autocast_cache()
