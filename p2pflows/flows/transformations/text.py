"""Transformations that search a text: for the words that end an interaction, or with a regular expression."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Hashable, Iterable
from typing import Any

from p2pflows.errors import UsageError
from p2pflows.flows.transformations import settings, tree
from p2pflows.flows.transformations.base import DataTransformation
from p2pflows.flows.transformations.errors import WrongValue

_log = logging.getLogger(__name__)


class EndOfInteraction(DataTransformation):
    """Sets a key to whether a text holds the words that end an interaction, in upper or lower case.

    Args:
        output_key: the key that is set to true or false.
        end_of_interaction_string: the words.
        input_key: the key of the text.
    """

    def __init__(self, output_key: Hashable, end_of_interaction_string: str, input_key: Hashable) -> None:
        super().__init__(output_key=settings.name(output_key, "output_key"))
        self.end_of_interaction_string = settings.text(end_of_interaction_string, "end_of_interaction_string")
        self.input_key = settings.name(input_key, "input_key")

    def __call__(self, data_dict: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
        """Return the data with the output key set.

        Raises:
            MissingKey: the data lacks the input key.
            WrongValue: its value is not a text.
        """
        text = text_of(data_dict, self.input_key).casefold()
        tree.place(data_dict, self.output_key, self.end_of_interaction_string.casefold() in text)
        return data_dict


class RegexFirstOccurrenceExtractor(DataTransformation):
    """Sets a key to the first match of a regular expression in a text, or to None when nothing matches.

    Args:
        regex: the regular expression.
        output_key: the key for the match.
        assert_unique: whether a second match is an error.
        strip: whether white space around the match is removed.
        input_key: the key of the text.
        regex_fallback: one or several further expressions, tried in order while nothing has matched.
        match_group: the number or name of the group to take; 0 is the whole match.
    """

    def __init__(  # noqa: PLR0917 - the order that existing flows rely on
        self,
        regex: str,
        output_key: Hashable,
        assert_unique: bool,
        strip: bool,
        input_key: Hashable,
        regex_fallback: str | Iterable[str] | None = None,
        match_group: int | str = 0,
    ) -> None:
        super().__init__(output_key=settings.name(output_key, "output_key"))
        self.assert_unique = settings.flag(assert_unique, "assert_unique")
        self.strip = settings.flag(strip, "strip")
        self.input_key = settings.name(input_key, "input_key")
        self.match_group = match_group
        if isinstance(regex_fallback, str):
            regex_fallback = [regex_fallback]
        fallbacks = settings.entries(() if regex_fallback is None else regex_fallback, "regex_fallback")
        self.patterns = [
            _compiled(regex, "regex", match_group),
            *(_compiled(fallback, "regex_fallback", match_group) for fallback in fallbacks),
        ]

    def __call__(self, data_dict: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
        """Return the data with the output key set.

        Raises:
            MissingKey: the data lacks the input key.
            WrongValue: its value is not a text, or matches twice with `assert_unique`.
        """
        text = text_of(data_dict, self.input_key)
        found = next((match for pattern in self.patterns if (match := self._first(pattern, text)) is not None), None)
        tree.place(data_dict, self.output_key, found)
        return data_dict

    def _first(self, pattern: re.Pattern[str], text: str) -> str | None:
        """Return the group's text in the first match; None when nothing matches, or the group is unused."""
        matches = list(itertools.islice(pattern.finditer(text), 2))
        if not matches:
            return None
        if self.assert_unique and len(matches) > 1:
            raise WrongValue(
                f"{self.input_key!r} matches {pattern.pattern!r} more than once.",
                "Narrow the expression, or set assert_unique to false to take the first.",
            )
        found: str | None = matches[0].group(self.match_group)
        if found is not None and pattern is not self.patterns[0]:
            _log.info("the fallback %r matched where %r did not", pattern.pattern, self.patterns[0].pattern)
        return found.strip() if found is not None and self.strip else found


def text_of(data: tree.Tree, name: Hashable) -> str:
    """Return the text under a name.

    Raises:
        MissingKey: the data lacks the name.
        WrongValue: its value is not a text.
    """
    value = tree.get(data, tree.need(data, name))
    if not isinstance(value, str):
        raise WrongValue(
            f"The value of {name!r} must be text, not {type(value).__name__}.", "Name a key that holds a text."
        )
    return value


def _compiled(regex: str, what: str, group: int | str) -> re.Pattern[str]:
    """Compile a regular expression, and check that it has the group.

    Raises:
        UsageError: it is not a regular expression, or has no such group.
    """
    try:
        pattern = re.compile(settings.text(regex, what))
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"{what} {regex!r} is not a regular expression: {error}.", "Correct it.") from error
    known = pattern.groupindex if isinstance(group, str) else range(pattern.groups + 1)
    if isinstance(group, (bool, float)) or group not in known:
        raise UsageError(
            f"{what} {regex!r} has no group {group!r}.", "Put the group in parentheses, or set match_group to 0."
        )
    return pattern
