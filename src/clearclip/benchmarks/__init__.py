"""The paper's eight benchmarks, `scenes` and data sets of one's own: files, metrics, evaluation and results.

Importing this package loads no torch.
"""

from clearclip.benchmarks.bootstrap import Difference, difference
from clearclip.benchmarks.check import Report, check_dataset
from clearclip.benchmarks.distributed import evaluate_on_ray
from clearclip.benchmarks.evaluation import Evaluation, Run, evaluate, merge
from clearclip.benchmarks.metrics import Scores, confusion, scores
from clearclip.benchmarks.presets import Preset, get_preset, preset_names
from clearclip.benchmarks.published import Published, published_number
from clearclip.benchmarks.readers import Dataset, Pair, Sample, open_benchmark, open_folders
from clearclip.benchmarks.results import read_results, records
from clearclip.benchmarks.rows import BENCHMARKS, NAMES, Benchmark, get_benchmark, vocabulary_of
from clearclip.benchmarks.tables import Table, table
from clearclip.files.shards import Shard

__all__ = [
    "BENCHMARKS",
    "NAMES",
    "Benchmark",
    "Dataset",
    "Difference",
    "Evaluation",
    "Pair",
    "Preset",
    "Published",
    "Report",
    "Run",
    "Sample",
    "Scores",
    "Shard",
    "Table",
    "check_dataset",
    "confusion",
    "difference",
    "evaluate",
    "evaluate_on_ray",
    "get_benchmark",
    "get_preset",
    "merge",
    "open_benchmark",
    "open_folders",
    "preset_names",
    "published_number",
    "read_results",
    "records",
    "scores",
    "table",
    "vocabulary_of",
]
