"""Networks of linear layers: vectors, sets, graphs, several inputs and outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.networks.subject import Subject, conv_norm_relu


def mlp() -> nn.Module:
    hidden = (nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 16), nn.ReLU())
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(16, 5))


class TwoTowers(nn.Module):
    """An image and a vector, each with its own tower."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(conv_norm_relu(3, 4, stride=2), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.vector = nn.Sequential(nn.Linear(5, 8), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        joined = torch.cat([self.image(image), self.vector(vector)], dim=1)
        return self.head(joined).squeeze(-1)


class Siamese(nn.Module):
    """Two images through the same tower; their difference is judged."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(conv_norm_relu(1, 4, stride=2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 8))
        self.head = nn.Linear(16, 1)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        a, b = self.tower(one), self.tower(other)
        return self.head(F.relu(torch.cat((a - b, b - a), 1)))


class Dueling(nn.Module):
    """Pixels of a game; a value, and an advantage an action less its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 6, 4, stride=2), nn.Conv2d(6, 6, 3, stride=2)
        self.hidden = nn.Linear(6 * 3 * 3, 12)
        self.value, self.advantage = nn.Linear(12, 1), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x / 255.0
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = F.relu(self.hidden(x.reshape(x.shape[0], -1)))
        advantage = self.advantage(x)
        return self.value(x) + advantage - advantage.mean(dim=1, keepdim=True)


class ManyHeads(nn.Module):
    """A dictionary of logits, a pair and a feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_norm_relu(3, 4, stride=2), conv_norm_relu(4, 6, stride=2))
        self.heads = nn.ModuleDict({name: nn.Linear(6, size) for name, size in (("age", 1), ("kind", 4))})
        self.box = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> dict[str, object]:
        features = self.body(x)
        pooled = features.mean(dim=(-2, -1))
        xy, size = self.box(pooled).split(2, dim=1)
        return {**{name: head(pooled) for name, head in self.heads.items()}, "box": (xy, size), "map": features}


class Mixing(nn.Module):
    """Two linear layers across the patches, two across the channels."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(patches, 12), nn.ReLU(), nn.Linear(12, patches))
        self.channels = nn.Sequential(nn.Linear(width, 12), nn.ReLU(), nn.Linear(12, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x).transpose(1, 2)
        y = self.tokens(y).transpose(1, 2)
        x = x + y
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """Patches cut out by hand, mixed twice, averaged."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * 4 * 4, width)
        self.blocks = nn.Sequential(Mixing(16, width), Mixing(16, width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(b, -1, 4 * 4 * c)
        return self.head(self.norm(self.blocks(self.embed(x))).mean(1))


class PointNet(nn.Module):
    """The same layers for every point, a maximum over the points, joined to each of them again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(3, 6, 1), nn.BatchNorm1d(6)
        self.conv2, self.bn2 = nn.Conv1d(6, 8, 1), nn.BatchNorm1d(8)
        self.conv3 = nn.Conv1d(14, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        points = x.size(2)
        local = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(local)))
        x = torch.max(x, 2, keepdim=True)[0]
        x = x.view(-1, 8, 1).repeat(1, 1, points)
        x = self.conv3(torch.cat([x, local], 1))
        return x.transpose(2, 1).contiguous()


class GraphConvolution(nn.Module):
    """Features of nodes, mixed by a matrix of their neighbors that is an input too."""

    def __init__(self) -> None:
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(4, 8, bias=False), nn.Linear(8, 3)
        self.bias = nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        x = torch.bmm(adjacency, self.lin1(x)) + self.bias
        x = F.dropout(x.relu(), training=self.training)
        return torch.bmm(adjacency, self.lin2(x))


VECTORS = {
    "mlp": Subject(mlp, ((3, 4),)),
    "two_inputs": Subject(TwoTowers, ((3, 16, 16), (5,))),
    "siamese": Subject(Siamese, ((1, 12, 12), (1, 12, 12))),
    "many_outputs": Subject(ManyHeads),
    "dueling": Subject(Dueling, ((4, 16, 16),)),
    "mixer": Subject(Mixer, spiking=False),
    "pointnet": Subject(PointNet, ((3, 12),)),
    "graph_convolution": Subject(GraphConvolution, ((6, 4), (6, 6)), spiking=False),
}
