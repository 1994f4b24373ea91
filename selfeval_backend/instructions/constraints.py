"""Kinds of constraints on a text, each with the many ways to ask for it.

In patterns, ``(a|b)`` is one of its alternatives and ``{word}`` what was drawn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from selfeval_backend.instructions.vocabulary import Topic, Vocabulary
from selfeval_backend.instructions.wording import number_word

__all__ = ["CONSTRAINT_KINDS", "ConstraintKind", "Demand", "Setting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one prompt's constraint was drawn to be."""

    check: str
    """A name of `CHECKS`."""
    words: tuple[str, ...] = ()
    number: int = 0
    fields: Mapping[str, str] = field(default_factory=dict)
    """What stands for the names in the pattern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a constraint is drawn for."""

    topic: Topic
    is_long: bool
    """Whether a long text is asked for."""
    vocabulary: Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstraintKind:
    """A kind of constraint."""

    patterns: str
    """One a line."""
    draw: Callable[[random.Random, Setting], Demand]
    lengths: tuple[bool, ...] = (False, True)
    """Whether it is asked of short texts (False), of long ones (True), or of both."""


def _quoted(words: tuple[str, ...]) -> str:
    return " and ".join(f'"{word}"' for word in words)


def _keywords(rng: random.Random, setting: Setting) -> Demand:
    pool = setting.vocabulary.words if rng.random() < 0.6 else setting.topic.words
    count = rng.choice((1, 2, 3) if setting.is_long else (1, 1, 2))
    words = tuple(rng.sample(pool, min(count, len(pool))))
    fields = {"words": _quoted(words), "word": "words" if len(words) > 1 else "word"}
    return Demand(check="keywords", words=words, fields=fields)


def _forbidden(rng: random.Random, setting: Setting) -> Demand:
    count = 1 if setting.is_long else rng.choice((1, 2))
    words = tuple(rng.sample(setting.topic.words, count))
    fields = {"words": " or ".join(f'"{word}"' for word in words)}
    return Demand(check="forbidden", words=words, fields=fields)


def _repeated(rng: random.Random, setting: Setting) -> Demand:
    pool = setting.topic.words if rng.random() < 0.7 else setting.vocabulary.words
    number = rng.choice((3, 4, 5)) if setting.is_long else rng.choice((2, 3))
    word = rng.choice(pool)
    fields = {"word": word, "times": "twice" if number == 2 else f"{number_word(number)} times"}
    return Demand(check="repeated", words=(word,), number=number, fields=fields)


def _letter(rng: random.Random, setting: Setting) -> Demand:
    letter = rng.choice("jqxzkv")
    number = rng.choice((2, 3, 4, 6) if setting.is_long else (1, 2, 3))
    times = "once" if number == 1 else "twice" if number == 2 else f"{number_word(number)} times"
    fields = {"letter": letter, "times": times}
    return Demand(check="letter", words=(letter,), number=number, fields=fields)


def _without_letter(rng: random.Random, setting: Setting) -> Demand:
    letter = rng.choice("jqxz" if setting.is_long else "jqxzkvbwy")
    return Demand(check="without_letter", words=(letter,), fields={"letter": letter})


def _counted(
    check: str, short: tuple[int, ...], long: tuple[int, ...]
) -> Callable[[random.Random, Setting], Demand]:
    def draw(rng: random.Random, setting: Setting) -> Demand:
        number = rng.choice(long if setting.is_long else short)
        fields = {"number": number_word(number), "digits": str(number), "s": "s" * (number > 1)}
        return Demand(check=check, number=number, fields=fields)

    return draw


def _plain(check: str) -> Callable[[random.Random, Setting], Demand]:
    return lambda rng, setting: Demand(check=check, number=1)


def _named(check: str) -> Callable[[random.Random, Setting], Demand]:
    def draw(rng: random.Random, setting: Setting) -> Demand:
        name = rng.choice(setting.vocabulary.names)
        return Demand(check=check, words=(name,), fields={"name": name})

    return draw


def _begins(rng: random.Random, setting: Setting) -> Demand:
    word = rng.choice(setting.vocabulary.openings)
    return Demand(check="begins", words=(word,), fields={"word": word})


def _greeting(rng: random.Random, setting: Setting) -> Demand:
    greeting = f"Dear {rng.choice(setting.vocabulary.names)}"
    return Demand(check="begins", words=(greeting,), fields={"greeting": greeting})


def _json(rng: random.Random, setting: Setting) -> Demand:
    keys = tuple(rng.choice((("title", "text"), ("topic", "summary"), ("name", "description"))))
    return Demand(check="json", words=keys, fields={"first": keys[0], "second": keys[1]})


CONSTRAINT_KINDS: Mapping[str, ConstraintKind] = MappingProxyType(
    {
        "keywords": ConstraintKind(
            draw=_keywords,
            patterns="""
(Include|Use|Mention|Work in) the {word} {words}(| somewhere| in your answer| in the text).
(Make sure|Be sure|Take care) to (include|use|mention) the {word} {words}.
The {word} {words} (must|should|has to|needs to) (appear|occur|be used)(| in your answer| in the text).
Your (answer|text|response) (must|should) (contain|include) the {word} {words}.
(I want to see|I would like to see|Let me see) the {word} {words} in (it|the text|your answer).
(Do not forget|Don't forget|Remember) (the|about the) {word} {words}, (which|as it) should be in the text.
(Write it|Phrase it|Put it) so that the {word} {words} (comes|come) up.
(Required|Keyword|Must include): {words}.
""",
        ),
        "forbidden": ConstraintKind(
            draw=_forbidden,
            patterns="""
(Do not|Don't|Never) (use|mention|write|say) {words}(| in your answer| anywhere| in the text).
(Avoid|Leave out|Stay away from) {words}(| in your answer| altogether| in the text).
Your (answer|text|response) (must|should) not (contain|include|use) {words}.
(Write it|Do it|Do this|Manage) without (using|writing|saying|mentioning) {words}.
{words} (is forbidden|is not allowed|must not appear|should not occur)(| in the text| in your answer).
(Please keep|Keep) {words} out of (it|the text|your answer).
(Find other words|Use other words) (for|instead of) {words}.
(Forbidden|Not allowed|Taboo): {words}.
""",
        ),
        "repeated": ConstraintKind(
            draw=_repeated,
            patterns="""
Use the word "{word}" at least {times}(| in your answer| in the text).
The word "{word}" (must|should|has to) (appear|occur|be used) at least {times}.
(Mention|Repeat|Write) "{word}" at least {times}(| in it| in the text).
(Make sure|Be sure) (that "{word}" comes up|to say "{word}") at least {times}.
(I want to read|I would like to read|Let me read) "{word}" {times} or more.
(Say|Use) "{word}" again and again: at least {times}.
Your (answer|text|response) should (contain|have) "{word}" {times} or more(| often).
At least {times}, (use|write|work in) the word "{word}".
""",
        ),
        "letter": ConstraintKind(
            draw=_letter,
            patterns="""
The letter "{letter}" (must|should|has to) (appear|occur) at least {times}(| in your answer| in it).
(Use|Include) the letter "{letter}" at least {times}(| in your answer| in the text).
(Choose|Pick) words so that the letter "{letter}" (appears|occurs|comes up) at least {times}.
Your (answer|text|response) (must|should) (contain|have) the letter "{letter}" at least {times}.
(Make sure|See to it) that there is (a|the letter) "{letter}" at least {times}.
At least {times} there (must|should) be the letter "{letter}".
(Use|Find) words with the letter "{letter}" in them, at least {times}.
I am looking for the letter "{letter}", at least {times}.
""",
        ),
        "without_letter": ConstraintKind(
            draw=_without_letter,
            patterns="""
(Do not|Don't|Never) use the letter "{letter}"(| in your answer| anywhere| in any word).
The letter "{letter}" (must|should) not (appear|occur)(| in your answer| in the text| anywhere).
(Avoid|Leave out) (all words with the letter|the letter|any word that has the letter) "{letter}".
Use only words without the letter "{letter}".
Your (answer|text|response) (must|should) not (contain|have) the letter "{letter}".
(Write it|Do it) without (ever using|using) the letter "{letter}".
No word (may|should) (have|contain) the letter "{letter}".
The "{letter}" key of my keyboard is broken, so (avoid|do without) that letter.
""",
        ),
        "postscript": ConstraintKind(
            draw=_plain("postscript"),
            lengths=(False,),
            patterns="""
(At the end|In the end|Finally), add a postscript (that starts|starting|beginning) with P.S.
(Add|Write|Include) a postscript (that begins|starting) with "P.S." (at the end|as the last line|after the text).
(End|Finish|Close) with a (postscript|P.S.)(, starting with P.S.| that starts with P.S.|, marked P.S.).
(Do not forget|Don't forget|Remember) (a|to add a) P.S. at the (end|bottom).
Your (answer|text|response) (must|should) (end with|have|contain) a line that (begins|starts) with "P.S.".
(Put|Place) a P.S. (below it|under it|after it|at the bottom).
(After the text|Below the text), (add|write|put) one more line (that starts with|after the mark) P.S.
The last line (must|should) (be a postscript that starts|start) with "P.S.".
""",
        ),
        "bullets": ConstraintKind(
            draw=_counted("bullets", (2, 3, 4), (4, 5, 6, 7)),
            patterns="""
(Use|Give|Write) exactly {number} bullet points(| that start with *|, each starting with "- ").
(Answer|Reply|Respond) (with|in) exactly {number} bullet points(| marked with *| marked with -).
Your (answer|text|response) (must|should) (contain|have) exactly {number} bullet points(|, such as "* This is a point.").
(Present|Write|Format) it as (a list of|exactly) {number} (bullets|bullet points)(|, each on its own line).
(Put|Say) it in {number} bullet points(|, no more and no less| exactly).
(Make|Give me|Let it be) a bulleted list (of|with) (exactly |){number} (points|items).
There (must|should) be {number} bullet points(| marked with - | in it| in all), (no more and no less|exactly that many).
(A list of|I want) {digits} bullets, please(|, each with a "-"|, each with a "*").
""",
        ),
        "numbered": ConstraintKind(
            draw=_counted("numbered", (2, 3, 4), (4, 5, 6, 7)),
            patterns="""
(Write|Give|Present) it as a numbered list (of|with) exactly {number} (items|points).
(Use|Make) a numbered list with {number} (items|entries|points)(|: 1., 2. and so on).
Your (answer|response) (must|should) be a numbered list (of|with) {number} (items|points)(|, no more and no less).
(Number|Count) your points from 1 to {digits}(|, each on its own line).
(Give|List) exactly {number} points, numbered "1.", "2." and so on.
(Answer|Reply) in {number} numbered (points|lines|steps).
(I want|I need|Let me have) {digits} numbered points(|, each on a new line).
(The points should be numbered|Number the points), and there should be {number}(| of them).
""",
        ),
        "title": ConstraintKind(
            draw=_plain("title"),
            patterns="""
(Add|Give it|Include) a title (in|wrapped in) double angular brackets, (such as|like|for example) <<a title>>.
Your (answer|text|response) (must|should) (contain|have) a title in double angular brackets, (such as|like) <<this>>.
(Begin|Start) with a title (inside|within|between) << and >>.
(Put|Write) a title (above it|at the top|first), (like this|in this form): <<title>>.
The (text|answer) needs a title, (wrapped|enclosed) in double angular brackets(| like <<this one>>).
(Do not forget|Remember) the title; (put|write) it between << and >>.
(Make|Find|Invent) a (good|short|fitting) title and (wrap|put) it in << >>.
(Title|Heading) format: <<your title here>>.
""",
        ),
        "no_comma": ConstraintKind(
            draw=_plain("no_comma"),
            lengths=(False,),
            patterns="""
(Do not|Don't|Never) use (any commas|a comma|commas)(| in your answer| anywhere| in the text).
(Avoid|Leave out) (commas|all commas|any comma)(| in your answer| in the text).
Your (answer|text|response) (must|should) not (contain|have|use) (commas|any commas|a single comma).
(Write it|Do it|Do this|Manage) without (commas|any commas|using commas|a single comma).
(Commas are|The comma is) (forbidden|not allowed|off limits).
(There|In your answer there) (must|should) be no (comma|commas).
Use no commas(| at all| whatsoever).
Punctuation (rule|note): no commas(| at all| please).
""",
        ),
        "highlights": ConstraintKind(
            draw=_counted("highlights", (1, 2, 3), (3, 4, 5)),
            patterns="""
(Highlight|Mark|Emphasize) at least {number} (word|part|phrase|section){s} with (asterisks|markdown), (such as|like|for example) *this*.
At least {number} (word|part|phrase){s} (must|should) be (highlighted|marked|set) with (asterisks|stars)(| like *this*|, for example *so*).
Put at least {number} (word|phrase|expression){s} (between|in|inside) asterisks, (such as|like) *this*.
Your (answer|text|response) (must|should) (contain|have) at least {number} *highlighted* (word|part|phrase){s}.
(Use|Write) *asterisks* (around|to mark) at least {number} (important |)(word|part|phrase){s}.
(Make|Set) at least {number} (word|phrase){s} bold or italic (with|in) markdown.
(I want|I would like|Let me see) at least {number} (word|phrase){s} in **bold**.
Emphasis: {number} or more (word|phrase){s} in *stars*.
""",
        ),
        "at_most_words": ConstraintKind(
            draw=_counted("at_most_words", (15, 20, 25, 30, 40), ()),
            lengths=(False,),
            patterns="""
Use (at most|no more than|not more than|a maximum of) {digits} words.
(Answer|Reply|Write) (in|with) (at most|no more than|up to) {digits} words.
(Keep|Hold) (it|your answer|the text) (under|below|within) {digits} words.
Your (answer|text|response) (must|should) (have|be|contain) (at most|no more than) {digits} words.
(The limit is|The maximum is|You have) {digits} words(|, no more).
(Do not|Don't) (write more than|use more than|exceed) {digits} words.
{digits} words (at most|or fewer|or less|are the limit).
(Be brief|Keep it short|Make it short): (at most|no more than) {digits} words.
""",
        ),
        "at_least_words": ConstraintKind(
            draw=_counted("at_least_words", (40, 60, 80), (120, 140, 160, 180)),
            patterns="""
Use (at least|no fewer than|not fewer than|a minimum of) {digits} words.
(Answer|Reply|Write) (in|with) (at least|no less than) {digits} words.
(Make|Let) (it|your answer|the text) (at least {digits} words long|{digits} words or longer).
Your (answer|text|response) (must|should) (have|be|contain) at least {digits} words.
(The minimum is|I need at least|I want at least) {digits} words.
(Do not|Don't) (write fewer than|stop before|use fewer than) {digits} words.
{digits} words (at least|or more|are the minimum).
(Be thorough|Take your time|Go into detail): (at least|no fewer than) {digits} words.
""",
        ),
        "sentences": ConstraintKind(
            draw=_counted("sentences", (1, 2, 3, 4), (6, 8)),
            lengths=(False,),
            patterns="""
(Use|Write|Make) exactly {number} sentence{s}.
(Answer|Reply|Respond) (in|with) exactly {number} sentence{s}.
Your (answer|text|response) (must|should) (have|contain|be) exactly {number} sentence{s}.
(Keep it to|Limit it to|Make it) {number} sentence{s}(|, no more and no less| exactly).
(I want|I need|Give me) {number} sentence{s}, (no more and no less|neither more nor fewer|not one more).
(Say|Put) it in {number} sentence{s}(| exactly).
{digits} sentence{s} (exactly|in all|altogether), please.
The (answer|text) is to be {number} sentence{s} (long|in length).
""",
        ),
        "placeholders": ConstraintKind(
            draw=_counted("placeholders", (1, 2, 3), (3, 4, 5)),
            patterns="""
(Include|Use|Put in) at least {number} placeholder{s} in square brackets, (such as|like|for example) [address].
Your (answer|text|response) (must|should) (contain|have) at least {number} placeholder{s} in square brackets(|, such as [name]|, like [date]).
(Leave|Keep) at least {number} (blank|gap|placeholder){s} (to be filled in|for me to fill in), (written|marked) like [name].
At least {number} placeholder{s} (must|should) (appear|be there), (written in|inside|in) square brackets(| like [place]).
(Make|Write) it a template with at least {number} placeholder{s} (such as|like) [date].
(Mark|Write) at least {number} thing{s} that I (can|will) fill in (as|like) [this].
Use [square brackets] for at least {number} placeholder{s}.
Placeholders (wanted|needed|required): {number} or more, (each |)in square brackets.
""",
        ),
        "paragraphs": ConstraintKind(
            draw=_counted("paragraphs", (2, 3), (3, 4, 5)),
            patterns="""
(Write|Use|Make) exactly {number} paragraphs(|, separated by blank lines|, with an empty line between them).
(Answer|Reply) in exactly {number} paragraphs(|, with a blank line between them).
Your (answer|text|response) (must|should) (have|contain|consist of) (exactly |){number} paragraphs(|, divided by empty lines).
(Divide|Split|Break) it into {number} paragraphs(| with blank lines between them).
(There should be|I want|I need) {number} paragraphs, (no more and no less|exactly that many).
(Structure|Organize) (it|the text) (as|in) {number} paragraphs.
{digits} paragraphs(| in all| exactly), please(|, with blank lines between them).
The (text|answer) is to (have|be) {number} paragraphs(| long).
""",
        ),
        "begins": ConstraintKind(
            draw=_begins,
            patterns="""
(Begin|Start) (it |your answer |the text |)with the word "{word}".
The (first|very first) word (must|should|has to) be "{word}".
Your (answer|text|response) (must|should) (begin|start) with "{word}".
Let the (text|answer) (begin|start|open) with "{word}".
(Make|Use) "{word}" (the|as the) first word(| of your answer| of the text).
(Open|Kick off) with "{word}".
("{word}" comes first|Say "{word}" first), then (the rest|everything else).
First word: "{word}".
""",
        ),
        "greeting": ConstraintKind(
            draw=_greeting,
            patterns="""
(Write it as|Make it|Let it be) a letter that (begins|starts) with "{greeting}".
(Begin|Start) (the text |your answer |)with the greeting "{greeting}".
The first words (must|should) be "{greeting}".
Your (answer|text|response) (must|should) (begin|start) with "{greeting}"(|, as a letter does).
(Address|Open) it (to the reader |)with the words "{greeting}".
(Use|Put) the salutation "{greeting}" at the (very |)(beginning|start|top).
Let it open like a letter: "{greeting}".
Salutation: "{greeting}", right at the (top|start).
""",
        ),
        "signed": ConstraintKind(
            draw=_named("signed"),
            lengths=(False,),
            patterns="""
(Write it as|Make it) a letter (and sign it|signed) with the name {name}(| at the end| in the last line).
(Sign|End) (it|the text|your answer) with the name {name}.
The last (word|line) (must|should) be the name {name}.
(Close|Finish) with the (name|signature) {name}(| on a line of its own).
My name is {name}; (sign|close) it with my name(| in the last line).
(Put|Write) the name {name} (at the very end|in the last line|below the text).
It comes from {name}, (so sign it that way|whose name ends the text).
Signature: {name}.
""",
        ),
        "ends_with_question": ConstraintKind(
            draw=_plain("ends_with_question"),
            lengths=(False,),
            patterns="""
(End|Finish|Close) (it |your answer |the text |)with a question.
The last sentence (must|should|has to) be a question.
Your (answer|text|response) (must|should) (end|close|finish) with a question.
Let the (text|answer) (end|finish) with a question (to the reader|mark).
(Finally|At the end|In the end), ask (me|the reader) (a question|something).
(Make|Let) the final sentence (be |)a question.
The very last character (must|should) be a question mark.
(Leave|Send off) the reader with a question at the end.
""",
        ),
        "exclamations": ConstraintKind(
            draw=_counted("exclamations", (1, 2), (2, 3)),
            lengths=(False,),
            patterns="""
Use at least {number} exclamation mark{s}.
(Include|Put in) at least {number} exclamation mark{s}(| in your answer| in the text).
Your (answer|text|response) (must|should) (contain|have) at least {number} exclamation mark{s}.
At least {number} exclamation mark{s} (must|should) (appear|be used).
(Be excited|Show enthusiasm): at least {number} exclamation mark{s}.
(I want|I would like) to see {number} or more exclamation marks.
There should be {number} or more "!" in it.
Punctuation: {number} or more exclamation marks.
""",
        ),
        "capital_words": ConstraintKind(
            draw=_counted("capital_words", (1, 2, 3), (2, 3)),
            patterns="""
(Write|Put|Set) at least {number} word{s} in all capital letters.
At least {number} word{s} (must|should) be (in|written in) (ALL CAPS|capital letters|upper case).
Your (answer|text|response) (must|should) (contain|have) at least {number} word{s} in (ALL CAPS|CAPITALS).
(Use|Include) {number} or more words in (ALL CAPS|CAPITAL LETTERS).
(Emphasize|Stress|Shout) at least {number} word{s} by writing (it|them) in CAPITALS.
(Make|Have) at least {number} word{s} stand out in CAPITAL letters.
(I want|I would like) to see at least {number} word{s} in UPPERCASE.
CAPITALS (wanted|required): {number} or more words.
""",
        ),
        "headings": ConstraintKind(
            draw=_counted("headings", (), (2, 3)),
            lengths=(True,),
            patterns="""
Use at least {number} markdown headings that (start|begin) with "#".
(Structure|Divide|Organize) it with at least {number} markdown headings(|, such as "## Heading").
Your (answer|text|response) (must|should) (have|contain) at least {number} headings (in markdown|that start with "## ").
(Put|Write) at least {number} headings in it, each (starting|beginning) with "## ".
(There|In the text there) (must|should) be {number} or more (sections with |)markdown headings.
(Give|Write) it as sections, at least {number}, each under a heading like "## Title".
Headings with # (wanted|required): {number} or more.
(I want|I need) at least {number} lines that start with "# " as headings.
""",
        ),
        "quotation": ConstraintKind(
            draw=_plain("quotation"),
            patterns="""
(Include|Use|Put in) (a quotation|direct speech|something someone says) in (double |)quotation marks.
Your (answer|text|response) (must|should) (contain|have) (something|a quote|a sentence) in (double |)quotation marks.
(Let|Have) someone (say|speak) something in it, in quotation marks.
(Quote|Cite) (somebody|a person|someone), with quotation marks.
At least one (sentence|phrase) (must|should) (stand|be) in (double |)quotation marks.
(Add|Work in) a quote(| from somebody| from a real or invented person), in "quotation marks".
Someone should (say|shout|whisper) something(|, set in quotation marks|, in "quotes").
Direct speech in "quotation marks" is (required|needed|wanted).
""",
        ),
        "no_digit": ConstraintKind(
            draw=_plain("no_digit"),
            lengths=(True,),
            patterns="""
(Do not|Don't|Never) use (any digits|digits|numerals)(| in your answer| anywhere| in the text).
(Avoid|Leave out) (digits|all digits|any digit)(| in your answer| in the text).
(Write|Spell) all numbers (out|as words), without (any |)digits.
Your (answer|text|response) (must|should) not (contain|have) (digits|any digits|a single digit).
There (must|should) be no digits (in it|in the text|in your answer).
Digits are (forbidden|not allowed).
(Write it|Do it) without (digits|any digits|numerals).
No digits(| at all| please| whatsoever).
""",
        ),
        "json": ConstraintKind(
            draw=_json,
            lengths=(False,),
            patterns="""
(Answer|Reply|Respond) (with|in) (a JSON object|JSON) with the keys "{first}" and "{second}"(| and nothing else).
(Write|Give|Format) (it|your answer) as (a JSON object|JSON) with the keys "{first}" and "{second}".
Your (answer|response) (must|should) be (a JSON object|valid JSON) with exactly the keys "{first}" and "{second}".
(Return|Output) only JSON(| of the form|:) {{"{first}": "...", "{second}": "..."}}.
(Put|Wrap) (it|the text) in JSON, with "{first}" and "{second}" as keys.
(Use|Take) the format {{"{first}": ..., "{second}": ...}}.
JSON only, with "{first}" and "{second}".
A program reads your answer: JSON with the keys "{first}" and "{second}".
""",
        ),
    }
)
