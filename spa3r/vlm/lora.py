"""Low-rank updates of the language model's linear layers, by peft, which is imported only here."""

import re
from typing import Any, Final

from torch import Tensor, nn

from spa3r.extras import needed_for
from spa3r.tune_config import LoraConfig

LINEAR_LAYERS: Final = (
    *("q_proj", "k_proj", "v_proj", "o_proj"),
    *("gate_proj", "up_proj", "down_proj"),
)
_ADAPTER: Final = "default"
_OURS: Final = re.compile(rf"(.+\.lora_[AB])\.{_ADAPTER}(\.weight)")


def add_lora(language_model: nn.Module, config: LoraConfig) -> None:
    """Puts low-rank updates beside every linear layer of the decoder, in place; zero at first, so
    that outputs stay as they were, bit for bit.

    Raises:
        ConfigError: peft is not installed.
    """
    with needed_for("language='lora'", "lora", instead="set vlm.language to full or frozen"):
        import peft
    updates = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(LINEAR_LAYERS),
    )
    model: Any = language_model
    peft.inject_adapter_in_model(updates, model, adapter_name=_ADAPTER)


def is_lora(name: str) -> bool:
    """Whether a parameter of the language model belongs to its updates."""
    return _OURS.fullmatch(name) is not None


def lora_state(language_model: nn.Module) -> dict[str, Tensor]:
    """The updates alone, named as peft's files name them inside their model."""
    found = ((_OURS.fullmatch(name), x) for name, x in language_model.state_dict().items())
    return {match[1] + match[2]: x for match, x in found if match is not None}
