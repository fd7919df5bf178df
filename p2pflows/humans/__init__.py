"""Flows with humans: one human answers a question, one talks with an assistant, or two talk (docs/HUMANS.md).

A human is the endpoint `User` that every daemon serves; these classes have it as a subflow.
"""

from __future__ import annotations

from p2pflows.humans.chat import ChatHumanFlow
from p2pflows.humans.human import HumanFlow
from p2pflows.humans.pair import HumanToHuman

ChatHumanFlowModule = ChatHumanFlow

__all__ = ["ChatHumanFlow", "ChatHumanFlowModule", "HumanFlow", "HumanToHuman"]
