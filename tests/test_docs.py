"""The documentation: it builds without a warning, and what its pages show is run."""

import json
import re
import runpy
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
from starlette.types import ASGIApp

from srch3.cli import SearchCLI, main
from srch3.data import ChangingCorpus, Corpus
from srch3.environments import SearchEnvironment
from srch3.serving import server
from tests.environments.toy import ToyData, ToyModule, toy_corpus
from tests.environments.toy import trainer as toy_trainer
from tests.models import make_model_folder
from tests.runs import QUIET, TINY, make_beir_folder, small, write_lines
from tests.serving.fakes import Reply, ask, serving
from tests.test_readme import Block, blocks, filled

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.stem for path in DOCS.glob("*.md"))
RUN_ELSEWHERE = {"other-libraries"}  # tests/inference/test_other_libraries.py
USING = "using"
STAGES = {"data": "sft", "stage-1": "sft", "stage-2": "rl", "environment": "rl"}
SHORT = ["--data.init_args.batch_size=4", "--trainer.max_steps=2", "--trainer.val_check_interval=1"]
RECIPE = ["--config", "configs/trainer/rehearsal.yaml", "--model.init_args.backbone.init_args.model=model"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The repository as a reader sees it, with data and a model under the names that stand for them."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "configs").symlink_to(ROOT / "configs")
    make_beir_folder(folder / "beir")
    make_model_folder(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """Both stages, as short as can be, where the pages expect them."""
    first = main(small("fit", "sft", Path("beir"), Path("model"), *SHORT))
    begun = f"--model.init_args.init_from={first.trainer.checkpoint_callbacks[0].best_model_path}"
    main(small("fit", "rl", Path("beir"), Path("model"), *SHORT, begun))
    assert Path("runs/version_1/checkpoints/best.ckpt").is_file()
    return folder


def page(name: str) -> list[Block]:
    return blocks(f"docs/{name}.md")


def commands(name: str) -> list[list[str]]:
    texts = [block.text.replace("\\\n", " ") for block in page(name) if block.language == "bash"]
    return [shlex.split(filled(line)) for text in texts for line in text.strip().splitlines()]


def prose(name: str) -> str:
    return re.sub(
        r"^```.*?^```$", "", (DOCS / f"{name}.md").read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )


def options(text: str) -> list[str]:
    """The options of srch3 fit that a text names with a value."""
    found = re.findall(
        r"`(--(?:model|data|environment|trainer|config|best_checkpoint|last_checkpoint|seed)\S* .+?)`", text
    )
    return [word for words in found for word in shlex.split(words)]


def build(stage: str, words: list[str]) -> SearchCLI:
    data = ["--data.init_args.root=beir", "--model.init_args.backbone.init_args.model=model"]
    return main([f"--config=configs/small/{stage}.yaml", *data, *words], run=False)


# The site


@pytest.mark.slow
def test_it_builds_without_a_warning_and_every_page_is_there(site: Path) -> None:
    assert {name for name in PAGES if name != "index"} <= {path.name for path in site.iterdir()}
    for name in ("metrics", "configurations", "sweeps", "reference/inference", "measured/stage-2"):
        assert (site / name / "index.html").is_file()
    assert (site / "measured" / "environment-plot.png").is_file()


@pytest.mark.slow
def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"(.*?)\"|<link[^>]* href=\"(.*?)\"", text)
        assert [url for pair in loaded for url in pair if url.startswith(("http", "//"))] == []


@pytest.mark.slow
def test_what_is_taken_from_elsewhere_is_there_in_full(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    assert "make quickstart" in start
    assert "Stage 2</strong> starts from its weights" in start
    assert "Thoughts are sampled with the training model itself" in start
    recipes = (site / "recipes" / "index.html").read_text(encoding="utf-8")
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "configs" / "recipes").rglob("*.yaml")}
    assert set(re.findall(r"<code>(configs/recipes/[\w/]+\.yaml)</code>", recipes)) == files
    assert "https://arxiv.org/abs/2510.07048" in recipes
    metrics = (site / "metrics" / "index.html").read_text(encoding="utf-8")
    assert "env/advantage_correlation" in metrics


def test_a_heading_that_is_gone_stops_the_build() -> None:
    hooks = pytest.importorskip("mkdocs") and runpy.run_path(str(DOCS / "hooks.py"))
    assert hooks["section"]("README.md", "Start").startswith("You need Python")
    assert "## " not in hooks["section"]("README.md", "Train your own")
    with pytest.raises(Exception, match=r"README\.md has no heading 'Stop'"):
        hooks["section"]("README.md", "Stop")


def test_links_lead_to_pages_or_become_words() -> None:
    hooks = pytest.importorskip("mkdocs") and runpy.run_path(str(DOCS / "hooks.py"))
    text = "[all](srch3/metrics/README.md#training) [code](srch3/cli.py) [web](https://arxiv.org) ![x](a/plot.png)"
    shown = "[all](../metrics.md#training) code (`srch3/cli.py`) [web](https://arxiv.org) ![x](page-plot.png)"
    assert hooks["adapted"](text, "README.md", "measured/page.md") == shown


@pytest.mark.slow
def test_nothing_is_left_as_it_stands_in_the_source(site: Path) -> None:
    for path in [*site.glob("*/index.html"), *site.glob("reference/*/index.html"), site / "index.html"]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"```|<!-- README|stands in README|\.\. math::|:(?:math|class|func):", text), path
    functions = (site / "reference" / "functional" / "index.html").read_text(encoding="utf-8")
    assert functions.count("<math ") >= 15


def test_what_is_taken_can_be_found_by_a_reader_of_the_file() -> None:
    hooks = pytest.importorskip("mkdocs") and runpy.run_path(str(DOCS / "hooks.py"))
    texts = [(DOCS / f"{name}.md").read_text(encoding="utf-8") for name in PAGES]
    assert not any("<!--" in text for text in texts)
    led = re.findall(r"^\[(.+)\]\(\.\./(.+)#(.+)\) stands in", "\n".join(texts), re.MULTILINE)
    assert len(led) >= 8
    for heading, source, anchor in led:
        assert anchor == heading.lower().replace(" ", "-")
        assert hooks["section"](source, heading)
    page = SimpleNamespace(file=SimpleNamespace(src_uri="stage-2.md"))
    filled_in = hooks["on_page_markdown"]((DOCS / "stage-2.md").read_text(encoding="utf-8"), page)
    assert "stands in README.md" not in filled_in
    assert hooks["section"]("README.md", "More from stage 2").splitlines()[0] in filled_in
    recipes = hooks["on_page_markdown"]((DOCS / "recipes.md").read_text(encoding="utf-8"), page)
    assert hooks["recipes"]() in recipes
    assert "name their works" not in recipes


# What the pages say


def test_every_named_option_of_training_is_one(folder: Path) -> None:
    named = {name: options(prose(name)) for name in STAGES}
    assert sum(map(len, named.values())) >= 10
    for name, stage in STAGES.items():
        if named[name]:
            assert build(stage, [*named[name], *QUIET]).model is not None


def test_every_setting_for_a_problem_is_one(folder: Path) -> None:
    text = prose("settings")
    for stage, number in (("stage 1", "sft"), ("stage 2", "rl")):
        tables = re.findall(rf"^\| problem \| {stage} option \|.*\n((?:\|.*\n?)+)", text, re.MULTILINE)
        rows = [re.findall(r"^\| [^|]+ \| `(--.+?)` \| [^|]+ \|$", table, re.MULTILINE) for table in tables]
        assert [len(found) for found in rows] == [len(table.splitlines()) - 1 for table in tables]
        for table in rows:
            words = [word for row in table for word in shlex.split(row)]
            assert build(number, [*words, "--trainer.accelerator=cpu", "--trainer.devices=1"]).model is not None


def test_named_metrics_are_logged_ones() -> None:
    known = (ROOT / "srch3" / "metrics" / "README.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`((?:train|val|env)/[^`]+)`", known))
    for name in PAGES:
        named = re.findall(r"`((?:train|val|env)/[\w@/]+)`", prose(name))
        general = {re.sub(r"(?<=val/)(thinking|direct)(?=/)", "<mode>", metric) for metric in named}
        assert general <= documented


def test_every_block_is_run_or_is_no_program() -> None:
    shown = {
        (name, block.language, bool(block.name)) for name in PAGES if name not in RUN_ELSEWHERE for block in page(name)
    }
    run_here = {
        ("data", "json", True), ("data", "python", False), ("environment", "bash", False),
        ("environment", "python", False), ("recipes", "bash", False),
        (USING, "bash", False), (USING, "python", False), (USING, "json", True),
    }  # fmt: skip
    assert {block for block in shown if block[1] != "text"} == run_here


def test_the_data_that_is_shown_is_a_beir_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    for block in page("data"):
        if block.language == "json":
            write_lines(tmp_path / block.name, block.text.splitlines())
        if block.language == "text":
            names_of_columns, first, second = block.text.splitlines()
            write_lines(tmp_path / "qrels" / "train.tsv", [names_of_columns, first])
            write_lines(tmp_path / "qrels" / "dev.tsv", [names_of_columns, second])
    names: dict[str, type] = {}
    exec("from srch3.data import BeirDataModule", names)
    data = names["BeirDataModule"](str(tmp_path), batch_size=2)
    data.setup("fit")
    (batch,) = list(data.train_dataloader())
    (validation,) = list(data.val_dataloader())
    assert (batch.ids, batch.thoughts) == (["q1"], ["add numbers, total"])
    assert (validation.ids, validation.relevant) == (["q2"], [{"d2": 1}])


def test_the_program_about_data_runs(folder: Path) -> None:
    (text,) = [block.text for block in page("data") if block.language == "python"]
    names: dict[str, object] = {}
    exec(filled(text), names)
    assert len(names["batch"].ids) == 4  # type: ignore[attr-defined]


def test_the_callback_that_adds_documents_does() -> None:
    (text,) = [block.text for block in page("environment") if block.language == "python"]
    names: dict[str, type[L.Callback]] = {}
    exec(text.replace('"what the document says"', '"1 2 3"'), names)
    toy = toy_corpus(30)
    corpus, environment = ChangingCorpus(Corpus(toy.ids, toy.texts)), SearchEnvironment()
    run = toy_trainer(environment, names["Newcomers"](), limit_val_batches=0)
    run.fit(ToyModule(), datamodule=ToyData(corpus, steps=103))
    assert corpus.texts[30] == "1 2 3"
    assert float(run.callback_metrics["env/size"]) == len(corpus) == 31


@pytest.mark.slow
def test_the_commands_of_training_run(trained: Path) -> None:
    first, second = commands("recipes")
    (audited,) = commands("environment")
    runs = (
        [first[3:], *TINY, *RECIPE],
        [second[3:], *TINY, *RECIPE],
        [audited[3:], *TINY, *SHORT, "--model.init_args.samples=3"],
    )
    for words, *more in runs:
        assert words[0] == "fit"
        assert main([*words, *more, *QUIET]).trainer.global_step >= 1


@pytest.mark.slow
def test_the_page_about_using_a_model_runs_from_top_to_bottom(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (question,) = [json.loads(block.text) for block in page(USING) if block.language == "json"]
    answers: list[Reply] = []

    class Asked:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        def run(self, sockets: list[socket.socket]) -> None:
            with serving(self.app) as port:
                answers.append(ask(port, "/search", question))

    monkeypatch.setattr(server, "server_for", Asked)
    monkeypatch.setattr(server, "listen", lambda host, port, listen=server.listen: listen(host, 0))
    for block in page(USING):
        if block.language == "python":
            exec(filled(block.text), {})
        if block.language == "bash":
            for line in filled(block.text.replace("\\\n", " ")).strip().splitlines():
                python, switch, package, *words = shlex.split(line)
                assert (python, switch, package) == ("python", "-m", "srch3")
                main(words)
    shown = capsys.readouterr().out
    assert "parse a date" in shown
    assert "ndcg@10" in shown
    for name in (
        "searchable/manifest.json",
        "found.trec",
        "queries.npy",
        "results/results.json",
        "exported/srch3.json",
    ):
        assert Path(name).is_file()
