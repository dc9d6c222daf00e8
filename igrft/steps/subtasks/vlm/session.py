"""What the steps of one run share: the endpoint, the answers on disk, and the count of what was spent."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from igrft.errors import EpisodeError, IgrftError
from igrft.steps.base import Spending
from igrft.steps.subtasks.vlm.answers import Refused
from igrft.steps.subtasks.vlm.cache import Answer, AnswerCache, cache_folder, request_digest
from igrft.steps.subtasks.vlm.client import ChatClient, Traffic
from igrft.steps.subtasks.vlm.prompts import again
from igrft.steps.subtasks.vlm.server import Server
from igrft.steps.subtasks.vlm.settings import VlmSettings

Message = dict[str, Any]


@dataclass
class Spent:
    """What a run wanted to know: answers, those of them found in the cache, and those sent back with a reason."""

    asked: int = 0
    cached: int = 0
    sent_back: int = 0


class Session:
    """Asks one model. Nothing is started, and no key is read, before the first answer that is not in the cache."""

    def __init__(self, settings: VlmSettings) -> None:
        self.settings = settings
        self.spent = Spent()
        #: What went wrong without setting an episode aside.
        self.troubles: list[str] = []
        self._cache = AnswerCache(cache_folder(settings.cache) / "vlm")
        self._lock = threading.Lock()
        self._starting = threading.Lock()
        self._stopping = threading.Event()
        self._server: Server | None = None
        self._client: ChatClient | None = None

    def answer[T](self, messages: list[Message], schema: dict[str, Any] | None, read: Callable[[str], T]) -> T:
        """The model's answer, read; one that is refused goes back once with the reason.

        Args:
            read: makes something of the answer's text, or raises Refused.

        Raises:
            EpisodeError: the second answer is refused, too, or the server failed.
        """
        asked: list[tuple[str, Answer]] = []
        reason = ""
        for _ in range(2):
            digest, answer = self._ask(messages, schema)
            asked.append((digest, answer))
            try:
                if answer.finish == "length":
                    raise Refused(f"it was cut off after {self.settings.max_tokens} tokens (max_tokens)")
                return read(answer.text)
            except Refused as refused:
                reason = str(refused)
            said = {"role": "assistant", "content": answer.text}
            messages = [*messages, said, {"role": "user", "content": again(reason)}]
            with self._lock:
                self.spent.sent_back += len(asked) == 1
        for digest, answer in asked:
            self._cache.put(digest, answer, model=str(self.settings.model), refused=reason)
        raise EpisodeError(
            f"the model's answer was refused twice: {reason} (the next run takes the same answer from the cache; ask "
            "anew with --steps.subtasks.ask_again=true)"
        )

    def _ask(self, messages: list[Message], schema: dict[str, Any] | None) -> tuple[str, Answer]:
        s = self.settings
        schema = None if s.schema == "never" else schema
        # The schema is part of what is asked, also where the server turns out not to take it.
        digest = request_digest(
            {
                "model": s.model,
                "messages": messages,
                "schema": schema,
                "temperature": s.temperature,
                "max_tokens": s.max_tokens,
                "extra_body": s.extra_body,
            }
        )
        found = self._cache.get(digest, ask_again=s.ask_again)
        with self._lock:
            self.spent.asked += 1
            self.spent.cached += found is not None
        if found is None:
            found = self._connected().ask(messages, schema)
            self._cache.put(digest, found, model=str(s.model))
        return digest, found

    def _connected(self) -> ChatClient:
        with self._starting:
            if self._stopping.is_set():
                raise IgrftError("the run has ended")
            if self._client is None:
                key = self.settings.key()
                if self.settings.serve_command and self._server is None:
                    self._server = Server(self.settings, key, self._stopping)
                url = self._server.base_url if self._server else str(self.settings.base_url)
                self._client = ChatClient(self.settings, url, key)
            return self._client

    def close(self) -> Spending | None:
        """Cut connections, stop the server, and tell what was spent; None where nothing was asked."""
        # First, so that a server that is being started is no longer waited for.
        self._stopping.set()
        with self._starting:
            client, server = self._client, self._server
            self._client = self._server = None
        traffic = Traffic()
        try:
            if client is not None:
                traffic = client.traffic
                if client.dropped:
                    self.troubles.append(f"the server took no {' and no '.join(client.dropped)}: asked without")
                client.close()
        finally:
            if server is not None:
                server.stop()
        return self._spending(traffic) if self.spent.asked else None

    def _spending(self, traffic: Traffic) -> Spending:
        spent = self.spent
        line = (
            f"subtasks: {traffic.answers} calls of {self.settings.model} ({traffic.requests} requests, retries "
            f"counted; {traffic.failed} calls failed), {traffic.input_tokens} tokens in, {traffic.output_tokens} out; "
            f"{spent.cached} answers from the cache; {spent.sent_back} answers sent back"
        )
        numbers = {"model": self.settings.model, **dataclasses.asdict(spent), **dataclasses.asdict(traffic)}
        return Spending("; ".join([line, *self.troubles]), numbers)
