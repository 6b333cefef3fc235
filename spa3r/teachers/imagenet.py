"""ImageNet colour statistics, which VGGT and DINOv3 both normalise their input with."""

from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(images_3HW: Tensor) -> Tensor:
    """Normalises RGB in [0, 1], shape (..., 3, H, W)."""
    mean, std = images_3HW.new_tensor(MEAN), images_3HW.new_tensor(STD)
    return (images_3HW - mean[:, None, None]) / std[:, None, None]
