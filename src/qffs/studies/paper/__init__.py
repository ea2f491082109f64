"""The tables and figures of Li, Ma and Furber 2022, each made again from networks trained here."""

from qffs.studies.paper.items import ITEMS, Item
from qffs.studies.paper.make import make

__all__ = ["ITEMS", "Item", "make"]
