"""What all tests of exports share."""

from __future__ import annotations

import logging

# pytest keeps every record of the tests, and for it PyTorch would write down each step of an export: gigabytes.
logging.getLogger("torch.__trace").disabled = True
