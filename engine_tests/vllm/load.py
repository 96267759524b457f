"""Bounded load from a client on loopback: streaming completions, some of whose clients go away."""

from __future__ import annotations

import asyncio
import random
from typing import NamedTuple

import aiohttp

SECONDS = 120.0
DISCONNECT_EVERY = 10
EVENTS_BEFORE_DISCONNECT = 5
PROMPTS, ANSWERS = (10, 60, 200), (1, 16, 64, 200)
SHORT_PROMPT, LONG_ANSWER = 10, 1900  # seconds: on a busy machine too, nobody who leaves has been served before


class Request(NamedTuple):
    """One completion: its prompt, the tokens wanted, whether the client goes away after a few, and its priority."""

    prompt: list[int]
    tokens: int
    leaves: bool
    priority: int = 0


def requests(count: int, seed: int = 1, *, leaving: bool = True) -> list[Request]:
    """The same ones for the same seed; every tenth leaves, always from a long answer."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        leaves = leaving and number % DISCONNECT_EVERY == DISCONNECT_EVERY - 1
        prompt = [chance.randrange(4, 260) for _ in range(SHORT_PROMPT if leaves else chance.choice(PROMPTS))]
        made.append(Request(prompt, LONG_ANSWER if leaves else chance.choice(ANSWERS), leaves))
    return made


async def _one(session: aiohttp.ClientSession, url: str, request: Request, delay: float) -> int:
    await asyncio.sleep(delay)
    body = {
        "model": "tiny", "prompt": request.prompt, "max_tokens": request.tokens, "ignore_eos": True,
        "stream": True, "temperature": 0,
    } | ({"priority": request.priority} if request.priority else {})  # fmt: skip
    events = 0
    async with session.post(url + "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            events += line.startswith(b"data: {")
            if request.leaves and events > EVENTS_BEFORE_DISCONNECT:
                break  # leaving the block closes the connection: that is what an impatient client does
    return events


async def _all(url: str, made: list[Request], apart: float) -> list[int]:
    # A connection a request: the server may close one that is kept alive while the next request goes out on it.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        jobs = (_one(session, url, request, number * apart) for number, request in enumerate(made))
        return list(await asyncio.gather(*jobs))


def serve_all(url: str, made: list[Request], apart: float = 0.03) -> list[int]:
    """Send them ``apart`` seconds from each other; gives each one's number of events."""
    return asyncio.run(_all(url, made, apart))
