"""Commands for flows and endpoints: `serve`, `unserve`, `ls` and `describe`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

import p2pflows
from p2pflows.cli.input import candidates
from p2pflows.cli.input.arguments import (
    Address,
    Contact,
    DispatchPoint,
    examples,
    json_option,
    read_settings,
    settings_option,
)
from p2pflows.cli.input.message_data import is_key, read_content
from p2pflows.cli.printing.output import print_facts, print_json, print_result, print_table, say
from p2pflows.cli.printing.progress import waiting
from p2pflows.errors import UsageError
from p2pflows.foreign_text import escape
from p2pflows.home import expand_user

CHAT_FLOW = "p2pflows.models.flow:ChatAtomicFlow"


@click.command(
    epilog=examples(
        "p2pflows serve translate flows.py:translate",
        "p2pflows serve sum --exec './sum.sh' --allow bob,carol",
        "p2pflows serve User --human --allow anyone",
        "p2pflows serve Planner --class my_flows.Planner --set max_rounds=3",
        "p2pflows serve Assistant --chat --model NAME --dispatch-point assistant",
        "p2pflows serve Assistant --chat --model NAME --system @house_rules.txt",
        "p2pflows serve Assistant --chat --model NAME --tool bob/search",
    )
)
@click.argument("name", shell_complete=candidates.endpoints)
@click.argument("target", required=False)
@click.option("--exec", "command", metavar="CMD", help="Serve a shell command: JSON on stdin, JSON or text on stdout.")
@click.option("--human", is_flag=True, help="Serve yourself: messages wait in your inbox for your answers.")
@click.option("--class", "flow_class", metavar="CLASS", help="Serve a flow class: FILE.py:CLASS or MODULE.CLASS.")
@click.option("--chat", is_flag=True, help="Serve a conversation with a language model.")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="With --chat: the model. If you name several, each is asked when those before it fail.",
)
@click.option(
    "--api-base",
    "api_bases",
    multiple=True,
    metavar="URL",
    help="With --chat: the server of all models, or once for each --model.  [default: any with a key]",
)
@click.option("--system", metavar="TEXT|@FILE", help="With --chat: what the model is told first, in all conversations.")
@click.option(
    "--tool",
    "tools",
    multiple=True,
    type=Address(),
    help="With --chat: a flow or person that the model may call; several times for several.",
)
@click.option(
    "--confirm",
    "confirmed",
    multiple=True,
    type=Address(),
    help="With --chat: like --tool, but you are asked each time.",
)
@settings_option
@click.option("--singleton", is_flag=True, help="Let all callers share one instance.")
@click.option(
    "--dispatch-point",
    type=DispatchPoint(),
    default="default",
    show_default=True,
    help="The dispatch point whose workers run it.",
)
@click.option(
    "--allow",
    default="contacts",
    show_default=True,
    help="Who may call it: me, contacts, anyone or NAME,...",
)
@click.option(
    "--errors",
    type=click.Choice(["none", "last-line", "all"]),
    help="With --exec: how much of stderr callers see if CMD fails.  [default: last-line]",
)
@click.option(
    "--limit", "limits", multiple=True, metavar="LIMIT,...", help="How much all callers together may call it."
)
@click.option(
    "--limit-per-caller", "caller_limits", multiple=True, metavar="LIMIT,...", help="How much each other user may."
)
@click.option("--owner-first", is_flag=True, help="Run your own calls before those of others that wait.")
@click.option("--parallel", is_flag=True, help="Run calls at the same time, not one after another.")
@click.option("--replace", is_flag=True, help="Serve it even in place of yourself in person.")
@json_option
def serve(
    *,
    name: str,
    target: str | None,
    command: str | None,
    human: bool,
    flow_class: str | None,
    chat: bool,
    models: tuple[str, ...],
    api_bases: tuple[str, ...],
    system: str | None,
    tools: tuple[str, ...],
    confirmed: tuple[str, ...],
    settings: tuple[str, ...],
    singleton: bool,
    dispatch_point: str,
    allow: str,
    errors: str | None,
    limits: tuple[str, ...],
    caller_limits: tuple[str, ...],
    owner_first: bool,
    parallel: bool,
    replace: bool,
    as_json: bool,
) -> None:
    """Serve a flow under the endpoint NAME, until you unserve it.

    It takes the place of what NAME served before; of yourself in person only with --replace.

    TARGET is a Python function: FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION. A worker loads it now, and reports
    an error if it cannot. After a change of the code, serve it again.

    A flow class has instances, each with its own state: one for each conversation, and one for each mount. --set
    changes the config of its instances. Other users may set only what the config lists under "overridable".

    A LIMIT is one of at_once=2 (others wait), open=20 (waiting or running), rate=30/min, tokens_per_day=100k and
    cost_per_day=0.50 (models; see "prices" in config.yaml). What is over a limit is refused, with when to come again.
    """
    kind, what = _kind_and_target(
        name, {"TARGET": target, "--exec CMD": command, "--human": human, "--class CLASS": flow_class, "--chat": chat}
    )
    if (models or api_bases or system is not None or tools or confirmed) and not chat:
        raise UsageError(
            "--model, --api-base, --system, --tool and --confirm belong to --chat.", "Add --chat, or leave them out."
        )
    if (settings or singleton) and kind != "class":
        raise UsageError("Only a flow class has a config and instances.", "Leave out --set and --singleton.")
    if errors and kind != "exec":
        raise UsageError("--errors belongs to --exec.", "Leave it out.")
    config = read_settings(settings)
    about_chat: dict[str, Any] = {}
    if chat:
        _chat_config(config, models, api_bases, system)
        if tools or confirmed:
            from p2pflows.cli.flows.chat_tools import add_tools

            with p2pflows.connect() as me, waiting("Asking what the tools take"):
                add_tools(me, config, tools, confirmed)
        about_chat = _describe_chat(config)
    with p2pflows.connect() as me, waiting(f"Waiting for a worker of {dispatch_point!r} to load {name}"):
        served = me.request(
            "serve",
            endpoint=name,
            kind=kind,
            target=what,
            cwd=str(Path.cwd()),
            dispatch_point=dispatch_point,
            allow=allow,
            parallel=parallel,
            singleton=singleton or None,
            config=config or None,
            errors=errors,
            limits=_read_limits(limits),
            limits_per_caller=_read_limits(caller_limits),
            owner_first=owner_first or None,
            replace=replace or None,  # older daemons do not know it
            **about_chat,
        )
        lacking = _lacking_for_chat(me, dispatch_point) if chat else None
    print_result(
        served,
        f"Serving {name} for {_allowed(served['allow'])}{_replacing(served)}. "
        f"Try: {_example_call(f'me/{name}', served)}",
        as_json,
    )
    if lacking is not None:
        say(lacking)
    if served.get("may_call") and not as_json:
        say(f"In your name, it may call {_listed(served['may_call'])}.")


@click.command(epilog=examples("p2pflows unserve translate"))
@click.argument("name", shell_complete=candidates.endpoints)
@json_option
def unserve(name: str, as_json: bool) -> None:
    """Stop serving a flow."""
    with p2pflows.connect() as me:
        result = me.request("unserve", endpoint=name)
    print_result(result, f"{escape(name)} is no longer served.", as_json)


@click.command(epilog=examples("p2pflows ls", "p2pflows ls bob", "p2pflows ls bob --json | jq -r '.[].endpoint'"))
@click.argument("contact", required=False, type=Contact())
@json_option
def ls(contact: str | None, as_json: bool) -> None:
    """List what you serve, or what a CONTACT lets you call."""
    with p2pflows.connect() as me, waiting(f"Asking {contact or 'your daemon'}"):
        flows = me.request("ls", user=contact)["flows"]
    if as_json:
        print_json(flows)
    elif not flows:
        say(f"{contact} serves nothing to you." if contact else "You serve nothing yet. See: p2pflows serve --help")
    elif contact:
        print_table(["ENDPOINT", "KIND", "DESCRIPTION"], [[f["endpoint"], f["kind"], f["description"]] for f in flows])
    else:
        print_table(
            ["ENDPOINT", "KIND", "DISPATCH POINT", "ALLOWED", "DESCRIPTION"],
            [[f["endpoint"], f["kind"], f["dispatch_point"], _allowed(f["allow"]), f["description"]] for f in flows],
        )


@click.command(
    epilog=examples("p2pflows describe bob/translate", "p2pflows describe bob/translate --json | jq .schema")
)
@click.argument("address", type=Address())
@json_option
def describe(address: str, as_json: bool) -> None:
    """Show the input of a flow, and whether you may call it."""
    with p2pflows.connect() as me, waiting(f"Asking {address.partition('/')[0] or 'me'}"):
        flow = me.request("describe", address=address)
    if as_json:
        print_json(flow)
        return
    print_facts(
        [
            ("address", escape(flow["address"])),
            ("user id", escape(flow["user"])),
            ("online", {True: "yes", False: "no", None: "not known"}[flow["online"]]),
            ("served", _yes_or_no(flow["served"])),
            ("you may call", _yes_or_no(flow["allowed"])),
            ("kind", escape(flow.get("kind") or "")),
            ("dispatch point", escape(flow.get("dispatch_point") or "")),
            ("description", escape(flow.get("description") or "")),
            *_overridable(flow),
            *_may_call(flow),
            *_limits(flow),
            *([("release", escape(flow["release"]))] if flow.get("release") else []),
        ]
    )
    rows = input_fields(flow)
    if rows:
        click.echo()
        print_table(["FIELD", "TYPE", "NEEDED", "MEANING"], rows)
    if answers := _output_fields(flow):
        click.echo()
        print_table(["ANSWER", "TYPE", "MEANING"], answers)
    if flow["served"] and flow["allowed"]:
        say(f"\nCall it: {_example_call(address, flow)}")


def input_fields(flow: dict[str, Any]) -> list[list[str]]:
    """Return the fields of a flow's input, each as its name, its type, `yes` or `no` (needed), and its meaning.

    The schema comes from another user and may be anything.
    """
    schema = flow.get("schema")
    needed = schema.get("required") if isinstance(schema, dict) else None
    if not isinstance(needed, list):
        needed = []
    return [
        [name, _type(field), "yes" if name in needed else "no", _meaning(field)]
        for name, field in _properties(schema).items()
    ]


def _output_fields(flow: dict[str, Any]) -> list[list[str]]:
    """Return the fields of a flow's answer, and of the objects in it: each as its name, its type and its meaning."""
    rows = []
    for name, field in _properties(flow.get("output")).items():
        rows.append([name, _type(field), _meaning(field)])
        rows += [[f"{name}.{inner}", _type(part), _meaning(part)] for inner, part in _properties(field).items()]
    return rows


def _properties(schema: Any) -> dict[str, dict[str, Any]]:
    """Return the fields of an object in a schema, which comes from another user and may be anything."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return {}
    return {name: field for name, field in properties.items() if isinstance(field, dict)}


def _kind_and_target(name: str, given: dict[str, str | bool | None]) -> tuple[str, str | None]:
    """Return the kind and the target of what is served.

    Args:
        name: the endpoint, for examples in errors.
        given: the ways to name a target, with the values given; exactly one must have a value.

    Raises:
        UsageError: none or several have a value, or the value has the wrong form.
    """
    ways = [way for way, value in given.items() if value not in (None, False)]
    if len(ways) != 1:
        raise UsageError(
            f"Give exactly one of {', '.join(list(given)[:-1])} and {list(given)[-1]}.",
            f"For example: p2pflows serve {name} flows.py:{name}",
        )
    value = given[ways[0]]
    match ways[0]:
        case "--human":
            return "human", None
        case "--chat":
            return "class", CHAT_FLOW
        case "--exec CMD":
            return "exec", str(value)
        case "--class CLASS":
            is_file = ":" in str(value) or str(value).endswith(".py")
            dotted, dot, attribute = str(value).rpartition(":" if is_file else ".")
            return "class", _python_target(name, f"{dotted}:{attribute}" if dot else str(value), "class")
        case _:
            return "python", _python_target(name, str(value), "function")


def _read_limits(texts: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the limits that options give, or None if there are none; the daemon reads them again."""
    if not texts:
        return None
    from p2pflows.settings.call_limits import CallLimits

    return CallLimits.parse(",".join(texts))


def _limits(flow: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the lines about the limits of one's own flow."""
    lines = []
    for name, title in (("limits", "limits"), ("limits_per_caller", "limits per caller")):
        given = {key: value for key, value in (flow.get(name) or {}).items() if value is not None}
        if given:
            lines.append((title, escape(", ".join(f"{key}={value}" for key, value in given.items()))))
    return [*lines, ("order", "your calls first")] if flow.get("owner_first") else lines


def _replacing(served: dict[str, Any]) -> str:
    """Return what `serve` says of the flow that was served before under the same name."""
    before = served.get("replaced")
    if before is None:
        return ""
    if (before["kind"], before["target"]) == (served["kind"], served["target"]):
        return ", again"
    if before["kind"] == "human":
        return ", in place of you in person"
    return f", in place of {'the command ' * (before['kind'] == 'exec')}{escape(before['target'])}"


def _chat_config(
    config: dict[str, Any], models: tuple[str, ...], api_bases: tuple[str, ...], system: str | None
) -> None:
    """Add the options for a chat to its config.

    Raises:
        UsageError: there are several servers, and not one for each model; or two system messages.
    """
    if system is not None:
        if "system_message_prompt_template" in config:
            raise UsageError("There are two system messages.", "Leave out --system, or the template in --set.")
        # As a variable, so that no brace in the text is taken for one.
        text = read_content("--system", system)
        config["system_message_prompt_template"] = {"template": "{{text}}", "partial_variables": {"text": text}}
    backend = config.setdefault("backend", {})
    if not isinstance(backend, dict):
        raise UsageError("'backend' is a group of settings.", "Set one setting of it, for example: --set backend.n=2")
    if len(api_bases) > 1 and len(api_bases) != len(models):
        raise UsageError(
            f"There are {len(models)} models and {len(api_bases)} servers.",
            "Give --api-base once, or after each --model.",
        )
    if len(api_bases) == 1:
        backend.setdefault("api_base", api_bases[0])
    if len(api_bases) > 1:
        pairs = zip(models, api_bases, strict=True)
        backend.setdefault("model_name", [{"model_name": model, "api_base": base} for model, base in pairs])
    elif models:
        backend.setdefault("model_name", models[0] if len(models) == 1 else list(models))


def _describe_chat(config: dict[str, Any]) -> dict[str, Any]:
    """Return what a chat says of itself, so that no worker need load it: the worker with the key may start later.

    Raises:
        UsageError: a setting is unknown, or means nothing.
    """
    from p2pflows.flows.config import effective_config
    from p2pflows.flows.overrides import open_keys
    from p2pflows.models.flow import ChatAtomicFlow

    effective = effective_config(ChatAtomicFlow, config, complete=False)
    ChatAtomicFlow.check_config(effective)
    return {
        "description": str(config.get("description") or "A conversation with a language model."),
        "schema": ChatAtomicFlow.describe_input(effective),
        "output": ChatAtomicFlow.describe_output(effective),
        "overridable": open_keys(effective),
        "subflows": config.get("subflows_config", {}),
    }


def _lacking_for_chat(me: p2pflows.Client, dispatch_point: str) -> str | None:
    """Return what is missing before a chat can answer, with the next step; None if nothing is known to be."""
    workers = [each for each in me.request("status")["workers"] if each["dispatch_point"] == dispatch_point]
    start = f"p2pflows worker --dispatch-point {dispatch_point} --api-key-env NAME"
    if not any(each["workers"] for each in workers):
        return f"No worker of {dispatch_point!r} runs yet. Start one with the key of the model: {start}"
    if all(each.get("keys") == 0 for each in workers):
        return f"No worker of {dispatch_point!r} has a key of a model server. Start one that has: {start}"
    return None


def _overridable(flow: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the line about the keys that users other than the owner may set when they mount the flow."""
    if flow.get("kind") != "class" or not isinstance(flow.get("overridable"), list):
        return []
    return [("others may set", escape(", ".join(map(str, flow["overridable"]))) or "nothing")]


def _may_call(flow: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the line about the flows that the runs of one's own class may call in one's name."""
    if "may_call" not in flow:
        return []
    known = flow["may_call"]
    return [("it may call", "not known yet; serve it again" if known is None else _listed(known) or "nothing")]


def _listed(addresses: list[str]) -> str:
    more = len(addresses) - _MAX_LISTED
    shown = [escape(address) for address in addresses[:_MAX_LISTED]]
    return ", ".join([*shown, f"and {more} more"] if more > 0 else shown)


_MAX_LISTED = 20
"""How many addresses one line names."""
_FORMS = {
    "function": ("FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION", ""),
    "class": ("FILE.py:CLASS or MODULE.CLASS", "--class "),
}
"""How to write a function or a class, and the option before it."""


def _python_target(name: str, target: str, what: str) -> str:
    where, _, attribute = target.rpartition(":")
    parts = attribute.split(".") + ([] if where.endswith(".py") else where.split("."))
    if not where or not all(part.isidentifier() for part in parts):
        form, option = _FORMS[what]
        corrected = f"{target.removesuffix(':')}:{name}" if not where and target else f"flows.py:{name}"
        raise UsageError(
            f"{target!r} does not name a {what}.",
            f"Give {form}, for example: p2pflows serve {name} {option}{corrected}",
        )
    if not where.endswith(".py"):
        return target
    path = expand_user(where).absolute()
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", f"Check the path; the current folder is {Path.cwd()}.")
    return f"{path}:{attribute}"


def _allowed(allow: Any) -> str:
    return escape(allow if isinstance(allow, str) else ", ".join(map(str, allow or [])))


def _yes_or_no(value: bool | None) -> str:
    return "not known" if value is None else "yes" if value else "no"


def _type(field: dict[str, Any]) -> str:
    options = field.get("anyOf")
    if isinstance(options, list):
        return " or ".join(_type(option) for option in options if isinstance(option, dict))
    return str(field.get("type") or field.get("const") or "any")


def _meaning(field: dict[str, Any]) -> str:
    default = f"default {field['default']!r}" if "default" in field else ""
    return "; ".join(text for text in (str(field.get("description") or ""), default) if text)


def _example_call(address: str, flow: dict[str, Any]) -> str:
    if flow.get("kind") == "human":
        return f"p2pflows call {address} 'Are you there?'"
    needed = [name for name, _, is_needed, _ in input_fields(flow) if is_needed == "yes" and _can_be_typed(name)]
    return " ".join([f"p2pflows call {address}", *(shlex.quote(f"{name}={name.upper()}") for name in needed)])


def _can_be_typed(name: str) -> bool:
    """Whether a key=value pair can hold this name, which another user chose."""
    return is_key(name) and escape(name) == name
