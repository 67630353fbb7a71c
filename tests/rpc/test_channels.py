"""What services promise over every transport: messages, errors, metadata, deadlines, cancellation, streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.rpc.echo_service import DESCRIPTOR, Text
from tests.rpc.transports import Echo
from wherry.errors import KINDS, Cancelled, DeadlineExceeded, Error, FailedPrecondition, NotFound, Unavailable, Unknown
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for


async def texts(*words: str) -> AsyncIterator[Any]:
    for word in words:
        yield Text(text=word)


async def test_a_unary_call(echo: Echo) -> None:
    assert (await echo.stub.say(Text(text="a", number=7))).number == 7


async def test_an_empty_message(echo: Echo) -> None:
    assert await echo.stub.say(Text()) == Text()


async def test_many_calls_at_once(echo: Echo) -> None:
    answers = await asyncio.gather(*(echo.stub.say(Text(number=n)) for n in range(200)))
    assert [answer.number for answer in answers] == list(range(200))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_an_error_arrives_with_kind_and_text(echo: Echo, kind: type[Error]) -> None:
    with pytest.raises(kind) as caught:
        await echo.stub.fail(Text(text=kind.__name__))
    assert type(caught.value) is kind
    assert caught.value.message == kind('thing "x"').message


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("OSError", "no such file or directory: /x"),
        ("bug", "division by zero"),
        ("timeout", "not the call's"),
    ],
)
async def test_an_error_of_no_kind_is_unknown_with_its_words(echo: Echo, what: str, text: str) -> None:
    with pytest.raises(Unknown) as caught:
        await echo.stub.fail(Text(text=what))
    assert caught.value.message == text


async def test_a_long_error_text_arrives(echo: Echo) -> None:
    with pytest.raises(NotFound) as caught:
        await echo.stub.fail(Text(text="NotFound", number=3000))
    assert caught.value.message.endswith("!: not found")


async def test_namespace_and_lease_travel_as_metadata(echo: Echo) -> None:
    answer = await echo.stub.context(Text(), metadata=metadata_for("name-space", "/a lease"))
    assert answer.text == "name-space|/a lease"


async def test_the_first_of_a_repeated_key_counts(echo: Echo) -> None:
    metadata = [*metadata_for("first"), *metadata_for("second")]
    assert (await echo.stub.context(Text(), metadata=metadata)).text == "first|"


async def test_no_namespace(echo: Echo) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        await echo.stub.context(Text())
    assert caught.value.message == "namespace is required: failed precondition"


async def test_the_timeout_reaches_the_service(echo: Echo) -> None:
    # gRPC writes long times with few digits.
    assert (await echo.stub.context(Text(text="timeout"), timeout=1000)).number == pytest.approx(1000, rel=0.02)
    assert (await echo.stub.context(Text(text="timeout"))).number == 0


async def test_a_deadline_ends_the_call_on_both_sides(echo: Echo) -> None:
    with pytest.raises(DeadlineExceeded):
        await echo.stub.block(Text(), timeout=0.1)
    await echo.service.until(blocked=1, cancelled=1)


async def test_a_cancelled_call_is_cancelled_in_the_service(echo: Echo) -> None:
    call = asyncio.ensure_future(echo.stub.block(Text()))
    await echo.service.until(blocked=1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await echo.service.until(cancelled=1)
    assert (await echo.stub.say(Text(number=1))).number == 1


async def test_an_rpc_that_is_not_served(echo: Echo) -> None:
    with pytest.raises(Error) as caught:
        await echo.stub.absent(Text())
    assert caught.value.code == 12 and "method Absent" in caught.value.message
    with pytest.raises(Error) as caught:
        await Stub(echo.channel, DESCRIPTOR.services_by_name["Other"]).say(Text())
    assert caught.value.code == 12 and "service wherry.test.Other" in caught.value.message


async def test_a_stream_of_responses(echo: Echo) -> None:
    assert [response.number async for response in echo.stub.count(Text(number=5))] == list(range(5))
    assert [response async for response in echo.stub.count(Text(number=0))] == []


async def test_a_stream_that_fails_after_some_responses(echo: Echo) -> None:
    seen = []
    with pytest.raises(NotFound) as caught:
        async for response in echo.stub.count(Text(number=2, text="third")):
            seen.append(response.number)
    assert seen == [0, 1] and caught.value.message == "third: not found"


async def test_a_big_stream(echo: Echo) -> None:
    """More than any buffer on the way holds, with a reader that is slower than the writer."""
    data = bytes(range(256)) * 4096
    total = 0
    async for response in echo.stub.count(Text(number=40, data=data)):
        total += response.data == data
        await asyncio.sleep(0.001)
    assert total == 40


async def test_a_slow_stream_does_not_hold_up_other_calls(echo: Echo) -> None:
    """Whoever reads a stream may make calls on the same channel before reading on."""
    data = bytes(1 << 20)
    async for response in echo.stub.count(Text(number=40, data=data)):
        if response.number == 0:
            await asyncio.sleep(0.2)
        answer = await echo.stub.say(Text(number=response.number))
        assert answer.number == response.number


async def test_a_stream_of_requests(echo: Echo) -> None:
    (answer,) = [response async for response in echo.stub.collect(texts("a", "b", "", "c"))]
    assert answer.text == "a,b,,c" and answer.number == 4
    (answer,) = [response async for response in echo.stub.collect(texts())]
    assert answer.number == 0


async def test_a_single_message_where_a_stream_is_asked_for(echo: Echo) -> None:
    (answer,) = [response async for response in echo.stub.collect(Text(text="only"))]
    assert answer.text == "only"
    (answer,) = [response async for response in echo.stub.collect(Text())]
    assert answer.number == 1


async def test_a_conversation(echo: Echo) -> None:
    said: asyncio.Queue[Any] = asyncio.Queue()

    async def requests() -> AsyncIterator[Any]:
        while (request := await said.get()) is not None:
            yield request

    answers = echo.stub.chat(requests())
    for word in ["one", "", "two"]:
        said.put_nowait(Text(text=word))
        assert (await anext(answers)).text == word
    said.put_nowait(None)
    assert [answer.text async for answer in answers] == ["end"]


async def test_the_service_may_end_a_conversation(echo: Echo) -> None:
    async def requests() -> AsyncIterator[Any]:
        yield Text(text="one")
        yield Text(text="stop")
        await asyncio.Event().wait()

    assert [answer.text async for answer in echo.stub.chat(requests())] == ["one"]
    assert (await echo.stub.say(Text(number=1))).number == 1


async def test_a_conversation_that_fails(echo: Echo) -> None:
    with pytest.raises(FailedPrecondition, match="chat is over"):
        async for _answer in echo.stub.chat(texts("one", "fail", "more")):
            pass
    assert (await echo.stub.say(Text(number=1))).number == 1


async def test_requests_that_fail_fail_the_call(echo: Echo) -> None:
    async def requests() -> AsyncIterator[Any]:
        yield Text(text="one")
        raise ValueError("no more requests")

    with pytest.raises(ValueError, match="no more requests"):
        async for _answer in echo.stub.chat(requests()):
            pass
    assert (await echo.stub.say(Text(number=1))).number == 1


async def test_a_big_stream_of_requests(echo: Echo) -> None:
    data = bytes(1 << 20)

    async def requests() -> AsyncIterator[Any]:
        for number in range(30):
            yield Text(number=number, data=data)

    answers = [answer.number async for answer in echo.stub.chat(requests())]
    assert answers == [*range(30), 0]


@pytest.mark.parametrize("text", ["", "flood"])
async def test_a_stream_closed_by_the_caller_ends_in_the_service(echo: Echo, text: str) -> None:
    responses = echo.stub.endless(Text(text=text))
    await anext(responses)
    await responses.aclose()
    await echo.service.until(ended=1)
    assert (await echo.stub.say(Text(number=1))).number == 1


async def test_a_streams_deadline(echo: Echo) -> None:
    with pytest.raises(DeadlineExceeded):
        async for _response in echo.stub.endless(Text(), timeout=0.1):
            pass
    await echo.service.until(ended=1)


async def test_calls_under_way_end_with_the_connection(wire: Echo) -> None:
    waiting = asyncio.ensure_future(wire.stub.block(Text()))
    stream = wire.stub.endless(Text())
    await anext(stream)
    await wire.service.until(blocked=2)
    await wire.channel.close()
    with pytest.raises((Unavailable, Cancelled)):
        await waiting
    with pytest.raises((Unavailable, Cancelled)):
        await anext(stream)
    await wire.service.until(cancelled=1, ended=1)
    with pytest.raises(Unavailable):
        await wire.stub.say(Text())


@pytest.mark.parametrize("text", ["", "flood"])
async def test_a_server_that_stops_ends_calls_as_unavailable(wire: Echo, text: str) -> None:
    """dockerd takes CANCELLED for a stop of its own and never subscribes again."""
    waiting = asyncio.ensure_future(wire.stub.block(Text()))
    stream = wire.stub.endless(Text(text=text))
    await anext(stream)
    await wire.service.until(blocked=2)
    stopping = asyncio.ensure_future(wire.stop())
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        async for _response in stream:
            pass
    await stopping
    await wire.service.until(cancelled=1, ended=1)
    with pytest.raises(Unavailable):
        await wire.stub.say(Text())


async def test_a_big_message(wire: Echo) -> None:
    data = bytes(3 << 20)
    assert (await wire.stub.say(Text(data=data))).data == data
