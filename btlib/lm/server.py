"""An OpenAI-compatible server (vLLM, SGLang, TGI, `transformers serve`) as the LM of a program.

    load_lm("openai/<the server's name for the LM>")     # with --api-base URL, or the variable BTLIB_API_BASE

Prompts are optimized on any such server. Weights are tuned here, with PEFT, on the local checkpoint of the same name;
the adapter then goes to the server, which vLLM allows while it runs. Which server answered is in every run's record.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from dspy.utils import exceptions as errors

from btlib.errors import BtlibError
from btlib.lm.checkpoint import Checkpoint, adapter_hash, find
from btlib.lm.local import LocalLM, sampling
from btlib.lm.lora.train import TrainReport, train_lora
from btlib.lm.provider import LoraProvider
from btlib.search import public
from btlib.support.files import whole_folder, write_json
from btlib.support.paths import cache_dir, data_dir
from btlib.support.proxy import client, go_directly, only_http_proxy, through

if TYPE_CHECKING:
    from btlib.presets import Preset

PREFIX = "openai/"
VARIABLES = ("BTLIB_API_BASE", "OPENAI_BASE_URL", "OPENAI_API_BASE")  # where a server's URL is looked for, in order
LOAD = "/load_lora_adapter"
RETRIES = 5  # of a request that failed for a moment, with growing pauses
TOKENS = "max_completion_tokens"  # what DSPy calls the longest answer in its requests
NOBODY = "btlib-no-such-lm"  # a server that answers under this name does not look at names


def is_server(name: str) -> bool:
    """Tell whether a model's name asks for a server."""
    return name.startswith(PREFIX)


class Server:
    """A server's HTTP interface. `name` is what it calls the LM; the key is the variable OPENAI_API_KEY or "none"."""

    def __init__(self, name: str, url: str | None = None, timeout: float = 60.0):
        url = url or next((os.environ[v] for v in VARIABLES if os.environ.get(v)), "")
        if not url.startswith(("http://", "https://")):
            got = f", got {url!r}" if url else ""
            raise BtlibError(f"LM {name} is on a server, and its URL is needed: --api-base http://HOST:PORT/v1{got}")
        self.model_id = name
        self.name = name.removeprefix(PREFIX)
        self.url = url.rstrip("/") if httpx.URL(url).path.strip("/") else f"{url.rstrip('/')}/v1"
        self.key = os.environ.get("OPENAI_API_KEY") or "none"
        only_http_proxy(self.url)
        self._client = client(self.url, timeout=timeout, headers={"Authorization": f"Bearer {self.key}"})
        self._adapters: dict[str, Path] = {}

    def __deepcopy__(self, memo: dict) -> Server:
        """LMs are copied with programs; the connections are shared."""
        return self

    def _call(self, method: str, path: str, body: dict | None = None) -> httpx.Response:
        try:
            return self._client.request(method, self.url + path, json=body)
        except httpx.HTTPError as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise BtlibError(
                f"no server answers at {public(self.url)} ({reason}{through(self.url)}); start it, or give another "
                "--api-base"
            ) from error

    def models(self) -> list[str]:
        """Return the names that the server lists, adapters among them; none where it lists nothing."""
        answer = self._call("GET", "/models")
        try:
            return [str(entry["id"]) for entry in answer.json()["data"]] if answer.is_success else []
        except (ValueError, KeyError, TypeError):
            return []

    def _answers(self, name: str) -> httpx.Response:
        body = {"model": name, "messages": [{"role": "user", "content": "Hello"}]}
        return self._call("POST", "/chat/completions", body | {TOKENS: 1})

    def check(self) -> None:
        """Ask for one token; a server or LM that does not answer is a BtlibError that says what there is."""
        answer = self._answers(self.name)
        if not answer.is_success:
            names = ", ".join(self.models()[:8])
            raise BtlibError(
                f"the server at {public(self.url)} does not answer as {self.name!r} ({answer.status_code}: "
                f"{_line(answer)}{through(self.url)})"
                + (f"; it lists {names}" if names else "; check the name and OPENAI_API_KEY")
            )

    def knows(self, name: str) -> bool:
        """Tell whether the server has an adapter of that name: it lists it, or answers to it and not to any name."""
        return name in self.models() or (self._answers(name).is_success and not self._answers(NOBODY).is_success)

    def adapter_path(self, model_id: str) -> Path | None:
        """Return the folder of a model id's adapter; None for the base weights."""
        return self._adapters.get(model_id)

    def add_adapter(self, folder: Path) -> str:
        """Have the server load a PEFT LoRA folder, and return the model id that asks for it, named by its content.

        The server is given the path of a copy in cache_dir()/adapters, which it must see.
        """
        folder = Path(folder)
        name = f"{Path(self.name).name}-{adapter_hash(folder)}"
        place = _keep(folder, name)
        if not self.knows(name):
            self._load(name, place)
        model_id = PREFIX + name
        self._adapters[model_id] = folder
        return model_id

    def _load(self, name: str, place: Path) -> None:
        rank = json.loads((place / "adapter_config.json").read_text(encoding="utf-8")).get("r")
        if self._call("GET", LOAD).status_code in (404, 501):  # a route for POST answers 405
            raise BtlibError(
                f"the server at {public(self.url)} takes no adapter while it runs; this one is in {place}: restart "
                f"vLLM with --enable-lora --max-lora-rank {rank} and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True (or "
                f"--lora-modules {name}={place}), TGI with LORA_ADAPTERS={name}={place}, and run the same command again"
            )
        answer = self._call("POST", LOAD, {"lora_name": name, "lora_path": str(place)})
        if not answer.is_success and "already" not in answer.text:
            raise BtlibError(
                f"the server at {public(self.url)} refused the adapter in {place} ({answer.status_code}: "
                f"{_line(answer)}); it must see that folder (docker run -v {place.parent}:{place.parent}:ro) and allow "
                f"its rank (--max-lora-rank {rank}); then run the same command again"
            )

    def describe(self) -> dict[str, Any]:
        """Return what a run's record says of the server."""
        return {"url": public(self.url), "model": self.name, "lists": self.models()[:8]}


def _line(answer: httpx.Response) -> str:
    """Return a server's own words on an error, in one line."""
    try:
        found = answer.json()
        found = found.get("error", found) if isinstance(found, dict) else found
        found = found.get("message", found.get("detail", found)) if isinstance(found, dict) else found
    except ValueError:
        found = answer.text
    return " ".join(str(found).split())[:200] or "no message"


def _keep(folder: Path, name: str) -> Path:
    """Copy an adapter to where servers look for it; one of the same name has the same content."""
    place = cache_dir().expanduser().resolve() / "adapters" / name
    if not place.is_dir():
        with whole_folder(place) as work:
            shutil.copytree(folder, work, dirs_exist_ok=True)
    return place


class ServerProvider(LoraProvider):
    """Tune the local checkpoint of a server's LM, and hand the server the adapter.

    What was trained is noted by rows and settings: where a server must be restarted with the adapter, the same command
    finds it there and does not train again. `failed` is the error of a server that was gone, or "": no more is asked
    of it then, as the run is lost; load the LM again when the server is back.
    """

    def __init__(self, server: Server):
        super().__init__(server)
        self.failed = ""

    def base(self) -> Checkpoint:
        """Return the local checkpoint of the server's LM: a known name, or a folder (also one beside data/)."""
        beside = data_dir().parent / self.engine.name  # a notebook of the grid does not run where the command did
        return find(str(beside) if beside.is_dir() else self.engine.name)

    def train(self, rows: list[dict[str, Any]], out_dir: Path, start: Path | None, settings: dict) -> TrainReport:
        base = self.base()
        told = [rows, settings, str(base.folder), adapter_hash(start) if start else None]
        key = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]
        note = cache_dir() / "adapters" / f"trained-{key}.json"
        if note.is_file():
            stored = json.loads(note.read_text(encoding="utf-8"))
            place = note.with_name(stored.pop("adapter"))
            if place.is_dir():
                with whole_folder(out_dir) as work:
                    shutil.copytree(place, work, dirs_exist_ok=True)
                return TrainReport(**stored | {"path": out_dir, "losses": tuple(stored["losses"])})
        report = train_lora(base.folder, rows, out_dir, init_adapter=start, **settings)
        place = _keep(report.path, f"{Path(self.engine.name).name}-{adapter_hash(report.path)}")
        write_json(note, asdict(report) | {"adapter": place.name})
        return report


class ServerLM(LocalLM):
    """A `dspy.LM` on a server. Requests carry a seed, so that a server that honours it answers the same again."""

    def counters(self) -> None:
        """Return None: a server's work is counted by the usage that it reports."""
        return None

    def server(self) -> dict[str, Any]:
        """Return what a run's record says of the server."""
        return self.provider.engine.describe()

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        with self._noting_failures():
            return super().__call__(prompt, messages=messages, **kwargs)

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """The same for `await`."""
        with self._noting_failures():
            return await super().acall(prompt, messages=messages, **kwargs)

    def _rollouts(self, kwargs: Mapping[str, Any]) -> list[dict[str, Any]]:
        each = super()._rollouts(kwargs)
        return [call if {**self.kwargs, **call}.get("seed") is not None else {**call, "seed": 0} for call in each]

    @contextmanager
    def _noting_failures(self) -> Iterator[None]:
        """Ask nothing of a server that is gone, and keep the error of one that goes."""
        if self.provider.failed:
            raise BtlibError(self.provider.failed)
        try:
            yield
        except errors.LMError as error:
            bad_prompt = isinstance(error, errors.LMInvalidRequestError)  # too long, say: the next one may do
            if not bad_prompt or isinstance(error, errors.LMUnsupportedModelError):
                self.provider.failed = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise


def load_server_lm(
    name: str, preset: Preset | None = None, adapter: Path | None = None, api_base: str | None = None
) -> ServerLM:
    """Return the LM of a server; see `load_lm` for `preset` and `adapter`."""
    # DSPy would fetch a price list, and wait for it where there is no network; one's own server has no prices.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    server = Server(name, api_base or (preset.api_base if preset else None))
    go_directly(server.url)
    return ServerLM(
        name if adapter is None else server.add_adapter(adapter),
        engine="lm15",
        provider=ServerProvider(server),
        api_base=server.url,
        api_key=server.key,
        timeout=600,
        num_retries=RETRIES,
        **sampling(preset),
    )
