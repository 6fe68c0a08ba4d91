"""Candidate rules: two to four word classes in order with bounded gaps, and the messages in which each of them is found.

Sets of messages are integers used as bit sets: bit i is message i.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from loadtests.mining.words import Seen, Words, on_topic

START, END = "^", "$"
GAPS = (2, 30)  # characters between two word classes: side by side, near, in the same thought

Shape = tuple[int, tuple[str, ...]]  # the gap and the atoms


PRIOR_WEIGHT = 2.0  # how many messages the precision of a rule's parts counts for
PARTS_WEIGHT = 4.0  # the same, among the parts themselves


@dataclass(frozen=True, slots=True)
class Candidate:
    """A possible rule of a category: `found` are all messages that it is found in.

    Of those it learnt from, it is found in `hits`, `right` of them of the category. `parent` is the precision that its parts let expect.
    """

    category: str
    shape: Shape
    found: int
    hits: int
    right: int
    parent: float

    @property
    def pattern(self) -> str:
        """The regular expression as it stands in the workflow file."""
        return written(self.shape)


def written(shape: Shape) -> str:
    """The regular expression of a shape."""
    gap, atoms = shape
    text = atoms[0]
    for before, atom in pairwise(atoms):
        if gap == GAPS[0] and before != START and atom != END:
            text += ("" if before.endswith(r"\b") else r"\w*") + r"\W{1,2}" + atom.removeprefix(r"\b")
        elif gap == GAPS[0] and before == START:
            text += r"\W{0,2}" + atom
        elif gap == GAPS[0]:
            text += ("" if before.endswith(r"\b") else r"\w*") + r"\W{0,2}" + atom
        else:
            text += rf".{{0,{gap}}}" + atom
    return text


def shapes_of(seen: list[Seen], length: int) -> set[Shape]:
    """Every shape of up to three word classes (four with both ends of the message) that a message holds."""
    shapes: set[Shape] = {(GAPS[0], (s.atom,)) for s in seen}
    for gap in GAPS:
        inside = seen if gap == GAPS[0] else [s for s in seen if not s.little]
        marks = [Seen(START, 0, 0, 0), *inside, Seen(END, length, length, length)]
        follow = [_following(marks, i, gap) for i in range(len(marks))]
        for i, first in enumerate(marks):
            for j in follow[i]:
                two = (first.atom, marks[j].atom)
                shapes.add((gap, two))
                for k in follow[j]:
                    three = (*two, marks[k].atom)
                    shapes.add((gap, three))
                    if first.atom == START and gap != GAPS[0]:
                        shapes.update((gap, (*three, END)) for m in follow[k] if marks[m].atom == END)
    return shapes


def _following(marks: list[Seen], i: int, gap: int) -> list[int]:
    """The marks that stand behind mark i at most `gap` characters away; for the smallest gap, in the next word."""
    mark, out = marks[i], []
    for j in range(i + 1, len(marks)):
        start = marks[j].start
        if start - mark.word_end > gap:
            break
        near = start - mark.word_end <= gap if gap == GAPS[0] else start - mark.end <= gap
        if near and (start >= mark.word_end and (start > mark.end or mark.atom == START or marks[j].atom == END)):
            out.append(j)
    return out


def candidates(texts: list[str], labels: list[str], words: Words, *, support: int, purity: float, learn: Iterable[int]) -> list[Candidate]:
    """Shapes that occur in at least `support` messages of one category and mostly there, counted on the messages `learn` only.

    What is found in the other messages is told too, so that a choice can be judged on them. The label "" is of no category.
    """
    chosen = list(learn)
    every = range(len(texts))
    seen = {i: words.see(texts[i]) for i in every}
    common = {atom for atom, n in Counter(a for i in chosen for a in {s.atom for s in seen[i]}).items() if n >= support}
    seen = {i: [s for s in marks if s.atom in common] for i, marks in seen.items()}
    by_label: dict[str, list[int]] = defaultdict(list)
    for i in chosen:
        by_label[labels[i]].append(i)
    found: dict[Shape, list[int]] = {}
    for label, members in by_label.items():
        counted: Counter[Shape] = Counter()
        for i in members if label else []:
            counted.update(shapes_of(seen[i], len(texts[i])))
        found.update((shape, []) for shape, n in counted.items() if n >= support)
    for i in every:
        for shape in shapes_of(seen[i], len(texts[i])):
            if shape in found:
                found[shape].append(i)
    # sorted: sets of strings have another order in each process, and equally good rules must not depend on it
    return sorted(_pure(found, labels, support, purity, bits(chosen)), key=lambda c: (c.category, c.shape))


def _pure(found: dict[Shape, list[int]], labels: list[str], support: int, purity: float, learn: int) -> Iterator[Candidate]:
    counts = {shape: Counter(labels[i] for i in where if learn >> i & 1) for shape, where in found.items()}
    best: dict[tuple[str, int], Candidate] = {}
    for shape, where in found.items():
        (label, n), *_ = counts[shape].most_common(1)
        hits = counts[shape].total()
        if not label or n < support or n / hits < purity or not any(on_topic(atom) for atom in shape[1]):
            continue
        made = Candidate(label, shape, bits(where), hits, n, expected(shape, label, counts))
        key = (label, made.found)
        if key not in best or (-made.parent, _cost(shape)) < (-best[key].parent, _cost(best[key].shape)):
            best[key] = made
    yield from best.values()


def expected(shape: Shape, label: str, counts: dict[Shape, Counter[str]]) -> float:
    """The precision that a shape's parts let expect: that of its best part, smoothed by the parts of that part.

    Without it, thousands of rare shapes that were found three times of three by chance would look as good as those that mean something.
    """
    told = []
    for part in _parts(shape):
        if part in counts:
            prior = PARTS_WEIGHT * expected(part, label, counts)
            told.append((counts[part][label] + prior) / (counts[part].total() + PARTS_WEIGHT))
    return max(told, default=0.0)


def _parts(shape: Shape) -> list[Shape]:
    gap, atoms = shape
    if len(atoms) > 2:
        return [(gap, atoms[:-1]), (gap, atoms[1:])]
    if len(atoms) < 2:
        return []
    single: list[Shape] = [(GAPS[0], (a,)) for a in atoms if a not in (START, END)]
    return [*single, (GAPS[1], atoms)] if gap == GAPS[0] else single


def _cost(shape: Shape) -> tuple[int, int, str]:
    """Of rules that find the same messages: few word classes, wide gaps, short."""
    return len(shape[1]), -shape[0], written(shape)


def bits(numbers: Iterable[int]) -> int:
    """A bit set of those numbers."""
    whole = 0
    for n in numbers:
        whole |= 1 << n
    return whole
