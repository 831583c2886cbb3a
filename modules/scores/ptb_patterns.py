"""The patterns of the Penn Treebank tokeniser (`ptb.py`), and what the tokens that they find become."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

# --- what a token becomes -------------------------------------------------------------------------------------------

_BRACKETS = {"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"}
_QUOTES = str.maketrans(
    {"\x91": "`", "‘": "`", "‛": "`", "‹": "`", "\x92": "'", "’": "'", "›": "'"}
    | {"\x93": "``", "“": "``", "«": "``", "\x94": "''", "”": "''", "»": "''"}
)
_MONEY = {"£": "#", "€": "$", "¢": "cents", "\x80": "$", "¤": "$", "₠": "$"}
_FRACTIONS = {"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}


def _as_is(token: str) -> list[str]:
    return [token]


def _always(*tokens: str) -> Callable[[str], list[str]]:
    return lambda _: list(tokens)


def _without_soft_hyphens(token: str) -> list[str]:
    return [token.replace("\xad", "") or "-"]


def _joined(token: str) -> list[str]:
    """A token that may hold spaces and brackets, such as a telephone number: no-break spaces inside."""
    for bracket in "()":
        token = token.replace(bracket, _BRACKETS[bracket])
    return [token.replace(" ", "\xa0")]


def _ends_sentence(token: str) -> list[str]:
    """An abbreviation that also ends its sentence gives its point twice."""
    return [token, "."]


def _quote(token: str) -> list[str]:
    return [token.replace("&apos;", "'").translate(_QUOTES)]


def _apostrophe(token: str) -> list[str]:
    return [token.replace("&apos;", "'").replace("’", "'").replace("\x92", "'")]


# --- characters and small parts -------------------------------------------------------------------------------------


def _character_class(wanted: Callable[[str], bool]) -> str:
    """Ranges of the characters up to U+FFFF that are wanted, to stand inside [...]."""
    ranges: list[list[int]] = []
    for code in filter(lambda code: wanted(chr(code)), range(0x10000)):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"\\u{first:04x}-\\u{last:04x}" for first, last in ranges)


LETTER = _character_class(lambda character: unicodedata.category(character)[0] == "L")
UPPER = _character_class(lambda character: unicodedata.category(character) == "Lu")
MARK = _character_class(lambda c: "\u02c2" <= c <= "\u0ecd" and unicodedata.category(c) in ("Mn", "Sk"))
SYMBOL = (  # as found by giving the Java program each character
    r"%&*+^`|~¡¥-©¬®-´¶-¹¿×÷;·\\\u0589\u05be\u05c0\u05c3\u05c6\u05f3\u05f4\u0600-\u0603\u0606-\u060c\u0614\u061b\u061e\u061f"
    r"\u066a\u066d\u06d4\u0700-\u070d\u07f6-\u07f8\u0964\u0965\u0e3f\u0e4f\u1fbd‖‗‚„-‣‰-‸※‾-⁂⁄⁰⁴-⁾₀-₎₤"
    r"\u2100-\u214f\u2155-\u215e\u2190-\u2bff、。〒・！-／：-＠［-｀｛-･￠￡￥￦"
)
DIGIT = r"[\d]"
SPACE = r"[ \t\xa0\u2000-\u200a\u3000]"
GAP = r"[ \t\xa0\u2000-\u200a\u3000\n]"
APOSTROPHE = r"(?:['\x92’]|&apos;)"
OPEN_APOSTROPHE = r"(?:['\x92’`\x91‘‛]|&apos;)"
REDUCED = rf"{APOSTROPHE}(?ai:[msd]|re|ve|ll)"
HYPHEN = r"[-_\u058a\u2010\u2011]"
ALNUM = rf"[{LETTER}\d]"
WORD_CHARACTER = rf"(?:[{LETTER}{MARK}\xad]|&[aeiouAEIOU](?:acute|grave|uml);)"
WORD_PART = rf"{WORD_CHARACTER}(?:{WORD_CHARACTER}|\d)*"
WORD = rf"{WORD_PART}(?:[.!?]{WORD_PART})*"
ELIDED = rf"(?:[dDoOlL]{OPEN_APOSTROPHE}{ALNUM})?{ALNUM}+"
THING = rf"{ELIDED}(?:{HYPHEN}{ELIDED})*"
ACRONYM = r"(?:(?:Canada|Sino|Korean|EU|Japan|non)-U\.S|U\.S\.-(?:U\.K|U\.S\.S\.R)|[A-Za-z](?:\.[A-Za-z])+)"
COMPOUND = rf"[A-Za-z0-9][A-Za-z0-9.,\xad]*(?:-(?:{ACRONYM}\.|[A-Za-z0-9\xad]+))+"
INITIALS = "[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+"
TAG_NAME = "[A-Za-z][A-Za-z0-9_:.-]*"
TAG = (
    rf"<(?:[!?][A-Za-z-][^>\n]{{0,2000}}|/{TAG_NAME} *"
    rf"|{TAG_NAME}(?: +{TAG_NAME}(?: *= *(?:'[^'\n]*'|\"[^\"\n]*\"))?)* */? *)>"
)
NEW_SENTENCE = rf"{GAP}(?:{GAP}|[{UPPER}]|{TAG})"
STARTERS = (
    r"(?ai:about|accordingly|according|additionally|after|an|a|as|at|but|earlier|here|her|however|he|if|in|it|last|many"
    r"|more|mr\.|ms\.|now|once|one|other|our|she|since|some|so|such|that|their|then|there|these|they|the|this|we|when"
    r"|while|what|yet|you)"
)
NEW_SENTENCE_WORD = rf"{GAP}+(?:(?=[A-Z]){STARTERS}|{TAG}){GAP}"

# Abbreviations after which a sentence may end, and those after which it does not.
ENDING = (
    r"(?:(?ai:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu|thurs|fri"
    r"|ala|ariz|calif|colo|conn|ct|dak|fla|ga|ind|kans?|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn|va|vt|wisc?|wyo"
    r"|inc|cos?|corp|ltd|plc|rt|bancorp|bhd|assn|univ|intl|sys|jr|sr|bros|blvd|rd|esq|etc|al|seq|est|ext|tel|sq|bldg"
    r"|ed\.d|ph\.d)|[Pp][Pp]?t[ey]s?"
    r"|Al|AL|Az|AZ|La|LA|Pa|PA|Ark|ARK|Del|DEL|Ill|ILL|Ore|ORE|Tex|TEX|Mass|MASS|Miss|MISS|Wash|WASH)\."
)
RUNNING = (
    r"(?:(?ai:cf|drs?|ft|lt|mr|mrs|ms|mt|ph|ste?|vs|wm|adj|adm|adv|ave|cie|col|cpl|det|ens|gen|govs?|hon|jos|maj|mme|pfc"
    r"|pvt|reps?|rev|sens?|sfc|sgt|spc|alex|asst|assoc|attys?|brig|capt|cmdr|comdr|dept|elec|insp|invt|lieut|messrs|mlle"
    r"|msgr|natl|pres|profs?|supts?|treas|a\.k\.a)|[Mm]fg|[Mm]tg)\."
)


ELISION = (
    r"(?ai:'n'?|'em|'till?|'cause|ol'|dunkin'|somethin'|e'er|c'mon|s'mores|ev'ry|li'l|nat'l|diff'rent|nor'easter"
    r"|cont'd\.?|o`o)".replace("'", APOSTROPHE).replace("`", OPEN_APOSTROPHE)
)
FILE_ENDING = (
    "bat|bmp|class|cgi|cpp|c|dll|docx?|exe|gif|gz|html?|h|jar|java|jpe?g|mov|mp3|pdf|php|png|ppt|pl|ps|py|sql|tar|txt|wav"
    "|xml|x|zip"
)


@dataclass(frozen=True)
class Needs:
    """What a long pattern cannot do without, so that a text without it is not searched from every place anew.

    Attributes:
        goal: a pattern that a match has in it, beyond its first character.
        stop: a pattern that a match does not have in it before the goal.
    """

    goal: str
    stop: str


class Rule(NamedTuple):
    """A pattern, what its token becomes, and what the pattern needs."""

    pattern: re.Pattern
    becomes: Callable[[str], list[str]]
    needs: Needs | None


def _rule(
    token: str, ahead: str = "", becomes: Callable[[str], list[str]] = _as_is, needs: Needs | None = None
) -> Rule:
    return Rule(re.compile(f"(?P<token>{token}){ahead}"), becomes, needs)


_NOT_LETTER = r"(?:[^A-Za-z]|\Z)"
_NO_URL = r' \t\n\f\r"<>|'
_URL_PATH = rf"(?:/[^{_NO_URL}(){{}}]+[^{_NO_URL}.!?(){{}},-])?"

# --- the patterns, in order of precedence ---------------------------------------------------------------------------

RULES = [
    _rule("(?ai:can)", "(?ai:not)"),
    _rule("(?ai:gon|wan)", "(?ai:na)"),
    _rule("(?ai:got)", "(?ai:ta)"),
    _rule("(?ai:lem|gim)", "(?ai:me)"),
    _rule("'[tT]", "(?ai:is|was)"),
    _rule(TAG, becomes=lambda token: [token.replace(" ", "\xa0")]),
    _rule(r"&(?ai:mdash|ndash|md);|[\x96\x97–—―]", becomes=_always("--")),
    _rule("&(?ai:amp);", becomes=_always("&")),
    _rule(r"&(?:HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);"),
    _rule("[A-Za-z]*[A-MO-Za-mo-z]", rf"[nN]{OPEN_APOSTROPHE}[tT]"),
    _rule(WORD, REDUCED, _without_soft_hyphens),
    _rule(WORD, becomes=_without_soft_hyphens),
    _rule(rf"[A-HJ-XZn]{OPEN_APOSTROPHE}[{LETTER}]{{2,}}"),
    _rule(rf"[{LETTER}]+[aeiouyAEIOUY]{OPEN_APOSTROPHE}[aeiouA-Z][{LETTER}]*"),
    _rule(ELISION),
    _rule(rf"[lLdDjJ]{APOSTROPHE}|{APOSTROPHE}[2-9]0[sS]"),
    _rule(rf"[yY]{APOSTROPHE}", f"[{LETTER}]"),
    _rule(rf"https?://[^{_NO_URL}(){{}}]+[^{_NO_URL}.!?(){{}},-]"),
    _rule(
        rf"www\.(?:[^{_NO_URL}.!?(){{}},]+\.)+[a-zA-Z]{{2,4}}{_URL_PATH}",
        needs=Needs(r"\.[a-zA-Z]{2}", rf"[{_NO_URL}!?(){{}},]|\.(?=\.)"),
    ),
    _rule(
        rf"(?:[^{_NO_URL}`'.!?(){{}},-_$]+\.)+(?:com|net|org|edu){_URL_PATH}",
        needs=Needs(r"\.(?:com|net|org|edu)", rf"(?!\.)[{_NO_URL}`'!?(){{}},-_$]|\.(?=\.)"),
    ),
    _rule(
        rf"(?:&lt;|<)?[a-zA-Z0-9][^{_NO_URL}(){{}}\xa0]*@(?:[^{_NO_URL}(){{}}.\xa0]+\.)*[^{_NO_URL}(){{}}.\xa0]+"
        "(?:&gt;|>)?",
        needs=Needs(rf"@[^{_NO_URL}(){{}}.\xa0]", rf"[{_NO_URL}(){{}}\xa0]"),
    ),
    _rule(rf"@[a-zA-Z_][a-zA-Z_0-9]*|#{WORD_CHARACTER}+"),
    _rule(REDUCED, _NOT_LETTER, _apostrophe),
    _rule(rf"[nN]{OPEN_APOSTROPHE}[tT]", _NOT_LETTER, _apostrophe),
    _rule(rf"{DIGIT}{{1,2}}[-/]{DIGIT}{{1,2}}[-/]{DIGIT}{{2,4}}"),
    _rule(rf"[-+]?(?:{DIGIT}*(?:[.:,\xad٫٬]{DIGIT}+)+|{DIGIT}+)", becomes=_without_soft_hyphens),
    _rule("[⁺⁻₊₋]?(?:[⁰¹²³⁴-⁹]+|[₀-₉]+)"),
    _rule(rf"(?:{DIGIT}{{1,4}}[- \xa0])?{DIGIT}{{1,4}}(?:\\?/|⁄){DIGIT}{{1,4}}", becomes=_joined),
    _rule("[¼½¾⅓-⅞]", becomes=lambda token: [_FRACTIONS.get(token, token)]),
    _rule(r"-(?ai:[lr][rsc]b)-|C\.D\.s|(?ai:pro|anti)-|S&P-500|(?ai:s&ls|cap'n|c'est)|[cC]\+\+|[cCfF]#"),
    _rule(rf"{APOSTROPHE}[0-9][0-9]", GAP),
    _rule(r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}"),
    _rule(r"[A-Z]*\$|#"),
    _rule("[¢£¤¥\x80₠€؋฿₤￠￡￥￦]", becomes=lambda token: [_MONEY.get(token, token)]),
    _rule(r"(?ai:co|pp?t[ye])\.", f"{SPACE}(?ai:ltd|lim)"),
    _rule(ENDING, NEW_SENTENCE, _ends_sentence),
    _rule(ENDING, r"[\s\S]{2}"),
    _rule(ENDING, becomes=_ends_sentence),  # at the end of the text
    _rule(RUNNING),
    _rule(rf"{ACRONYM}\.", NEW_SENTENCE_WORD, _ends_sentence),
    _rule(rf"{ACRONYM}\."),
    _rule("[A-Za-z]", rf"\.{NEW_SENTENCE_WORD}"),
    _rule(r"[A-Za-z]\."),
    _rule(
        rf"{ALNUM}+(?:\.{ALNUM}+)*\.(?ai:{FILE_ENDING})",
        rf"(?:{GAP}|[.?!,])",
        needs=Needs(rf"\.(?ai:{FILE_ENDING})(?:{GAP}|[.?!,])", rf"[^{LETTER}\d.]|\.(?=\.)"),
    ),
    _rule(
        rf"(?:{WORD}|{THING}|{COMPOUND}|{INITIALS})\.",
        "[,;:、]",
        _without_soft_hyphens,
        needs=Needs(r"\.[,;:、]", r"[ \t\n]"),
    ),
    _rule(r"(?ai:nos?|art|ca|figs?|pp|op|prop)\.", rf"{GAP}?{DIGIT}"),
    _rule(
        r"(?:\([0-9]{2,3}\)[ \xa0]?|(?:\+\+?)?(?:[0-9]{2,4}[- \xa0])?[0-9]{2,4}[- \xa0])[0-9]{3,4}[- \xa0]?[0-9]{3,5}"
        r"|(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}",
        becomes=_joined,
    ),
    _rule('"|&quot;', "[A-Za-z0-9$]", _always("``")),
    _rule('"|&quot;', becomes=_always("''")),
    _rule("&nbsp;", becomes=_always()),
    _rule("&lt;", becomes=_always("<")),
    _rule("&gt;", becomes=_always(">")),
    _rule(r"<<|>>|[<>=/]"),
    _rule(r"[()\[\]{}]", becomes=lambda token: [_BRACKETS[token]]),
    _rule(r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]]", "[^A-Za-z0-9]", becomes=_joined),
    _rule(r"[-^x=~<>']_[-^x=~<>']|\([-^x=~<>'][_.]?[-^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)", becomes=_joined),
    _rule("---?-?", becomes=_always("--")),
    _rule("-+"),
    _rule(r"\.{3,5}|(?:\.[ \xa0]){2,4}\.|[\x85…]", becomes=_always("...")),
    _rule(r"@+|#+|_+|\*+|(?:\\\*){1,3}"),
    _rule(r"[,;:、]|[?!]+|[.¡¿؟]"),
    _rule(
        COMPOUND,
        becomes=_without_soft_hyphens,
        needs=Needs(r"-[A-Za-z0-9\xad]", r"(?!-[A-Za-z0-9\xad])[^A-Za-z0-9.,\xad]"),
    ),
    _rule(THING),
    _rule(INITIALS, becomes=lambda token: [token.replace("&amp;", "&")]),
    _rule("'", r"[A-Za-z][^ \t\n\r\xa0]", _always("`")),
    _rule(REDUCED, becomes=_apostrophe),
    _rule(rf"[nN]{OPEN_APOSTROPHE}[tT]", becomes=_apostrophe),
    _rule(r"''|[`‘’‚‛“”\x91-\x94„‟‹›«»]{1,2}", becomes=_quote),
    _rule(APOSTROPHE, becomes=_quote),
    _rule(rf"[{SYMBOL}]"),
]

"""The patterns, in order of precedence."""

# Most words are letters before a space; no pattern reaches farther, and only the contractions come earlier.
PLAIN = re.compile(r"(?!(?ai:cannot|gonna|gotta|wanna|lemme|gimme) )[A-Za-z]{2,}(?= )")
