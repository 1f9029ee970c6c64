"""Names of columns -> the one that is asked for, or those that are likely to be meant.

In come the names that a file has and one that an option gives, out goes the file's own name. Case,
white space and a byte order mark say nothing. No file is read here, and nothing is refused.
"""

import shlex
import unicodedata
from collections.abc import Iterable, Sequence

DEFAULTS = {"title": "title", "description": "content"}
"""what the options say where nobody asked for a column"""

# As `_bare` writes them. What shops and data sets call them, in the languages of the Kindle shops;
# `text`, `summary` or `features` would be guesses.
# Of a row with more fields it is no question whether they are names.
_MOST_NAMES = 1_000

_KNOWN = {
    "title": (
        "title name producttitle productname itemtitle itemname titulo tituloproduto "
        "titulodoproduto titulodelproducto titulodeproducto nome "
        "nomeproduto nomedoproduto nombre nombreproducto nombredelproducto nom nomproduit "
        "nomduproduit titre titreproduit titolo nomeprodotto nomedelprodotto titel produkttitel "
        "produktname produktbezeichnung artikelname artikelbezeichnung bezeichnung naam "
        "productnaam nazwa nazwaproduktu 商品名 商品名称 商品名稱 标题 標題"
    ),
    "description": (
        "content description body bodyhtml htmlbody descriptionhtml productdescription "
        "itemdescription shortdescription longdescription fulldescription descricao "
        "descricaoproduto descricaodoproduto descricaocurta descricaocompleta descripcion "
        "descripcioncorta descripcionlarga descripcionproducto descripciondelproducto "
        "descriptionproduit descriptionduproduit descrizione descrizioneprodotto beschreibung "
        "produktbeschreibung artikelbeschreibung kurzbeschreibung langbeschreibung omschrijving "
        "productomschrijving beschrijving opis opisproduktu 商品描述 商品説明 商品说明 描述"
    ),
}
_LIKELY = {word: frozenset(names.split()) for word, names in _KNOWN.items()}


def matching(column: str, names: Iterable[str]) -> list[str]:
    """Returns the names that `column` may stand for: itself, or those that differ in nothing said.

    "title", ["title", "Title"]   -> ["title"]
    "title", ["uid", " Title "]   -> [" Title "]
    "title", ["Title", "TITLE"]   -> ["Title", "TITLE"]
    "title", ["titulo", "titles"] -> []
    """
    names = list(names)
    if column in names:
        return [column]
    plain = _plain(column)
    return list(dict.fromkeys(name for name in names if _plain(name) == plain))


def likely(word: str, names: Iterable[str]) -> list[str]:
    """Returns the names that are known for a `title` or a `description`.

    "title", ["SKU", "Product name", "título"] -> ["Product name", "título"]
    "description", ["Body (HTML)", "Features"] -> ["Body (HTML)"]
    """
    return [name for name in dict.fromkeys(names) if _bare(name) in _LIKELY[word]]


def parts_of(column: str) -> list[str]:
    """Returns the columns that a list of them names: "description, features" -> both."""
    return [part.strip() for part in column.split(",") if part.strip()]


def candidates(columns: Iterable[str]) -> list[str]:
    """Returns what may be a column of its own: "a,b" -> ["a,b", "a", "b"]."""
    return list(dict.fromkeys(name for text in columns for name in (text, *parts_of(text))))


def outer(columns: Iterable[str]) -> list[str]:
    """Returns the columns that may hold those that are asked for: "product.text" -> ["product"]."""
    return [name.partition(".")[0] for name in candidates(columns) if "." in name]


def option(word: str, columns: str | Sequence[str]) -> str:
    """Returns the option as it is typed in a shell: --data.description_column 'Body (HTML)'."""
    value = columns if isinstance(columns, str) else ",".join(columns)
    return f"--data.{word}_column {shlex.quote(value)}"


def num_told(columns: Iterable[str], names: Sequence[str]) -> int:
    """Returns how much tells that `names` name columns: those asked for count, and likely ones."""
    names = names[:_MOST_NAMES]
    asked = sum(bool(name) and bool(matching(name, names)) for name in columns)
    return asked + sum(bool(likely(word, names)) for word in _LIKELY)


def _plain(name: str) -> str:
    text = unicodedata.normalize("NFC", str(name).replace("\ufeff", ""))
    return "".join(text.split()).casefold()


def _bare(name: str) -> str:
    """Without accents, signs and case: "Descrição (HTML)" -> "descricaohtml"."""
    text = unicodedata.normalize("NFKD", str(name)).casefold()
    return "".join(sign for sign in text if sign.isalnum())
