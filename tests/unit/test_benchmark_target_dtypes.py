"""benchmarks/target_dtypes.py: what int8 costs where a few tokens have one channel of thousands."""

from benchmarks.target_dtypes import errors, massive_tokens, through


def test_int8_keeps_ordinary_tokens_and_loses_the_massive_channel() -> None:
    tokens_MD, parts = massive_tokens(2000, 256)
    found = errors(tokens_MD, through("int8"), parts)
    assert found["ordinary"] <= 0.01
    assert found["channel"] > 0.1 and found["massive"] > 0.05, "what the page warns of"
    exact = errors(tokens_MD, through("float16"), parts)
    assert max(exact[name] for name in parts) < 0.001
