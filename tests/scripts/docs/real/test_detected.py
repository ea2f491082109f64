"""The distances between the outputs of a detector's networks, and the step from which on they are equal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from real.boxes import Reader
from real.detected import _equal_from, detected
from real.subject import Subject
from torch import Tensor, nn

import qffs
from qffs.data import Images


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, 2), nn.Conv2d(16, 8, 3)
        self.box, self.score = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.box(x), self.score(x)


def read(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Read one box for each image, at the left if its scores are positive in sum, else at the right."""
    left = torch.tensor([[0.0, 0.0, 0.5, 1.0, 1.0, 0.0]])
    right = torch.tensor([[0.5, 0.0, 1.0, 1.0, 1.0, 0.0]])
    return [left if float(each.sum()) > 0 else right for each in outputs[1]]


def test_the_step_from_which_on_every_output_is_equal() -> None:
    one = torch.tensor([[1.0, 1.0], [5.0, 1.0], [2.0, 1.0], [2.0, 1.0]]).unsqueeze(2)  # [T, B, 1]
    other = torch.tensor([[0.0, 3.0], [0.0, 4.0], [0.0, 3.0], [0.0, 4.0]]).unsqueeze(2)
    expected = [torch.tensor([[2.0], [1.0]]), torch.tensor([[0.0], [4.0 + 1e-7]])]
    assert _equal_from([one, other], expected).tolist() == [3, 4]
    assert _equal_from([one, other], [expected[0], torch.tensor([[1.0], [4.0]])]).tolist() == [5, 4]


@torch.no_grad()
def test_distances_are_averages_over_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 19, 19), dtype=torch.uint8)
    test, network = Images(images, torch.zeros(3, dtype=torch.int64)), Detector().eval()
    outputs, reader = ("boxes", "scores"), Reader(read, ("thing",))
    subject = Subject(network, "any", images, test, lambda pixels: pixels.float() / 255, outputs, reader)
    x = images.double() / 255
    qann = qffs.calibrate(qffs.quantize(network, example=x.float()), [x.float()], "lsq").eval().double()
    results = detected(subject, qann, qffs.to_spiking(qann), 3, tmp_path / "new" / "boxes.png")
    assert next(network.parameters()).dtype == torch.float32
    for entry, full, quantized in zip(results["qann"], network.double()(x), qann(x), strict=True):
        cosines = [torch.cosine_similarity(a.flatten(), b.flatten(), 0) for a, b in zip(full, quantized, strict=True)]
        assert entry["cosine"] == pytest.approx(float(sum(cosines)) / 3)
        assert entry["difference"] == pytest.approx(float((full - quantized).abs().mean()))
        assert entry["size"] == pytest.approx(float(full.abs().mean()))
    assert [entry["output"] for entry in results["qann"]] == ["boxes", "scores"]
    snn = qffs.to_spiking(qann)
    sent: list[Tensor] = []
    snn.run(x, steps=20, observer=lambda path, spikes, state: sent.append(spikes.abs().flatten(1).sum(1)))
    spikes = sum(sent).tolist()  # type: ignore[union-attr]
    assert results["spikes_per_image"] == pytest.approx(sum(spikes) / 3)
    assert results["settled"] == max(step for step, count in enumerate(spikes, 1) if count) > 3
    assert results["equal"] == 1
    assert results["equal_from"] <= results["settled"]
    sides = [[float(box[0, 0]) for box in read(outputs)] for outputs in (network(x), qann(x))]
    after = [[float(box[0, 0]) for box in read([each[t - 1] for each in snn(x, steps=20)])] for t in (4, 20)]
    assert after[1] == sides[1]
    for entry, snn_sides in zip(results["boxes"], after, strict=True):
        same = sum(a == b for a, b in zip(sides[0], snn_sides, strict=True))
        assert (entry["full_precision"], entry["snn"], entry["same"]) == (3, 3, same)
    with Image.open(tmp_path / "new" / "boxes.png") as picture:
        assert picture.width == 3 * 256
