"""What is nothing but a salutation."""

import pytest

from common.contracts.salutation import is_salutation


@pytest.mark.parametrize(
    "message", ["Hi!", "hello 👋", "你好，在吗？", "在吗", "Good  Morning!!", "ＨＥＬＬＯ", "喂", "Is anyone there?", "hi"]
)
def test_salutations(message: str) -> None:
    assert is_salutation(message)


@pytest.mark.parametrize("message", ["", "👋", "hi, where is my order", "你好，我要退款", "high", "h" * 500, "hello hello world", "?"])
def test_messages_that_say_more_or_nothing(message: str) -> None:
    assert not is_salutation(message)
