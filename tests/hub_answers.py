"""What the Hugging Face client raises when the hub says no."""

from types import SimpleNamespace


def http_error(kind, status: int):
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind("refused", response=response)
