"""Where and how precisely an encoder computes."""

from typing import Final, Literal

import torch

from spa3r.errors import ConfigError

Dtype = Literal["float32", "bfloat16", "auto"]
DTYPES: Final = ("float32", "bfloat16", "auto")


def checked_device(device: torch.device | str) -> torch.device:
    """The device, after a number was put on it and read back.

    Raises:
        ConfigError: an unknown device, or one that this machine does not have.
    """
    try:
        found = torch.device(device)
        torch.ones(1, device=found).item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        gpus = torch.cuda.device_count()
        choices = ", ".join(["'cpu'", *(f"'cuda:{i}'" for i in range(gpus))])
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device {str(device)!r} cannot be used here ({reason}); choose {choices}"
        ) from error
    return found


def chosen_precision(dtype: Dtype, device: torch.device) -> Literal["float32", "bfloat16"]:
    """What "auto" means on a device: bfloat16 on a GPU that has it, else float32.

    Raises:
        ConfigError: an unknown dtype, or bfloat16 on a GPU without it.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {str(dtype)!r} is unknown; choose one of {', '.join(DTYPES)}")
    if device.type == "cuda" and dtype != "float32":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16"
        if dtype == "bfloat16":
            raise ConfigError(f"{device} has no bfloat16; choose dtype='float32'")
    return "bfloat16" if dtype == "bfloat16" else "float32"
