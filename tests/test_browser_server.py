"""The browser's server: what it answers, whom it refuses, and the model behind it on a tiny random model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra [browser] is not installed")

from starlette.testclient import TestClient

from sparse_sae.browser import build, open_browser
from sparse_sae.browser.live import Live
from sparse_sae.browser.server import application, serve
from sparse_sae.browser.vocabulary import texts_of
from sparse_sae.data.store import ActivationStore, StoreWriter
from sparse_sae.lm import explain, read_hooks, steer

HOST = "127.0.0.1:8123"
HEADERS = {"X-Browser-Token": "secret", "Origin": f"http://{HOST}"}
TEXT = "please refund my money the parcel is late"


@pytest.fixture
def file(tmp_path: Path, tiny_lm: Any, tiny_sae: Any) -> Iterator[Any]:
    import torch

    rng = np.random.default_rng(0)
    hook = tiny_sae.metadata["hook_name"]
    writer = StoreWriter(tmp_path / "store", 32, "float32", model="tiny", hook=hook)
    for text in range(20):
        ids = rng.integers(2, len(tiny_lm.tokenizer), 24)
        with torch.inference_mode():
            rows = read_hooks(tiny_lm, [hook], torch.tensor(ids[None]))[hook][0].numpy()
        writer.append(rows, ids, np.arange(24), np.full(24, text))
    writer.finish()
    opened = open_browser(
        build(tiny_sae, ActivationStore(tmp_path / "store"), tmp_path / "f.db", model=tiny_lm)
    )
    yield opened
    opened.close()


@pytest.fixture
def client(file: Any) -> TestClient:
    app = application(file, token="secret", hosts={HOST})
    return TestClient(app, base_url=f"http://{HOST}", headers=HEADERS)


@pytest.fixture
def live(file: Any, tiny_lm: Any, tiny_sae: Any) -> TestClient:
    app = application(file, token="secret", hosts={HOST}, live=Live(tiny_lm, tiny_sae, file))
    return TestClient(app, base_url=f"http://{HOST}", headers=HEADERS)


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"Host": "evil.example"}, 403, "Host"),
        ({"Host": "127.0.0.1:9999"}, 403, "Host"),
        ({"Origin": "http://evil.example"}, 403, "Origin"),
        ({"Origin": "null"}, 403, "Origin"),
        ({"Origin": f"https://{HOST}"}, 403, "Origin"),
        ({"X-Browser-Token": "wrong"}, 401, "token"),
        ({"X-Browser-Token": ""}, 401, "token"),
    ],
)
def test_strangers_are_refused(client: TestClient, change: dict[str, str], status: int, said: str) -> None:
    for answer in (
        client.get("/api/meta", headers=change),
        client.post("/api/label", json={"latent": 1, "text": "x"}, headers=change),
    ):
        assert answer.status_code == status and said in answer.json()["error"]
        assert "content-security-policy" in answer.headers
    assert client.get("/api/latent/1").json()["note"] is None


def test_a_post_says_where_it_comes_from(file: Any) -> None:
    client = TestClient(
        application(file, token="secret", hosts={HOST}),
        base_url=f"http://{HOST}",
        headers={"X-Browser-Token": "secret"},
    )
    assert client.post("/api/label", json={}).status_code == 403
    own = {"Origin": f"http://{HOST}"}
    form = client.post("/api/label", data={"latent": "1"}, headers=own)
    assert form.status_code == 415
    large = client.post("/api/label", json={"text": "x" * 70_000}, headers=own)
    assert large.status_code == 413
    assert client.request("DELETE", "/api/meta", headers=own).status_code == 405
    assert client.request("OPTIONS", "/api/meta", headers=own).status_code == 405


def test_the_page_and_its_policy(client: TestClient) -> None:
    page = client.get("/", headers={"X-Browser-Token": ""})
    assert page.status_code == 200 and "<script type=" in page.text
    policy = page.headers["content-security-policy"]
    for part in (
        "default-src 'none'",
        "script-src 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ):
        assert part in policy
    assert "unsafe" not in policy and "access-control-allow-origin" not in page.headers
    assert client.get("/page/app.js").headers["content-type"].startswith("text/javascript")
    for path in (
        "/page/..%2fserver.py",
        "/page/%2e%2e/server.py",
        "/page/__init__.py",
        "/page//etc/passwd",
        "/page/nothing.js",
    ):
        assert client.get(path).status_code == 404


def test_reading(client: TestClient, file: Any) -> None:
    meta = client.get("/api/meta").json()
    assert meta["d_sae"] == 64 and meta["abilities"] == {} and meta["rows"] == 460
    rows = client.get("/api/latents", params={"sort": "density", "max_density": "0.5"}).json()
    assert rows == file.latents(sort="density", filters={"max_density": 0.5})
    assert client.get("/api/latent/7").json() == json.loads(json.dumps(file.latent(7)))
    places = np.frombuffer(client.get("/api/map").content, np.uint16).reshape(-1, 3)
    assert (places == file.map()).all() and len(np.unique(places[:, 0])) > 32
    for path, said in (
        ("/api/latent/64", "expected 0 to 63"),
        ("/api/graph", "--graph"),
        ("/api/latents?sort=x", "sort: got 'x'"),
        ("/api/latents?max_density=x", "could not convert"),
        ("/api/latents?nothing=1", "filters: got 'nothing'"),
    ):
        answer = client.get(path)
        assert answer.status_code in (400, 404) and said in answer.json()["error"]


def test_logits_are_those_of_the_logit_lens(file: Any, tiny_lm: Any, tiny_sae: Any) -> None:
    from sparse_sae.lm import direct_logits

    effects = direct_logits(tiny_lm, tiny_sae, [9])[0]
    texts = texts_of(tiny_lm.tokenizer)
    order = np.argsort(-effects)[:10]
    assert file.latent(9)["logits"]["promoted"] == [
        [texts[t], pytest.approx(effects[t], abs=1e-3)] for t in order
    ]


def test_without_the_model_it_says_so(client: TestClient) -> None:
    for path in ("text", "explain", "steer"):
        answer = client.post(f"/api/{path}", json={"text": TEXT})
        assert answer.status_code == 404 and "start again with --model" in answer.json()["error"]


def test_labels_and_lists(client: TestClient) -> None:
    assert client.post("/api/label", json={"latent": 4, "text": "mine", "before": ""}).json() == {
        "text": "mine"
    }
    conflict = client.post("/api/label", json={"latent": 4, "text": "other", "before": ""})
    assert conflict.status_code == 409 and "'mine'" in conflict.json()["error"]
    assert client.get("/api/latents", params={"text": "mine"}).json()["rows"][0]["note"] == "mine"
    made = client.post("/api/list", json={"action": "create", "name": "good"}).json()
    assert client.post("/api/list", json={"action": "create", "name": "good"}).status_code == 409
    for latent in (4, 9):
        client.post("/api/list", json={"action": "add", "list": made["list"], "latent": latent})
    assert client.get("/api/meta").json()["lists"] == [
        {"id": made["list"], "name": "good", "latents": [4, 9]}
    ]
    assert client.get("/api/latents", params={"list": made["list"]}).json()["total"] == 2
    client.post("/api/list", json={"action": "remove", "list": made["list"], "latent": 4})
    client.post("/api/list", json={"action": "delete", "list": made["list"]})
    assert client.get("/api/meta").json()["lists"] == []
    for body in (
        {"latent": 99, "text": "x"},
        {"latent": True, "text": "x"},
        {"latent": 1, "text": 5},
        {"latent": 1, "text": "x" * 501},
        [1],
    ):
        assert client.post("/api/label", json=body).status_code == 400


def test_live_text_is_the_encoding_of_the_model(live: TestClient, tiny_lm: Any, tiny_sae: Any) -> None:
    import torch

    found = live.post("/api/text", json={"text": TEXT}).json()
    ids = [t["id"] for t in found["tokens"]]
    assert ids == tiny_lm.tokenizer(TEXT)["input_ids"]
    hook = tiny_sae.metadata["hook_name"]
    with torch.inference_mode():
        codes = tiny_sae.encode(read_hooks(tiny_lm, [hook], torch.tensor([ids]))[hook][0])
    assert not found["tokens"][0]["usable"] and found["tokens"][1]["usable"]
    for i, token in enumerate(found["tokens"]):
        row = codes[[i]]
        expected = dict(zip(row.indices.tolist(), row.data.tolist(), strict=True))
        assert dict(token["active"]) == pytest.approx(expected, abs=1e-3)
        assert {str(j) for j in expected} <= set(found["latents"])
    for text in ("", "  ", None, "late " * 600):
        assert live.post("/api/text", json={"text": text}).status_code == 400
    assert "chat template" in live.post("/api/text", json={"text": "a", "chat": True}).json()["error"]


def test_which_latent_did_it(live: TestClient, tiny_lm: Any, tiny_sae: Any) -> None:
    ids = tiny_lm.tokenizer(TEXT)["input_ids"]
    found = live.post("/api/explain", json={"ids": ids, "position": 5}).json()
    expected = explain(tiny_lm, tiny_sae, ids[:5], ids[5], top=12)
    assert [e["id"] for e in found["effects"]] == [e.latent for e in expected.effects[:12]]
    assert found["effects"][0]["ablation"] == pytest.approx(expected.effects[0].ablation)
    for body in (
        {"ids": ids, "position": 1},
        {"ids": ids, "position": 99},
        {"ids": "x", "position": 3},
        {"ids": [10**6] * 4, "position": 3},
    ):
        assert live.post("/api/explain", json=body).status_code == 400


def events(answer: Any) -> list[dict[str, Any]]:
    return [json.loads(part.removeprefix("data: ")) for part in answer.text.split("\n\n") if part]


@pytest.mark.parametrize(("mode", "strength"), [("add", 30.0), ("ablate", 1.0)])
def test_steering_is_that_of_steer_beside_unedited(
    live: TestClient, tiny_lm: Any, tiny_sae: Any, mode: Any, strength: float
) -> None:
    import torch

    body = {"text": TEXT, "latent": 5, "mode": mode, "strength": strength, "tokens": 6}
    answer = live.post("/api/steer", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    steps = events(answer)
    assert len(steps) == 6 and [s["done"] for s in steps] == [False] * 5 + [True]
    ids = torch.tensor([tiny_lm.tokenizer(TEXT)["input_ids"]])

    def generated() -> str:
        out = tiny_lm.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False
        )
        return str(tiny_lm.tokenizer.decode(out[0, ids.shape[1] :]))

    assert steps[-1]["texts"][0] == generated()
    with steer(tiny_lm, tiny_sae, {5: strength}, mode):
        assert steps[-1]["texts"][1] == generated()
    if mode == "add":
        assert len(set(steps[-1]["texts"])) == 3, "a random direction of that length changes this model too"
    for wrong in (
        {"mode": "x"},
        {"strength": "x"},
        {"strength": 1e9},
        {"tokens": 0},
        {"tokens": 1000},
        {"text": ""},
    ):
        found = live.post("/api/steer", json=body | wrong)
        assert "error" in (found.json() if found.status_code != 200 else events(found)[0])
    assert live.post("/api/steer", json=body | {"latent": 64}).status_code == 400


def test_a_reader_who_goes_away_frees_the_model(file: Any, tiny_lm: Any, tiny_sae: Any) -> None:
    """The generation ends at the next token, and the lock is free for the next request."""
    import anyio

    live = Live(tiny_lm, tiny_sae, file)
    app = application(file, token="secret", hosts={HOST}, live=live)
    body = json.dumps({"text": TEXT, "latent": 5, "mode": "add", "strength": 1.0, "tokens": 128}).encode()
    headers = {**HEADERS, "Host": HOST, "Content-Type": "application/json", "Content-Length": str(len(body))}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/api/steer",
        "raw_path": b"/api/steer",
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
        "client": None,
        "server": None,
    }
    seen = 0

    async def run() -> None:
        gone = anyio.Event()
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            nonlocal seen
            if message.get("body"):
                seen += 1
                if seen == 3:
                    gone.set()

        await app(dict(scope), receive, send)

    anyio.run(run)
    assert 3 <= seen < 20


def test_an_sae_of_another_file(file: Any, tiny_lm: Any, tiny_sae: Any) -> None:
    tiny_sae.params["b_enc"] = tiny_sae.params["b_enc"] + 1
    with pytest.raises(ValueError, match=r"not the one that .* was built from"):
        Live(tiny_lm, tiny_sae, file)


def test_serving_needs_both_model_and_sae_and_a_free_port(file: Any, tiny_lm: Any) -> None:
    import socket

    with pytest.raises(ValueError, match="without the SAE"):
        serve(file.path, model=tiny_lm, open_page=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="cannot be used"):
            serve(file.path, port=taken.getsockname()[1], open_page=False)


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """Nagle's algorithm is off on the connections that asyncio accepts, or each answer takes 40 ms more."""
    import asyncio
    import socket

    from sparse_sae.browser.listening import listen

    seen: list[int] = []

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            accepted = transport.get_extra_info("socket")
            seen.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    async def connect() -> None:
        with listen() as listener:
            server = await asyncio.get_running_loop().create_server(Protocol, sock=listener)
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            await reader.read()
            writer.close()
            server.close()

    asyncio.run(connect())
    assert seen == [1]


def test_a_port_that_does_not_exist() -> None:
    from sparse_sae.browser.listening import listen

    with pytest.raises(OSError, match=r"port: 65536 cannot be used .* 0 for a free one"):
        listen(65536)


def test_commands(tmp_path: Path, file: Any, tiny_sae: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from sparse_sae.cli import main

    tiny_sae.save(tmp_path / "run" / "sae")
    assert main(["browse", "build", str(tmp_path / "run/sae"), "--store", str(tmp_path / "store")]) == 0
    assert "64 latents on 460 tokens" in capsys.readouterr().out and (tmp_path / "run.db").is_file()
    out = tmp_path / "x.html"
    assert main(["browse", "export", str(file.path), "--latents", "3", "5", "--out", str(out)]) == 0
    assert out.stat().st_size > 1000
    for kind, name in (("neuronpedia", "features.json"), ("parquet", "features.parquet")):
        assert (
            main(["browse", "export", str(file.path), "--format", kind, "--out", str(tmp_path / kind)]) == 0
        )
        assert (tmp_path / kind / name).is_file() and "64 latents" in capsys.readouterr().out
    for arguments, said in (
        (["build", str(tmp_path / "f.db")], "expected that of a saved SAE"),
        (["build", str(tmp_path / "run/sae")], "--store"),
        (["build"], "expected one FILE or SAE"),
        (["export", str(file.path)], "--out"),
        ([str(tmp_path / "nothing.db")], "missing"),
    ):
        assert main(["browse", *arguments]) == 1
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["g.json", "g.npz"])
def test_graphs(tmp_path: Path, file: Any, name: str) -> None:
    from sparse_sae._io.files import FormatError
    from sparse_sae.browser.graphs import read_graph

    (tmp_path / name).write_text('{"nodes": []}')
    with pytest.raises(ValueError, match=r"field 'links'|not a complete \.npz"):
        read_graph(tmp_path / name)
    (tmp_path / "good.json").write_text('{"nodes": [], "links": []}')
    app = application(file, token="secret", hosts={HOST}, graph=read_graph(tmp_path / "good.json"))
    client = TestClient(app, base_url=f"http://{HOST}", headers=HEADERS)
    assert client.get("/api/graph").json() == {"nodes": [], "links": []}
    assert issubclass(FormatError, ValueError)


@pytest.fixture
def made_set(tmp_path: Path, tiny_lm: Any, tiny_sae: Any) -> Path:
    """A set of two SAEs, of layers 0 and 1, and activations of both."""
    import torch

    from sparse_sae.circuits import DictionarySet

    hooks = [f"blocks.{layer}.hook_resid_post" for layer in (0, 1)]
    writers = {h: StoreWriter(tmp_path / "stores" / h, 32, "float32", model="tiny", hook=h) for h in hooks}
    rng = np.random.default_rng(0)
    for text in range(12):
        ids = rng.integers(2, len(tiny_lm.tokenizer), 24)
        with torch.inference_mode():
            seen = read_hooks(tiny_lm, hooks, torch.tensor(ids[None]))
        for hook, writer in writers.items():
            writer.append(seen[hook][0].numpy(), ids, np.arange(24), np.full(24, text))
    for writer in writers.values():
        writer.finish()
    rows = {name: tiny_sae.rows[name] for name in ("W_enc", "W_dec")} | {
        name: tiny_sae.params[name] for name in ("b_enc", "b_dec")
    }
    saes = {
        hook: type(tiny_sae).from_rows(
            rows, tiny_sae.activation, metadata={"model_name": "tiny", "hook_name": hook}
        )
        for hook in hooks
    }
    DictionarySet(saes, model_name="tiny").save(tmp_path / "set")
    return tmp_path


def test_a_set_has_a_file_for_each_dictionary(
    made_set: Path, tiny_lm: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from sparse_sae.browser.sets import files_in, saes_of
    from sparse_sae.cli import main

    command = ["browse", "build", str(made_set / "set"), "--store", str(made_set / "stores")]
    assert main(command) == 0
    files = files_in(made_set / "set-browser")
    assert list(files) == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    assert "as it was" not in capsys.readouterr().out
    before = [path.stat().st_mtime_ns for path in files.values()]
    assert main(command) == 0
    assert capsys.readouterr().out.count("as it was") == 2
    assert [path.stat().st_mtime_ns for path in files.values()] == before

    opened = {name: open_browser(path) for name, path in files.items()}
    live = {name: Live(tiny_lm, sae, opened[name]) for name, sae in saes_of(made_set / "set", files).items()}
    app = application(opened, token="secret", hosts={HOST}, live=live)
    client = TestClient(app, base_url=f"http://{HOST}", headers=HEADERS)
    assert client.get("/", follow_redirects=False).headers["location"] == "/of/blocks.0.hook_resid_post/"
    for name, file in opened.items():
        assert 'src="page/app.js"' in client.get(f"/of/{name}/").text
        meta = client.get(f"/of/{name}/api/meta").json()
        assert meta["hook_name"] == name and meta["abilities"]["steer"]
        assert meta["files"] == [{"name": n, "current": n == name} for n in opened]
        assert client.get(f"/of/{name}/api/latent/3").json() == json.loads(json.dumps(file.latent(3)))
        body = {"text": TEXT, "chat": False}
        first = client.post(f"/of/{name}/api/text", json=body).json()["tokens"][2]["active"]
        assert first == client.post(f"/of/{name}/api/text", json=body).json()["tokens"][2]["active"] != []
    both = [client.post(f"/of/{n}/api/text", json=body).json()["tokens"] for n in opened]
    assert both[0] != both[1], "each with its own dictionary"
    client.post("/of/blocks.0.hook_resid_post/api/label", json={"latent": 3, "text": "mine", "before": ""})
    assert [file.latent(3)["note"] for file in opened.values()] == ["mine", None]
    for path in (
        "/of/blocks.0.hook_resid_post/api/meta",
        "/of/nothing/api/meta",
        "/of/../api/meta",
        "/api/meta",
    ):
        assert client.get(path, headers={"X-Browser-Token": "wrong"}).status_code == 401, path
    assert (
        client.get("/of/blocks.0.hook_resid_post/page/app.js", headers={"X-Browser-Token": ""}).status_code
        == 200
    )


def test_sets_that_lack_something(made_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    from sparse_sae.cli import main

    (made_set / "empty").mkdir()
    target = ["browse", "build", str(made_set / "set")]
    for arguments, said in (
        (target, "--store: needed"),
        ([*target, "--store", str(made_set / "stores"), "--hook", "x"], "--hook: not with a set"),
        ([*target, "--store", str(made_set / "empty")], "needs activations of 'blocks.0.hook_resid_post'"),
    ):
        assert main(arguments) == 1
        assert said in capsys.readouterr().err
    shutil.rmtree(made_set / "stores" / "blocks.1.hook_resid_post")
    assert main([*target, "--store", str(made_set / "stores")]) == 1
    assert "blocks.1.hook_resid_post" in capsys.readouterr().err
    assert not (made_set / "set-browser").exists(), "found before the first file was built"


def test_files_that_an_address_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    from sparse_sae.browser.sets import files_in

    for name in ("a b.db", "c.db"):
        (tmp_path / name).touch()
    assert list(files_in(tmp_path)) == ["a_b", "c"]
    (tmp_path / "a_b.db").touch()
    with pytest.raises(ValueError, match=r"a b\.db and a_b\.db would both be called a_b"):
        files_in(tmp_path)
