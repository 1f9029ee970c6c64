"""Cells of a table -> the texts that were meant, where the program that wrote them wrote others.

In come a header and the first rows, out goes for each column what mends its cells, if all that is
seen agrees: lists that pandas wrote as text, line ends that WooCommerce wrote as \\n. JSON has line
ends and lists of its own: it is not mended here.
"""

import ast
import re
import warnings
from collections.abc import Callable, Iterable, Sequence

Mend = Callable[[str], str]

# A path of Windows stays what it is: C:\\new has no line end.
_ESCAPES = re.compile(r"\b[A-Za-z]:\\\S*|\\\\[n,]|\\n|\\,")
_MEANT = {"\\n": "\n", "\\,": ",", "\\\\n": "\\n", "\\\\,": "\\,"}
# Where no word goes on behind it, or a sentence ends in front of it, \n is a line end for sure.
_CLEARLY_A_LINE_END = re.compile(r"(?<=[.!?;>])\\n|(?<!\\)\\n(?=\\n|[^a-z]|\Z)")
_NO_COMMA = re.compile(r"(['\"])\s+\1")
_PATH = re.compile(r"\b[A-Za-z]:\\\S*")


def mends_of(
    name: str, header: Sequence[str], rows: Iterable[Sequence[object]], columns: Sequence[str]
) -> tuple[dict[str, Mend], list[str]]:
    """Returns how cells of the columns are mended, and a sentence for each way that says so."""
    rows, remarks = list(rows), []
    texts: dict[str, list[str]] = {}
    for place, column in enumerate(header):
        if column in columns:
            cells = [row[place] for row in rows if place < len(row)]
            texts[column] = [text for text in cells if isinstance(text, str) and text.strip()]
    mends: dict[str, Mend] = {}
    if are_escaped([text for cells in texts.values() for text in cells]):
        mends = dict.fromkeys(texts, unescaped)
        remarks.append(f"{name}: \\n in texts is a line end, as WooCommerce writes it")
    for column, cells in texts.items():
        if are_lists(cells):
            mends[column] = joined_list
            remarks.append(f"{name}: texts of {column!r} are lists, and each of their texts a line")
        elif any(text.startswith(("['", '["')) for text in cells):
            remarks.append(
                f"{name}: some texts of {column!r} look like lists, not all: they stay as they are"
            )
    return mends, remarks


def are_lists(texts: Sequence[str]) -> bool:
    """Says whether every text is a list of texts as Python writes it, and one of them has some.

    "['Of clay.', 'Red.']", "[]" -> True     "['Of clay.', 'Red.']", "Of clay." -> False
    """
    return any(_list(text) for text in texts) and all(_list(text) is not None for text in texts)


def joined_list(text: str) -> str:
    """Returns the texts of a list, each on a line of its own: "['Of clay.', 'Red.']"."""
    texts = _list(text)
    return text if texts is None else "\n".join(part for part in texts if part.strip())


def _list(text: str) -> list[str] | None:
    text = text.strip()
    if not text.endswith("]") or not (text.startswith(("['", '["')) or text == "[]"):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a backslash that escapes nothing
            values = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    # Numpy writes no commas, and Python takes texts without one between them for one text.
    is_whole = isinstance(values, list) and not _NO_COMMA.search(text)
    return values if is_whole and all(isinstance(value, str) for value in values) else None


def are_escaped(texts: Sequence[str]) -> bool:
    """Says whether \\n stands for a line end: somewhere clearly, and no text has a line end.

    "Soft.\\\\nOf wool." -> True     "See C:\\\\new" -> False     "Soft.\\\\n", "A\\nB" -> False
    """
    bare = [_PATH.sub("", text) for text in texts]
    return any(_CLEARLY_A_LINE_END.search(text) for text in bare) and not any(
        "\n" in text for text in texts
    )


def unescaped(text: str) -> str:
    r"""Returns a text with the line ends and commas that WooCommerce wrote with a backslash.

    Soft\, warm.\nOf wool. -> two lines     C:\new -> C:\new     \\n -> \n
    """
    return _ESCAPES.sub(lambda found: _MEANT.get(found[0], found[0]), text)
