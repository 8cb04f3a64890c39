"""A small W&B server on 127.0.0.1: it keeps what the real clients send, and fails on demand."""

import base64
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ENTITY = "tester"
KEY = "k" * 40


class Run:
    def __init__(self, name):
        self.name = name
        self.fields, self.config, self.summary = {}, {}, {}
        self.history, self.files = [], {}
        self.finished = False


class State:
    """What the server has. `fault` is how it misbehaves: None, hang, error (500), quota (media are refused), or swallow
    (it answers that all is well and keeps nothing)."""

    def __init__(self):
        self.runs, self.artifacts, self.views = {}, {}, {}
        self.uses, self.makes = [], []
        self.operations, self.unknown = [], []
        self.fault = None
        self.faults_left = None  # None: for good
        self.released = threading.Event()
        self.lock = threading.Lock()

    def misbehaves(self, *kinds):
        with self.lock:
            if self.fault not in kinds:
                return False
            if self.faults_left is not None:
                if self.faults_left <= 0:
                    return False
                self.faults_left -= 1
            return True

    def run(self, name):
        return self.runs.setdefault(name, Run(name))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "StubServer"

    def log_message(self, format, *args):
        pass

    @property
    def state(self):
        return self.server.state

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = b""
            while size := int(self.rfile.readline(), 16):
                parts += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return parts
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, content, status=200):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.reply({})

    def do_PUT(self):
        data = self.body()
        match self.path.strip("/").split("/", 2):
            case ["put", run, name]:
                if name.startswith("media/") and self.state.misbehaves("quota"):
                    return self.reply({"error": "storage quota exceeded"}, 403)
                self.state.run(run).files[name] = data
        self.reply({})

    def do_POST(self):
        data = self.body()
        if self.state.misbehaves("hang"):
            self.state.released.wait(120)
            return None
        if self.state.misbehaves("error"):
            return self.reply({"error": "internal server error"}, 500)
        if self.path == "/graphql":
            asked = json.loads(data)
            operation = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            name = operation[1] if operation else ""
            self.state.operations.append(name)
            answer = getattr(self, f"gql_{name}", None)
            if answer is None:
                self.state.unknown.append(asked)
                return self.reply({"data": {}})
            return self.reply({"data": answer(asked.get("variables") or {})})
        if self.path.endswith("/file_stream"):
            return self.file_stream(self.path.split("/")[-2], json.loads(data))
        return self.reply({})

    def file_stream(self, run, content):
        if not self.state.misbehaves("swallow"):
            kept = self.state.run(run)
            for name, part in content.get("files", {}).items():
                lines = [json.loads(line) for line in part["content"]]
                if name == "wandb-history.jsonl":
                    kept.history[part["offset"] :] = lines
                elif name == "wandb-summary.json":
                    kept.summary = lines[-1]
            kept.finished |= bool(content.get("complete"))
        self.reply({"exitcode": None, "limits": {}})

    def url(self, path):
        return f"{self.server.url}/{path}"

    def gql_Viewer(self, variables):
        return {
            "viewer": {
                "id": "u",
                "entity": ENTITY,
                "username": ENTITY,
                "name": ENTITY,
                "email": "",
                "flags": "{}",
                "admin": False,
                "deletedAt": None,
                "teams": {"edges": []},
                "apiKeys": {"edges": []},
            }
        }

    gql_GetDefaultEntity = gql_Viewer

    def gql_ServerFeaturesQuery(self, variables):
        return {"serverInfo": {"features": []}}

    def gql_RunResumeStatus(self, v):
        run = self.state.runs.get(v["name"])
        if run is None:
            return {"model": None}
        bucket = {
            "id": run.name,
            "name": run.name,
            "summaryMetrics": json.dumps(run.summary),
            "displayName": run.fields.get("displayName"),
            "logLineCount": 0,
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            "eventsTail": "[]",
            "config": json.dumps(run.config),
            "tags": run.fields.get("tags"),
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }
        return {"model": {"id": "p", "name": v["project"], "entity": {"id": "e", "name": ENTITY}, "bucket": bucket}}

    def gql_UpsertBucket(self, v):
        new = v["name"] not in self.state.runs
        run = self.state.run(v["name"])
        run.fields |= {key: value for key, value in v.items() if value is not None}
        if v.get("config"):
            run.config |= json.loads(v["config"])
        project = {"id": "p", "name": v["project"], "entity": {"id": "e", "name": ENTITY}}
        bucket = {
            "id": run.name,
            "name": run.name,
            "displayName": run.fields.get("displayName"),
            "description": "",
            "config": json.dumps(run.config),
            "sweepName": None,
            "project": project,
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def gql_CreateRunFiles(self, v):
        files = [{"name": name, "uploadUrl": self.url(f"put/{v['run']}/{name}")} for name in v["files"]]
        return {"createRunFiles": {"runID": v["run"], "uploadHeaders": [], "files": files}}

    def gql_Run(self, v):
        run = self.state.runs.get(v["name"])
        if run is None:
            return {"project": {"run": None}}
        return {
            "project": {
                "run": {
                    "projectId": "1",
                    "id": run.name,
                    "tags": run.fields.get("tags"),
                    "name": run.name,
                    "displayName": run.fields.get("displayName"),
                    "sweepName": None,
                    "state": "finished" if run.finished else "running",
                    "config": json.dumps(run.config),
                    "group": run.fields.get("groupName"),
                    "jobType": run.fields.get("jobType"),
                    "commit": None,
                    "readOnly": False,
                    "createdAt": "2026-01-01T00:00:00",
                    "heartbeatAt": "2026-01-01T00:00:00",
                    "description": "",
                    "notes": None,
                    "systemMetrics": "{}",
                    "summaryMetrics": json.dumps(run.summary),
                    "historyLineCount": len(run.history),
                    "user": {"name": ENTITY, "username": ENTITY},
                    "historyKeys": None,
                }
            }
        }

    def gql_RunFiles(self, v):
        run = self.state.runs[v["name"]]
        edges = [
            {
                "node": {
                    "id": name,
                    "name": name,
                    "url": "",
                    "directUrl": "",
                    "sizeBytes": len(data),
                    "mimetype": "",
                    "updatedAt": "2026-01-01T00:00:00",
                    "md5": hashlib.md5(data).hexdigest(),
                },
                "cursor": name,
            }
            for name, data in run.files.items()
        ]
        files = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"project": {"internalId": "1", "run": {"fileCount": len(edges), "files": files}}}

    gql_ProjectRunFiles = gql_RunFiles

    def gql_ArtifactType(self, v):
        return {"project": {"artifact": None}}

    def gql_CreateArtifact(self, v):
        asked = v["input"]
        name = (
            asked["artifactCollectionName"]
            if "artifactCollectionName" in asked
            else asked["artifactCollectionNames"][0]
        )
        self.state.artifacts[name] = asked
        artifact = {
            "id": name,
            "state": "PENDING",
            "artifactSequence": {"id": "s", "name": name, "latestArtifact": None},
        }
        return {"createArtifact": {"artifact": artifact}}

    def gql_ArtifactByID(self, v):
        asked = self.state.artifacts[v["id"]]
        project = {"id": "p", "internalId": "p", "name": "p", "entity": {"name": ENTITY}}
        artifact = {
            "__typename": "Artifact",
            "id": v["id"],
            "artifactSequence": {"__typename": "ArtifactSequence", "name": v["id"], "project": project},
            "versionIndex": 0,
            "artifactType": {"name": asked["artifactTypeName"]},
            "description": None,
            "metadata": asked.get("metadata"),
            "ttlDurationSeconds": -1,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": "COMMITTED",
            "size": 0,
            "digest": asked["digest"],
            "commitHash": "c",
            "fileCount": 1,
            "createdAt": "2026-01-01T00:00:00",
            "updatedAt": None,
            "aliases": [],
        }
        return {"artifact": artifact}

    def gql_CreateArtifactManifest(self, v):
        file = {"id": "f", "uploadUrl": self.url(f"put/artifacts/{v['artifactID']}"), "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": v["artifactID"], "file": file}}}

    def gql_UpdateArtifactManifest(self, v):
        file = {"id": "f", "uploadUrl": self.url(f"put/artifacts/{v['artifactManifestID']}"), "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": v["artifactManifestID"], "file": file}}}

    def gql_CreateArtifactFiles(self, v):
        nodes = [
            {
                "storagePath": file["name"],
                "uploadUrl": self.url(f"put/artifacts/{file['artifactID']}/{file['name']}"),
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            for file in v["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def gql_CommitArtifact(self, v):
        self.state.makes.append(v["artifactID"])
        return {"commitArtifact": {"artifact": {"id": v["artifactID"], "digest": "d"}}}

    def gql_UseArtifact(self, v):
        self.state.uses.append(v["input"]["artifactID"])
        return {"useArtifact": {"artifact": {"id": v["input"]["artifactID"]}}}

    def gql_GetProjects(self, v):
        node = {
            "__typename": "Project",
            "id": "p",
            "name": "causal-video-harness",
            "entityName": ENTITY,
            "createdAt": "2026-01-01T00:00:00",
            "isBenchmark": False,
            "user": None,
        }
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": [{"node": node}]}}

    def gql_upsertView(self, v):
        id = v.get("id") or base64.b64encode(f"View:{len(self.state.views)}".encode()).decode().rstrip("=")
        project = {"id": "p", "name": v["projectName"], "entityName": v["entityName"]}
        view = {
            "id": id,
            "type": v["type"],
            "name": v["name"],
            "displayName": v["displayName"],
            "description": v["description"],
            "project": project,
            "spec": v["spec"],
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": "2026-01-01T00:00:00Z",
        }
        if not self.state.misbehaves("swallow"):
            self.state.views[id] = view
        return {"upsertView": {"view": view, "inserted": not v.get("id")}}

    def gql_SpecificReport(self, v):
        return {"view": self.state.views.get(v["reportId"])}


class StubServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.state = State()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        pass  # a client that went away

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *args):
        self.state.released.set()
        self.shutdown()
        self.server_close()


def wait_for(condition, seconds=60.0):
    """Poll until a condition holds; returns whether it did."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())
