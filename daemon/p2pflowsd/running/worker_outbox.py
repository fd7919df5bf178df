"""What the next frames to a worker carry, and how it is packed into frames (docs/PROTOCOL.md, section 15)."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile

from p2pflows.protocol.asks import AskAnswer
from p2pflows.protocol.worker_frames import DaemonFrame, TaskSpec, json_size

MAX_FRAME_BYTES = 400_000
MAX_AHEAD_BYTES = 2_000_000
"""How many bytes are leased at once to workers whose frames keep their order, if a frame of each lane takes less."""
_MAX_PENDING_ACKNOWLEDGEMENTS = 64
"""With so many, acknowledgements do not wait for a frame with something else."""


@dataclass(slots=True)
class WorkerOutbox:
    """What a worker is due.

    Attributes:
        tasks: leased tasks, in the order in which each lane runs them.
        cancelled: ids of tasks that are not wanted any more.
        finished: ids of tasks whose results the next commit keeps.
        acknowledged: ids of tasks whose results are committed.
        begun: leased tasks with records, which the next commit keeps, and those behind them in their lanes.
        recorded: answers to asks that the next commit keeps.
        answers: answers to asks that may leave.
    """

    tasks: list[TaskSpec] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    begun: list[TaskSpec] = field(default_factory=list)
    recorded: list[AskAnswer] = field(default_factory=list)
    answers: list[AskAnswer] = field(default_factory=list)

    def add(self, task: TaskSpec) -> bool:
        """Add a leased task, and return whether it waits for the commit.

        A run that begins again must not learn what a crash could undo, as another run would not know it.
        """
        waits = bool(task.records) or any(task.lane == each.lane for each in self.begun)
        (self.begun if waits else self.tasks).append(task)
        return waits

    def release_committed(self) -> None:
        """Let frames carry what waited for the commit."""
        self.tasks += self.begun
        self.acknowledged += self.finished
        self.answers += self.recorded
        self.finished, self.begun, self.recorded = [], [], []

    def is_due(self, *, acknowledge: bool) -> bool:
        """Whether a frame has to leave now.

        Args:
            acknowledge: send acknowledgements even if there is nothing else to send.
        """
        return bool(
            self.tasks
            or self.answers
            or self.cancelled
            or len(self.acknowledged) >= _MAX_PENDING_ACKNOWLEDGEMENTS
            or (acknowledge and self.acknowledged)
        )

    @property
    def needs_another_frame(self) -> bool:
        """Whether the last frame left something behind."""
        return bool(self.tasks or self.answers)

    def next_frame(
        self, worker: str, boot: int, number: int, *, in_order: bool = False
    ) -> tuple[DaemonFrame, list[TaskSpec]]:
        """Take what fits into one frame, and at least one task or answer.

        Tasks of one lane travel in one frame: a worker that misses it must not run those behind. So tasks that belong
        to the frame's last lane and do not fit are taken out as well.

        Args:
            worker: the name of the worker.
            boot: the boot of the daemon.
            number: the number of the frame.
            in_order: a worker that misses a frame gets none behind it, so a lane may take several frames.

        Returns:
            The frame, and the tasks that have to be leased again.
        """
        count, size = 0, 0
        while count < len(self.tasks) and (count == 0 or size + self.tasks[count].size() < MAX_FRAME_BYTES):
            size += self.tasks[count].size()
            count += 1
        answers = self._take_answers(MAX_FRAME_BYTES - size, min_count=0 if count else 1)
        tasks, rest = self.tasks[:count], self.tasks[count:]
        unsent = list(takewhile(lambda task: task.lane == tasks[-1].lane, rest)) if tasks and not in_order else []
        self.tasks = rest[len(unsent) :]
        frame = DaemonFrame(
            worker=worker,
            boot=boot,
            number=number,
            tasks=tasks,
            done=self.acknowledged,
            cancel=self.cancelled,
            answers=answers,
        )
        self.acknowledged, self.cancelled = [], []
        return frame, unsent

    def _take_answers(self, max_bytes: int, min_count: int) -> list[AskAnswer]:
        count = size = 0
        while count < len(self.answers):
            size += json_size(self.answers[count].as_json())
            if count >= min_count and size > max_bytes:
                break
            count += 1
        taken, self.answers = self.answers[:count], self.answers[count:]
        return taken
