"""Whole jobs from files to files: what each subcommand of the command line calls."""

from qffs.jobs.begin import demo, train
from qffs.jobs.networks import convert, plan, quantise, simulate

__all__ = ["convert", "demo", "plan", "quantise", "simulate", "train"]
