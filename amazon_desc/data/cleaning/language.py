"""A text and a language -> whether the text is surely in another one.

The judgement is py3langid's, which is installed with the extra `language` and imported only when a
check is made. Not done here: no text is changed, and what is unsure is never called another
language: a few words, part numbers and sizes look like any.
"""

from typing import Any

from amazon_desc.support.errors import UserError

# A text whose language is meant has never been given less than this, however odd it was.
MIN_PROBABILITY = 0.001
# These tell the language as surely as a whole text, in half the time.
_NUM_CHARACTERS = 300


class LanguageCheck:
    """Tells whether a text is in another language than the one meant.

    LanguageCheck("en").is_other("Une robe légère en coton, idéale pour l'été.") -> True
    LanguageCheck("en").is_other("Glass Bead Assortment") -> False (three words are not sure)

    Args:
        code: an ISO 639-1 code, such as "en"

    Raises:
        UserError: py3langid is not installed, or does not know the language.
    """

    def __init__(self, code: str) -> None:
        self.code = code
        self._identifier = _load_identifier()
        known = sorted(label for label in self._identifier.labels if len(label) == 2)
        if code not in known:
            raise UserError(
                f"--data.cleaning.language: wanted the code of a language, got {code!r}. "
                f"Choose null or one of {', '.join(known)}."
            )

    def is_other(self, text: str) -> bool:
        probabilities = dict(self._identifier.rank(text[:_NUM_CHARACTERS]))
        return probabilities[self.code] < MIN_PROBABILITY

    def __reduce__(self) -> tuple[type["LanguageCheck"], tuple[str]]:
        """Another process loads its own tables: they are larger than all that is sent with them."""
        return LanguageCheck, (self.code,)


def _load_identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise UserError(
            "--data.cleaning.language: telling languages apart needs py3langid, which is not "
            'installed. Install it with `pip install "amazon_desc[language]"` (in a checkout: '
            '`pip install -e ".[language]"`), or set --data.cleaning.language null.'
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
