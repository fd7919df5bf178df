"""The shells that complete words: what their scripts are, and where they belong.

The scripts are click's, with two differences. Bash shows descriptions beside the candidates when it lists them. Fish
takes descriptions with commas.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any, ClassVar

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete

from p2pflows.cli import COMPLETE
from p2pflows.home import expand_user

_LISTING = "63"
"""What bash sets COMP_TYPE to when it only lists the candidates and inserts none."""

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' response completion type value

    response=$(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD COMP_TYPE=$COMP_TYPE \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)

    COMPREPLY=()
    while IFS=',' read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done <<< "$response"

    # An address goes on after its slash.
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == */ ]]; then compopt -o nospace; fi
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """Completion for bash 4.4 or newer."""

    source_template: ClassVar[str] = _BASH

    def complete(self) -> str:
        """Return the candidates, with descriptions if bash lists several without inserting one."""
        args, incomplete = self.get_completion_args()
        found = self.get_completions(args, incomplete)
        is_listing = os.environ.get("COMP_TYPE") == _LISTING and len(found) > 1
        longest = max((len(item.value) for item in found), default=0)
        return "\n".join(self._line(item, longest if is_listing else 0) for item in found)

    def _line(self, item: CompletionItem[Any], columns: int) -> str:
        text = self.format_completion(item)
        return f"{item.type},{item.value:<{columns}}  ({item.help})" if columns and item.help else text


class Fish(FishComplete):
    """Completion for fish."""

    source_template: ClassVar[str] = FishComplete.source_template.replace('split ","', 'split --max 1 ","')


SHELLS: dict[str, type[ShellComplete]] = {"bash": Bash, "zsh": ZshComplete, "fish": Fish}


def script(cli: click.Command, shell: str) -> str:
    """Return the script of a shell that makes it complete the words of `p2pflows`."""
    return SHELLS[shell](cli, {}, "p2pflows", COMPLETE).source().lstrip("\n")


def script_path(shell: str) -> Path:
    """Return where the script of a shell belongs, for the user of this process."""
    if shell == "fish":
        return _folder("XDG_CONFIG_HOME", "~/.config") / "fish" / "completions" / "p2pflows.fish"
    data = _folder("XDG_DATA_HOME", "~/.local/share")
    if shell == "bash":
        return data / "bash-completion" / "completions" / "p2pflows"
    return data / "zsh" / "site-functions" / "_p2pflows"


def start_file(shell: str) -> tuple[Path, str] | None:
    """Return the start file of a shell, and the line that reads the script there; None if it reads it by itself."""
    if shell == "fish":
        return None
    quoted = shlex.quote(str(script_path(shell)))
    if shell == "bash":
        return expand_user("~/.bashrc"), f"[ -r {quoted} ] && . {quoted}"
    prepare = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }"
    return _folder("ZDOTDIR", "~") / ".zshrc", f"{prepare}; [ -r {quoted} ] && . {quoted}"


def _folder(variable: str, default: str) -> Path:
    value = os.environ.get(variable, "")
    return Path(value) if Path(value).is_absolute() else expand_user(default)
