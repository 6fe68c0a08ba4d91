"""Proposes rules for what was learned: the words that its messages share, in order, tried on the messages of the log. Pure.

A proposal is for a person to read: it shows what the rule would have caught rightly and wrongly, and nothing is put into force by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from common.contracts.folding import fold
from common.contracts.learned import LearnedRoute

MOST_ROUTES = 300
MOST_TOKENS = 60
MOST_PIECES = 6
MOST_CHARACTERS = 500  # of a message of the log
MOST_SHOWN = 20
MOST_PROPOSALS = 50
_HAN = "\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff"  # written without blanks: each character is a token
_TOKEN = re.compile(rf"[{_HAN}]|(?:(?![{_HAN}])[^\W_])+(?:['\u2019-](?:(?![{_HAN}])[^\W_])+)*")
# Words that tell nothing of what is asked for.
_EVERYDAY = frozenset(
    re.findall(
        r"\S+",
        """
        a an the i i'm i'd i've me my we our you your he she and or but if so then of to in on at for from with by as is are am be been
        was were do does did have has had can could will would shall should may might must please pls just hi hello hey thanks thank
        what where when how why which who want need like get got know tell help
        我 你 您 的 了 吗 呢 吧 啊 请 要 想 是 在 有 和 帮 一 下 个 们 么 怎 什
        """,
    )
)


@dataclass(frozen=True, slots=True)
class LoggedMessage:
    """A message of the log and what answered it."""

    message: str
    action_type: str
    action_target: str | None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A rule that could answer `messages` (folded, all of them learned). `caught_rightly` and `caught_wrongly` are at most MOST_SHOWN
    messages of the log that it would catch and that the same action or another one answered; `rightly` and `wrongly` count them all.
    """

    action_type: str
    action_target: str
    pattern: str
    messages: tuple[str, ...]
    times: int
    rightly: int
    wrongly: int
    caught_rightly: tuple[LoggedMessage, ...]
    caught_wrongly: tuple[LoggedMessage, ...]


@dataclass(frozen=True, slots=True)
class _Token:
    """A word of a message, or (with `parameter`) the place of one that is cut from it; two of the same name are equal."""

    text: str
    parameter: bool = False

    @property
    def weight(self) -> float:
        if self.parameter:
            return 0.5
        if self.text in _EVERYDAY:
            return 0.0
        return 0.5 if re.match(f"[{_HAN}]", self.text) else 1.0


@dataclass(slots=True)
class _Group:
    """Messages with one outcome and the tokens that all of them share, in order."""

    skeleton: list[_Token]
    messages: list[str] = field(default_factory=list)
    values: dict[str, list[str]] = field(default_factory=dict)
    times: int = 0


def propose(learned: Sequence[tuple[str, LearnedRoute, int]], logged: Sequence[LoggedMessage]) -> list[Proposal]:
    """Proposals, the most useful first, for (folded message, route, how often it was asked); `logged` is the log to try them on."""
    by_outcome: dict[tuple[str, str, tuple[str, ...]], list[_Group]] = {}
    for message, route, times in sorted(learned, key=lambda item: -item[2])[:MOST_ROUTES]:
        groups = by_outcome.setdefault((route.kind, route.target, tuple(sorted(route.spans))), [])
        _join(groups, message, route, times)
    telling = [(outcome, g) for outcome, groups in by_outcome.items() for g in groups if _weight(g.skeleton) >= 1]
    telling.sort(key=lambda pair: (-len(pair[1].messages), -pair[1].times))
    folded = _distinct(logged)
    found = [_proposal(kind, target, group, folded) for (kind, target, _), group in telling[:MOST_PROPOSALS]]
    return sorted(found, key=lambda p: (p.wrongly > p.rightly, -len(p.messages), p.wrongly, -p.times, p.pattern))


def _join(groups: list[_Group], message: str, route: LearnedRoute, times: int) -> None:
    """Puts a message into the group with which it shares most, or into one of its own."""
    tokens = _tokens(message, route)
    shared = [(_common(group.skeleton, tokens), group) for group in groups]
    best, chosen = max(shared, key=lambda pair: _weight(pair[0]), default=([], None))
    least = min(_weight(chosen.skeleton), _weight(tokens)) if chosen else 0.0
    if chosen is None or _weight(best) < max(1.0, min(2.0, least), least / 2):  # one shared word is no form of words
        best, chosen = tokens, _Group(tokens)
        groups.append(chosen)
    chosen.skeleton = best
    chosen.messages.append(message)
    chosen.times += times
    for name, (start, end) in route.spans.items():
        chosen.values.setdefault(name, []).append(message[start:end])


def _proposal(kind: str, target: str, group: _Group, logged: Iterable[tuple[str, LoggedMessage]]) -> Proposal:
    pieces = _pieces(group)
    steps = [re.compile(piece, re.ASCII) for piece in pieces]
    caught = [entry for message, entry in logged if _catches(steps, message)]
    right = tuple(e for e in caught if (e.action_type, e.action_target) == (kind, target))
    wrong = tuple(e for e in caught if (e.action_type, e.action_target) != (kind, target))
    shown = right[:MOST_SHOWN], wrong[:MOST_SHOWN]
    # Before a group as little as possible is passed over, so that it gets the whole of its word.
    pattern = pieces[0] + "".join((".*?" if piece.startswith("(?P<") else ".*") + piece for piece in pieces[1:])
    return Proposal(kind, target, pattern, tuple(group.messages), group.times, len(right), len(wrong), *shown)


def _catches(steps: Sequence[re.Pattern[str]], message: str) -> bool:
    """Whether the pieces stand in the message in this order: what `.*` between them means, but never more than one pass for each."""
    place = 0
    for step in steps:
        found = step.search(message, place)
        if found is None:
            return False
        place = found.end()
    return True


def _pieces(group: _Group) -> list[str]:
    """The pattern's pieces. Characters of scripts without blanks that stand together in every message stay together."""
    telling = [t for t in group.skeleton if t.weight > 0]
    runs: list[list[_Token]] = []
    for token in telling:
        last = runs[-1] if runs else []
        together = "".join(t.text for t in last) + token.text
        unspaced = bool(last) and not (token.parameter or last[-1].parameter) and token.weight == last[-1].weight == 0.5
        if unspaced and all(together in message for message in group.messages):
            last.append(token)
        else:
            runs.append([token])
    return [_piece(run, group) for run in runs[:MOST_PIECES]]


def _piece(run: Sequence[_Token], group: _Group) -> str:
    if run[0].parameter:
        name = run[0].text
        shape = _shape(group.values.get(name, []))
        return f"(?P<{name}>{shape})" if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) else shape
    text = "".join(t.text for t in run)
    edges = (r"\b" if text[0].isascii() else "", r"\b" if text[-1].isascii() else "")
    return re.sub(r"([.*+?()\[\]{}|^$\\])", r"\\\1", text).join(edges)


def _shape(values: Sequence[str]) -> str:
    """The narrowest plain form that all values of a parameter have."""
    if all(re.fullmatch(r"\d+", v, re.ASCII) for v in values):
        return r"\b\d+"
    if all(re.fullmatch(r"[a-z0-9-]*\d[a-z0-9-]*", v) for v in values):
        return r"\b[a-z0-9-]*\d[a-z0-9-]*"
    return r"[^\s]+" if all(" " not in v for v in values) else ".+"


def _tokens(message: str, route: LearnedRoute) -> list[_Token]:
    tokens: list[_Token] = []
    for found in islice(_TOKEN.finditer(message), MOST_TOKENS):
        name = next((n for n, (start, end) in route.spans.items() if start <= found.start() < end), None)
        token = _Token(found.group()) if name is None else _Token(name, True)
        if name is None or token not in tokens:
            tokens.append(token)
    return tokens


def _common(a: Sequence[_Token], b: Sequence[_Token]) -> list[_Token]:
    """The longest common subsequence."""
    lengths = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(len(a) - 1, -1, -1):
        for j in range(len(b) - 1, -1, -1):
            lengths[i][j] = lengths[i + 1][j + 1] + 1 if a[i] == b[j] else max(lengths[i + 1][j], lengths[i][j + 1])
    found: list[_Token] = []
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            found.append(a[i])
            i, j = i + 1, j + 1
        elif lengths[i + 1][j] >= lengths[i][j + 1]:
            i += 1
        else:
            j += 1
    return found


def _weight(tokens: Iterable[_Token]) -> float:
    return sum(t.weight for t in tokens)


def _distinct(logged: Iterable[LoggedMessage]) -> list[tuple[str, LoggedMessage]]:
    """The log with its messages folded, each once for each action that answered it."""
    seen: dict[tuple[str, str, str | None], tuple[str, LoggedMessage]] = {}
    for entry in logged:
        folded = fold(entry.message[:MOST_CHARACTERS])
        if folded:
            seen.setdefault((folded, entry.action_type, entry.action_target), (folded, entry))
    return list(seen.values())
