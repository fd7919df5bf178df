"""What models cost: `prices:` in `config.yaml`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from p2pflows.protocol.spent import Spent

Amount = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
MAX_MODELS = 1_000


class Price(BaseModel):
    """What a million tokens of one model cost, in a currency of the owner's choice.

    Attributes:
        tokens_in: what it reads.
        tokens_out: what it writes.
        cached: what it reads that its server had at hand; None: as `tokens_in`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens_in: Amount
    tokens_out: Amount
    cached: Amount | None = None

    def of(self, spent: Spent) -> int:
        """Return what was spent, in millionths of the currency."""
        cached = min(spent.cached, spent.tokens_in)
        at_hand = self.tokens_in if self.cached is None else self.cached
        return round(
            (spent.tokens_in - cached) * self.tokens_in + cached * at_hand + spent.tokens_out * self.tokens_out
        )
