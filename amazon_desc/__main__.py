"""`python -m amazon_desc`: answers --help and --version at once, hands the rest to the CLI.

Importing the CLI takes seconds, since torch comes with it; who only asks what there is need not
wait for that.
"""

import codecs
import gc
import locale
import logging
import os
import sys
from collections.abc import Callable

from amazon_desc import __version__
from amazon_desc.run.options.help import COMMANDS, answer_help
from amazon_desc.support.parents import end_with
from amazon_desc.support.printing import show_traceback, spell_out_what_is_not_encoded
from amazon_desc.support.ranks import LAUNCHED, here
from amazon_desc.support.signals import leaving_on_the_spot

OF_COMMANDS = "\n".join(f"  {command:11}{does}" for command, does in COMMANDS.items())
HELP = f"""\
usage: python -m amazon_desc {{{",".join(COMMANDS)}}} --config FILE [--OPTION VALUE ...]

Fine-tunes a 4-bit language model with LoRA to write product descriptions from titles.

{OF_COMMANDS}

  COMMAND --help           our options of a command, with their units
  COMMAND --help.trainer   all options of Lightning's trainer
  --version                the version of amazon_desc

configs/quickstart.yaml runs on a laptop in three minutes and downloads nothing;
configs/qlora.yaml is the reference run on the real data;
configs/gemma3.yaml is the same with Gemma 3 4B IT, which is gated.
"""


def main() -> None:
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"amazon_desc {__version__}")
    elif not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        sys.exit(0 if arguments else 2)
    else:
        # How long OpenMP's threads spin before they sleep. The default is so long that two runs
        # on one CPU block each other; sleeping at once makes a run alone half as fast.
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
        # Lightning imports matplotlib. That fails where a notebook's MPLBACKEND names a module that
        # is not here, and says each time that a home cannot be written. No command opens a window.
        os.environ["MPLBACKEND"] = "agg"
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        read_utf8()
        spell_out_what_is_not_encoded()
        answer_help(arguments)
        sys.excepthook = show_traceback
        if here().started_by == "torchrun":  # srun ends its processes itself
            end_with(int(os.environ.get(LAUNCHED) or os.getppid()))
        with leaving_on_the_spot():  # until the CLI is imported, and knows how to leave
            imported_cli()(arguments)


def imported_cli() -> Callable[[list[str]], None]:
    """Imports what runs a command, and returns that.

    All of it stays: to look for garbage among half a million objects again and again takes a fifth
    of the time that importing takes, and would stop a command later.
    """
    gc.disable()
    from amazon_desc.cli import main as run_cli

    gc.freeze()
    gc.enable()
    return run_cli


def read_utf8() -> None:
    """Starts anew where the locale has configs and arguments read in another encoding.

    ASCII would refuse the prompt of a config, Latin-1 would train on other letters without a word.
    What the terminal can show stays as it is.
    """
    if sys.flags.utf8_mode or codecs.lookup(locale.getencoding()).name == "utf-8":
        return
    os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:backslashreplace")
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()
