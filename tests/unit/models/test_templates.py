"""Prompt templates: what they render, and what they cannot do."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pflows.errors import BadInput, FlowFailed, UsageError
from p2pflows.models import templates
from p2pflows.models.images import content
from p2pflows.models.templates import MAX_OUTPUT_CHARS, Template

PNG = b"\x89PNG\r\n\x1a\n rest"


def render(template: str, **data: Any) -> str:
    """Render a template on data, with all of it as input variables."""
    return Template(template, list(data)).render(data)


@pytest.mark.parametrize(
    ("template", "data", "text"),
    [
        ("", {}, ""),
        ("Say {{query}}!\n", {"query": "hi"}, "Say hi!\n"),
        ("{{a}}{{b}}", {"a": 1}, "1"),
        ("{{a.b}} {{a['b']}} {{a.c}}|{{l[0]}}{{l[9]}}", {"a": {"b": 1}, "l": [2]}, "1 1 |2"),
        ("{% if a %}yes{% elif b %}maybe{% else %}no{% endif %}", {"a": 0}, "no"),
        ("{% for x in xs %}{{loop.index}}{{x}}{{',' if not loop.last}}{% endfor %}", {"xs": "ab"}, "1a,2b"),
        ("{% for x in xs if x > 1 %}{{x + 1}}{% else %}none{% endfor %}", {"xs": [1]}, "none"),
        ("{% for k, v in d|items %}{{k}}={{v}}{% endfor %}", {"d": {"a": 1}}, "a=1"),
        ("{% for x in missing %}x{% else %}none{% endfor %}", {}, "none"),
        ("{% for i in range(3) %}{{i}}{% endfor %}", {}, "012"),
        ("{{ xs|join(', ') }} {{ x|upper|trim }} {{ y|default('z') }}", {"xs": [1, 2], "x": " a "}, "1, 2 A z"),
        ("{{ x|join('-') }}{{ ''|join('-') }} {{ x|join }}", {"x": "abc"}, "a-b-c abc"),
        ("{{ d|tojson }}", {"d": {"a": "é<"}}, '{"a": "é<"}'),
        ("{{ 'in' if x in ['a', 'b'] }}", {"x": "a"}, "in"),
        ("{{ a is defined }} {{ b is defined }}", {"a": 1}, "True False"),
        ("{{ x }}", {"x": "{{ 7 + 7 }}<b>"}, "{{ 7 + 7 }}<b>"),
        ("{# a note #}a", {}, "a"),
    ],
)
def test_render(template: str, data: dict[str, Any], text: str) -> None:
    """Variables, conditions, loops and filters work; an undefined variable is empty; data is never a template."""
    assert render(template, **data) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_render_any_data(text: str) -> None:
    """Any text in the data is in the prompt as it is."""
    assert render("[{{query}}]", query=text) == f"[{text}]"


@given(st.text(st.sampled_from("{}%#-+*~|.,()[]'\"_ \n0" + string.ascii_lowercase), max_size=60))
def test_any_template_works_or_is_refused(template: str) -> None:
    """Any template renders a text or raises one of our errors."""
    try:
        assert isinstance(render(template, query="q"), str)
    except (UsageError, FlowFailed) as error:
        assert error.hint  # noqa: PT017 - either outcome is right


def test_missing_variables() -> None:
    """The error of a missing input variable names it."""
    with pytest.raises(BadInput, match="'b', 'c'") as refusal:
        Template("{{a}}", ["a", "b", "c"]).render({"a": 1})
    assert "a, b, c" in refusal.value.hint


def test_only_input_variables_are_given() -> None:
    """The template sees no data besides its input variables."""
    assert Template("{{a}}{{b}}", ["a"]).render({"a": 1, "b": 2}) == "1"


def test_partial_variables() -> None:
    """Partial variables are always set; the data takes precedence."""
    template = Template("{{a}} {{b}}", ["a"], {"a": 0, "b": 2})
    assert template.render({"a": 1, "b": 3}) == "1 2"


def test_from_config() -> None:
    """The predecessor's form can be read; unknown keys are ignored."""
    config = {
        "_target_": "aiflows.prompt_template.JinjaPrompt",
        "template": "{{a}} {{b}}",
        "input_variables": ["a"],
        "partial_variables": {"b": 2},
    }
    assert Template.from_config(config).render({"a": 1}) == "1 2"
    assert Template.from_config({"template": "x", "input_variables": None}).render({}) == "x"


@pytest.mark.parametrize(
    "config",
    [
        None,
        "text",
        {},
        {"template": 1},
        {"template": "", "input_variables": "a"},
        {"template": "", "partial_variables": 3},
    ],
)
def test_from_wrong_config(config: Any) -> None:
    """A config of another form is refused with an example."""
    with pytest.raises(UsageError, match="unknown form"):
        Template.from_config(config)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ query|attr('__class__') }}",
        "{{ ''|attr('__class__') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__ }}",
        "{{ loop.__class__ }}",
        "{% for x in 'a' %}{{ loop.__init__.__globals__ }}{% endfor %}",
        "{% for x in 'a' %}{{ loop._iterable }}{{ loop._to_iterator }}{% endfor %}",
        "{{ query.format }}",
        "{{ '{0.__class__}'.format(query) }}",
        "{{ '%s' % query }}",
        "{{ range.__class__ }}",
        "{{ query.__class__.__init__ }}",
        "{{ _p2pflows_budget }}",
        "{{ [query].append(1) }}",
        "{{ query|map(attribute='__class__')|list }}",
        "{{ [1]|sort(attribute='__class__') }}",
        "{{ 'a'|join('b', '__class__') }}",
        "{% import 'os' as os %}",
        "{% include '/etc/passwd' %}",
        "{% extends 'base' %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set x = query %}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% filter upper %}a{% endfilter %}",
        "{% raw %}",
        "{{ debug() }}",
    ],
)
def test_no_way_out(template: str) -> None:
    """No attribute, call, import or assignment works: a template shows nothing of Python, or is refused."""
    try:
        text = render(template, query="q")
    except (UsageError, FlowFailed):
        return
    assert text.strip() in {"", "q", "[1]"}


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(100000000) %}x{% endfor %}",
        "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in big %}{% for j in big %}{% for k in big %}{% endfor %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10 ** 10 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ 'x'|center(9999999999) }}",
        "{{ '{:9999999999}'.format(1) }}",
        "{{ 'x'|indent(9999999999) }}",
        "{{ 'aa'|replace('a', 'aaaaaaaa') }}",
        "{{ 1|round(-9999999999) }}",
        "{{ [1]|tojson(indent=9999999999) }}",
        "{{ 'xxxxxxxx'" + "|join('xxxxxxxx')" * 100 + " }}",
        "{{ big" + " + big" * 100 + " }}",
        "{{ big" + " ~ big" * 100 + " }}",
        "{{ [" + "big, " * 100 + "big] }}",
        "{{ big }}" * 100,
        "{% for i in range(100000) %}{{ big|upper|length }}{% endfor %}",
        "{% for i in range(100000) %}{{ big|join|length }}{% endfor %}",
        "{{ 'xxxxxxxx'" + "|upper|join('xxxxxxxx')" * 10 + " }}" * 100,
        "{% set x = 'x' %}" + "{% set x = x ~ x %}" * 60,
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "-" * 50000 + "1 }}",
        "{{ " + "9" * 9999 + " }}",
        "x" * (templates.MAX_TEMPLATE_CHARS + 1),
    ],
)
def test_no_bomb(template: str) -> None:
    """A template that would run for hours or fill the memory raises one of our errors."""
    with pytest.raises((UsageError, FlowFailed)):
        render(template, big="x" * (MAX_OUTPUT_CHARS // 10))


def test_a_loop_of_some_length_is_no_bomb() -> None:
    """A loop of a usual length is within the budget, each time it is rendered."""
    template = Template("{% for i in range(20000) %}{{ i }} {% endfor %}")
    for _ in range(3):
        assert template.render({}).endswith("19999 ")


def test_refusal_names_the_place() -> None:
    """The error says what is not allowed and in which line, and the hint what is allowed."""
    with pytest.raises(UsageError, match="macro 'm' in line 2") as refusal:
        Template("\n{% macro m() %}{% endmacro %}")
    assert "range()" in refusal.value.hint


def test_failure_on_data() -> None:
    """A template that fails on the data fails the flow with the reason."""
    with pytest.raises(FlowFailed, match="prompt template failed"):
        render("{{ query + 1 }}", query="a")


@pytest.mark.parametrize(
    ("image", "url"),
    [
        ("https://a.example/x.png", "https://a.example/x.png"),
        ({"url": "http://a.example/x"}, "http://a.example/x"),
        ({"url": "data:image/png;base64,AAAA"}, "data:image/png;base64,AAAA"),
        (PNG, "data:image/png;base64,iVBORw0KGgogcmVzdA=="),
        ({"base64": "iVBORw0KGgogcmVzdA=="}, "data:image/png;base64,iVBORw0KGgogcmVzdA=="),
        (b"\xff\xd8\xff", "data:image/jpeg;base64,/9j/"),
    ],
)
def test_images(image: Any, url: str) -> None:
    """A picture as URL, bytes or base64 becomes a part of the message after its text."""
    assert content("What is it?", [image]) == [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]


@pytest.mark.parametrize("images", [None, []])
def test_no_images(images: Any) -> None:
    """Without pictures, the content of the message is its text."""
    assert content("text", images) == "text"


@pytest.mark.parametrize(
    "images",
    [
        "https://a.example",
        [3],
        [b"text"],
        [{"base64": "%"}],
        ["/etc/passwd"],
        ["file:///etc/passwd"],
        [{"path": "x.png"}],
    ],
)
def test_wrong_images(images: Any) -> None:
    """A value that is not a picture is bad input; no file is read for a caller."""
    with pytest.raises(BadInput):
        content("text", images)
