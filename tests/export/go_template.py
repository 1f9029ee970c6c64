"""What Ollama makes of a Modelfile, of what ours uses: its parser and Go's templates."""

import json
import re

ACTION = re.compile(r'\{\{ (?:(\.Prompt)|("(?:[^"\\]|\\.)*")) \}\}')


def commands_in(modelfile: str) -> list[tuple[str, str]]:
    """Returns the commands of a Modelfile and their values, by the rules of Ollama's parser.

    A value ends at the end of the first line up to which it is complete: what begins with three
    quotes needs three more. Characters that Go does not print are dropped, but for line ends.
    """
    commands, lines = [], iter(modelfile.split("\n"))
    for line in lines:
        if not line or line.startswith("#"):
            continue
        name, value = line.split(" ", 1)
        if name == "PARAMETER":
            name, value = value.split(" ", 1)
        while value.strip()[:3] == '"""' and not (
            len(value.strip()) >= 6 and value.strip()[-3:] == '"""'
        ):
            value += "\n" + next(lines)
        value = value.strip()
        for quotes in ('"""', '"'):
            if value.startswith(quotes):
                value = value[len(quotes) : -len(quotes)]
                break
        kept = (c for c in value if c == "\n" or c == " " or (c.isprintable() and not c.isspace()))
        commands.append((name, "".join(kept)))
    return commands


def rendered(template: str, prompt: str) -> str:
    """Returns what Go's text/template gives; whatever is no action that we know is a fault."""
    pieces, position = [], 0
    while (start := template.find("{{", position)) >= 0:
        action = ACTION.match(template, start)
        assert action, f"Go would not read {template[start : start + 20]!r}"
        pieces.append(template[position:start])
        # JSON has Go's escapes that are in use, but for those beyond 16 bits
        text = action[2] and re.sub(
            r"\\U([0-9a-f]{8})", lambda code: chr(int(code[1], 16)), action[2]
        )
        pieces.append(prompt if action[1] else json.loads(text))
        position = action.end()
    return "".join([*pieces, template[position:]])


def prompt_for(modelfile: str, title: str) -> str:
    """Returns what Ollama hands llama.cpp for a title."""
    return rendered(dict(commands_in(modelfile))["TEMPLATE"], title)
