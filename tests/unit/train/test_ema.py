"""The moving average of the weights."""

import pytest
import torch
from torch import nn

from spa3r.train.ema import begin_ema, ema_weights, load_ema, update_ema


def test_it_follows_the_weights_faster_in_the_beginning() -> None:
    model = nn.Linear(3, 2)
    ema = begin_ema(model)
    expected = model.weight.detach().double().clone()
    for step in range(1, 200):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3, generator=torch.Generator().manual_seed(step)))
        update_ema(ema, model, decay=0.9, step=step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    torch.testing.assert_close(ema["weight"].double(), expected, rtol=1e-5, atol=1e-5)
    assert ema["weight"].dtype == torch.float32
    assert not ema["weight"].requires_grad and set(ema) == {"weight", "bias"}


def test_weights_are_lent_and_given_back_bit_for_bit() -> None:
    model = nn.Linear(3, 2)
    own = {name: x.clone() for name, x in model.state_dict().items()}
    ema = {name: torch.randn_like(x) for name, x in own.items()}
    with ema_weights(model, ema):
        assert all(torch.equal(x, ema[name]) for name, x in model.state_dict().items())
    assert all(torch.equal(x, own[name]) for name, x in model.state_dict().items())
    with pytest.raises(KeyboardInterrupt), ema_weights(model, ema):
        raise KeyboardInterrupt
    assert all(torch.equal(x, own[name]) for name, x in model.state_dict().items())
    with ema_weights(model, None):
        assert all(torch.equal(x, own[name]) for name, x in model.state_dict().items())
    load_ema(model, ema)
    assert all(torch.equal(x, ema[name]) for name, x in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
