"""Whole jobs from files to files: what each subcommand of the command line calls."""

from qffs.jobs.begin import demo, train
from qffs.jobs.comparing import compare
from qffs.jobs.exporting import export
from qffs.jobs.measuring import energy, noise, simulate
from qffs.jobs.networks import convert, plan, quantise
from qffs.jobs.reporting import report
from qffs.jobs.several import train_all
from qffs.jobs.trial import Trial

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
