"""Whole jobs from files to files: what each subcommand of the command line calls."""

from qffs.runs.train import demo, train
from qffs.studies.compare import compare
from qffs.runs.export import export
from qffs.runs.measure import energy, noise, simulate
from qffs.runs.convert import convert, plan, quantise
from qffs.runs.report import report
from qffs.runs.parallel import train_all
from qffs.runs.measure import Trial

__all__ = [
    "Trial",
    "compare",
    "convert",
    "demo",
    "energy",
    "export",
    "noise",
    "plan",
    "quantise",
    "report",
    "simulate",
    "train",
    "train_all",
]
