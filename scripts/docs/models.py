"""Convert each classification network of torchvision and timm that contains a ReLU, and compare it in float64.

    python scripts/docs/models.py                       # all networks: write the first part of docs/models.md
    python scripts/docs/models.py timm:resnet10t        # some networks: print their rows

Weights are random; batch norm statistics are those of two random batches. Results are stored, line by line, in
runs/models.jsonl, so that a run that was stopped can continue.
"""

from __future__ import annotations

import gc
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from page_parts import with_part
from torch import Tensor, fx, nn

import qffs
from qffs.errors import Mismatch, QffsError
from qffs.functional.neuron import NeuronState
from qffs.graph.nested import tensors
from qffs.models import find
from qffs.models.libraries import vision
from qffs.spiking.network import SpikingNetwork

TIMM = [
    "byobnet:gernet_s",
    "byobnet:repvgg_a0",
    "byobnet:mobileone_s1",
    "byobnet:lambda_resnet26t",
    "byobnet:halonet_h1",
    "convmixer:convmixer_768_32",
    "crossvit:crossvit_9_dagger_240",
    "densenet:densenetblur121d",
    "dla:dla60x_c",
    "dpn:dpn68",
    "efficientformer:efficientformer_l1",
    "efficientnet:mobilenetv2_050",
    "efficientnet:mnasnet_small",
    "efficientvim:efficientvim_m1",
    "efficientvit_mit:efficientvit_b0",
    "efficientvit_msra:efficientvit_m1",
    "fasternet:fasternet_t2",
    "fastvit:fastvit_t8",
    "ghostnet:ghostnet_050",
    "ghostnet:ghostnetv3_050",
    "hardcorenas:hardcorenas_a",
    "hgnet:hgnetv2_b0",
    "hrnet:hrnet_w18_small",
    "inception_resnet_v2:inception_resnet_v2",
    "inception_v3:inception_v3",
    "inception_v4:inception_v4",
    "lcnetv2:lcnetv2_small",
    "maxxvit:maxvit_rmlp_pico_rw_256",
    "metaformer:poolformerv2_s12",
    "mobilenetv3:mobilenetv3_small_050",
    "nasnet:nasnetalarge",
    "nextvit:nextvit_small",
    "nfnet:nf_regnet_b1",
    "nfnet:nf_resnet26",
    "pnasnet:pnasnet5large",
    "pvt_v2:pvt_v2_b2_li",
    "regnet:regnety_002",
    "repghost:repghostnet_050",
    "repvit:repvit_m1_0",
    "res2net:res2net50_14w_8s",
    "resnest:resnest14d",
    "resnet:resnet10t",
    "resnet:ecaresnet26t",
    "resnet:seresnet50",
    "resnetv2:resnetv2_18",
    "rexnet:rexnet_100",
    "selecsls:selecsls42",
    "senet:legacy_seresnet18",
    "shvit:shvit_s1",
    "sknet:skresnet18",
    "starnet:starnet_s050",
    "swiftformer:swiftformer_xs",
    "swin_transformer_v2:swinv2_tiny_window8_256",
    "swin_transformer_v2_cr:swinv2_cr_tiny_224",
    "tresnet:tresnet_m",
    "vgg:vgg11_bn",
    "visformer:visformer_tiny",
    "vision_transformer_hybrid:vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos:vit_srelpos_small_patch16_224",
    "volo:volo_d1_224",
    "vovnet:ese_vovnet19b_slim",
    "xception:legacy_xception",
    "xception_aligned:xception41",
]
"""Families (files of timm) with a ReLU, and for each one or several of its smallest networks: ``family:network``."""


SIDES = {
    "torchvision:regnet_y_128gf": 64,
    "torchvision:regnet_x_32gf": 96,
    "torchvision:regnet_y_32gf": 96,
    "torchvision:vgg19_bn": 96,
    "torchvision:vgg19": 96,
    "torchvision:wide_resnet101_2": 96,
    "torchvision:resnext101_64x4d": 96,
    "torchvision:resnext101_32x8d": 96,
    "timm:convmixer_768_32": 70,
    "timm:nasnetalarge": 139,
    "timm:pnasnet5large": 139,
}
"""Sides of images smaller than the network's usual size, where float64 would take many minutes."""


@dataclass(frozen=True)
class Row:
    """The result for a network; ``reason`` is empty if it was converted and everything was equal."""

    name: str
    reason: str = ""
    side: int = 0
    layers: int = 0
    neurons: int = 0
    values: tuple[str, ...] = ()
    settled: int = 0
    deviation: float = 0.0
    seconds: float = 0.0


def names() -> list[str]:
    """Return the names of all networks to try."""
    models = vision("torchvision.models")
    listed = [name for name in models.list_models(module=models) if _has_relu(models, name)]
    return [f"torchvision:{name}" for name in listed] + [f"timm:{entry.partition(':')[2]}" for entry in TIMM]


def _has_relu(models: object, name: str) -> bool:
    """Return whether a network has a ReLU, by its family: to build every network for this takes minutes."""
    without = ("convnext", "efficientnet", "maxvit", "swin_t", "swin_s", "swin_b", "vit")
    return not name.startswith(without)


def examine(name: str) -> Row:
    """Convert a network and return its row: counts, outputs and step-wise simulation are compared on one image."""
    start = time.monotonic()
    try:
        row = _examine(name)
    except QffsError as error:
        row = {"reason": f"{type(error).__name__}: {error}"}
    gc.collect()
    return Row(name, seconds=round(time.monotonic() - start, 1), **row)


def _examine(name: str) -> dict[str, object]:
    torch.manual_seed(0)
    source = find.find(name)
    model = source.network.double()
    (like,) = find.example(name, source)
    side = SIDES.get(name, like.shape[-1])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, like.shape[1], side, side, dtype=torch.float64, generator=generator)
    _learn_statistics(model, x)
    del source, like
    x = x[:1]
    values = sorted({row.operator for row in qffs.plan(model, x).rows if row.values})
    qann = qffs.calibrate(qffs.quantize(model, example=x), [x], "lsq")
    del model
    return {"side": side, "values": tuple(values), **compare(qann, qffs.to_spiking(qann), x)}


@torch.no_grad()
def _learn_statistics(model: nn.Module, x: Tensor) -> None:
    """Set only the batch norm statistics, to those of these images."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the plain mean over the batches
        norm.train()
    model(x)
    model(x.flip(0) + 0.1)
    model.eval()


@torch.no_grad()
def compare(qann: fx.GraphModule, snn: SpikingNetwork, *inputs: Tensor) -> dict[str, object]:
    """Return the results of `verify`, and the largest deviation of an output divided by the largest output.

    Raises `Mismatch` if a count differs from its level, or step-wise and layer-wise simulation send different spikes.
    """
    compared = qffs.verify(qann, snn, *inputs, tie_tolerance=0)
    largest = max(float(output.abs().max()) for output in tensors(qann(*inputs)))
    steps = 2 * snn.schedule.steps
    whole, parts = (_spikes(snn, inputs, steps, chunk) for chunk in (steps, 1))
    if whole.keys() != parts.keys() or not all(torch.equal(whole[path], parts[path]) for path in whole):
        raise Mismatch("step-wise and layer-wise simulation differ")
    neurons = sum(units for _, units in compared.layers)
    deviation = compared.deviation / largest
    return {"layers": len(whole), "neurons": neurons, "settled": compared.settled, "deviation": deviation}


def _spikes(snn: SpikingNetwork, inputs: Sequence[Tensor], steps: int, chunk: int) -> dict[str, Tensor]:
    seen: dict[str, list[Tensor]] = {}

    def keep(path: str, spikes: Tensor, state: NeuronState) -> None:
        seen.setdefault(path, []).append(spikes.to(torch.int8))

    snn.run(*inputs, steps=steps, chunk=chunk, observer=keep)
    return {path: torch.cat(parts) for path, parts in seen.items()}


# --- the document ----------------------------------------------------------------------------------------------------


HEAD = """# Networks that were tried

This part lists the classification networks of torchvision and timm that contain a ReLU. Each has random weights and the
batch norm statistics of two random batches, and was quantized to 2 bits, calibrated, converted, and compared in float64
on one image of the network's usual size. (Where that would take many minutes, the image is smaller; `image` is its side
in pixels.) A network counts as converted if

- the spike count of every neuron after the run is the level of its quantizer (`qffs.verify`),
- the outputs differ from the quantized network's only by rounding (`deviation`: the largest absolute difference divided
  by the largest output),
- the step-by-step and the layer-by-layer simulation give the same spikes.

`settled` is the step after which no neuron fires any more. `sends values` names the operators that send values instead
of single spikes; `strict=True` refuses them.

{count} networks are converted. Networks with nothing to quantize are not counted: their only ReLUs make a table of
constants (of relative positions). Written by `python scripts/docs/models.py` on
{machine}.
"""


def document(rows: Sequence[Row]) -> str:
    """Return the text of the first part of docs/models.md; real_networks.py writes the second."""
    lines = [HEAD.format(count=_count(rows), machine=_machine())]
    for library in ("torchvision", "timm"):
        members = [row for row in rows if row.name.startswith(f"{library}:")]
        lines += [
            f"## {library} {version(library)}: {_count(members)}",
            "",
            *_table(members),
            "",
        ]
    return "\n".join(lines)


def _count(rows: Sequence[Row]) -> str:
    tried = [row for row in rows if not row.reason.startswith("NothingToQuantize")]
    return f"{sum(not row.reason for row in tried)} of {len(tried)}"


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| network | result | image | layers of neurons | neurons | settled | deviation | sends values |"
    yield "|---|---|---:|---:|---:|---:|---:|---|"
    for row in rows:
        name = row.name.partition(":")[2]
        if row.reason:
            yield f"| {name} | {' '.join(row.reason.split())} | | | | | | |"
            continue
        numbers = f"{row.side} | {row.layers} | {row.neurons:,} | {row.settled} | {row.deviation:.0e}"
        yield f"| {name} | converted | {numbers} | {', '.join(row.values) or 'no'} |"


def _machine() -> str:
    return f"{torch.get_num_threads()} CPU cores, Python {platform.python_version()}, torch {torch.__version__}"


def main(chosen: Sequence[str], log: Path, file: Path) -> None:
    """Examine the networks that are not in the log yet, and write their part of a page if none was chosen by name."""
    selected = list(chosen) or names()
    log.parent.mkdir(exist_ok=True)
    done = (
        {}
        if chosen or not log.exists()
        else {
            row["name"]: Row(**{**row, "values": tuple(row["values"])})
            for row in map(json.loads, log.read_text().splitlines())
        }
    )
    for name in selected:
        if name not in done:
            done[name] = examine(name)
            print(done[name], flush=True)
            with log.open("a") as stream:
                stream.write(json.dumps(asdict(done[name])) + "\n")
    if not chosen:
        file.write_text(with_part(file.read_text(), document([done[name] for name in selected])))


if __name__ == "__main__":
    main(sys.argv[1:], Path("runs/models.jsonl"), Path("docs/models.md"))
