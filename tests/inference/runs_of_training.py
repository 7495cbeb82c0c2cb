"""Folders of runs as training leaves them, made without training: a tiny model whose weights have all moved."""

from pathlib import Path
from typing import Any

import torch
import yaml

from srch3.backbones import LoRA, PlainPrompts, ReasoningEmbedder
from tests.models import make_model_folder

LIMITS = {"max_query_tokens": 16, "max_document_tokens": 24, "max_thought_tokens": 4}
METRICS = """epoch,step,train/loss,val/direct/ndcg@10,val/ndcg@10,val/thinking/ndcg@10
0,1,0.5,,,
0,2,,0.25,0.5,0.5
0,3,,0.375,0.625,0.625
0,9,,0.99,0.99,0.99
"""


def trained(folder: str, scale: float = 0.1, **settings: Any) -> ReasoningEmbedder:
    """A model whose trainable weights have moved."""
    embedder = ReasoningEmbedder(folder, **{**LIMITS, **settings})
    embedder.build()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in embedder.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return embedder.eval()


def make_run(
    folder: Path,
    chat: bool = True,
    lora: bool = False,
    scale: float = 0.1,
    documents: str = "direct",
    family: str = "qwen2",
    **limits: Any,
) -> tuple[Path, ReasoningEmbedder]:
    """A run's folder; its checkpoint, and the model in it. The chat template is one that does not trim, as Qwen's."""
    base = make_model_folder(folder / "base", family, chat=chat)
    if chat:
        template = Path(base) / "chat_template.jinja"
        template.write_text(template.read_text().replace(" | trim", ""))
    settings: dict[str, Any] = {"prompts": None if chat else PlainPrompts(), "lora": LoRA(r=4) if lora else None}
    embedder = trained(base, scale, **settings, **limits)
    backbone: dict[str, Any] = {"model": base, **LIMITS, **limits}
    if not chat:
        backbone["prompts"] = {"class_path": "srch3.backbones.PlainPrompts"}
    if lora:
        backbone["lora"] = {"class_path": "srch3.backbones.LoRA", "init_args": {"r": 4}}
    config = {
        "model": {
            "class_path": "srch3.modules.RLModule",
            "init_args": {
                "backbone": {"class_path": "srch3.backbones.ReasoningEmbedder", "init_args": backbone},
                "documents": documents,
                "frozen": "nothing",
                "init_from": str(folder / "runs/version_0/checkpoints/best.ckpt"),
            },
        },
        "data": {"class_path": "srch3.data.BeirDataModule", "init_args": {"root": str(folder / "corpus"), "seed": 3}},
    }
    run = folder / "runs" / "version_1"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "metrics.csv").write_text(METRICS)
    weights = {f"backbone.{name}": value for name, value in embedder.state_dict().items()}
    torch.save({"state_dict": weights, "global_step": 4}, run / "checkpoints" / "best.ckpt")
    return run / "checkpoints" / "best.ckpt", embedder
