"""Augmentation: what comes out, parts of a batch that together equal it, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from qffs.data.augment import Augmentation, mixed
from qffs.errors import InvalidArgument
from qffs.recipes import names, read

CROP = {"RandomCrop": {"size": [32, 32], "padding": 4}}
FLIP = {"RandomHorizontalFlip": {"p": 0.5}}
JITTER = {"ColorJitter": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1, "p": 0.5}}
ERASE = {"RandomErasing": {"p": 0.5}}
RESIZED = {"RandomResizedCrop": {"size": [24, 20], "scale": [0.3, 1.0]}}
BLUR = {"RandomGaussianBlur": {"kernel_size": [3, 3], "sigma": [0.1, 2.0], "p": 0.5}}


def images(count: int = 8, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, *(shape or (3, 32, 32))), generator=generator).to(torch.uint8)


def augmented(augmentation: Augmentation, seed: int, *arguments: Any) -> Tensor:
    torch.manual_seed(seed)
    return augmentation(*arguments)


@pytest.mark.parametrize("peak", [255.0, 16.0])
def test_without_steps_images_stay_as_they_are(peak: float) -> None:
    x = images() if peak == 255 else images() % 17
    assert torch.equal(Augmentation([], peak)(x), x)


def test_a_crop_of_padded_images_moves_each_by_up_to_the_padding() -> None:
    x = torch.zeros(300, 1, 8, 8, dtype=torch.uint8)
    x[:, :, 4, 4] = 16
    y = augmented(Augmentation([{"RandomCrop": {"size": [8, 8], "padding": 1}}], 16), 0, x)
    places = {tuple(place) for place in y.nonzero()[:, 2:].tolist()}
    assert places == {(row, column) for row in (3, 4, 5) for column in (3, 4, 5)}
    assert y.dtype == torch.uint8
    assert torch.equal(y.sum((1, 2, 3)), torch.full((300,), 16))


def test_values_stay_between_black_and_the_peak() -> None:
    brighter = Augmentation([{"RandomBrightness": {"brightness": [2.0, 2.0], "clip_output": False, "p": 1.0}}], 16)
    assert torch.equal(brighter(torch.full((2, 3, 4, 4), 9, dtype=torch.uint8)), torch.full((2, 3, 4, 4), 16))


def test_values_between_two_levels_are_rounded() -> None:
    darker = Augmentation([{"Normalize": {"mean": [0.0], "std": [1.5]}}], 16)
    assert darker(torch.full((1, 1, 2, 2), 7, dtype=torch.uint8)).unique().tolist() == [5]  # 4.67


def test_lists_are_given_as_the_tuples_that_kornia_takes() -> None:
    assert Augmentation([{"RandomCrop": {"size": [40, 36], "padding": [2, 4]}}], 255)(images()).shape[2:] == (40, 36)


def test_the_result_has_the_size_that_the_last_step_makes() -> None:
    assert Augmentation([CROP, RESIZED], 255)(images()).shape == (8, 3, 24, 20)


def test_the_same_seed_gives_the_same_images_and_another_others() -> None:
    augmentation = Augmentation([CROP, FLIP, JITTER], 255)
    first = augmented(augmentation, 0, images())
    assert torch.equal(first, augmented(augmentation, 0, images()))
    assert not torch.equal(first, augmented(augmentation, 1, images()))


@pytest.mark.parametrize(
    "parts",
    [
        [slice(0, 4), slice(4, 8)],
        [slice(0, None, 3), slice(1, None, 3), slice(2, None, 3)],
        [torch.arange(0, 8, 2), torch.arange(1, 8, 2)],
        [slice(0, 8), slice(8, 8)],
    ],
    ids=["halves", "every third", "numbers", "one of them empty"],
)
@pytest.mark.parametrize("count", [8, 4])
def test_parts_of_a_batch_together_equal_the_batch_bit_for_bit(parts: list[Any], count: int) -> None:
    # Four images: as many as ColorJitter has orders and a shape has sizes, which are not to be cut.
    parts = [part if isinstance(part, slice) else part[part < count] for part in parts]
    parts = parts if count == 8 else [slice(0, 1), slice(1, 4)]
    augmentation, x = Augmentation([CROP, FLIP, JITTER, ERASE, BLUR, RESIZED], 255), images(count)
    whole = augmented(augmentation, 0, x)
    together = torch.empty_like(whole)
    for part in parts:
        together[part] = augmented(augmentation, 0, x[part], count, part)
    assert torch.equal(together, whole)


MORE: dict[str, dict[str, Any]] = {
    "CenterCrop": {"size": 16},
    "ColorJiggle": {"brightness": 0.3, "hue": 0.1},
    "RandomAffine": {"degrees": 10.0, "translate": [0.1, 0.1]},
    "RandomAutoContrast": {},
    "RandomChannelShuffle": {},
    "RandomElasticTransform": {},
    "RandomEqualize": {},
    "RandomGaussianNoise": {},
    "RandomGrayscale": {"p": 0.5},
    "RandomMotionBlur": {"kernel_size": 3, "angle": 10.0, "direction": 0.5},
    "RandomPerspective": {},
    "RandomPlasmaShadow": {},
    "RandomPosterize": {},
    "RandomRotation": {"degrees": 10.0},
    "RandomSaltAndPepperNoise": {},
    "RandomSharpness": {},
    "RandomSolarize": {},
    "Resize": {"size": [16, 16]},
}


@pytest.mark.parametrize("name", MORE)
def test_parts_equal_the_batch_for_other_classes_too(name: str) -> None:
    augmentation, x = Augmentation([{name: MORE[name]}], 255), images(7)
    whole = augmented(augmentation, 0, x)
    parts = [augmented(augmentation, 0, x[part], 7, part) for part in (slice(0, 3), slice(3, 7))]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        ({"RandomCrp": {}}, "kornia.augmentation has no 'RandomCrp'; there is RandomCrop"),
        ({"xyz": {}}, "kornia.augmentation has no 'xyz'; there is CenterCrop, "),
        ({"RandomMixUpV2": {}}, "kornia.augmentation.RandomMixUpV2 does not change one image at a time"),
        ({"RandomCutMixV2": {}}, "kornia.augmentation.RandomCutMixV2 does not change one image at a time"),
        ({"RandomCrop3D": {}}, "kornia.augmentation.RandomCrop3D does not change one image at a time"),
        ({"AugmentationSequential": {}}, "kornia.augmentation.AugmentationSequential does not change"),
        ({"RandomChannelDropout": {}}, "RandomChannelDropout numbers the images of a whole batch"),
        ({"RandomCrop": {"sise": 3}}, "RandomCrop has no argument 'sise'; there is size"),
        ({"RandomCrop": {}}, "RandomCrop cannot be made of these arguments: "),
        ({"RandomHorizontalFlip": {"p": "half"}}, "RandomHorizontalFlip needs a p from 0 to 1, not 'half'"),
        ({"RandomHorizontalFlip": {"p": 2}}, "RandomHorizontalFlip needs a p from 0 to 1, not 2"),
        ({"ColorJitter": {"brightness": -3}}, "ColorJitter cannot be made of these arguments: If brightness is"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_sentence(step: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Augmentation([step], 255)
    assert str(caught.value).startswith(f"augmentation: {sentence}")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_applied_is_refused_with_the_size_of_the_images() -> None:
    colors = Augmentation([{"RandomPlanckianJitter": {"p": 1.0}}], 255)
    with pytest.raises(InvalidArgument, match=r"^RandomPlanckianJitter cannot be applied to images of 1 x 8 x 8: "):
        colors(images(2, 1, 8, 8))


@pytest.mark.parametrize("name", names())
def test_the_augmentation_of_every_recipe_fits_its_images(name: str) -> None:
    recipe = read(name)
    side = recipe.size or (8 if recipe.data == "digits" else 32)
    channels, peak = (1, 16.0) if recipe.data == "digits" else (3, 255.0)
    y = Augmentation(recipe.augmentation, peak)(images(2, channels, side, side) // int(256 / (peak + 1)))
    assert y.shape[:2] == (2, channels)
    assert y.shape[2] == y.shape[3] <= side


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_images_on_the_gpu_are_changed_there_by_the_same_random_numbers() -> None:
    augmentation = Augmentation([CROP, FLIP], 255)
    on_gpu = augmented(augmentation, 0, images().cuda())
    assert on_gpu.is_cuda
    assert torch.equal(on_gpu.cpu(), augmented(augmentation, 0, images()))


def test_mixed_images_are_between_two_images() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(64, 5, generator=generator)
    (y,) = mixed((x,), generator)
    pairs = x[:, None] - x[None]  # y - x_j = a (x_i - x_j) for some j, with one a for all numbers of image i
    shares = (y[:, None] - x[None]) / pairs
    one = shares.amax(-1) - shares.amin(-1) < 1e-3
    assert bool(one.any(1).all())
    assert -0.01 < shares[one].min() < shares[one].max() < 1.01  # rounding
    assert not torch.equal(x, y)
    tokens = torch.arange(64)
    assert mixed((tokens, x), generator) == (tokens, x)


def test_images_are_shifted_by_at_most_an_eighth_and_mirrored_in_color() -> None:
    one = torch.zeros(1, 3, 16, 16)
    one[0, :, 8, 8] = 1
    gray, places = one[:, :1], []
    for seed in range(200):
        (y,) = mixed((one,), torch.Generator().manual_seed(seed))  # one image: mixed with itself
        places.append(tuple(y[0, 0].nonzero()[0].tolist()))
        (z,) = mixed((gray,), torch.Generator().manual_seed(seed))
        assert z[0, 0].nonzero()[0].tolist()[1] in range(6, 11)
    assert {row for row, _ in places} == set(range(6, 11))
    assert {column for _, column in places} == set(range(5, 11))  # 7 is the mirror image of 8
