"""Ordinary networks, small, written as people write them: nothing in them knows of quantisation or of spikes."""

from __future__ import annotations

from networks.attention import ATTENTION
from networks.convolutional import CONVOLUTIONAL
from networks.dense import DENSE
from networks.gated import GATED
from networks.joined import JOINED
from networks.mobile import MOBILE
from networks.residual import RESIDUAL
from networks.sequences import SEQUENCES
from networks.shapes import SHAPES
from networks.subject import Subject
from networks.vectors import VECTORS
from networks.windows import WINDOWS

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
