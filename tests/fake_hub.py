"""A Hugging Face hub for tests: its cache folder on disk, and its answers over HTTP."""

import contextlib
import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_FILES = ("config.json", "generation_config.json", "model.safetensors")


def into_hub_cache(cache: Path, hub_id: str, folder: Path, *, only=None, kind="models") -> Path:
    """Lay a folder out as ``huggingface_hub`` does: blobs by hash, a snapshot of links, a ref."""
    repository = cache / f"{kind}--{hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    for place in (repository / "blobs", snapshot, repository / "refs"):
        place.mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for path in folder.rglob("*"):
        if path.is_dir() or (only and path.name not in only):
            continue
        blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copy(path, blob)
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return snapshot


@contextlib.contextmanager
def serve_hub(models: dict[str, Path], gated=frozenset()):
    """Serve folders as models; the address. Gated ones and unknown ones are refused as the hub refuses them."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, status, body=b"", **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.split("?")[0].strip("/")
            if path.startswith("api/models/"):
                hub_id = "/".join(path.split("/")[2:4])
                if hub_id in gated:
                    return self.answer(403, b"{}", X_Error_Code="GatedRepo", X_Error_Message="gated")
                if hub_id not in models:
                    return self.answer(404, b"{}", X_Error_Code="RepoNotFound", X_Error_Message="not found")
                files = [{"rfilename": f.name, "size": f.stat().st_size} for f in models[hub_id].iterdir()]
                info = {"id": hub_id, "modelId": hub_id, "sha": COMMIT, "siblings": files}
                if "/tree/" in path:
                    tree = [{"type": "file", "path": f["rfilename"], "size": f["size"], "oid": COMMIT} for f in files]
                    return self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
                return self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
            parts = path.split("/")
            file = models.get("/".join(parts[:2]), Path("/nonexistent")) / parts[-1]
            if "resolve" not in parts or not file.is_file():
                return self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
            content = file.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            return self.answer(200, content, ETag=etag, X_Repo_Commit=COMMIT, Accept_Ranges="bytes")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
