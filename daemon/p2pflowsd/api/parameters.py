"""The parameters of methods: strict pydantic models, whose errors name the parameter and say what it must be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from p2pflows import short_ids
from p2pflows.errors import BadInput, P2pflowsError, UsageError
from p2pflows.protocol.file_reference import MAX_REFERENCES
from p2pflows.protocol.message import MAX_TYPED, ReadObject

MAX_TIMEOUT_S = 30 * 24 * 3600
POST_TIMEOUT_S = 7 * 24 * 3600
"""How long a message travels that wants no answer, unless its sender says otherwise."""
MAX_COUNT = 2**62 - 1

_SEE_PAGE = "See the page about the control socket in the documentation."


@dataclass(frozen=True, slots=True)
class MustBe:
    """What the error says when a parameter has a wrong value.

    Attributes:
        form: completes the sentence "The parameter 'x' must be ...".
        hint: what to do.
        error: the kind of the error.
    """

    form: str
    hint: str = _SEE_PAGE
    error: type[P2pflowsError] = UsageError


Text = Annotated[str, MustBe("text")]
IdPart = Annotated[str, AfterValidator(short_ids.normalize), MustBe("text")]
"""The id of a message or prompt, in full or in short."""
Words = Annotated[list[str], MustBe("a list of texts")]
Json = Annotated[Any, MustBe("JSON")]
Flag = Annotated[bool, MustBe("true or false")]
JsonObject = Annotated[dict[str, Any], MustBe("a JSON object")]
MessageData = Annotated[ReadObject, MustBe("a JSON object", 'Flows take objects such as {"text": "hello"}.', BadInput)]
TypedTexts = Annotated[
    dict[str, str],
    Field(max_length=MAX_TYPED),
    MustBe(f"an object of at most {MAX_TYPED} texts", "Give the others as one JSON object."),
]
"""The texts that a person typed for keys of the data; the recipient takes them where its flow takes texts."""
FileList = Annotated[
    list[dict[str, Any]],
    Field(max_length=MAX_REFERENCES),
    MustBe(f"a list of at most {MAX_REFERENCES} references to files", "Get each with: files_put."),
]
"""References to files that go with a question, a note or an answer."""
Count = Annotated[int, Field(ge=0, le=MAX_COUNT), MustBe("a whole number from 0 on")]
Seconds = Annotated[
    float, Field(gt=0, le=MAX_TIMEOUT_S), MustBe("more than 0 and at most 30 days", "Give it in seconds.")
]
ConversationId = Annotated[
    str, Field(pattern="^([0-9a-f]{32})?$"), MustBe("32 hex digits", "Use the `conversation` of an earlier message.")
]
NewId = Annotated[str, Field(pattern="^([0-9a-f]{32})?$"), MustBe("32 hex digits", "Leave it out.")]
InstanceId = Annotated[
    str, Field(pattern="^([0-9a-f]{32})?$"), MustBe("32 hex digits", "Get one with: p2pflows mount ADDRESS")
]


class Parameters(BaseModel):
    """The parameters of one method.

    An optional text that is empty, and a parameter that is null, count as left out.
    """

    # Most methods are not called in the life of a daemon: it starts sooner if it builds their validators at first use.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    NOT_NULL: ClassVar[frozenset[str]] = frozenset()
    """Parameters that must not be null."""

    @classmethod
    def parse(cls, params: Mapping[str, Any]) -> Self:
        """Check the parameters of a request.

        Raises:
            P2pflowsError: one of them is unknown, missing or of a wrong form.
        """
        given = {name: value for name, value in params.items() if value is not None or name in cls.NOT_NULL}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise cls._explain(error) from None

    @classmethod
    def _explain(cls, invalid: ValidationError) -> P2pflowsError:
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        problems = {str(problem["loc"][0]): problem["type"] for problem in invalid.errors(include_url=False)}
        unknown = sorted(problems.keys() - fields.keys())
        if unknown:
            return UsageError(
                f"Unknown parameter: {', '.join(unknown)}.", f"Known ones: {', '.join(fields) or 'none'}."
            )
        name, problem = next(iter(problems.items()))
        if problem == "missing":
            return UsageError(f"The parameter {name!r} is missing.", _SEE_PAGE)
        wanted = next(item for item in fields[name].metadata if isinstance(item, MustBe))
        return wanted.error(f"The parameter {name!r} must be {wanted.form}.", wanted.hint)


class NoParameters(Parameters):
    """Of a method that takes none."""
