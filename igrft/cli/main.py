"""Entry point of ``igrft``: exit statuses, one-line errors, dotted overrides.

Exit status 0 means that everything asked for was done, 1 a failure (also: episodes set aside), 2
wrong usage.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from igrft.errors import IgrftError, UsageError

_STOPPED, _GO_ON = 130, "stopped; run the same command again to go on where it was"


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit with its status."""
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


def run(argv: list[str]) -> int:
    """Run a command; return its exit status."""
    from typer import Abort, TyperException

    from igrft.cli.app import app

    debug = "--debug" in argv
    try:
        rest, overrides = split_overrides([a for a in argv if a != "--debug"])
        status = app(args=rest, prog_name="igrft", standalone_mode=False, obj=overrides)
        sys.stdout.flush()
        if status == _STOPPED:
            # Typer catches Ctrl-C itself, and says nothing.
            return _fail(_GO_ON, _STOPPED)
        return status if isinstance(status, int) else 0
    except TyperException as error:
        return _wrong_usage(error)
    except (Abort, KeyboardInterrupt):
        return _fail(_GO_ON, _STOPPED)
    except IgrftError as error:
        if debug:
            traceback.print_exc()
        return _fail(str(error), 2 if isinstance(error, UsageError) else 1)
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and type(sys.stdout).__name__ != "PacifyFlushWrapper":
            raise
        # The reader (head, less) has left: that is no failure, but stdout must not be flushed again.
        # Typer exits with 1 on its own account, and marks stdout with a wrapper.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        text = " ".join(str(error).split())
        return _fail(f"unexpected {type(error).__name__}: {text} (give --debug for the traceback)", 1)


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take ``--a.b.c=value`` and ``--a.b.c value`` out of the arguments.

    Returns:
        The other arguments, and overrides as ``a.b.c=value``.
    """
    rest: list[str] = []
    overrides: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if not (word.startswith("--") and "." in name):
            rest.append(word)
            continue
        if not equals:
            following = next(words, None)
            if following is None:
                raise UsageError(f"override {word} has no value; write {word}=VALUE")
            value = following
        overrides.append(f"{name[2:]}={value}")
    return rest, overrides


def _wrong_usage(error: Exception) -> int:
    """Typer's own complaint in one line, with the help that answers it."""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message)
        return 2
    context = getattr(error, "ctx", None)
    hint = f" ({context.command_path} --help shows how)" if context else ""
    return _fail(" ".join(message.split()) + hint, 2)


def _fail(message: str, status: int) -> int:
    from igrft.remote.mirror import shown

    print(f"igrft: {shown(message)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
