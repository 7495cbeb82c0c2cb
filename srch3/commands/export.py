"""``python -m srch3 export``: a model folder for sentence-transformers, transformers, mteb and srch3 itself."""

import sys
from collections.abc import Sequence

from srch3.commands.calling import call
from srch3.inference.exporting import Exported, check_hub_name, export_model, push

EPILOG = """examples:
  python -m srch3 export --model runs/version_1/checkpoints/best.ckpt --output my-model
  python -m srch3 export --model runs/version_1/checkpoints/best.ckpt --output my-model \\
    --results results/results.json --data "Questions about Python, from our own log." --push_to_hub me/my-model
"""


def run(args: Sequence[str]) -> Exported:
    """Exports.

    Args:
        args: The words after ``export``.
    """
    exported: Exported = call(export, args, EPILOG)
    return exported


def export(
    model: str,
    output: str,
    data: str = "",
    results: str | None = None,
    push_to_hub: str | None = None,
    private: bool = True,
) -> Exported:
    """Writes a trained model as a folder that srch3, transformers, sentence-transformers and mteb load.

    Adapters are merged. What was written is loaded again and must embed as the model does and unlike its base;
    otherwise nothing is left.

    Args:
        model: A checkpoint of a run, or an exported folder.
        output: A new or empty folder.
        data: What the model card says of the training data.
        results: results.json of the command evaluate, whose figures the model card shows.
        push_to_hub: Uploads the folder to the Hugging Face hub, under this name; by default nothing leaves the machine.
        private: Whether a model that is new on the hub can be seen by its owner alone.
    """
    if push_to_hub:
        check_hub_name(push_to_hub)
    exported = export_model(model, output, push_to_hub, data, results)
    sys.stdout.write("\n".join(_told(exported)) + "\n")
    if push_to_hub:
        sys.stdout.write(f"{push(exported.folder, push_to_hub, private)}\n")
    return exported


def _told(exported: Exported) -> list[str]:
    """What was checked, and what was not."""
    lines = []
    for compared in exported.compared:
        lines.append(f"{compared.library}: cosine with the model at least {compared.within:.6f}")
        lines += [
            f"{compared.library}: {cut.same} of {cut.texts} texts too long for a {name} embedded the same, the others, "
            f"which it cuts elsewhere, with a cosine of {cut.least:.4f} or more"
            for name, cut in compared.beyond.items()
        ]
    if exported.documents == "thinking":
        lines.append(
            "sentence-transformers: only the folder `thinking`, with trust_remote_code=True, since the model thinks "
            "about documents"
        )
    elif len(exported.compared) == 1:
        lines.append("sentence-transformers: written but not checked, since it is not installed")
    if exported.base is not None:
        lines.append(f"unlike the base (cosine down to {exported.base:.6f}), as a trained model is")
    lines.append(f"weights in {exported.precision}")
    return [*lines, f"{exported.folder}: Embedder.load, AutoModel, SentenceTransformer and mteb load it; see README.md"]
