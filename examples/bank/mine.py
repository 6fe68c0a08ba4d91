"""Mines the rules of the bank's front desk from labelled messages and writes `workflow.json`.

`python -m examples.bank.mine --messages FILE.csv` is reproducible: the same file and seed give the same rules, byte for byte.
The answers stand in `answers.json`, everything else that a person wrote in `frame.json`.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.workflow.load import load_text
from lightweight.matching.compile import compile_rules
from lightweight.matching.fold import fold
from loadtests.mining.candidates import Candidate, bits, candidates
from loadtests.mining.cover import Taste, answered, choose, silencing
from loadtests.mining.messages import Message, divide, read_messages
from loadtests.mining.offtopic import questions
from loadtests.mining.words import CONCEPTS, Words

HERE = Path(__file__).parent
ON_ONE_LINE = 90  # characters of an exclude pattern, so that a person can read it


def mine(
    training: list[Message], strangers: list[str], taste: Taste, *, learn: list[int] | None = None
) -> tuple[dict[str, Any], dict[str, int], int]:
    """(rules of each category, what each category answers of `training`, all messages that were not learnt from).

    `strangers` are questions that no rule may answer; `learn` are the indexes of the messages that may be looked at, all by default.
    """
    texts = [fold(m.text) for m in training] + [fold(text) for text in strangers]
    labels = [m.category for m in training] + [""] * len(strangers)
    words = Words(CONCEPTS)
    chosen_from = [*(range(len(training)) if learn is None else learn), *range(len(training), len(texts))]
    found = candidates(texts, labels, words, support=3, purity=0.6, learn=chosen_from)
    of = {label: bits(i for i, other in enumerate(labels) if other == label) for label in set(labels) if label}
    atoms = word_classes(texts, words)
    looked_at = bits(chosen_from)
    chosen = choose(found, of, looked_at, taste)
    silent = silencing(chosen, found, atoms, of, looked_at, taste)
    rules = {category: {"trigger": rules, "exclude": silent[category]} for category, rules in chosen.items()}
    return rules, answered(chosen, silent, atoms), ((1 << len(training)) - 1) & ~looked_at


def word_classes(texts: list[str], words: Words) -> dict[str, int]:
    """The messages of each word class that says something by itself."""
    found: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        for atom in sorted({s.atom for s in words.see(text) if not s.little}):
            found[atom].append(i)
    return {atom: bits(where) for atom, where in found.items()}


def validate(training: list[Message], taste: Taste, folds: int = 4) -> dict[str, float]:
    """Coverage and precision by cross-validation inside the training part: how the taste is chosen without a look at what is held back."""
    total = told = right = rules = 0
    for fold_number in range(folds):
        learn = [i for i in range(len(training)) if i % folds != fold_number]
        mined, speaks, rest = mine(training, questions("learn"), taste, learn=learn)
        rules += sum(len(r["trigger"]) for r in mined.values())
        total += rest.bit_count()
        for category, messages in speaks.items():
            own = bits(i for i, m in enumerate(training) if m.category == category)
            told += (messages & rest).bit_count()
            right += (messages & rest & own).bit_count()
    return {"coverage": told / max(total, 1), "precision": right / max(told, 1), "rules": rules / folds}


def flows(mined: dict[str, Any], answers: dict[str, dict[str, str]]) -> list[dict[str, Any]]:
    """A static answer for every category; those without a rule are chosen by the LLM (`type: intent`)."""
    made = []
    for category, said in answers.items():
        rules: dict[str, Any] = mined.get(category, {"trigger": [], "exclude": []})
        flow: dict[str, Any] = {"flow_id": category, "name": said["name"], "description": said["name"]}
        if rules["trigger"]:
            triggers: list[Candidate] = rules["trigger"]
            flow["trigger_patterns"] = [c.pattern for c in sorted(triggers, key=lambda c: (-c.right, c.pattern))]
            flow["exclude_patterns"] = excludes(rules["exclude"])
        else:
            flow["type"] = "intent"
        made.append({**flow, "response_template": said["answer"]})
    return made


def without_dead_rules(frame: dict[str, Any], training: list[Message]) -> int:
    """Takes out the rules that, in the engine itself, answer no message of their own category; tells how many.

    A silencing word holds for all words that begin like it, so it may cut off all that a rule finds.
    """
    matcher = compile_rules(load_text(json.dumps(frame), "workflow.json", {}))
    alive: set[tuple[str, str]] = set()
    for message in training:
        for verdict in matcher.verdicts(message.text):
            if verdict.reason is None and verdict.rule.action.id == message.category:
                alive.add((verdict.rule.action.id, verdict.rule.pattern))
    dead = 0
    for flow in frame["flows"]:
        patterns = flow.get("trigger_patterns", [])
        kept = [pattern for pattern in patterns if (flow["flow_id"], pattern) in alive]
        dead += len(patterns) - len(kept)
        if patterns:
            flow["trigger_patterns"] = kept
    return dead


def excludes(atoms: list[str]) -> list[str]:
    """The silencing words as few short alternations."""
    lines: list[list[str]] = []
    for atom in atoms:
        bare = atom.removeprefix(r"\b")
        if lines and len("|".join([*lines[-1], bare])) <= ON_ONE_LINE:
            lines[-1].append(bare)
        else:
            lines.append([bare])
    return [rf"\b{line[0]}" if len(line) == 1 else rf"\b(?:{'|'.join(line)})" for line in lines]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=Path, required=True, help="CSV with the columns text and category")
    parser.add_argument("--out", type=Path, default=HERE / "workflow.json")
    parser.add_argument("--held-back", type=float, default=0.2, help="share of every category that is not looked at")
    parser.add_argument("--seed", type=int, default=7, help="which messages are held back")
    parser.add_argument("--validate", action="store_true", help="cross-validate inside the training part instead of writing")
    for name, value in asdict(Taste()).items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"default {value}: see loadtests/mining/cover.py"
        )
    given = parser.parse_args()
    taste = Taste(**{name: getattr(given, name) for name in asdict(Taste())})
    training, _ = divide(read_messages(given.messages), given.held_back, given.seed)
    if given.validate:
        print(json.dumps(validate(training, taste)))
        return
    mined, _, _ = mine(training, questions("learn"), taste)
    frame = json.loads((HERE / "frame.json").read_text(encoding="utf-8"))
    frame["flows"] = flows(mined, json.loads((HERE / "answers.json").read_text(encoding="utf-8")))
    dead = without_dead_rules(frame, training)
    given.out.write_text(json.dumps(frame, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    rules = sum(len(r["trigger"]) for r in mined.values()) - dead
    print(f"{rules} rules of {len(mined)} categories from {len(training)} messages: {given.out}")


if __name__ == "__main__":
    main()
