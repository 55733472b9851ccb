"""The client that waits: threads, interrupts, forks."""

from __future__ import annotations

import os
import signal
import struct
import threading
import time

import pytest
from client_support import GET_INFO, MIG_READ, REGION_INFO, Client, Scene, memfd, no_leak, until

from vfio_migration.runtime.client import PeerDisconnectedError, TimedOutError, calls

INFO = struct.pack("=IIII", 16, 3, 9, 5)


@pytest.fixture
def script():
    """Serve a script; nothing is left of it."""
    made = []

    def start(script, **options):
        scene = Scene(script)
        made.append(scene)
        client = Client(scene.sock, **{"timeout_s": 10.0, **options})
        made.append(client)
        return client

    with no_leak():
        yield start
        for one in reversed(made):
            one.close()


def interrupt() -> None:
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def echo(peer) -> None:
    """Answer each REGION_READ with its own offset."""
    peer.handshake({})
    while True:
        ident, command, _, payload = peer.read()
        offset, region, count = struct.unpack("=QII", payload)
        body = struct.pack("=QIIQ", offset, region, count, offset)
        peer.send(ident, command, body)


def test_threads_get_their_own_answers(script) -> None:
    client = script(echo)
    wrong: list[object] = []
    counts = [0] * 6
    end = time.monotonic() + 60

    def ask(number: int) -> None:
        while min(counts) < 100 and time.monotonic() < end:
            at = (number << 32) + counts[number]
            if client.region_read(0, at, 8) != struct.pack("=Q", at):
                wrong.append(at)
            counts[number] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    with client.answering_dma():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert min(counts) >= 100, f"some thread hardly had its turn: {counts}"


def test_threads_do_not_wait_for_one_another(script) -> None:
    """The second is answered although the first is not."""

    def answers_the_second(peer) -> None:
        peer.handshake({})
        first, _ = peer.expect(GET_INFO)
        second, _ = peer.expect(GET_INFO)
        peer.send(second, GET_INFO, INFO)
        peer.expect(GET_INFO)
        peer.send(first, GET_INFO, INFO)

    client = script(answers_the_second)
    first = client.begin(calls.info())
    waiting = threading.Thread(target=client.finish, args=(first,))
    waiting.start()
    assert client.info().num_irqs == 5
    assert not first.done
    client.begin(calls.info())
    waiting.join(60)
    assert first.done


def test_a_call_that_waits_within_a_call_is_reported(script) -> None:
    def one(peer) -> None:
        peer.handshake({})
        ident, _ = peer.expect(MIG_READ)
        peer.send(ident, MIG_READ, struct.pack("=II", 12, 4) + b"data")
        for _ in range(2):
            ident, _ = peer.expect(GET_INFO)
            peer.send(ident, GET_INFO, INFO)

    client = script(one)
    with pytest.raises(RuntimeError, match="what a client calls may not wait for it"):
        client.read_data(4, lambda _data: client.info())
    begun = []
    assert client.info().num_irqs == 5
    begun.append(client.begin(calls.info()))
    assert client.finish(begun[0]).num_irqs == 5


def test_close_ends_the_waiting_of_others(script) -> None:
    client = script(lambda peer: peer.handshake({}))
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            client.info()
        except PeerDisconnectedError as error:
            caught.append(error)

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    client.close()
    for thread in threads:
        thread.join()
    assert [str(error) for error in caught] == ["server: this side has hung up"] * 4
    assert len({id(error) for error in caught}) == 4


def test_closed_just_before_a_thread_waits(script) -> None:
    """What it then waits for must be its own, whatever has got the numbers of its descriptors."""
    client = script(lambda peer: peer.handshake({}))
    real, comes, goes = client._poll, threading.Event(), threading.Event()

    class Slow:
        register = real.register

        def poll(self, timeout):
            comes.set()
            goes.wait(60)
            return real.poll(timeout)

    client._poll = Slow()
    caught = []

    def call() -> None:
        with pytest.raises(PeerDisconnectedError) as error:
            client.do(calls.info())
        caught.append(error.value.why)

    thread = threading.Thread(target=call)
    thread.start()
    assert comes.wait(60)
    client.close()
    others = [os.eventfd(0) for _ in range(8)]
    goes.set()
    thread.join(60)
    late = thread.is_alive()
    for fd in others:
        os.close(fd)
    thread.join(60)
    assert (late, caught) == (False, ["this side has hung up"])


def test_each_waits_as_long_as_it_wants(script) -> None:
    client = script(lambda peer: peer.handshake({}))
    late: list[float] = []

    def wait(timeout_s: float) -> None:
        with pytest.raises(TimedOutError):
            client.do(calls.info(), timeout_s)
        late.append(time.monotonic() - begun)

    begun = time.monotonic()
    threads = [threading.Thread(target=wait, args=(one,)) for one in (120.0, 120.0, 0.2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(late) < 60  # the first that had enough ended it for all


def test_what_cannot_be_sent_at_once_is_sent_by_the_thread_that_waits(script) -> None:
    """A long message of one thread goes out while another one leads."""

    def slow(peer) -> None:
        peer.handshake({})
        first, _ = peer.expect(GET_INFO)
        time.sleep(0.3)
        for _ in range(8):
            ident, _ = peer.expect(18)
            peer.send(ident, 18)
        peer.send(first, GET_INFO, INFO)

    client = script(slow)
    leader = threading.Thread(target=client.info)
    leader.start()
    time.sleep(0.1)
    begun = [client.begin(calls.data_write(bytes(1 << 20))) for _ in range(8)]
    for one in begun:
        client.finish(one)
    leader.join(60)


def test_an_interrupt_while_waiting_costs_the_call_and_no_more(script) -> None:
    def late(peer) -> None:
        peer.handshake({"max_msg_fds": 8})
        ident, _ = peer.expect(REGION_INFO)
        time.sleep(0.2)
        interrupt()
        second, _ = peer.expect(GET_INFO)
        fd = memfd()
        peer.send(ident, REGION_INFO, struct.pack("=IIIIQQ", 32, 7, 0, 0, 4096, 0), fds=[fd])
        os.close(fd)
        peer.send(second, GET_INFO, INFO)

    client = script(late)
    with pytest.raises(KeyboardInterrupt):
        client.region_info(0)
    assert client.info().num_irqs == 5
    assert client.over is None


def test_an_interrupt_hands_the_lead_to_another(script) -> None:
    go = threading.Event()

    def late(peer) -> None:
        peer.handshake({})
        peer.expect(GET_INFO)
        other, _ = peer.expect(GET_INFO)
        go.wait(60)
        peer.send(other, GET_INFO, INFO)

    client = script(late)
    found: list[object] = []

    def follow() -> None:
        until(lambda: client._leader)
        found.append(client.info())

    follower = threading.Thread(target=follow)
    follower.start()
    timer = threading.Timer(0.3, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        client.info()
    timer.join()
    go.set()
    follower.join(60)
    assert len(found) == 1


def test_an_interrupt_in_the_middle_of_a_message_ends_the_connection(script) -> None:
    def one(peer) -> None:
        peer.handshake({})
        ident, _ = peer.expect(MIG_READ)
        peer.send(ident, MIG_READ, struct.pack("=II", 12, 4) + b"data")

    def interrupted(data) -> None:
        raise KeyboardInterrupt

    client = script(one)
    with pytest.raises(KeyboardInterrupt):
        client.read_data(4, interrupted)
    assert str(client.over) == "server: this side was interrupted in the middle of a message"
    with pytest.raises(PeerDisconnectedError):
        client.info()


def test_signals_at_any_time_leave_it_whole_or_over(script) -> None:
    """Interrupted at random, each answer is either right or the connection is over."""
    interrupts = over = 0
    for _ in range(3):
        client = script(echo)
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.0037)
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            end = time.monotonic() + 1
            at = 0
            while time.monotonic() < end:
                try:
                    at += 1
                    assert client.region_read(0, at, 8) == struct.pack("=Q", at)
                except KeyboardInterrupt:
                    interrupts += 1
                except PeerDisconnectedError:
                    break
        except KeyboardInterrupt:
            interrupts += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        over += client.over is not None
    assert interrupts >= 3


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_has_no_part_in_the_connection(script) -> None:
    client = script(echo)
    assert client.region_read(0, 7, 8) == struct.pack("=Q", 7)
    child = os.fork()
    if not child:
        status = 1
        try:
            client.region_read(0, 8, 8)
        except PeerDisconnectedError:
            client.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert client.region_read(0, 9, 8) == struct.pack("=Q", 9)


def test_answering_dma_ends_with_the_connection(script) -> None:
    client = script(lambda peer: (peer.handshake({}), peer.close()))
    with client.answering_dma():
        until(lambda: client.over is not None)
    assert isinstance(client.over, PeerDisconnectedError)
    client.close()
    client.close()
    with client.answering_dma():
        pass


def test_a_timeout_may_be_endless_and_none_at_all(script) -> None:
    client = script(echo, timeout_s=float("inf"))
    assert client.region_read(0, 1, 8)
    client = script(lambda peer: peer.handshake({}))
    with pytest.raises(TimedOutError):
        client.do(calls.info(), 0)
