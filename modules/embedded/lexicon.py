"""The words of the small world: concepts, their synonyms, opposites, converses and inflections.

A *concept* is written as its synonyms joined by "/", for example ``"doctor/physician"``; saying it picks one of
them. Opposites are written ``"concept | concept"``. Everything is plain text, so that a word is added in one place.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """Random choices that are the same on every Python: only ``Random(int).random()`` is guaranteed stable."""

    def __init__(self, *key: object) -> None:
        digest = hashlib.sha256(repr(key).encode()).digest()
        self.random = random.Random(int.from_bytes(digest[:8], "big")).random

    def below(self, n: int) -> int:
        """A whole number in [0, n)."""
        return int(self.random() * n)

    def chance(self, p: float) -> bool:
        return self.random() < p

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.random() * len(items))]

    def sample(self, items: Sequence[T], k: int) -> list[T]:
        """k different items in random order."""
        pool = list(items)
        return [pool.pop(self.below(len(pool))) for _ in range(k)]


# --- nouns: domain -> sort -> hypernym -> concepts -------------------------------------------------------------------
NOUNS = {
    "town": {
        "person": {
            "artist": "painter singer author/writer dancer sculptor poet",
            "medic": "doctor/physician nurse surgeon dentist",
            "craftsman": "baker tailor/dressmaker plumber carpenter/joiner mechanic",
            "official": "judge/magistrate mayor clerk officer/policeman",
            "relative": "uncle aunt cousin nephew niece",
        },
        "animal": {
            "mammal": "dog/hound cat horse cow goat rabbit/bunny fox pig/hog",
            "bird": "hen crow owl sparrow goose pigeon/dove",
            "insect": "bee ant beetle wasp",
        },
        "thing": {
            "fruit": "apple pear plum cherry peach",
            "vehicle": "car/automobile truck/lorry bicycle/bike van scooter",
            "tool": "hammer saw spade/shovel drill",
            "instrument": "guitar piano violin/fiddle drum flute",
            "garment": "coat/jacket hat scarf shirt glove",
            "furniture": "chair sofa/couch desk bench",
        },
        "place": {
            "": "garden/yard kitchen school market/bazaar park hospital/clinic station library church museum "
            "bakery stable"
        },
    },
    "sea": {
        "person": {
            "seaman": "sailor/mariner captain/skipper pirate diver fisher",
            "soldier": "guard/sentry archer knight general scout",
            "noble": "king/monarch queen duke prince baron",
        },
        "animal": {
            "fish": "shark salmon trout herring carp",
            "reptile": "turtle/tortoise lizard snake/serpent crocodile",
            "seabird": "gull pelican penguin heron",
        },
        "thing": {
            "vessel": "ship boat canoe yacht raft",
            "weapon": "sword/blade spear/lance dagger cannon bow",
            "jewel": "pearl ruby diamond emerald",
        },
        "place": {
            "": "harbor/port island/isle beach/shore cave/cavern castle/fortress tower lighthouse forest/woods "
            "mountain camp"
        },
    },
}
NAMES = ["Anna", "Maria", "Julia", "Clara", "Emma", "Laura", "Helen", "Alice", "Peter", "Paul", "Martin", "Oscar",
         "David", "Simon", "Victor", "Thomas"]  # fmt: skip
GENDERED = [("man", "woman"), ("boy", "girl"), ("waiter", "waitress"), ("brother", "sister"), ("father", "mother"),
            ("husband", "wife"), ("son", "daughter"), ("grandfather", "grandmother")]  # fmt: skip

# --- verbs and adjectives: "concept | opposite" ----------------------------------------------------------------------
MEET = """praise/commend | criticize/scold; help/assist | hinder/obstruct; love/adore | hate/detest; attack/assault
| protect/defend; trust | suspect/distrust; capture/arrest | release/free; watch/observe |
ignore/overlook; calm/soothe | annoy/irritate; obey | defy; chase/pursue; visit; call/summon; kick;
touch; feed/nourish | starve; frighten/scare; please/delight; lead/guide; defeat/beat; hire/employ |
dismiss/fire; warn/alert; welcome/greet | expel/banish"""
HANDLE = """repair/mend | damage/break; find/discover | lose/misplace; clean/wash | stain/soil; hide/conceal |
show/display; build/construct | destroy/demolish; lift/raise | drop; lock | unlock; keep/retain |
discard/dump; accept | refuse/reject; push/shove | pull/drag; carry/haul; steal; move/shift;
examine/inspect; paint; want/desire"""
ACT_ALONE = """arrive | leave/depart; win/triumph | fail; stand | sit; work/labor | rest; run; walk; speak/talk; sleep;
cry; laugh; sing; dance; wait; sneeze; jump"""
TRANSFER = {"sell": "buy/purchase", "lend/loan": "borrow", "give/hand": "receive/get"}
CONVERSE = {  # "a frightens b" says the same as "b fears a"
    "frighten/scare": "fear/dread",
    "please/delight": "like/enjoy",
    "lead/guide": "follow/trail",
    "chase/pursue": "flee/escape",
}
MANNERS = {  # a way of doing something: whoever sprints runs
    "run": "sprint jog", "walk": "stroll march", "speak/talk": "whisper mumble", "sleep": "doze nap",
    "cry": "sob weep", "laugh": "giggle chuckle", "jump": "hop leap",
}  # fmt: skip
RELATIONS = """is taller than/is not as short as | is shorter than/is not as tall as; is older than/is not as young as |
is younger than/is not as old as; is stronger than/is not as weak as | is weaker than/is not as strong
as; is faster than/is quicker than | is slower than/is not as fast as; is richer than/is wealthier than |
is poorer than/is not as rich as; is heavier than/is not as light as | is lighter than/is not as heavy
as; is above/is over | is below/is under; is behind | is ahead of; is left of | is right of; arrived
before/came before | arrived after/came after; left before | left after"""
MOODS = """rich/wealthy | poor/needy; strong/sturdy | weak/feeble; happy/glad | sad/gloomy; brave/bold |
timid/cowardly; quiet/silent | loud/noisy; clever/smart | stupid/foolish; honest/sincere |
deceitful/dishonest; fast/quick | slow/sluggish; generous | greedy/stingy; relaxed | nervous/anxious;
healthy/fit | sick/ill; old/aged | young; tall | short"""
LOOKS = """big/large | small/little; wet/damp | dry; clean/spotless | dirty/filthy; heavy | light; hot | cold; new |
used; cheap | expensive/costly; smooth | rough; bright | dark"""
TIMES = ["on Monday", "on Tuesday", "on Friday", "on Sunday", "yesterday", "this morning", "last night", "in May",
         "in June", "last winter"]  # fmt: skip
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
QUANTIFIERS = ("all", "no", "some", "not all")


def _opposites(*tables: str) -> dict[str, str | None]:
    table: dict[str, str | None] = {}
    for entry in " ".join(";".join(tables).split()).split(";"):
        left, _, right = (part.strip() for part in entry.partition("|"))
        table[left] = right or None
        if right:
            table[right] = left
    return table


def _concepts(table: str) -> list[str]:
    return list(_opposites(table))


OPPOSITE = _opposites(MEET, HANDLE, ACT_ALONE, RELATIONS, MOODS, LOOKS)
HYPERNYM: dict[str, str] = {}
SORTS = ("person", "animal", "thing")
SORT: dict[str, str] = {}
for _domain in NOUNS.values():
    for _sort, _groups in _domain.items():
        for _hypernym, _nouns in _groups.items():
            SORT[_hypernym] = _sort
            for _noun in _nouns.split():
                SORT[_noun] = _sort
                if _hypernym:
                    HYPERNYM[_noun] = _hypernym
                    HYPERNYM.setdefault(_hypernym, _sort)
SORT |= dict.fromkeys(NAMES, "person") | {sort: sort for sort in SORTS}
HYPERNYM |= dict.fromkeys(NAMES, "person")
HYPERNYM |= {manner: verb for verb, manners in MANNERS.items() for manner in manners.split()}
HYPONYMS: dict[str, list[str]] = {}
for _word, _above in HYPERNYM.items():
    HYPONYMS.setdefault(_above, []).append(_word)


class Lexicon:
    """The words one text may use: a domain, and the leading `share` of every class (the rest is held out)."""

    def __init__(self, domains: Sequence[str] = ("town", "sea"), share: float = 1.0) -> None:
        def cut(words: Sequence[T]) -> list[T]:
            return list(words[: max(2, round(len(words) * share))])

        self.share = share
        self.nouns: dict[str, list[str]] = {"person": cut(NAMES)}
        for domain in domains:
            for sort, groups in NOUNS[domain].items():
                for nouns in groups.values():
                    self.nouns.setdefault(sort, []).extend(cut(nouns.split()))
        self.meet, self.handle, self.alone = (cut(_concepts(table)) for table in (MEET, HANDLE, ACT_ALONE))
        self.alone += [m for v in self.alone for m in MANNERS.get(v, "").split()]
        self.moods, self.looks, self.relations = (cut(_concepts(table)) for table in (MOODS, LOOKS, RELATIONS))
        self.transfer = list(TRANSFER)
        self.times = TIMES


# --- inflection ------------------------------------------------------------------------------------------------------
PLURALS = {"goose": "geese", "policeman": "policemen", "man": "men", "woman": "women", "wife": "wives",
           "craftsman": "craftsmen", "seaman": "seamen", "salmon": "salmon", "trout": "trout", "fish": "fish",
           "carp": "carp", "person": "people", "monarch": "monarchs"}  # fmt: skip
PASTS = {
    "feed": "fed", "beat": "beat beaten", "lead": "led", "break": "broke broken", "find": "found",
    "lose": "lost", "hide": "hid hidden", "show": "showed shown", "build": "built", "keep": "kept",
    "steal": "stole stolen", "sell": "sold", "buy": "bought", "lend": "lent", "give": "gave given",
    "get": "got", "leave": "left", "win": "won", "stand": "stood", "sit": "sat", "run": "ran run",
    "speak": "spoke spoken", "sleep": "slept", "sing": "sang sung", "weep": "wept", "leap": "leapt",
    "flee": "fled", "hit": "hit", "see": "saw seen", "know": "knew known", "hurt": "hurt",
}  # fmt: skip
DOUBLED = {"drop", "jog", "nap", "sob", "hop", "drag", "expel"}


def plural(noun: str) -> str:
    if noun in PLURALS:
        return PLURALS[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeiou" else noun + "s"


def third(verb: str) -> str:
    """The form after a singular subject: chase -> chases."""
    return plural(verb) if verb not in PLURALS else verb + "s"


def past(verb: str) -> str:
    if verb in PASTS:
        return PASTS[verb].split()[0]
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + verb[-1] + "ed" if verb in DOUBLED else verb + "ed"


def participle(verb: str) -> str:
    return PASTS[verb].split()[-1] if verb in PASTS else past(verb)


def forms() -> set[str]:
    """Every form of every noun, verb and adjective, common or rare."""
    everything, found = Lexicon(), set()
    verbs = [*everything.meet, *everything.handle, *everything.alone, *TRANSFER, *TRANSFER.values(), *CONVERSE.values()]
    for concept in verbs:
        for lemma in concept.split("/"):
            found |= {lemma, third(lemma), past(lemma), participle(lemma)}
    for concept in [*SORT, *(noun for pair in GENDERED for noun in pair)]:
        for noun in concept.lower().split("/"):
            found |= {noun, plural(noun)} if noun.capitalize() not in NAMES else {noun}
    for concept in everything.moods + everything.looks:
        found |= set(concept.split("/"))
    return found - {""}


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" and not word.startswith("used") or word.startswith("honest") else "a"


def sentence(words: str) -> str:
    """Words separated by blanks, punctuation too -> text as people write it."""
    text = " ".join(words.split())
    for mark in ",.?:":
        text = text.replace(f" {mark}", mark)
    text = re.sub(r"\bi\b", "I", text)
    return re.sub(r"(^|[.:] )([a-z])", lambda start: start.group(1) + start.group(2).upper(), text)
