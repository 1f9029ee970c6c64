"""A stand-in of the Hugging Face hub on this machine: the HTTP interface that downloads meet.

In: folders, published as model repositories. Out: an endpoint from which `huggingface_hub` lists
and fetches as from the hub: commits, etags, tokens and terms, large files that are redirected to
another origin (the CDN), ranges; and, on demand, what a network does to a download. Not done here:
uploads, Xet, repositories of more than one commit or under a former name.

By hand: `python tests/hub_stand_in.py some/base=FOLDER --port 8000` prints what to set.
"""

import argparse
import functools
import hashlib
import io
import json
import re
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import quote, unquote, urlsplit

Access = Literal["open", "gated", "private"]
Kind = Literal["stalled", "error", "slow", "broken", "hanging", "short"]
Headers = dict[str, str]

AT_ONCE: tuple[Kind, ...] = ("stalled", "error")
IN_BODY: tuple[Kind, ...] = ("slow", "broken", "hanging", "short")

# What is asked of a repository beside its files: anything, and of that its tree alone.
LISTING, TREE = "(listing)", "(tree)"
LFS_SUFFIXES = {".bin", ".gguf", ".h5", ".model", ".onnx", ".pt", ".pth", ".safetensors"}
LFS_BYTES = 1024  # at least: so few that files of small test bases are on the CDN
CHUNK = 1 << 20

API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?")
FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
CDN = re.compile(r"/cdn/([^/]+/[^/]+)/(.+)")


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked and answered. A token is never kept, only whether one came."""

    method: str
    path: str
    repo_id: str | None
    file: str | None
    has_token: bool
    status: int | None  # None: not answered


@dataclass(slots=True)
class Fault:
    """What goes wrong with requests, as `StandInHub.fault` says it."""

    kind: Kind
    file: str | None = None
    times: float = float("inf")
    method: str | None = None
    status: int = 503
    seconds: float = 1.0

    def meets(self, name: str, method: str) -> bool:
        if self.times <= 0 or self.method not in (None, method):
            return False
        if name in (LISTING, TREE):
            return self.file in (None, LISTING, name)
        return fnmatchcase(name, self.file or "*")


class Repo:
    """A folder as a model repository with one commit, at `main` and maybe a tag."""

    def __init__(self, repo_id: str, folder: Path, access: Access, tag: str | None) -> None:
        self.id, self.access = repo_id, access
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        self.files = {path.relative_to(folder).as_posix(): path for path in paths}
        self.sizes = {name: path.stat().st_size for name, path in self.files.items()}
        state = [(name, path.stat().st_mtime_ns) for name, path in self.files.items()]
        self.commit = hashlib.sha1(repr((repo_id, self.sizes, state)).encode()).hexdigest()
        self.revisions = {"main", self.commit, tag}
        self.accepted: set[str] = set()
        self.faults: list[Fault] = []
        self.etags: dict[str, str] = {}
        self.lock = threading.Lock()

    def is_lfs(self, name: str) -> bool:
        return Path(name).suffix in LFS_SUFFIXES and self.sizes[name] >= LFS_BYTES

    def etag(self, name: str) -> str:
        """Returns the SHA-256 of an LFS file and git's SHA-1 of another; reads each only once."""
        git = functools.partial(hashlib.sha1, b"blob %d\0" % self.sizes[name])
        with self.lock:
            if name not in self.etags:
                with self.files[name].open("rb") as content:
                    digest = hashlib.file_digest(content, "sha256" if self.is_lfs(name) else git)
                self.etags[name] = digest.hexdigest()
            return self.etags[name]

    def info(self) -> dict[str, Any]:
        gated = "manual" if self.access == "gated" else False
        private = self.access == "private"
        siblings = [{"rfilename": name} for name in self.files]
        return dict(id=self.id, sha=self.commit, private=private, gated=gated, siblings=siblings)

    def tree(self) -> list[dict[str, Any]]:
        entries = []
        for name, size in self.sizes.items():
            entry: dict[str, Any] = dict(
                type="file", path=name, size=size, oid=self.etag(name)[:40]
            )
            if self.is_lfs(name):
                entry["lfs"] = dict(oid=self.etag(name), size=size, pointerSize=134)
            entries.append(entry)
        return entries

    def take_fault(self, name: str, method: str, *kinds: Kind) -> Fault | None:
        """Returns what goes wrong with this request, or None; it is counted."""
        with self.lock:
            met = (f for f in self.faults if f.kind in kinds and f.meets(name, method))
            if fault := next(met, None):
                fault.times -= 1
            return fault


class StandInHub:
    """The hub and its CDN, each at a port of 127.0.0.1, until the `with` block ends.

    `home` is the folder of the library's cache, `tokens` are the valid ones, and `requests` are all
    that came, in the order of their answers.
    """

    def __init__(self, home: Path, port: int = 0) -> None:
        self.home = home
        self.repos: dict[str, Repo] = {}
        self.tokens: set[str] = set()
        self.requests: list[Request] = []
        self.connections: list[socket.socket] = []
        self.closing = threading.Event()
        handler = functools.partial(Handler, self)
        self.servers = [ThreadingHTTPServer(("127.0.0.1", at), handler) for at in (port, 0)]
        self.endpoint = f"http://127.0.0.1:{self.servers[0].server_port}"
        # Under another name: to the library of some versions, a port does not make it another host.
        self.cdn = f"http://localhost:{self.servers[1].server_port}"
        for server in self.servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> "StandInHub":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Answers no more; who still waits for an answer, or holds a connection, is hung up on."""
        self.closing.set()
        for server in self.servers:
            server.shutdown()
            server.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def publish(
        self, repo_id: str, folder: Path, *, access: Access = "open", tag: str | None = None
    ) -> Repo:
        """Serves the files that a folder has now; what was published under that name is gone."""
        self.repos[repo_id] = Repo(repo_id, folder, access, tag)
        return self.repos[repo_id]

    def accept(self, token: str, repo_id: str) -> None:
        """Makes a token valid, and lets it read a gated or private repository's files."""
        self.tokens.add(token)
        self.repos[repo_id].accepted.add(token)

    def fault(self, repo_id: str, kind: Kind, file: str | None = None, **settings: Any) -> None:
        """Lets requests go wrong; where two faults meet one, the older is taken.

        Args:
            kind: `stalled`: no answer; `error`: a status (status=503); `slow`: the body takes
                longer (seconds=1.0); `broken`: the connection closes after half of the body;
                `hanging`: the other half never comes; `short`: half is announced and sent
            file: a pattern of file names, LISTING, TREE, or None for all that is asked of the repo
            settings: times=N, or always; method="HEAD" or "GET", or both: a file's HEAD comes first
        """
        self.repos[repo_id].faults.append(Fault(kind, file, **settings))

    def fetched(self, repo_id: str) -> list[str]:
        """Returns the names of the files whose content was sent, in all or in part."""
        sent = (r for r in self.requests if r.method == "GET" and r.status in (200, 206))
        return sorted({r.file for r in sent if r.file and r.repo_id == repo_id})

    def environment(self) -> dict[str, str]:
        """Returns the variables with which a process downloads from here, into `home`.

        They hold no token: one that the process is not meant to use must be taken out for it.
        """
        paths = {"HF_HOME": str(self.home), "HF_HUB_CACHE": str(self.home / "hub")}
        no_proxy = dict.fromkeys(["NO_PROXY", "no_proxy"], "127.0.0.1,localhost")
        disabled = dict.fromkeys(["HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY"], "1")
        seconds = {"HF_HUB_DOWNLOAD_TIMEOUT": "2"}
        online = {"HF_ENDPOINT": self.endpoint, "HF_HUB_OFFLINE": "0"}
        return paths | no_proxy | disabled | seconds | online


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection, with the hub's statuses, headers and sentences."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms behind its headers

    def __init__(self, hub: StandInHub, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def setup(self) -> None:
        super().setup()
        self.hub.connections.append(self.connection)

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing: `requests` has it."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.on_cdn = self.server is self.hub.servers[1]
        api = None if self.on_cdn else API.fullmatch(path)
        file = CDN.fullmatch(path) if self.on_cdn else FILE.fullmatch(path)
        self.repo_id = match[1] if (match := api or file) else None
        self.file = unquote(file[file.re.groups]) if file else None
        is_tree = api is not None and api[2] == "tree"
        self.name = self.file or (TREE if is_tree else LISTING)
        self.repo = self.hub.repos.get(self.repo_id or "")
        with suppress(ConnectionError):  # they hung up
            fault = self.repo and self.repo.take_fault(self.name, self.command, *AT_ONCE)
            revision = unquote((api[3] if api else file and file[2]) or "main")
            if match is None:
                self.refuse(404, None, "Sorry, we can't find the page you are looking for.")
            elif fault and fault.kind == "stalled":
                self.begin(None, {})
                self.hang()
            elif fault:
                self.refuse(fault.status, None, "Internal Error - We're working hard to fix it")
            elif not self.on_cdn and (refusal := self.refusal(revision)):
                self.refuse(*refusal)
            elif self.repo and api:
                body = json.dumps(self.repo.tree() if is_tree else self.repo.info()).encode()
                self.send_content(self.repo, io.BytesIO(body), len(body), {})
            elif self.repo:
                self.send_file(self.repo)
            return
        self.close_connection = True

    do_HEAD = do_GET

    def refusal(self, revision: str) -> tuple[int, str | None, str] | None:
        """Returns status, error code and sentence where the hub does not hand out what is asked."""
        repo = self.repo
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        is_known = token in self.hub.tokens
        is_file, gated = self.file is not None, repo is not None and repo.access == "gated"
        may_read = repo and (repo.access == "open" or (is_known and token in repo.accepted))
        if token and not is_known and not (gated and is_file):
            return 401, None, "Invalid credentials in Authorization header"
        if repo is None or not (may_read or gated):
            if is_known:
                return 404, "RepoNotFound", "Repository not found"
            # The hub sends no code here: the library takes any 401 of an https hub as this one.
            return 401, "RepoNotFound", "Invalid username or password."
        if revision not in repo.revisions:
            return 404, "RevisionNotFound", f"Invalid rev id: {revision}"
        if is_file and not may_read:
            start = f"Access to model {repo.id} is restricted"
            if is_known:
                ask = f"Visit {self.hub.endpoint}/{repo.id} to ask for access."
                return 403, "GatedRepo", f"{start} and you are not in the authorized list. {ask}"
            need = "You must have access to it and be authenticated to access it. Please log in."
            return 401, "GatedRepo", f"{start}. {need}"
        if is_file and self.name not in repo.files:
            return 404, "EntryNotFound", "Entry not found"
        return None

    def refuse(self, status: int, code: str | None, sentence: str) -> None:
        body = json.dumps({"error": sentence}).encode()
        headers = {"X-Error-Message": sentence, "Content-Length": str(len(body))}
        self.begin(status, headers | ({"X-Error-Code": code} if code else {}))
        if self.command == "GET":
            self.wfile.write(body)

    def begin(self, status: int | None, headers: Headers) -> None:
        """Keeps the request with its answer, which is then begun, if there is one."""
        path, has_token = urlsplit(self.path).path, "Authorization" in self.headers
        asked = Request(self.command, path, self.repo_id, self.file, has_token, status)
        self.hub.requests.append(asked)
        if status is not None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

    def send_file(self, repo: Repo) -> None:
        etag, size = repo.etag(self.name), repo.sizes[self.name]
        headers = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if self.on_cdn:
            headers["Content-Disposition"] = f'inline; filename="{Path(self.name).name}";'
        else:
            headers["X-Repo-Commit"] = repo.commit
        if repo.is_lfs(self.name) and not self.on_cdn:
            place = f"{self.hub.cdn}/cdn/{repo.id}/{quote(self.name)}"
            linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(size)}
            self.begin(302, headers | linked | {"Location": place, "Content-Length": "0"})
            return
        with repo.files[self.name].open("rb") as content:
            self.send_content(repo, content, size, headers)

    def send_content(self, repo: Repo, content: BinaryIO, size: int, headers: Headers) -> None:
        """Sends all, or all from the byte that is asked for, as the fault of the moment lets it."""
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        if wanted:
            headers = headers | {"Content-Range": f"bytes {start}-{size - 1}/{size}"}
        fault = None if self.command == "HEAD" else repo.take_fault(self.name, "GET", *IN_BODY)
        kind, length = fault and fault.kind, size - start
        left = length if kind in (None, "slow") else length // 2
        announced = left if kind == "short" else length
        self.begin(206 if wanted else 200, headers | {"Content-Length": str(announced)})
        if self.command == "HEAD":
            return
        content.seek(start)
        piece = max(1, min(CHUNK, length // 20)) if kind == "slow" else CHUNK
        while data := content.read(min(piece, left)):
            self.wfile.write(data)
            left -= len(data)
            if fault and kind == "slow":
                self.hub.closing.wait(fault.seconds * len(data) / length)
        if kind == "hanging":
            self.hang()
        self.close_connection |= kind == "broken"

    def hang(self) -> None:
        """Says no more, until the hub closes."""
        self.hub.closing.wait()
        self.close_connection = True


def main() -> None:
    parser = argparse.ArgumentParser(description="Serves folders as a hub would, until Ctrl-C.")
    parser.add_argument("published", nargs="+", metavar="REPO_ID=FOLDER")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    with StandInHub(Path("hf_home").absolute(), options.port) as hub:
        for pair in options.published:
            repo_id, _, folder = pair.partition("=")
            if not Path(folder).is_dir():
                parser.error(f"{pair}: wanted REPO_ID=FOLDER, found no folder {folder!r}")
            hub.publish(repo_id, Path(folder)).tree()  # hashed now: a client does not wait so long
        print("\n".join(f"{name}={value}" for name, value in hub.environment().items()), flush=True)
        with suppress(KeyboardInterrupt):
            hub.closing.wait()


if __name__ == "__main__":
    main()
