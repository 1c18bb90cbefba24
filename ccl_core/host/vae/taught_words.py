"""The words that a small text encoder was taught, and a notice of those that it was not.

A large encoder has read about everything; one that knows a few dozen words makes something of any other too,
and nothing in the result says so. Its configuration lists them: `words`, by kind and word its synonyms, and
`other_words`, which join them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from comfy.text_encoders.wan import WanT5Tokenizer

from ...notices import clear, notice

WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class TaughtWords:
    """kinds: such as colours, each with the words to choose from; known: every word, in lower case."""

    kinds: dict[str, tuple[str, ...]]
    known: frozenset[str]

    def unknown(self, text: str) -> list[str]:
        """The words of a text that were never taught, each once, in the order of the text."""
        return [word for word in dict.fromkeys(words_of(text)) if word not in self.known]

    def check(self, text: str) -> None:
        """Tell which words are unknown, and what there is instead."""
        clear()
        unknown = self.unknown(text)
        if unknown:
            known = "; ".join(f"{kind}: {', '.join(words)}" for kind, words in self.kinds.items())
            notice(
                f"This small text encoder was never taught {', '.join(unknown)}: what comes of it is chance. "
                f"Leave it out, or say it with the words that it knows. {known}."
            )


def words_of(text: str) -> list[str]:
    return WORD.findall(text.lower())


def taught_words(config: dict[str, Any]) -> TaughtWords | None:
    """Those of the configuration of a text encoder; None where it lists none. ValueError for another form."""
    listed = config.get("words")
    if listed is None:
        return None
    others = config.get("other_words", [])
    if not (_is_table(listed) and _is_list(others)):
        raise ValueError(
            "The text encoder's 'words' must be an object of kinds, each an object of words with a list of "
            "synonyms, and 'other_words' a list of words: save the checkpoint again with them."
        )
    known = set(others)
    for synonyms in listed.values():
        for word, also in synonyms.items():
            known.update(words_of(" ".join([word, *also])))
    return TaughtWords({kind: tuple(synonyms) for kind, synonyms in listed.items()}, frozenset(known))


def _is_table(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(synonyms, dict) and all(map(_is_list, synonyms.values())) for synonyms in value.values()
    )


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def tokenizer_class(taught: TaughtWords | None) -> type[WanT5Tokenizer]:
    """The host's tokenizer of Wan, which tells of unknown words where the known ones are listed."""
    if taught is None:
        return WanT5Tokenizer

    class TaughtTokenizer(WanT5Tokenizer):
        def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> Any:
            taught.check(text)
            return super().tokenize_with_weights(text, return_word_ids, **kwargs)

    return TaughtTokenizer
