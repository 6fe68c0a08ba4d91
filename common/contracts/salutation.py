"""What counts as nothing but a salutation: such a message gets the agent's greeting alone. Both tiers ask, so that they agree."""

from __future__ import annotations

import re
import unicodedata

_PHRASES = """
hi, hii, hiya, hey, heya, hello, hallo, helo, hullo, howdy, yo, greetings, good morning, good afternoon, good evening, good day
hi there, hello there, hey there, hi again, hello again, hi everyone, are you there, hola, bonjour, ciao, salut
anyone there, anybody there, is anyone there, is anybody there
你好, 您好, 你好啊, 您好啊, 你好呀, 您好呀, 你好吗, 嗨, 哈喽, 哈啰, 哈罗, 嘿, 喂, 早, 早安, 早上好, 上午好, 中午好, 下午好, 晚上好, 大家好
在吗, 在么, 在不在, 在不, 在嘛, 你在吗, 您在吗, 有人吗, 有人在吗, 请问在吗, 请问有人吗, 你好在吗, 您好在吗
こんにちは, おはよう, こんばんは, 안녕, 안녕하세요
"""
_WORDS = frozenset(phrase.replace(" ", "") for phrase in re.split(r",|\n", _PHRASES) if phrase)
_LONGEST = max(map(len, _WORDS))
_SILENT = re.compile(r"[\W_]+")


def is_salutation(message: str) -> bool:
    """Whether the message says hello and nothing else; signs, emoji, case and width do not matter."""
    if len(message) > 2 * _LONGEST:
        return False
    return _SILENT.sub("", unicodedata.normalize("NFKC", message).casefold()) in _WORDS
