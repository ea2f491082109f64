"""Networks that answer at every pixel, and pyramids of maps."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.networks.subject import Subject, conv_norm_relu


def double(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(conv_norm_relu(before, after), conv_norm_relu(after, after))


class UNet(nn.Module):
    """Down by max pools, up by transposed convolutions, the maps of the way down joined on the way up."""

    def __init__(self, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = double(3, width), double(width, 2 * width), double(2 * width, 4 * width)
        self.pool = nn.MaxPool2d(2)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1)
        self.conv2, self.conv1 = double(4 * width, 2 * width), double(2 * width, width)
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip1 = self.down1(x)
        skip2 = self.down2(self.pool(skip1))
        x = self.middle(self.pool(skip2))
        x = self.conv2(torch.cat([skip2, self.up2(x)], dim=1))
        x = self.conv1(torch.cat([skip1, self.up1(x)], dim=1))
        return self.out(x)


class InterpolatedUNet(UNet):
    """Up by interpolation, padded to the size of the map that is joined."""

    def __init__(self, width: int = 4, classes: int = 3) -> None:
        super().__init__(width, classes)
        self.up2 = nn.Upsample(scale_factor=2, mode="nearest")
        self.conv2, self.conv1 = double(6 * width, 2 * width), double(3 * width, width)
        del self.up1

    def forward(self, x: Tensor) -> Tensor:
        skip1 = self.down1(x)
        skip2 = self.down2(self.pool(skip1))
        x = self.up2(self.middle(self.pool(skip2)))
        high, wide = skip2.size(2) - x.size(2), skip2.size(3) - x.size(3)
        x = F.pad(x, [wide // 2, wide - wide // 2, high // 2, high - high // 2])
        x = self.conv2(torch.cat([skip2, x], dim=1))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = self.conv1(torch.cat([skip1, F.pad(x, (0, 1, 0, 1))], dim=1))
        return self.out(x)


class Atrous(nn.Module):
    """Dilated convolutions beside the mean of the whole map, blown up again."""

    def __init__(self, before: int, width: int, rates: tuple[int, ...] = (1, 2)) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, width, 3, padding=rate, dilation=rate, bias=False), nn.BatchNorm2d(width), nn.ReLU()
            )
            for rate in rates
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_norm_relu(before, width, 1))
        self.project = nn.Sequential(conv_norm_relu((len(rates) + 1) * width, width, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        maps = [conv(x) for conv in self.convs]
        size = x.shape[-2:]
        maps.append(F.interpolate(self.pool(x), size=size, mode="bilinear", align_corners=False))
        return self.project(torch.cat(maps, dim=1))


class DeepLab(nn.Module):
    """Atrous pooling on a backbone; the answer at the size of the input, in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv_norm_relu(3, 4, stride=2), conv_norm_relu(4, 6, stride=2))
        self.classifier = nn.Sequential(Atrous(6, 4), conv_norm_relu(4, 4), nn.Conv2d(4, 3, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        input_shape = x.shape[-2:]
        result = OrderedDict()
        x = self.classifier(self.backbone(x))
        result["out"] = F.interpolate(x, size=input_shape, mode="bilinear", align_corners=False)
        return result


class FeaturePyramid(nn.Module):
    """Lateral convolutions added from the top down, an output a level, boxes and classes by shared heads."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv_norm_relu(3, 4, stride=2), double(4, 6), conv_norm_relu(6, 8, stride=2)])
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.lateral = nn.ModuleList(nn.Conv2d(before, width, 1) for before in (4, 6, 8))
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.head = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.classes, self.boxes = nn.Conv2d(width, 2, 1), nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        x1 = self.stages[0](x)
        x2 = self.stages[1](self.pool(x1))
        x3 = self.stages[2](x2)
        last = self.lateral[2](x3)
        pyramid = [self.smooth[2](last)]
        for level, fine in ((1, x2), (0, x1)):
            lateral = self.lateral[level](fine)
            last = lateral + F.interpolate(last, size=lateral.shape[-2:], mode="nearest")
            pyramid.insert(0, self.smooth[level](last))
        heads = [self.head(each) for each in pyramid]
        classes = torch.cat([self.classes(h).flatten(2).transpose(1, 2) for h in heads], dim=1)
        boxes = torch.cat([self.boxes(h).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4) for h in heads], dim=1)
        return pyramid, {"classes": classes, "boxes": boxes}


class SuperResolution(nn.Module):
    """A residual body and a pixel shuffle, added to the enlarged input."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv2d(1, 6, 5, 1, 2),
            nn.Conv2d(6, 6, 3, 1, 1),
            nn.Conv2d(6, 4, 3, 1, 1),
        )
        self.pixel_shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.conv1(x))
        y = y + self.relu(self.conv2(y)) * 0.1
        return self.pixel_shuffle(self.conv3(y)) + F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)


class HighResolution(nn.Module):
    """Two resolutions side by side, each with a share of the other, fused twice."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = conv_norm_relu(3, width)
        self.start = conv_norm_relu(width, 2 * width, stride=2)
        self.fine = nn.ModuleList(conv_norm_relu(width, width) for _ in range(2))
        self.coarse = nn.ModuleList(conv_norm_relu(2 * width, 2 * width) for _ in range(2))
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(2 * width, width, 1, bias=False), nn.BatchNorm2d(width), nn.Upsample(scale_factor=2)
            )
            for _ in range(2)
        )
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width)) for _ in range(2)
        )
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.stem(x)
        coarse = self.start(fine)
        for number in range(2):
            a, b = self.fine[number](fine), self.coarse[number](coarse)
            fine, coarse = self.relu(a + self.up[number](b)), self.relu(self.down[number](a) + b)
        return self.head(fine)


class Transfer(nn.Module):
    """An image to an image, with reflected edges and no transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            *(nn.ReflectionPad2d(2), nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4), nn.ReLU()),
            *(nn.ReflectionPad2d(1), nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU()),
        )
        self.conv1, self.conv2, self.pad = nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3), nn.ReplicationPad2d(1)
        self.up = nn.Sequential(
            *(nn.Upsample(scale_factor=2, mode="nearest"), nn.ReflectionPad2d(1), nn.Conv2d(6, 4, 3), nn.ReLU()),
            nn.Conv2d(4, 3, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        x = x + self.conv2(self.pad(F.relu(self.conv1(self.pad(x)))))
        return self.up(x)


class AutoEncoder(nn.Module):
    """A convolutional encoder, a code, and transposed convolutions back to an image in (-1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(), nn.Flatten()),
            nn.Linear(6 * 4 * 4, 8),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(8, 6 * 4 * 4), nn.ReLU(), nn.Unflatten(1, (6, 4, 4))),
            *(nn.ConvTranspose2d(6, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(True)),
            *(nn.ConvTranspose2d(4, 1, 4, 2, 1), nn.Tanh()),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder(x)
        return self.decoder(code), code


DENSE = {
    "unet": Subject(UNet),
    "unet_interpolated": Subject(InterpolatedUNet, ((3, 17, 17),)),
    "deeplab": Subject(DeepLab, ((3, 17, 17),)),
    "feature_pyramid": Subject(FeaturePyramid, ((3, 22, 22),)),
    "super_resolution": Subject(SuperResolution, ((1, 12, 12),)),
    "high_resolution": Subject(HighResolution),
    "style_transfer": Subject(Transfer),
    "autoencoder": Subject(AutoEncoder, ((1, 16, 16),), spiking=False),
}
