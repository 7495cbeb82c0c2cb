"""Data modules: judged queries, and the documents they are searched in."""

from srch3.data.base import RetrievalDataModule
from srch3.data.beir import BeirDataModule
from srch3.data.changing import ChangingCorpus
from srch3.data.corpus import Corpus
from srch3.data.hub import HubDataModule
from srch3.data.jsonl import JsonlDataModule
from srch3.data.language import MinedTextDataModule
from srch3.data.python_source import PythonSourceDataModule
from srch3.data.sampler import Draw, EpochBatchSampler
from srch3.data.streaming import HubStreamDataModule
from srch3.data.thoughts import ColumnThoughts, FileThoughts, KeywordThoughts, NoThoughts, ThoughtSource

__all__ = [
    "BeirDataModule",
    "ChangingCorpus",
    "ColumnThoughts",
    "Corpus",
    "Draw",
    "EpochBatchSampler",
    "FileThoughts",
    "HubDataModule",
    "HubStreamDataModule",
    "JsonlDataModule",
    "KeywordThoughts",
    "MinedTextDataModule",
    "NoThoughts",
    "PythonSourceDataModule",
    "RetrievalDataModule",
    "ThoughtSource",
]
