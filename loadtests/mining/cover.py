"""From thousands of candidates to the few rules that a file needs, and the words that keep each category's rules silent.

Sets of messages are integers used as bit sets. It knows no texts.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from loadtests.mining.candidates import PRIOR_WEIGHT, Candidate


@dataclass(frozen=True, slots=True)
class Taste:
    """How strict the choice is. The defaults were chosen by four-fold cross-validation inside the training part (docs/evaluation.md)."""

    trust: float = 0.8  # a rule's precision, estimated from below, is at least this
    gain: float = 2.0  # a further rule must answer that many messages more
    harm: float = 20.0  # one wrong answer weighs as much as that many right ones
    near: float = 0.3  # candidates at least this trusted show what is near a category and belongs to others
    veto_harm: float = 8.0  # one right answer that a silencing word loses weighs as much as that many wrong ones avoided
    veto_use: float = 1.0  # a silencing word avoids at least that many wrong answers, after that weighing
    vetoes: int = 30  # at most so many silencing words for each category


def trust(candidate: Candidate) -> float:
    """The precision that may be expected of a candidate: its parts' precision is the prior, and 0.7 standard deviations are taken off."""
    right = candidate.right + PRIOR_WEIGHT * candidate.parent + 0.01
    wrong = candidate.hits - candidate.right + PRIOR_WEIGHT * (1 - candidate.parent) + 0.01
    mean = right / (right + wrong)
    return mean - 0.7 * math.sqrt(mean * (1 - mean) / (right + wrong + 1))


def choose(found: Iterable[Candidate], of: Mapping[str, int], learn: int, taste: Taste) -> dict[str, list[Candidate]]:
    """Greedy cover: the rule that adds most right answers for its wrong ones comes first; what adds too little is left out.

    `of` holds the messages of each category, `learn` those that may be looked at.
    """
    trusted = [(t, c) for c in found if (t := trust(c)) >= taste.trust]
    heap = [(-(t * c.right - taste.harm * (c.hits - c.right)), i) for i, (t, c) in enumerate(trusted)]
    heapq.heapify(heap)
    covered: dict[str, int] = defaultdict(int)
    chosen: dict[str, list[Candidate]] = defaultdict(list)
    while heap:
        _, i = heapq.heappop(heap)
        t, candidate = trusted[i]
        new = candidate.found & learn & ~covered[candidate.category]
        right = (new & of[candidate.category]).bit_count()
        gain = t * right - taste.harm * (new.bit_count() - right)
        if heap and gain < -heap[0][0] - 1e-9:
            if gain >= taste.gain:
                heapq.heappush(heap, (-gain, i))
            continue
        if gain < taste.gain:
            break
        covered[candidate.category] |= candidate.found
        chosen[candidate.category].append(candidate)
    return chosen


def silencing(
    chosen: Mapping[str, list[Candidate]],
    found: Iterable[Candidate],
    atoms: Mapping[str, int],
    of: Mapping[str, int],
    learn: int,
    taste: Taste,
) -> dict[str, list[str]]:
    """For each category the word classes that stand in messages near to it which belong to others, and hardly in its own.

    `atoms` holds the messages of each word class.
    """
    near: dict[str, int] = defaultdict(int)
    for candidate in found:
        if trust(candidate) >= taste.near:
            near[candidate.category] |= candidate.found
    words: dict[str, list[str]] = {}
    for category, rules in chosen.items():
        foreign = near[category] & learn & ~of[category]
        own = union(rules) & learn & of[category]
        words[category] = []
        while len(words[category]) < taste.vetoes:
            use, atom = max(((foreign & b).bit_count() - taste.veto_harm * (own & b).bit_count(), atom) for atom, b in atoms.items())
            if use < taste.veto_use:
                break
            words[category].append(atom)
            foreign &= ~atoms[atom]
            own &= ~atoms[atom]
    return words


def answered(chosen: Mapping[str, list[Candidate]], words: Mapping[str, list[str]], atoms: Mapping[str, int]) -> dict[str, int]:
    """The messages that each category answers: its rules found, none of its silencing words, no rule of another category."""
    speaks = {}
    for category, rules in chosen.items():
        silent = 0
        for atom in words.get(category, ()):
            silent |= atoms[atom]
        speaks[category] = union(rules) & ~silent
    once = twice = 0
    for messages in speaks.values():
        twice |= once & messages
        once |= messages
    return {category: messages & ~twice for category, messages in speaks.items()}


def union(rules: Iterable[Candidate]) -> int:
    """The messages in which any of the rules is found."""
    whole = 0
    for rule in rules:
        whole |= rule.found
    return whole
