"""Ordinary networks, small, written as people write them: nothing in them knows of quantization or of spikes."""

from __future__ import annotations

from helpers.networks.attention import ATTENTION
from helpers.networks.convolutional import CONVOLUTIONAL
from helpers.networks.dense import DENSE
from helpers.networks.gated import GATED
from helpers.networks.joined import JOINED
from helpers.networks.mobile import MOBILE
from helpers.networks.residual import RESIDUAL
from helpers.networks.sequences import SEQUENCES
from helpers.networks.shapes import SHAPES
from helpers.networks.subject import Subject
from helpers.networks.vectors import VECTORS
from helpers.networks.windows import WINDOWS

NETWORKS: dict[str, Subject] = {
    **RESIDUAL,
    **CONVOLUTIONAL,
    **GATED,
    **MOBILE,
    **JOINED,
    **DENSE,
    **ATTENTION,
    **WINDOWS,
    **SEQUENCES,
    **SHAPES,
    **VECTORS,
}
