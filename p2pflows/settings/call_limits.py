"""How much an endpoint may be called, by one caller or by all together: `serve --limit`, `--limit-per-caller`."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p2pflows.errors import UsageError

_SECONDS = {"s": 1, "min": 60, "h": 3_600, "day": 86_400}
_FACTORS = {"": 1, "k": 1_000, "M": 1_000_000}
_EXAMPLE = "For example: at_once=2,open=20,rate=30/min,tokens_per_day=100k"
MAX_OPEN = 1_000

Positive = Annotated[int, Field(strict=True, ge=1, le=10**12)]


class CallLimits(BaseModel):
    """Limits of calls; None means no limit.

    Attributes:
        at_once: how many run at once; the others wait.
        open: how many may wait or run; one more is refused.
        rate: how many may come in a time, such as `30/min`; after a pause, as many may come together.
        tokens_per_day: how many tokens models may read and write for them, from midnight to midnight (UTC).
        cost_per_day: what that may cost, in the currency of the `prices` in `config.yaml`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    FORMS: ClassVar[dict[str, str]] = {
        "at_once": "a whole number from 1 to 1,000",
        "open": f"a whole number from 1 to {MAX_OPEN:,}",
        "rate": "a number of calls and a time, such as 30/min (s, min, h, day)",
        "tokens_per_day": "a whole number from 1 on",
        "cost_per_day": "a number over 0",
    }

    at_once: Annotated[int, Field(strict=True, ge=1, le=1_000)] | None = None
    open: Annotated[int, Field(strict=True, ge=1, le=MAX_OPEN)] | None = None
    rate: Annotated[str, Field(pattern=r"^[1-9]\d{0,5}/(s|min|h|day)$")] | None = None
    tokens_per_day: Positive | None = None
    cost_per_day: Annotated[float, Field(gt=0, le=10**9, allow_inf_nan=False)] | None = None

    @property
    def calls_and_seconds(self) -> tuple[int, int] | None:
        """The rate, as a number of calls and the seconds in which they may come."""
        if self.rate is None:
            return None
        calls, unit = self.rate_parts
        return calls, _SECONDS[unit]

    @property
    def rate_parts(self) -> tuple[int, str]:
        """The rate, as a number of calls and the name of the time; there must be one."""
        calls, _, unit = (self.rate or "").partition("/")
        return int(calls), unit

    @classmethod
    def read(cls, fields: dict[str, Any]) -> Self:
        """Return the limits with these values by name.

        Raises:
            UsageError: a name is unknown, or a value has a wrong form.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            name = str(error.errors(include_url=False)[0]["loc"][0])
            raise UsageError(
                f"There is no limit {name!r}."
                if name not in cls.FORMS
                else f"The limit {name!r} must be {cls.FORMS[name]}.",
                f"Limits are {', '.join(cls.FORMS)}. {_EXAMPLE}",
            ) from None

    @classmethod
    def parse(cls, text: str) -> dict[str, Any]:
        """Return the limits in a text such as `at_once=2,rate=30/min`, by name.

        Raises:
            UsageError: it has another form.
        """
        fields: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, sign, value = (each.strip() for each in part.partition("="))
            if not sign or not value:
                raise UsageError(f"{part!r} is no limit.", f"Write NAME=VALUE. {_EXAMPLE}")
            fields[name] = _number(value)
        if not fields:
            raise UsageError("No limit is given.", _EXAMPLE)
        cls.read(fields)
        return fields


def _number(text: str) -> int | float | str:
    """The number in a text, which may end in k or M; the text if it holds none."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)([kM]?)", text)
    if found is None:
        return text
    number = float(found[1]) * _FACTORS[found[2]]
    return int(number) if number.is_integer() else number
