"""Whether a description says nothing of its product: only codes, or only how a shop sends it.

In comes a cleaned description, out goes yes or no. Each rule is sure or says no: a packaging tape
is sold for shipping, and a kit of parts may be described by a list with some words in it.
"""

import re

BEGINNING = 200  # characters that tell most texts from what is looked for

# So many of the words of a list of codes are codes, so few are prose, and between two digits are
# fewer characters than these.
MIN_CODES, MAX_PROSE, MAX_PROSE_WORDS = 0.5, 0.1, 4
_WITHOUT_DIGITS = re.compile(r"[^0-9]{30}")
_PROSE = re.compile(r"[^\W\d_]{3,}")

# What only a seller writes: of the sending, of returns, of praise. Longer texts say more than that.
MAX_NOTE = 300
WORDS_A_MARK = 10
_HINTS = ("ship", "deliver", "postage", "days", "tracking", "return", "refund", "customs", "money")
_HINTS = (*_HINTS, "contact us", "feedback", "confidence", "buyer", "store", "usps", "fedex", "dhl")
_NOTE = re.compile(
    r"""\b(?:
        ships?\ (?:from|within|via|in\ (?:\d|one|two)|same|next|fast|free|worldwide)
      | (?:free|fast|quick|same\ day|next\ day|expedited|standard|priority|international|combined)
        \ (?:shipping|delivery|shipment|postage)
      | (?:shipping|delivery)\ (?:via|by|time|times|cost|costs|fee|fees|policy|is|takes|within|will
        |and\ handling|not\ available) | (?:shipping|postage)\ (?:&|\+)\ handling
      | (?:business|working)\ days | tracking\ (?:number|code|information) | time\ frame
      | return(?:s)?\ (?:policy|within|are|is|accepted) | refund(?:s|ed)? | money\ back
      | customs\ (?:fees?|dut(?:y|ies)|tax(?:es)?|charges?)
      | contact\ us | (?:leave|leaving)\ (?:\w+\ ){0,3}feedback | positive\ feedback
      | bid\ with\ confidence | buyers?\ (?:pays?|is\ responsible) | our\ (?:ebay\ )?store
      | usps | fedex | dhl
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)
_SENTENCE = re.compile(r"[^.!?;\n]*[^\W_][^.!?;\n]*")


def is_list_of_codes(text: str) -> bool:
    """Says whether a text is sizes, numbers and part numbers, with hardly a word.

    "25 x 1N4148, 25 x In4007 10 x 1N5819"  -> True
    "100x 1N4001 Diode 1A/50V"              -> False
    """
    if _WITHOUT_DIGITS.search(text, 0, BEGINNING):  # nearly all texts
        return False
    words = text.split()
    codes = [word for word in words if any(map(str.isdigit, word))]
    num_prose = sum(1 for word in words if _PROSE.search(word) and word not in codes)
    if not codes:
        return False
    most = min(MAX_PROSE * len(words), MAX_PROSE_WORDS)
    return len(codes) >= MIN_CODES * len(words) and num_prose <= most


def is_shipping_note(text: str) -> bool:
    """Says whether each sentence of a text is of sending, returns or the seller, none of the thing.

    "Ships from China. Please contact us before leaving feedback!" -> True
    "Oil, 1 quart. Ships within two days."                         -> False
    """
    if len(text) > MAX_NOTE:
        return False
    beginning = text[:BEGINNING].lower()
    if not any(hint in beginning for hint in _HINTS):  # nearly all texts
        return False
    if not all(map(_NOTE.search, _SENTENCE.findall(text))):
        return False
    # a text without full stops is one sentence
    return WORDS_A_MARK * len(_NOTE.findall(text)) >= len(text.split())
