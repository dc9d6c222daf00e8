"""Asks the model: one call, its retries, its time-out, and what the server does not take.

HTTP, pauses between tries and ``Retry-After`` are the `openai` package's. Ours is what it lacks: an end to a call that
drips on for ever, giving up what a server refuses (a JSON schema, a temperature), and keeping the key out of messages
and answers.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from igrft.errors import EpisodeError, IgrftError
from igrft.steps.subtasks.vlm.cache import Answer
from igrft.steps.subtasks.vlm.settings import VlmSettings

#: Calls in a row that may fail for good before the run ends: then it is the server, not the episode.
_PATIENCE = 8
#: What ends the run at once: no other episode would fare better.
_HOPELESS = {401: "refuses the key", 403: "refuses the key", 404: "does not know the model or the address"}
#: How servers say that they do not take something, and what it is then sent as.
_REFUSES = (400, 415, 422, 501)
#: Characters from which on a key is looked for in answers. "test" and "EMPTY" are no secrets, but stand in words.
_LEAST_KEY = 8


@dataclass
class Traffic:
    """What went over the wire: HTTP requests (retries counted), answers, calls that failed for good, tokens."""

    requests: int = 0
    answers: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class ChatClient:
    """An OpenAI-compatible endpoint. Threads may share it."""

    def __init__(self, settings: VlmSettings, base_url: str, key: str | None) -> None:
        import httpx
        from openai import DefaultHttpxClient, OpenAI

        self._settings, self._key = settings, key
        self._host = base_url
        self._lock = threading.Lock()
        self._failed_in_a_row = 0
        #: What the server turned out not to take; found out once.
        self._without: set[str] = set()
        self.traffic = Traffic()
        timeout = httpx.Timeout(settings.timeout, connect=min(30.0, settings.timeout))
        http = DefaultHttpxClient(
            timeout=timeout,
            # Frames go to the host that was named, and to no other.
            follow_redirects=False,
            limits=httpx.Limits(max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency),
            event_hooks={"request": [self._count], "response": [self._limit]},
        )
        self._client = OpenAI(
            base_url=base_url,
            # Never None: the package would then take OPENAI_API_KEY and send it to whatever host this is.
            api_key=key or "none",
            timeout=timeout,
            max_retries=settings.retries,
            http_client=http,
        )
        self._client.organization = self._client.project = None

    @property
    def dropped(self) -> list[str]:
        """What the server did not take and answers were then asked without, in words."""
        return [words for name, words in _DROPPED.items() if name in self._without]

    def close(self) -> None:
        """Cut all connections."""
        self._client.close()

    def _count(self, request: Any) -> None:
        with self._lock:
            self.traffic.requests += 1

    def _limit(self, response: Any) -> None:
        """End a body that keeps coming, but never ends: httpx only limits the time between two pieces."""
        response.stream = _ends(response.stream, time.monotonic() + self._settings.timeout)

    def ask(self, messages: list[dict[str, Any]], schema: Mapping[str, Any] | None) -> Answer:
        """One answer.

        Raises:
            EpisodeError: the call failed, after its retries.
            IgrftError: no call can succeed (a refused key, an unknown model, a host that never answers).
        """
        last = ""
        for attempt in range(self._settings.retries + 1):
            without = set(self._without)
            try:
                answer: Answer | None = self._call(messages, None if "schema" in without else schema, without)
            except _Refusal as refusal:
                # Sent once more without what the server does not take; it is remembered if it then answers.
                answer, last = self._reduced(messages, schema, without, refusal)
            except _BadReply as error:
                last = str(error)
                if attempt < self._settings.retries:
                    time.sleep(min(0.5 * 2**attempt, 8.0))
                continue
            if answer is not None:
                with self._lock:
                    self._failed_in_a_row = 0
                    self.traffic.answers += 1
                    self.traffic.input_tokens += answer.input_tokens
                    self.traffic.output_tokens += answer.output_tokens
                return answer
            break
        self._give_up(last)
        raise EpisodeError(f"the model's server failed: {last}")

    def _reduced(
        self, messages: list[dict[str, Any]], schema: Mapping[str, Any] | None, without: set[str], refusal: _Refusal
    ) -> tuple[Answer | None, str]:
        tried, text = set(without), refusal.text
        may_drop = schema is not None and self._settings.schema == "auto"
        while True:
            suspect = _suspect(text, may_drop, tried)
            if suspect is None and may_drop and "schema" not in tried:
                # It names nothing. Once that may be chance; twice the schema, which not every server takes, is likely.
                suspect = "nothing" if "nothing" not in tried else "schema"
            if suspect is None:
                return None, text
            tried.add(suspect)
            try:
                answer = self._call(messages, None if "schema" in tried else schema, tried)
            except _Refusal as again:
                # The next thing that it does not take, or the same for another reason.
                text = again.text
                continue
            except _BadReply as error:
                return None, str(error)
            with self._lock:
                self._without |= tried - {"nothing"}
            return answer, ""

    def _call(self, messages: list[dict[str, Any]], schema: Mapping[str, Any] | None, without: set[str]) -> Answer:
        import openai

        s = self._settings
        arguments: dict[str, Any] = {"model": s.model, "messages": messages}
        # Newer models of OpenAI know the limit by its second name alone, and no temperature.
        arguments["max_completion_tokens" if "max_tokens" in without else "max_tokens"] = s.max_tokens
        if s.temperature is not None and "temperature" not in without:
            arguments["temperature"] = s.temperature
        if schema is not None:
            named = {"name": "answer", "schema": schema, "strict": True}
            arguments["response_format"] = {"type": "json_schema", "json_schema": named}
        try:
            reply = self._client.chat.completions.create(**arguments, extra_body=s.extra_body)
            choice = reply.choices[0]
            usage = reply.usage
            return Answer(
                self._without_key(_content(choice.message.content), _LEAST_KEY),
                self._without_key(str(choice.finish_reason or "stop"), _LEAST_KEY),
                int(usage.prompt_tokens or 0) if usage else 0,
                int(usage.completion_tokens or 0) if usage else 0,
            )
        except openai.APIStatusError as error:
            text = f"{error.status_code} {self.redacted(_message(error))}".strip()
            if error.status_code in _REFUSES:
                raise _Refusal(text, error.status_code) from None
            if error.status_code in _HOPELESS:
                raise IgrftError(f"{self._host} {_HOPELESS[error.status_code]}: {text}") from None
            self._give_up(text)
            raise EpisodeError(f"the model's server failed: {text}") from None
        except openai.APITimeoutError:
            self._give_up(what := f"no answer within {s.timeout:g} s")
            raise EpisodeError(f"the model's server failed: {what}") from None
        except openai.APIConnectionError as error:
            self._give_up(what := self.redacted(f"the connection broke ({error.__cause__ or error})"))
            raise EpisodeError(f"the model's server failed: {what}") from None
        except (openai.OpenAIError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
            # A page of a proxy, half a body, an object without choices: the package hands these on as they are.
            raise _BadReply(self.redacted(f"it answers what is no chat completion ({type(error).__name__})")) from None

    def _give_up(self, why: str) -> None:
        """Count a call that failed for good.

        Raises:
            IgrftError: so many in a row failed that the server is to blame.
        """
        with self._lock:
            self.traffic.failed += 1
            self._failed_in_a_row += 1
            if self._failed_in_a_row < _PATIENCE:
                return
        raise IgrftError(
            f"the last {_PATIENCE} calls to {self._host} all failed, the last: {why}; when it answers again, run the "
            "same command, it resumes"
        )

    def redacted(self, text: str) -> str:
        """A text without the key, in one line, cut."""
        return " ".join(self._without_key(text).split())[:300]

    def _without_key(self, text: str, least: int = 1) -> str:
        """A text without the key, as it is and as JSON may spell it: what a server answers is kept and published."""
        if self._key and len(self._key) >= least:
            quoted = json.dumps(self._key)[1:-1]
            for spelling in (self._key, quoted, quoted.replace("/", "\\/")):
                text = text.replace(spelling, "***")
        return text


class _Refusal(Exception):
    """The server does not take the request as it is."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.text, self.status = text, status


class _BadReply(Exception):
    """Status 200, and no chat completion."""


#: What may be left out, by what a server calls it in its refusal.
_SIGNS = {
    "max_tokens": ("max_completion_tokens",),
    "temperature": ("temperature",),
    "schema": ("response_format", "schema", "structured output", "guided"),
}
#: The same for people. The limit of tokens is only sent by its other name.
_DROPPED = {"schema": "JSON schema", "temperature": "temperature"}


def _suspect(text: str, schema: bool, without: set[str]) -> str | None:
    """What the server names in its refusal and has not been left out yet."""
    low = text.lower()
    for name, signs in _SIGNS.items():
        if name not in without and (schema or name != "schema") and any(sign in low for sign in signs):
            return name
    return None


def _content(content: Any) -> str:
    """The text of an answer; some servers give it in parts, thoughts apart.

    Raises:
        TypeError, KeyError: it is neither text nor parts.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise TypeError("the content is no text")
    found = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind in ("text", "output_text"):
            found.append(part["text"] if isinstance(part, Mapping) else part)
    return "".join(found)


def _message(error: Any) -> str:
    """The server's own words, whatever shape it gave them."""
    body = error.body
    for _ in range(2):
        if isinstance(body, Mapping):
            body = body.get("message") or body.get("error") or body.get("detail")
    return str(body) if body else str(error.message)


def _ends(stream: Any, until: float) -> Any:
    """A response's stream that ends with a time-out."""
    import httpx

    class Ending(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for piece in stream:
                if time.monotonic() > until:
                    raise httpx.ReadTimeout("the answer did not end in time")
                yield piece

        def close(self) -> None:
            stream.close()

    return Ending()
