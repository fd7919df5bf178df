"""Flow classes that tests serve; workers import them from this file, as they import a user's."""

from __future__ import annotations

import os
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from p2pflows import AtomicFlow, CompositeFlow, DeadlinePassed, FlowMessage

TIMEOUT_S = 30.0


def about(name: str, **more: Any) -> dict[str, Any]:
    """A config with a name and a description."""
    return {"name": name, "description": f"{name} of the tests.", **more}


def note(file: str, line: str) -> str:
    """Append a line to a file, as a side effect that a test can count; returns the line."""
    with Path(file).open("a", encoding="utf-8") as notes:
        notes.write(f"{line}\n")
    return line


def notes(file: str | Path) -> list[str]:
    """The noted lines."""
    path = Path(file)
    return path.read_text(encoding="utf-8").split() if path.exists() else []


class ReverseNumber(AtomicFlow):
    """The tutorial's atomic flow."""

    default_config: ClassVar[dict[str, Any]] = about("ReverseNumber", input_interface="number")

    def run(self, input_message: FlowMessage) -> None:
        """Answer with the digits in reverse."""
        number = int(str(input_message.data["number"])[::-1])
        self.send_message(self.package_output_message(input_message, {"output_number": number}))


class ReverseTwice(CompositeFlow):
    """The tutorial's sequential flow: a state machine that keeps its first message, and answers it in a later run."""

    default_config: ClassVar[dict[str, Any]] = about(
        "ReverseTwice", subflows_config={key: {"flow_endpoint": "ReverseNumber"} for key in ("first", "second")}
    )

    def set_up_flow_state(self) -> None:
        """Begin with nothing asked."""
        super().set_up_flow_state()
        self.flow_state["last_state"] = None
        self.flow_state["initial_message"] = None

    def run(self, input_message: FlowMessage) -> None:
        """Ask the first, then the second, then answer."""
        last = self.flow_state["last_state"]
        if last is None:
            self.flow_state["initial_message"] = input_message
            self._ask("first", input_message.data["number"])
        elif last == "first":
            self._ask("second", input_message.data["output_number"] + 1)
        else:
            self.flow_state["last_state"] = None
            answer = {"output_number": input_message.data["output_number"]}
            self.send_message(self.package_output_message(self.flow_state["initial_message"], answer))

    def _ask(self, key: str, number: int) -> None:
        self.subflows[key].get_reply(self.package_input_message({"number": number}))
        self.flow_state["last_state"] = key


class ReverseTwiceBlocking(CompositeFlow):
    """The same flow as one run that waits."""

    default_config: ClassVar[dict[str, Any]] = {**ReverseTwice.default_config, "name": "ReverseTwiceBlocking"}

    def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Ask the first, then the second."""
        first = self.subflows["first"].get_reply_future(self.package_input_message(input_message))
        number = first.get_data()["output_number"] + 1
        return self.subflows["second"].call({"number": number})


class Counter(AtomicFlow):
    """Counts its messages."""

    default_config: ClassVar[dict[str, Any]] = about(
        "Counter", step=1, owner_note="hunter2", overridable=["step", "initial_state"]
    )

    def set_up_flow_state(self) -> None:
        """Start at zero."""
        super().set_up_flow_state()
        self.flow_state["count"] = 0

    def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Count, and return who asks whom."""
        seconds = input_message.data.get("seconds", 0)
        time.sleep(seconds)
        self.flow_state["count"] += self.flow_config["step"]
        return {
            "count": self.flow_state["count"],
            "name": self.name,
            "instance": self._running().instance,
            "user": self._running().user,
            "sender": input_message.user_id,
            "pid": os.getpid(),
        }


class Relay(CompositeFlow):
    """Passes its message down a path of subflows, and waits for the answer from the end."""

    default_config: ClassVar[dict[str, Any]] = about("Relay", subflows_config={})

    def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Call the next subflow on the path."""
        key, *path = input_message.data["path"]
        answer = self.subflows[key].call({**input_message.data, "path": path})
        return {**answer, "levels": answer.get("levels", 0) + 1}


class Tree(CompositeFlow):
    """Names the classes of its subflows, so that one call can serve all."""

    default_config: ClassVar[dict[str, Any]] = about(
        "Tree",
        subflows_config={
            "leaf": {"flow_class_name": "flow_classes.Counter", "flow_endpoint": "TreeLeaf", "singleton": True},
            "branch": {"flow_class_name": "flow_classes.Branch", "flow_endpoint": "TreeBranch"},
        },
    )

    def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Ask both."""
        del input_message
        return {key: self.subflows[key].call({}) for key in ("leaf", "branch")}


class Branch(CompositeFlow):
    """A subflow with a subflow."""

    default_config: ClassVar[dict[str, Any]] = about(
        "Branch", subflows_config={"leaf": {"flow_class_name": "flow_classes.Counter", "flow_endpoint": "TreeLeaf"}}
    )

    def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Ask it."""
        del input_message
        return self.subflows["leaf"].call({})


class Tail(CompositeFlow):
    """Has a flow as subflow that has this one as subflow."""

    default_config: ClassVar[dict[str, Any]] = about(
        "Tail", subflows_config={"head": {"flow_class_name": "flow_classes.Head", "flow_endpoint": "Head"}}
    )


class Head(CompositeFlow):
    """Has a flow as subflow that has this one as subflow."""

    default_config: ClassVar[dict[str, Any]] = about(
        "Head", subflows_config={"tail": {"flow_class_name": "flow_classes.Tail", "flow_endpoint": "Tail"}}
    )


class Incomplete(AtomicFlow):
    """Has no name in its config."""

    default_config: ClassVar[dict[str, Any]] = {"description": "No name."}


class Open(AtomicFlow):
    """Has a name that can be overridden, and a constructor that fails for a wrong name."""

    default_config: ClassVar[dict[str, Any]] = about("Open")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.name == "wrong":
            raise ValueError("that is a wrong name")


class Keeper(AtomicFlow):
    """Keeps a message, and answers it when another message says so."""

    default_config: ClassVar[dict[str, Any]] = about("Keeper", overridable=["initial_state"])

    def run(self, input_message: FlowMessage) -> dict[str, Any] | None:
        """Keep the message, or answer the kept one."""
        data = input_message.data
        if "answer" not in data:
            self.flow_state["kept"] = input_message
            return None
        for text in data["answer"]:
            self.send_message(self.package_output_message(self.flow_state["kept"], {"answer": text}))
        return {"kept": self.flow_state["kept"].data}


class Forger(AtomicFlow):
    """Answers requests that it never got, and its own."""

    default_config: ClassVar[dict[str, Any]] = about("Forger")

    def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Answer the request that the message names."""
        forged = self.package_output_message(input_message, {"answer": "forged"})
        forged.reply_data = {"mode": "reply", "message": input_message.data["request"]}
        self.send_message(forged)
        return {"done": True}


class Survey(CompositeFlow):
    """Calls all its subflows at once, and answers when all have answered."""

    handles_errors = True
    default_config: ClassVar[dict[str, Any]] = about("Survey", subflows_config={})

    def set_up_flow_state(self) -> None:
        """Start without a question."""
        super().set_up_flow_state()
        self.flow_state.update(question=None, asked={}, answers={}, failed={})

    def run(self, input_message: FlowMessage) -> dict[str, Any] | None:
        """Call the subflows, or note an answer by its subflow."""
        key, state = input_message.subflow, self.flow_state
        if key is None:
            state["question"] = input_message
            for name, subflow in self.subflows.items():
                asking = self.package_input_message(input_message.data)
                subflow.get_reply(asking)
                state["asked"][name] = asking.message_id
            return None
        if input_message.input_message_id != state["asked"][key]:
            raise ValueError("that is the answer to another question")
        if input_message.error is not None:
            state["failed"][key] = input_message.error.kind
        else:
            state["answers"][key] = input_message.data
        if len(state["answers"]) + len(state["failed"]) == len(self.subflows):
            result = {"answers": state["answers"], "failed": state["failed"]}
            self.send_message(self.package_output_message(state["question"], result))
        return None


class Strict(Survey):
    """The same flow without a handler for errors."""

    handles_errors = False


class Asker(CompositeFlow):
    """Calls its only subflow, and notes in a file what it does before and after."""

    default_config: ClassVar[dict[str, Any]] = about(
        "Asker", file="???", subflows_config={"Human": {"flow_endpoint": "User", "user_id": "???"}}
    )

    def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Call, with a recorded step before and after."""
        question = input_message.data["question"]
        file = self.flow_config["file"]
        note(file, f"run:{os.getpid()}")
        before = self.step(note, file, f"before:{question}")
        future = self.subflows["Human"].get_reply_future(self.package_input_message({"api_output": question}))
        answer = future.get_data()["human_input"]
        after = self.step(note, file, f"after:{question}")
        self.flow_state["asked"] = [*self.flow_state.get("asked", []), question]
        return {"answer": answer, "steps": [before, after], "asked": self.flow_state["asked"], "pid": os.getpid()}


class Plan(BaseModel):
    """What a human fills in."""

    replicas: int = Field(ge=1, le=9)
    when: date
    note: str | None = None


class FormAsker(Asker):
    """Asks for a form, and answers with what it reads as a model."""

    def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Ask, and note each run."""
        note(self.flow_config["file"], f"run:{os.getpid()}")
        answer = self.ask("Human", input_message.data["question"], form=Plan)
        return {"days": (date(2026, 12, 31) - answer.value.when).days, "remark": answer.remark, "by": answer.by}


class Impatient(Asker):
    """Withdraws its question after a moment."""

    def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Ask, look for an answer, wait a moment, and withdraw the question."""
        asking = self.package_input_message({"api_output": input_message.data["question"]})
        future = self.subflows["Human"].get_reply_future(asking)
        told: dict[str, Any] = {"early": future.try_get_data()}
        try:
            future.get_data(timeout=0.2)
        except DeadlinePassed as error:
            told["late"] = error.kind
        told["withdrawn"] = future.cancel()
        final = future.exception()
        told["final"] = final and final.kind
        told["again"] = future.cancel()
        return told


class LaterAsker(Asker):
    """Asks without waiting, and answers its caller in a later run."""

    def run(self, input_message: FlowMessage) -> None:  # type: ignore[override]
        """Ask, or pass the answer on."""
        if input_message.subflow is None:
            self.flow_state["question"] = input_message
            asking = self.package_input_message({"api_output": input_message.data["question"]})
            self.subflows["Human"].get_reply(asking)
        else:
            answer = {"answer": input_message.data["human_input"]}
            self.send_message(self.package_output_message(self.flow_state["question"], answer))


class AsyncAsker(Asker):
    """Asks twice at once in an asynchronous run."""

    async def run(self, input_message: FlowMessage) -> dict[str, Any]:  # type: ignore[override]
        """Await both answers."""
        note(self.flow_config["file"], f"run:{os.getpid()}")
        human = self.subflows["Human"]
        futures = [
            human.get_reply_future(self.package_input_message({"api_output": f"{input_message.data['question']}-{n}"}))
            for n in (1, 2)
        ]
        answers = [(await future)["human_input"] for future in futures]
        self.flow_state["answers"] = answers
        return {"answers": answers}


class Fickle(Asker):
    """Asks another question in each run."""

    def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Ask about the process of this run."""
        del input_message
        note(self.flow_config["file"], f"run:{os.getpid()}")
        return self.subflows["Human"].call({"api_output": f"fickle-{os.getpid()}"})


class Bulky(Asker):
    """Records larger results than travel with a task, then asks."""

    def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Take large steps."""
        file = self.flow_config["file"]
        note(file, f"run:{os.getpid()}")

        def large(n: int) -> str:
            note(file, f"step:{n}")
            return str(n) * 150_000

        steps = [self.step(large, n) for n in range(4)]
        answer = self.subflows["Human"].call({"api_output": input_message.data["question"]})["human_input"]
        return {"answer": answer, "steps": [(step[0], len(step)) for step in steps]}


class Careless(CompositeFlow):
    """Changes its state and sends messages before it fails."""

    default_config: ClassVar[dict[str, Any]] = about("Careless", subflows_config={})

    def set_up_flow_state(self) -> None:
        """Start at zero."""
        super().set_up_flow_state()
        self.flow_state["count"] = 0

    def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Change the state, send, and fail if the message says so."""
        data = input_message.data
        self.flow_state["count"] += 1
        for subflow in self.subflows.values():
            subflow.send_message(self.package_input_message({"text": data["text"]}))
        if "raise" in data:
            raise ValueError(data["raise"])
        if data.get("keep") == "lock":
            self.flow_state["handle"] = {"inner": threading.Lock()}
        if data.get("keep") == "much":
            self.flow_state["heap"] = "x" * 300_000
        if data.get("send") == "much":
            for subflow in self.subflows.values():
                subflow.send_message(self.package_input_message({"text": "x" * 900_000}))
        return {"count": self.flow_state["count"], "keys": sorted(self.flow_state)}


class Meeting(AtomicFlow):
    """Waits until as many of its runs are active as the message says; returns whether they came."""

    default_config: ClassVar[dict[str, Any]] = about("Meeting")

    def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Sign in, and wait for the other runs."""
        data = input_message.data
        self.flow_state["count"] = self.flow_state.get("count", 0) + 1
        note(data["file"], data.get("text", "here"))
        until = time.monotonic() + TIMEOUT_S
        while len(notes(data["file"])) < data["people"] and time.monotonic() < until:
            time.sleep(0.01)
        return {"met": len(notes(data["file"])) >= data["people"], "count": self.flow_state["count"]}


class Noter(AtomicFlow):
    """Notes the texts of its messages."""

    default_config: ClassVar[dict[str, Any]] = about("Noter", file="???")

    def run(self, input_message: FlowMessage) -> None:
        """Note the text, with its number."""
        self.flow_state["count"] = self.flow_state.get("count", 0) + 1
        note(self.flow_config["file"], f"{input_message.data['text']}:{self.flow_state['count']}")


class Deadly(AtomicFlow):
    """Kills its worker, at every attempt."""

    default_config: ClassVar[dict[str, Any]] = about("Deadly", file="???")

    def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Record a step, and die unless the message says otherwise."""
        file = self.flow_config["file"]
        note(file, f"run:{os.getpid()}")
        self.step(note, file, "step")
        if "spare" not in input_message.data:
            os._exit(9)
        self.flow_state["count"] = self.flow_state.get("count", 0) + 1
        return {"count": self.flow_state["count"]}


class BadStep(AtomicFlow):
    """Records what JSON cannot hold."""

    default_config: ClassVar[dict[str, Any]] = about("BadStep")

    def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Try to record a lock."""
        del input_message
        return {"never": self.step(threading.Lock)}


class Talker(AtomicFlow):
    """Sends progress."""

    default_config: ClassVar[dict[str, Any]] = about("Talker")

    def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Send each word as progress, then return all."""
        words = input_message.data["words"]
        for word in words:
            self.progress({"word": word})
        return {"words": words}


class Starter(CompositeFlow):
    """Lets its subflows forget their state."""

    default_config: ClassVar[dict[str, Any]] = about("Starter", subflows_config={})

    def set_up_flow_state(self) -> None:
        """Start at zero."""
        super().set_up_flow_state()
        self.flow_state["count"] = 0

    def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Reset the subflows, or count here and in them."""
        if "reset" in input_message.data:
            for subflow in self.subflows.values():
                subflow.reset(full_reset=True, recursive=True)
            return {}
        self.flow_state["count"] += 1
        below = [subflow.call({}) for subflow in self.subflows.values()]
        return {"count": self.flow_state["count"], "below": below}
