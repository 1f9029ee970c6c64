"""Uploads an export's folder to the Hugging Face hub: its files by its manifest, and nothing else.

In come a folder that export has written and the name of a repository, out goes one commit there.
What has arrived of an upload that broke is not sent again, and who reads meanwhile sees all of it
or nothing. The token comes from the environment and is never shown.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amazon_desc.export.folders import MANIFEST, files_in, flaw_of, name_in, read_manifest, size
from amazon_desc.support.errors import CheckpointError, UserError
from amazon_desc.support.hub import first_line, hub_errors, hub_token, is_hub_id
from amazon_desc.support.printing import printable, say

# Weights that others would load beside ours, or in their place.
WEIGHTS = (".safetensors", ".bin")

QUERY = re.compile(r"\?\S+")  # of an address, where a signature may stand


def push(source: Path | None, repo: str | None, *, is_public: bool, is_sure: bool) -> None:
    """Lists what would be uploaded, asks, and uploads it.

    Args:
        source: the folder of an export
        repo: NAME/MODEL; made if it is not there, for its owner alone unless `is_public`
        is_sure: do not ask

    Raises:
        UserError: something is missing, or the hub refuses; the message says what to do.
        CheckpointError: the folder is not what was exported.
    """
    if source is None or repo is None or not is_hub_id(repo):
        raise UserError(
            f"--to hub: wanted --from FOLDER and --repo NAME/MODEL, found --from {source} and "
            f"--repo {repo}. Name the folder of an export, and a repository of your account."
        )
    files = files_to_push(source)
    if not isinstance(hub_token(), str):
        raise UserError(
            "--to hub: wanted a token that may write, in the environment as HF_TOKEN; found none. "
            "Make one on huggingface.co/settings/tokens, and set HF_TOKEN."
        )
    list_files(source, files, repo, is_public)
    if not (is_sure or is_agreed()):
        say("Nothing was uploaded.")
        return
    with refusals_in_a_sentence(repo):
        upload(source, files, repo, is_public)


def files_to_push(source: Path) -> list[str]:
    """Returns the names of an export's files, once they are what was written."""
    manifest = read_manifest(source)
    if manifest is None:
        raise UserError(
            f"--from {source}: wanted a folder that export has written, found no {MANIFEST} of "
            f"ours in it. Export the run first, with another --to."
        )
    if (flaw := flaw_of(source, manifest)) is not None:
        raise CheckpointError(
            f"--from {source}: it is not what was exported: {flaw}. Export it again with "
            f"--overwrite; what is to be changed of a card can be changed on the hub."
        )
    return [*sorted(manifest["files"]), MANIFEST]


def list_files(source: Path, files: list[str], repo: str, is_public: bool) -> None:
    """Says what goes where, and what stays."""
    sizes = {name: (source / name).stat().st_size for name in files}
    for name, num_bytes in sizes.items():
        say(f"  {name}  {size(num_bytes)}")
    who = "for all to see" if is_public else "for its owner alone"
    total = size(sum(sizes.values()))
    say(f"{len(files)} files, {total}, to https://huggingface.co/{repo}, {who} if it is new.")
    others = [name_in(source, path) for path in files_in(source)]
    if others := [name for name in others if name not in sizes]:
        say(f"Not uploaded, since export did not write it: {', '.join(others)}.")


def is_agreed() -> bool:
    """Asks on the terminal.

    Raises:
        UserError: there is none.
    """
    if not sys.stdin.isatty():
        raise UserError(
            "--to hub: wanted a yes to the files above, found no terminal to ask on. Read them, "
            "and add --yes."
        )
    return input("Upload them? [y/N] ").strip().lower() in ("y", "yes")


def upload(source: Path, files: list[str], repo: str, is_public: bool) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=hub_token())
    api.create_repo(repo, private=not is_public, exist_ok=True)
    refuse_other_contents(api.model_info(repo), files, repo, is_public)
    additions = [CommitOperationAdd(name, str(source / name)) for name in files]
    done = api.create_commit(repo, additions, commit_message=f"Upload {source.resolve().name}")
    there = {file.rfilename for file in api.model_info(repo).siblings or []}
    if missing := [name for name in files if name not in there]:
        raise UserError(
            f"--repo {repo}: wanted all files there, found {missing[0]} left out by the "
            f".gitignore of that repository. Change that one, and run the same command again."
        )
    say(f"Uploaded: {api.endpoint}/{repo} (commit {done.oid[:12]})")


def refuse_other_contents(info: Any, files: list[str], repo: str, is_public: bool) -> None:
    """Refuses a repository that shows more people what is private, or holds other weights."""
    if not info.private and not is_public:
        raise UserError(
            f"--repo {repo}: wanted a private repository, found one that all can see. Add "
            f"--public, name another --repo, or make it private in its settings."
        )
    names = [file.rfilename for file in info.siblings or []]
    strangers = [name for name in names if name.endswith(WEIGHTS) and name not in files]
    if strangers:
        raise UserError(
            f"--repo {repo}: wanted one without other weights, found {printable(strangers[0])} "
            f"there, which would be loaded beside these or in their place. Delete it there, or "
            f"name another --repo."
        )


@contextmanager
def refusals_in_a_sentence(repo: str) -> Iterator[None]:
    """Says of what the hub or the network answers what a user can do about it."""
    try:
        yield
    except UserError:
        raise
    except (*hub_errors(), ValueError, RuntimeError) as error:
        if (reason := reason_of(error)) is None:
            raise
        raise UserError(f"--repo {repo}: {reason}") from None


def reason_of(error: BaseException) -> str | None:
    """Returns a sentence and a remedy; None: it is neither the hub's nor the network's."""
    causes = list(causes_of(error))
    statuses = (getattr(getattr(e, "response", None), "status_code", None) for e in causes)
    status = next((found for found in statuses if found is not None), None)
    if status in REMEDIES:
        return REMEDIES[status]
    if status is not None:
        return f"the hub answers with the status {status}. {AGAIN}"
    text = QUERY.sub("", first_line(causes[-1]))
    if isinstance(error, ValueError) and not isinstance(error, hub_errors()):
        return f"the hub takes no such files ({text}). Mend what it names, and run it again."
    if not any(isinstance(e, hub_errors()) for e in causes):
        return None
    return f"the connection to the hub broke, or there is none ({text}). {AGAIN}"


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


AGAIN = "Run the same command again: what has arrived is not sent a second time."

REMEDIES = {
    401: "HF_TOKEN in the environment is no valid token. Make another on "
    "huggingface.co/settings/tokens, and set HF_TOKEN.",
    403: "HF_TOKEN may not write there. Give that token the permission to write, or name a --repo "
    "of your own account.",
    404: "there is no such repository, and HF_TOKEN may not make it. Name a --repo of your own "
    "account.",
    413: "a file is larger than the hub takes from this account. Make room there, or name a --repo "
    "of an account that has it.",
}
