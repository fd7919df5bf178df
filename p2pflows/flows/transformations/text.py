"""Transformations that look into a text: for a word that ends the talk, for a regular expression."""

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
    """Says whether a text holds the words that end an interaction, in capitals or not.

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
        """The data with the output key.

        Raises:
            MissingKey: the data lacks the input key.
            WrongValue: it holds no text.
        """
        said = text_of(data_dict, self.input_key).casefold()
        tree.place(data_dict, self.output_key, self.end_of_interaction_string.casefold() in said)
        return data_dict


class RegexFirstOccurrenceExtractor(DataTransformation):
    """Takes the first match of a regular expression out of a text, or None when there is none.

    Args:
        regex: the regular expression.
        output_key: the key that the match goes to.
        assert_unique: whether a second match is an error.
        strip: whether white space around the match is cut off.
        input_key: the key of the text.
        regex_fallback: one or several, tried in turn when the ones before gave nothing.
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
        """The data with the output key.

        Raises:
            MissingKey: the data lacks the input key.
            WrongValue: it holds no text, or there is a second match that there must not be.
        """
        said = text_of(data_dict, self.input_key)
        found = next((match for pattern in self.patterns if (match := self._first(pattern, said)) is not None), None)
        tree.place(data_dict, self.output_key, found)
        return data_dict

    def _first(self, pattern: re.Pattern[str], said: str) -> str | None:
        """What the group holds in the first match; None when there is no match, or the group has no part in it."""
        matches = list(itertools.islice(pattern.finditer(said), 2))
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
    """The text of that name.

    Raises:
        MissingKey: the data lacks it.
        WrongValue: it is no text.
    """
    value = tree.get(data, tree.need(data, name))
    if not isinstance(value, str):
        raise WrongValue(f"{name!r} holds a {type(value).__name__}, not a text.", "Name a key that holds a text.")
    return value


def _compiled(regex: str, what: str, group: int | str) -> re.Pattern[str]:
    """A regular expression that has the group.

    Raises:
        UsageError: it is none, or has no such group.
    """
    try:
        pattern = re.compile(settings.text(regex, what))
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"{what} {regex!r} is not a regular expression: {error}.", "Mend it.") from error
    known = pattern.groupindex if isinstance(group, str) else range(pattern.groups + 1)
    if isinstance(group, (bool, float)) or group not in known:
        raise UsageError(
            f"{what} {regex!r} has no group {group!r}.", "Put the group in parentheses, or take the match_group 0."
        )
    return pattern
