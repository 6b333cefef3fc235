"""Answers on a CUDA device, against the CPU in float32. Skipped where there is none."""

from pathlib import Path
from typing import Any

import pytest
import torch

from spa3r.vlm.spa3_vlm import Spa3VLM
from tests.scan_arrays import scan_arrays
from tests.tiny_vlm import logits_of, request, save_tiny_vlm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
RELATIVE = {"float32": 0.01, "bfloat16": 0.1}
"""Largest norm of the difference of logits, as a share of their norm."""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_answers_agree_with_the_cpu(tmp_path: Path, dtype: Any):
    folder = save_tiny_vlm(tmp_path)
    ours = Spa3VLM.from_pretrained(folder, device="cuda", dtype=dtype)
    theirs = Spa3VLM.from_pretrained(folder, dtype="float32")
    assert ours.device.type == "cuda" and ours.precision == dtype
    views = theirs.views(**scan_arrays(views=3))
    sample = ours.sample(request(views=views))
    with torch.no_grad():
        found = ours.model(ours.processor.collate([sample]).to(ours.device)).float().cpu()
        expected = logits_of(theirs, request(views=views))
    assert (found - expected).norm() <= RELATIVE[dtype] * expected.norm()
    whole = ours.ask(**scan_arrays(views=3), question="How many?", max_new_tokens=5)
    pieces = ours.ask(**scan_arrays(views=3), question="How many?", max_new_tokens=5, stream=True)
    assert "".join(pieces) == whole.text
    shares = ours.view_shares(request(views=views), whole.text)
    assert shares is not None and sum(shares) == pytest.approx(1)
    assert shares == pytest.approx(theirs.view_shares(request(views=views), whole.text), abs=0.05)
