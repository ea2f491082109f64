"""Labeled images for training and measuring.

`load` reads the digits that are shipped with the library, CIFAR-10, or a zip or folder of photographs sorted by class.
Images that do not fit in memory stay in their files, and `batches` reads them ahead.

>>> digits = load("digits")
>>> len(digits.train), len(digits.test), tuple(digits.test.images.shape)
(1348, 449, (449, 1, 8, 8))
"""

from qffs.data.dataset import Dataset, Images, batches, hold_out
from qffs.data.load import in_memory, load

__all__ = ["Dataset", "Images", "batches", "hold_out", "in_memory", "load"]
