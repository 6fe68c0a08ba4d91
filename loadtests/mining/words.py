"""A message as a row of word classes with their places: stems of its words and concepts, which are words of one meaning.

The concepts were written by a person who read training messages of a bank; everything else is counted. It knows no categories.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Words of one meaning, as a pattern that stands in a rule as it is written here: short enough to read.
CONCEPTS = {
    "top up": r"top(?:ped|ping|s)?[ -]?(?:ups?|off|it up)",
    "ATM": r"(?:atm|cash ?(?:machine|point))s?",
    "withdraw": r"(?:withdr[ae]w\w*|cash(?:ed)? out)",
    "get cash": r"(?:g[eo]t(?:ting)?|take|took|withdr[ae]w)\b.{0,12} (?:cash|money)",
    "transfer": r"transf?err?\w*",
    "fee": r"(?:fees?|charge[sd]?|charging|costs?)",
    "no": r"(?:not?|never|cannot|\w+n['’]t|didnt|dont|cant|hasnt)",
    "cannot": r"(?:can(?:['’]?t| ?not)|couldn['’]?t|unable|not able|won['’]?t)",
    "has not": r"(?:has|have|had|did|do|does|is|was)(?:n['’]?t| not)",
    "arrive": r"(?:arriv\w*|receiv\w*|c[oa]me|here|got(?:ten)?|deliver\w*)",
    "show": r"(?:show\w*|appear\w*|updat\w*|reflect\w*|see)",
    "lost": r"(?:lost|lose|missing|misplaced|can(?:not|['’]t) find)",
    "stolen": r"(?:stolen|stole|theft|robbed|mugged)",
    "identity": r"(?:identi\w+|id)",
    "verify": r"(?:verif\w+|authenticat\w+|pro[vo]\w+|confirm\w*)",
    "child": r"(?:child(?:ren)?|kids?|son|daughter|teen\w*|minors?)",
    "twice": r"(?:twice|doubled?|(?:two|multiple) times|duplicated?)",
    "money back": r"(?:refund\w*|money back)",
    "decline": r"(?:declin\w+|reject\w+|denied|refus\w+)",
    "fail": r"(?:fail\w*|unsuccessful|(?:not|n['’]?t) (?:work|go through))",
    "broken": r"(?:broken|(?:not|n['’]?t|stopped|no longer) work\w*)",
    "pending": r"(?:pending|process(?:ing|ed)|wait\w*)",
    "unknown": r"(?:not|n['’]?t|never) (?:recogni[sz]e|ma[kd]e|do|authori[sz]e)",
    "strange": r"(?:weird|strange|unknown|unauthori[sz]ed|fraudulent|suspicious)",
    "someone": r"(?:some(?:one|body)|thie(?:f|ves)|hack\w*|fraud\w*)",
    "cheque": r"che(?:que|ck)s?",
    "cash": r"(?:cash|money|funds)",
    "wrong": r"(?:wrong\w*|incorrect\w*|bad|(?:not|n['’]?t) (?:right|correct))",
    "rate": r"(?:exchange|conversion|currency) rates?",
    "passcode": r"pass ?(?:code|word)s?",
    "phone": r"(?:phone|mobile|cell ?phone)",
    "wallet": r"(?:apple|google) ?(?:pay|watch)",
    "pay in": r"(?:salary|wages?|paid|paycheck|payroll)",
    "close": r"(?:delet\w+|clos(?:e|ing)|terminat\w+|cancel\w*)",
    "expire": r"(?:expir\w+|about to end|runs? out)",
    "swallow": r"(?:swallow\w*|ate|eaten?|stuck|kept|keeps?|retained|took)",
    "disposable": r"(?:disposable|temporary|one[ -]time)",
    "limit": r"(?:limit\w*|max\w*|how many|restrict\w*)",
    "another": r"(?:another|second|extra|additional|spare|multiple|more)",
    "link": r"(?:link\w*|connect\w*|re-?activat\w*|add|put|view)",
    "change": r"(?:chang\w+|edit\w*|updat\w+|modif\w+)",
    "detail": r"(?:details?|address|name|info\w*|phone number|email)",
    "automatic": r"auto(?:matic\w*)?",
    "how long": r"(?:how (?:long|soon|fast|many days)|when (?:will|can|do))",
    "recipient": r"(?:recipient|beneficiary|friend|landlord|seller|someone|family)",
    "bank place": r"(?:uk|usa?|eu|europe\w*|france|china|abroad|countr(?:y|ies))",
    "post": r"(?:mail\w*|post\w*|ship\w*|deliver\w*|track\w*)",
    "currency": r"(?:currenc(?:y|ies)|gbp|aud|usd|eur|euros?|dollars?|pounds?)",
    "card brand": r"(?:visa|master ?card)",
    "block": r"(?:block\w*|lock(?:ed)?|unlock\w*|unblock\w*)",
    "forgot": r"(?:forg[oe]t\w*|(?:do not|don['’]?t|can['’]?t) (?:know|remember))",
    "shop": r"(?:purchas\w*|bought|buy|items?|merchant|store|shop\w*)",
    "gone": r"(?:disappear\w*|gone|revert\w*|cancell?ed|return\w*|reversed)",
    "where from": r"(?:source|origin|came from|come from|comes from)",
    "why": r"(?:why|how come|reason)",
    "how": r"how (?:do|can|could|should|to)",
    "want": r"(?:want|need|like|wish|please|help)",
    "deposit": r"deposit\w*",
    "balance": r"(?:balance|account)",
    "old": r"(?:old|age|years?|young\w*|18|16)",
    "days": r"(?:yesterday|ago|days?|weeks?|hours?|today|morning|last)",
    "abroad": r"(?:abroad|foreign|overseas|international\w*|travel\w*|vacation)",
}
# Words that say something only beside their neighbours: they stand in rules of adjacent words, never behind a gap.
_LITTLE = """a an the this that and or if so but just to of for in on at with by as from there it i my me you your is are am be was were
    do does did has have had will would can could been get got"""
LITTLE = frozenset(_LITTLE.split())
# What a bank's customer speaks of. Every rule names at least one of these, or it would be found in talk of anything else.
_TOPICS = """top up,ATM,withdraw,get cash,transfer,money back,identity,cheque,cash,rate,passcode,wallet,disposable,currency,card brand,
    deposit,balance,detail,bank place,expire"""
_TOPIC_STEMS = """card pin payment pay transf topup top exchang refund debit statement transaction beneficiary currency account verify verif
    contactl salary virtu passcod password identity cash money fund withdraw withdrawal atm cheque chequ visa mastercard bank deposit balanc
    phon fee app code activ activat activate"""
SHORT = 3  # words up to this length stand in a rule whole
_WORD = re.compile(r"[a-z0-9]+(?:['’][a-z]+)?")
_ENDING = re.compile(r"(?<=[a-z]{4})(?:ations?|ments?|ings?|edly|ed|es|s|e|ly|al|ers?)$")


@dataclass(frozen=True, slots=True)
class Seen:
    """One word class at one place of a message: `end` is where what is written of it in a rule ends, `word_end` where its word does."""

    atom: str
    start: int
    end: int
    word_end: int
    little: bool = False


@dataclass(frozen=True, slots=True)
class Words:
    """Turns messages into word classes. `concepts` maps a name to the pattern that stands for it."""

    concepts: dict[str, str]

    def see(self, text: str) -> list[Seen]:
        """The word classes of a folded text in order of their places: written atoms such as `\\bcharg` or `\\b(?:atm|cash ?point)s?\\b`."""
        found = []
        for m in _WORD.finditer(text):
            atom, length = _word_atom(m.group())
            found.append(Seen(atom, m.start(), m.start() + length, m.end(), m.group() in LITTLE))
        for pattern in self.concepts.values():
            atom = rf"\b{pattern}\b"
            found += [Seen(atom, m.start(), m.end(), m.end()) for m in _compiled(atom).finditer(text)]
        found.sort(key=lambda s: (s.start, s.end))
        return found


def on_topic(atom: str) -> bool:
    """Whether a word class belongs to what a bank's customers speak of."""
    return atom in _TOPIC_ATOMS


def _word_atom(word: str) -> tuple[str, int]:
    """How a word stands in a rule, and how many of its characters that takes."""
    if "'" in word or "’" in word:
        return rf"\b{word.replace('’', chr(39)).replace(chr(39), '.?')}\b", len(word)
    if len(word) <= SHORT or not word.isalpha():
        return rf"\b{word}\b", len(word)
    stem = _ENDING.sub("", word)
    return rf"\b{stem}", len(stem)


_TOPIC_ATOMS = frozenset(
    [
        *(rf"\b{CONCEPTS[name.strip()]}\b" for name in _TOPICS.split(",")),
        *(rf"\b{s}{end}" for s in _TOPIC_STEMS.split() for end in ("", r"\b")),
    ]
)
_CACHE: dict[str, re.Pattern[str]] = {}


def _compiled(pattern: str) -> re.Pattern[str]:
    if pattern not in _CACHE:
        _CACHE[pattern] = re.compile(pattern)
    return _CACHE[pattern]
