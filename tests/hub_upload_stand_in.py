"""A stand-in of the hub's other half on this machine: what uploads meet, in commits and LFS.

In: tokens and what they may do. Out: an endpoint where `huggingface_hub` makes repositories and
uploads to them as to the hub: cards are checked, large files go by LFS to a storage of another
origin, a commit names them, and what the storage has already is not asked for again. On demand
what a network or the hub does to an upload. Downloads are hub_stand_in.py's; Xet is nobody's.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, urlsplit

import yaml

Step = Literal["create", "info", "card", "preupload", "batch", "put", "commit"]

LFS_SUFFIXES = {".bin", ".gguf", ".safetensors"}
SIGNATURE = "X-Signature=of-nobody-elses-business"

PATHS: list[tuple[str, re.Pattern[str]]] = [
    ("create", re.compile(r"/api/repos/create()")),
    ("card", re.compile(r"/api/validate-yaml()")),
    ("preupload", re.compile(r"/api/models/([^/]+/[^/]+)/preupload/main")),
    ("commit", re.compile(r"/api/models/([^/]+/[^/]+)/commit/main")),
    ("info", re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/main)?")),
    ("batch", re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")),
]


class Asked(NamedTuple):
    """A request: which step it is, of what, and whether a token came with it."""

    step: str
    what: str
    has_token: bool
    status: int | None  # None: not answered


@dataclass
class Fault:
    """What goes wrong at a step: a status, half of the body read (`broken`), or no answer."""

    step: Step
    kind: int | Literal["broken", "hanging"]
    times: float = float("inf")


@dataclass
class Repo:
    """What was committed: the content of each file by its name."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    ignored: set[str] = field(default_factory=set)


class UploadHub:
    """The hub and its storage, each at a port of 127.0.0.1, until the `with` block ends."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.repos: dict[str, Repo] = {}
        self.writers: dict[str, str] = {}  # a token -> the account that it may write to
        self.storage: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.reached = threading.Event()  # a fault that hangs was met
        self.closing = threading.Event()
        self.lock = threading.Lock()
        handler = partial(Handler, self)
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        self.endpoint = f"http://127.0.0.1:{self.servers[0].server_port}"
        self.origin = f"http://localhost:{self.servers[1].server_port}"
        for server in self.servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> "UploadHub":
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def steps(self, step: Step) -> list[Asked]:
        return [asked for asked in self.asked if asked.step == step]

    def take_fault(self, step: str) -> Fault | None:
        with self.lock:
            found = (f for f in self.faults if f.step == step and f.times > 0)
            if fault := next(found, None):
                fault.times -= 1
            return fault

    def environment(self) -> dict[str, str]:
        """Returns the variables with which another process uploads to here."""
        no_proxy = dict.fromkeys(["NO_PROXY", "no_proxy"], "127.0.0.1,localhost")
        disabled = dict.fromkeys(["HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY"], "1")
        online = {"HF_ENDPOINT": self.endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(self.home)}
        return no_proxy | disabled | online


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection, with the hub's statuses and sentences."""

    protocol_version = "HTTP/1.1"

    def __init__(self, hub: UploadHub, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing: `asked` has it."""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        is_storage = self.server is self.hub.servers[1]
        self.step, self.what = ("put", address.path.rpartition("/")[2]) if is_storage else ("", "")
        if not is_storage:
            matches = ((step, path.fullmatch(address.path)) for step, path in PATHS)
            self.step, match = next(((s, m) for s, m in matches if m), ("unknown", None))
            self.what = match[1] if match else address.path
        with suppress(ConnectionError):
            self.act(self.hub.take_fault(self.step), parse_qs(address.query))

    do_POST = do_PUT = do_GET

    def act(self, fault: Fault | None, query: dict[str, list[str]]) -> None:
        length = int(self.headers.get("Content-Length", 0))
        if fault and fault.kind in ("broken", "hanging"):
            self.rfile.read(length // 2)
            self.note(None)
            if fault.kind == "hanging":
                self.hub.reached.set()
                self.hub.closing.wait()
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = self.rfile.read(length)
        if fault:
            assert isinstance(fault.kind, int)
            self.answer(fault.kind, {"error": f"a fault, at {self.hub.origin}/x?{SIGNATURE}"})
            return
        if self.step == "put":
            self.store(body, query)
            return
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.step != "card" and token not in self.hub.writers:
            self.answer(401, {"error": "Invalid credentials in Authorization header"})
            return
        getattr(self, f"on_{self.step}")(body, self.hub.writers.get(token, ""))

    def note(self, status: int | None) -> None:
        has_token = "Authorization" in self.headers
        self.hub.asked.append(Asked(self.step, self.what, has_token, status))

    def answer(self, status: int, values: Any) -> None:
        self.note(status)
        body = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if "error" in values:
            self.send_header("X-Error-Message", values["error"])
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        self.wfile.write(body)

    def repo_of(self, account: str) -> Repo | None:
        """Returns the repository that is written to, or refuses."""
        repo = self.hub.repos.get(self.what)
        if repo is None:
            self.answer(404, {"error": "Repository not found"})
        elif self.what.partition("/")[0] != account:
            self.answer(403, {"error": f"You don't have the rights to write to {self.what}"})
        else:
            return repo
        return None

    # What each step does

    def on_create(self, body: bytes, account: str) -> None:
        asked = json.loads(body)
        name = f"{asked.get('organization') or account}/{asked['name']}"
        address = {"url": f"{self.hub.endpoint}/{name}"}
        self.what = name
        if name.partition("/")[0] != account:
            sentence = f'You don\'t have the rights to create a model under "{name}"'
            self.answer(403, {"error": sentence})
        elif name in self.hub.repos:
            self.answer(409, {"error": "You already created this model repo", **address})
        else:
            is_private = asked.get("private") or asked.get("visibility") == "private"
            self.hub.repos[name] = Repo(bool(is_private))
            self.answer(200, address)

    def on_info(self, body: bytes, account: str) -> None:
        repo = self.hub.repos.get(self.what)
        if repo is None or (repo.private and self.what.partition("/")[0] != account):
            self.answer(404, {"error": "Repository not found"})
            return
        siblings = [{"rfilename": name} for name in (".gitattributes", *repo.files)]
        values = {"id": self.what, "private": repo.private, "siblings": siblings}
        self.answer(200, values | {"sha": (repo.commits or ["0" * 40])[-1]})

    def on_card(self, body: bytes, account: str) -> None:
        front = json.loads(body)["content"].split("---\n")[1]
        found = yaml.safe_load(front)
        errors = [] if isinstance(found, dict) else [{"message": "YAML wants a mapping"}]
        self.answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def on_preupload(self, body: bytes, account: str) -> None:
        if (repo := self.repo_of(account)) is None:
            return
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if Path(file["path"]).suffix in LFS_SUFFIXES else "regular",
                "shouldIgnore": file["path"] in repo.ignored,
                "oid": git_oid(repo.files.get(file["path"])),
            }
            for file in json.loads(body)["files"]
        ]
        self.answer(200, {"files": files})

    def on_batch(self, body: bytes, account: str) -> None:
        if self.repo_of(account) is None:
            return
        objects = []
        for wanted in json.loads(body)["objects"]:
            if wanted["oid"] not in self.hub.storage:
                address = f"{self.hub.origin}/storage/{wanted['oid']}?{SIGNATURE}"
                wanted = {**wanted, "actions": {"upload": {"href": address}}}
            objects.append(wanted)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def store(self, body: bytes, query: dict[str, list[str]]) -> None:
        is_right = hashlib.sha256(body).hexdigest() == self.what and "X-Signature" in query
        if is_right:
            self.hub.storage[self.what] = body
        self.answer(200 if is_right else 400, {})

    def on_commit(self, body: bytes, account: str) -> None:
        if (repo := self.repo_of(account)) is None:
            return
        files = {}
        for line in filter(None, body.split(b"\n")):
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.storage[value["oid"]]
        repo.files |= files  # all of it at once
        repo.commits.append(hashlib.sha1(body + bytes(len(repo.commits))).hexdigest())
        address = f"{self.hub.endpoint}/{self.what}/commit/{repo.commits[-1]}"
        self.answer(200, {"commitOid": repo.commits[-1], "commitUrl": address})


def git_oid(content: bytes | None) -> str | None:
    if content is None:
        return None
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
