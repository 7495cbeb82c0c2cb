"""Starting one stage from another's checkpoint."""

from pathlib import Path

from srch3.backbones import ReasoningEmbedder, checkpoint

ARGUMENT = "model.init_args.init_from"


def check_start(path: str | Path) -> None:
    """Refuses a checkpoint to start from that does not exist, before anything is loaded.

    Args:
        path: A checkpoint written by Lightning.

    Raises:
        CheckpointError: There is no such file.
    """
    checkpoint.check_is_there(Path(path), ARGUMENT)


def load_backbone(backbone: ReasoningEmbedder, path: str | Path) -> None:
    """Copies the weights of the backbone that a stage starts from.

    Args:
        backbone: A built model of the same shape as the one in the checkpoint.
        path: A checkpoint written by Lightning.

    Raises:
        CheckpointError: There is no such file, it is not a checkpoint, or its model has another shape.
    """
    checkpoint.load_backbone(backbone, path, ARGUMENT)
