"""Text with HTML in it -> the text that a browser would show: one function a rule.

Tags are taken out of the text as it was read, and only then do entities become characters: what
was an entity is text, so a book on `&lt;script&gt;` keeps the word and all that follows it. Every
rule is str -> str, and takes time linear in the text. White space is left for rules.py.
"""

import html
import re
from html.entities import html5

# `&copy=1` and `AT&T` hold no entity: only what ends in a semicolon is one.
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_MAX_ESCAPES = 3  # "&amp;amp;#8217;": nobody escapes more often

# In a browser these stand apart from what surrounds them; other tags end no word.
_BLOCK_NAMES = (
    "address|article|aside|blockquote|body|br|button|caption|center|dd|details|div|dl|dt|"
    "fieldset|figcaption|figure|footer|form|frame|frameset|h[1-6]|header|hr|html|iframe|img|"
    "input|legend|li|link|main|meta|nav|noscript|object|ol|option|p|param|pre|section|select|"
    "summary|table|tbody|td|textarea|tfoot|th|thead|title|tr|ul|video"
)
_INLINE_NAMES = (
    "a|abbr|acronym|area|b|base|basefont|bdi|bdo|big|cite|code|col|del|dfn|em|embed|font|head|i|"
    "ins|kbd|label|mark|nobr|q|s|samp|script|small|source|span|strike|strong|style|sub|sup|svg|"
    "time|track|tt|u|var|wbr"
)
# "a<b and c>d" is no tag: what follows a name is a value, a quote, or one of these words.
_LONE_ATTRIBUTES = (
    "allowfullscreen|async|autoplay|checked|compact|controls|declare|default|defer|disabled|hidden|"
    "ismap|itemscope|loop|multiple|muted|nohref|noresize|noshade|novalidate|nowrap|open|readonly|"
    "required|reversed|scoped|selected"
)
_AFTER_NAME = (
    r"(?:[\s/]*+|[\s/]++(?:[\w:@.-]++\s*+=|[\"']|(?:" + _LONE_ATTRIBUTES + r")(?=[\s/>]))[^<>]*)>"
)


def _tags(names: str) -> str:
    return rf"<(?:{names}){_AFTER_NAME}|</(?:{names})(?:[\s/][^<>]*)?>"


_BLOCK_TAG = re.compile(
    rf"{_tags(_BLOCK_NAMES)}|<!doctype\b[^<>]*>|<\?xml[^<>]*>|<!--", re.IGNORECASE
)
# Word's own are known too: <o:p>, <st1:place w:st="on">.
_INLINE_TAG = re.compile(rf"{_tags(_INLINE_NAMES)}|</?(?:o|v|w|st\d):\w[^<>]*>", re.IGNORECASE)
# A misspelt <ulu> or a shop's own <my-box> is a tag where it is closed: "Color <red>" is none.
_OTHER_TAG = re.compile(r"<(/?)([A-Za-z][\w:.-]*+)((?:[\s/][^<>]*)?)>")

_UNSEEN = re.compile(r"<(?:(script|style|head)(?=[\s/>])[^<>]*>|!--)", re.IGNORECASE)
_UNSEEN_ENDS = {
    "script": re.compile(r"</script(?=[\s/>])[^<>]*>", re.IGNORECASE),
    "style": re.compile(r"</style(?=[\s/>])[^<>]*>", re.IGNORECASE),
    "head": re.compile(r"</head(?=[\s/>])[^<>]*>|(?=<body[\s/>])", re.IGNORECASE),
    "!--": re.compile("-->"),
}

_ESCAPED_LT, _ESCAPED_GT = (rf"&((?:amp;){{0,{_MAX_ESCAPES - 1}}}){sign};" for sign in ("lt", "gt"))
_ESCAPED_BEGINNING = re.compile(
    rf"\s*{_ESCAPED_LT}(?:(!doctype)\b|({_BLOCK_NAMES}|{_INLINE_NAMES})(?=[\s/]|{_ESCAPED_GT}))",
    re.IGNORECASE,
)


def _unescape_entity(match: re.Match[str]) -> str:
    entity = match[0]
    # html.unescape would read "&notit;" as "&not" and "it;".
    is_known = entity[1] == "#" or entity[1:] in html5
    return html.unescape(entity) if is_known else entity


def unescape_entities(text: str) -> str:
    """Entities become their characters; what only looks like one stays.

    "Caf&eacute; &#151; R&B; &amp;#8220;Mog&amp;#8221;" -> "Café — R&B; “Mog”"
    """
    for _ in range(_MAX_ESCAPES):
        if "&" not in text:
            break
        text = _ENTITY.sub(_unescape_entity, text)
    return text


def unescape_page(text: str) -> str:
    """HTML that was escaped as a whole becomes HTML again; text that mentions a tag stays.

    It was if it has no tag of its own, and begins with one that is escaped and closed later:

        "&lt;p&gt;Soft&lt;/p&gt; and warm" -> "<p>Soft</p> and warm"
        "Covers &lt;p&gt; and &lt;/p&gt;", "&lt;p&gt; for beginners" -> the same
    """
    beginning = None if "<" in text else _ESCAPED_BEGINNING.match(text)
    if beginning is None:
        return text
    amps, doctype, name = beginning.group(1, 2, 3)
    end = rf"{_ESCAPED_LT}/{name}\s*{_ESCAPED_GT}"
    if doctype is None and not re.search(end, text[beginning.end() :], re.IGNORECASE):
        return text
    for _ in range(1 + amps.count(";")):
        text = _ENTITY.sub(_unescape_entity, text)
    return text


def remove_tags(text: str) -> str:
    """HTML becomes its text; what is neither a known tag nor closed is no tag, and stays.

    "<p>Soft<br>and <b>warm</b></p><3 in <10 lbs" -> " Soft and warm <3 in <10 lbs"
    "Color <red>, a<b and c>d, <head-mounted>"    -> the same
    """
    if "<" not in text:
        return text
    text = _remove_unseen(text)
    text = _BLOCK_TAG.sub(" ", text)
    text = _INLINE_TAG.sub("", text)
    return _remove_other_tags(text) if "<" in text else text


def _remove_unseen(text: str) -> str:
    """Scripts, styles, heads and comments go with all in them; an unclosed one holds nothing.

    Its end is looked for only once, so a text full of openings takes no longer than another.
    """
    pieces, done, place = [], 0, 0
    unclosed: set[str] = set()
    while opening := _UNSEEN.search(text, place):
        place = opening.end()
        name = (opening[1] or "!--").lower()
        if name in unclosed:
            continue
        end = _UNSEEN_ENDS[name].search(text, place)
        if end is None:
            unclosed.add(name)
            continue
        pieces += (text[done : opening.start()], " ")
        done = place = end.end()
    return "".join((*pieces, text[done:])) if pieces else text


def _remove_other_tags(text: str) -> str:
    closed = {name.lower() for slash, name, _ in _OTHER_TAG.findall(text) if slash}

    def without_closed(match: re.Match[str]) -> str:
        is_tag = match[1] or match[3].endswith("/") or match[2].lower() in closed
        return "" if is_tag else match[0]

    return _OTHER_TAG.sub(without_closed, text)
