"""The README of an exported model, with programs that run as they stand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from srch3.backbones import ReasoningEmbedder
from srch3.backbones.settings import Documents
from srch3.inference.provenance import Provenance
from srch3.inference.root_template import RootTemplate
from srch3.inference.sentence_transformers_folder import Compared

TRAINING_FILE = "training.yaml"
"""The run's settings, beside the card."""


class Facts(NamedTuple):
    """What a card tells.

    Attributes:
        name: Of the model: its folder, or its name on a hub.
        embedder: The model.
        documents: How documents are embedded.
        origin: The run that trained it.
        direct: What the folder holds for sentence-transformers; none where it holds nothing.
        compared: How it was checked.
        data: What the user says of the data.
        results: What the command ``evaluate`` wrote; possibly nothing.
    """

    name: str
    embedder: ReasoningEmbedder
    documents: Documents
    origin: Provenance
    direct: RootTemplate | None
    compared: list[Compared]
    data: str
    results: Mapping[str, Any]


def model_card(facts: Facts) -> str:
    """The card in Markdown."""
    parts = [_front(facts), _what(facts), _use(facts), _training(facts), _figures(facts), _limits(facts)]
    return "\n".join(part.strip() + "\n" for part in parts if part)


def _front(facts: Facts) -> str:
    library = "sentence-transformers" if facts.direct else "transformers"
    fields: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": "sentence-similarity",
        "tags": [
            "feature-extraction",
            "retrieval",
            "reasoning",
            "srch3",
            *(["sentence-transformers"] * bool(facts.direct)),
        ],
    }
    if base := _base(facts):
        fields["base_model"] = base
    return f"---\n{yaml.safe_dump(fields, sort_keys=False)}---"


def _base(facts: Facts) -> str:
    """Name of the base on a hub; empty where it was a folder."""
    return "" if facts.origin.config is None or Path(facts.embedder.name).is_dir() else facts.embedder.name


def _backbone(facts: Facts) -> dict[str, Any]:
    config = facts.origin.config or {}
    described: dict[str, Any] = config.get("model", {}).get("init_args", {}).get("backbone", {})
    settings: dict[str, Any] = described.get("init_args", described)
    return settings


def _what(facts: Facts) -> str:
    embedder = facts.embedder
    documents = "after a thought about them" if facts.documents == "thinking" else "at once"
    return f"""# {facts.name.rpartition("/")[2]}

A language model that reasons about a query and then emits its search embedding, trained with srch3. Queries are
embedded after a thought of at most {embedder.max_thought_tokens} tokens, or at once (direct mode); documents are \
embedded {documents}. An
embedding has {embedder.dim} numbers and unit length; the cosine of a query and a document says how relevant it is.
"""


def _use(facts: Facts) -> str:
    parts = ["## Use", _with_srch3(facts.name)]
    if facts.direct:
        parts += [
            _with_sentence_transformers(facts.name),
            _with_transformers(facts.name, facts.direct.prompts["query"]),
        ]
    else:
        parts.append(
            "Plain sentence-transformers cannot embed the documents of this model, about which it thinks; its folder\n"
            "`thinking` needs `srch3`, and `trust_remote_code=True`."
        )
    return "\n\n".join([*parts, _with_thinking(facts.name)])


def _with_srch3(name: str) -> str:
    return f"""With srch3, where queries think (from a hub first `hf download {name} --local-dir {name}`):

```python
from srch3.inference.embedder import Embedder

embedder = Embedder.load("{name}")
queries = embedder.encode_queries(["how to parse a date"])  # mode="direct" does without a thought
documents = embedder.encode_documents(["datetime.strptime reads a date", "sum adds up a list"])
scores = queries @ documents.T
```"""


def _with_sentence_transformers(name: str) -> str:
    return f"""With sentence-transformers, in direct mode:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}")
queries = model.encode_query(["how to parse a date"])
documents = model.encode_document(["datetime.strptime reads a date", "sum adds up a list"])
scores = model.similarity(queries, documents)
```"""


def _with_transformers(name: str, prompt: str) -> str:
    return f"""With transformers, in direct mode:

```python
import torch
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModel.from_pretrained("{name}")
prompt = {prompt!r}
messages = [{{"role": "system", "content": prompt}}, {{"role": "user", "content": "how to parse a date"}}]
tokens = tokenizer.apply_chat_template(messages, return_tensors="pt")["input_ids"]
with torch.inference_mode():
    hidden = model(tokens).last_hidden_state[:, -1]
queries = torch.nn.functional.normalize(hidden.float(), dim=-1)
```

The prompt of documents stands in `config_sentence_transformers.json`."""


def _with_thinking(name: str) -> str:
    return f"""With sentence-transformers, thinking about queries, where srch3 is installed:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}/thinking", trust_remote_code=True)
queries = model.encode_query(["how to parse a date"])
documents = model.encode_document(["datetime.strptime reads a date", "sum adds up a list"])
scores = model.similarity(queries, documents)
```"""


def _training(facts: Facts) -> str:
    config = facts.origin.config
    if config is None:
        return f"## Training\n\n{facts.data}" if facts.data else ""
    data, module = config.get("data") or {}, config.get("model") or {}
    lines = [
        f"- base: `{_backbone(facts).get('model', 'unknown')}`",
        f"- module: `{module.get('class_path', 'unknown')}`, {facts.origin.step} steps",
        f"- data: `{data.get('class_path', 'unknown')}`" + (f". {facts.data}" if facts.data else ""),
    ]
    if begun := module.get("init_args", {}).get("init_from"):
        lines.append(f"- started from the weights of `{begun}`, an earlier run")
    settings = yaml.safe_dump(data.get("init_args") or {}, sort_keys=False, allow_unicode=True).strip()
    return "\n".join(
        [
            "## Training\n",
            *lines,
            f"\n```yaml\n{settings}\n```\n\nAll settings are in `{TRAINING_FILE}`, with paths cut to their last "
            "part; put yours there, and train again with\n",
            f"```bash\npython -m srch3 fit --config {TRAINING_FILE}\n```",
        ]
    )


def _figures(facts: Facts) -> str:
    tables = []
    if facts.origin.figures:
        rows: dict[str, dict[str, float]] = {}
        for name, value in sorted(facts.origin.figures.items()):
            split, mode, metric = name.split("/")
            rows.setdefault(f"{mode} ({split})", {})[metric] = value
        tables.append(
            f"While it was trained, at step {facts.origin.step} or the last evaluation before:\n\n{_table(rows)}"
        )
    if systems := facts.results.get("systems"):
        rows = {name: found["metrics"] for name, found in systems.items()}
        tables.append(f"By `python -m srch3 evaluate`, over {facts.results.get('queries')} queries:\n\n{_table(rows)}")
    return "\n\n".join(["## Figures", *tables]) if tables else ""


def _table(rows: Mapping[str, Mapping[str, float]]) -> str:
    columns = list(dict.fromkeys(metric for row in rows.values() for metric in row))
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [
        [name, *(f"{row[metric]:.4f}" if metric in row else "" for metric in columns)] for name, row in rows.items()
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _limits(facts: Facts) -> str:
    embedder = facts.embedder
    kept = "end" if embedder.truncation == "left" else "beginning"
    lines = [
        "## Limits\n",
        f"- Of a query {embedder.max_query_tokens} tokens are read, of a document {embedder.max_document_tokens}; of "
        f"longer texts srch3 keeps the {kept}.",
    ]
    if facts.direct:
        lines += _direct_limits(facts)
    return "\n".join(lines)


def _direct_limits(facts: Facts) -> list[str]:
    libraries = " and ".join(compared.library for compared in facts.compared)
    lines = [
        f"- Checked at export with {libraries}: least cosine with srch3's own embeddings "
        f"{min(compared.within for compared in facts.compared):.6f}, over texts within these limits."
    ]
    for compared in facts.compared:
        if compared.beyond:
            shown = ", ".join(
                f"{cut.same} of {cut.texts} texts too long for a {name} were embedded the same, none of them with a "
                f"cosine below {cut.least:.4f}"
                for name, cut in compared.beyond.items()
            )
            lines.append(
                f"- {compared.library} cuts the whole prompt, at its end, and not the text: of a text that is too "
                f"long, a token more or less may remain than with srch3. At export {shown}. `encode_query` and "
                "`encode_document` know their limits, `encode` takes the longer one for both."
            )
    return lines
