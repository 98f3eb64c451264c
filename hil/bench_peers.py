"""What `ntn-twin bench loop` plays with: a world of nothing, a controller that answers at once, and two echoes.

The echoes are what the loop is held against, each a process of its own:

    python -m hil.bench_peers echo OUT IN [SERVER_KEY]   bare ZeroMQ: the same bytes and sockets, nothing decoded
    python -m hil.bench_peers grpc                       a dm_env_rpc environment (extra `bench`); prints its port
    python -m hil.bench_peers grpc-client PORT BLOCKS N  its Python client; prints the time of a step in each block, us
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import zmq

from twin.types import Action, Agent, Arrays, Field, Observation, Outcome

N_VALUES = 300  # float64 that an agent observes: 2.4 kB


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """A scenario's tables for `Nothing`.

    n_agents  1: the round trip of one agent; 2: a leader and a follower, each in every slot
    """

    n_agents: int = 1


class Nothing:
    """A world in which nothing happens, so that what takes time is the loop."""

    def __init__(self, settings: Settings, *, slots: int, slot_s: float, folder: Any, agents: Any):
        self.slot_s = slot_s
        observes, acts = (Field("values", (N_VALUES,)),), (Field("number", (), "float64", -10.0, 10.0),)
        names = ("first", "second")[: settings.n_agents]
        self.agents = tuple(Agent(name, observes, acts, order=order) for order, name in enumerate(names))
        self.reset(1)

    def reset(self, seed: int) -> None:
        """Draw the numbers that are seen from then on."""
        self._values, self._number = np.random.default_rng(seed).normal(size=N_VALUES), np.zeros(())

    def default(self, agent: str) -> Arrays:
        """Zero."""
        return {"number": np.zeros(())}

    def propagation_delay_s(self, sender: str, receiver: str) -> float:
        """Nothing flies."""
        return 0.0

    def observe(self, agent: str) -> Arrays:
        """The same numbers always."""
        return {"values": self._values}

    def apply(self, agent: str, action: Arrays) -> None:
        """Remember it."""
        self._number = action["number"]

    def step(self) -> Outcome:
        """The last number put in force."""
        return Outcome(dict.fromkeys((a.name for a in self.agents), 0.0), {"number": self._number})


class Same:
    """Answers the same number always."""

    def __init__(self, agent: Agent, seed: int):
        self._action = Action({"number": np.array(1.0)})

    def act(self, seen: Observation) -> Action:
        """At once."""
        return self._action


def echo(out: str, into: str, server_key: str = "") -> None:
    """Answer every message with the bytes that the first one brought, until an empty one comes."""
    context = zmq.Context()
    sub, dealer = context.socket(zmq.SUB), context.socket(zmq.DEALER)
    for socket in (sub, dealer):
        socket.setsockopt(zmq.LINGER, 0)
        if server_key:
            socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
            socket.curve_serverkey = server_key.encode()
    sub.setsockopt(zmq.SUBSCRIBE, b"")
    sub.connect(out)
    dealer.connect(into)
    dealer.send(b"here")
    _, answer = sub.recv_multipart()
    dealer.send(answer)
    while sub.recv_multipart()[1]:
        dealer.send(answer)
    context.destroy(linger=0)


def grpc_server() -> None:
    """Serve an environment that observes the same 2.4 kB and takes one number, as dm_env_rpc has it; until killed."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc
    from dm_env_rpc.v1 import dm_env_rpc_pb2 as pb
    from dm_env_rpc.v1 import dm_env_rpc_pb2_grpc as pb_grpc
    from dm_env_rpc.v1 import spec_manager

    specs = pb.ActionObservationSpecs()
    specs.actions[1].name, specs.actions[1].dtype = "number", pb.DataType.DOUBLE
    specs.observations[1].name, specs.observations[1].dtype = "values", pb.DataType.DOUBLE
    specs.observations[1].shape.append(N_VALUES)
    values = np.random.default_rng(1).normal(size=N_VALUES)

    class Environment(pb_grpc.EnvironmentServicer):
        def Process(self, request_iterator: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802 - theirs
            actions, seen = spec_manager.SpecManager(specs.actions), spec_manager.SpecManager(specs.observations)
            for request in request_iterator:
                response, kind = pb.EnvironmentResponse(), request.WhichOneof("payload")
                if kind == "step":
                    actions.unpack(request.step.actions)
                    response.step.state = pb.EnvironmentStateType.RUNNING
                    for uid, tensor in seen.pack({"values": values}).items():
                        response.step.observations[uid].CopyFrom(tensor)
                else:
                    getattr(response, kind).SetInParent()
                    if kind in ("join_world", "reset"):
                        getattr(response, kind).specs.CopyFrom(specs)
                yield response

    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    pb_grpc.add_EnvironmentServicer_to_server(Environment(), server)
    port = server.add_secure_port("localhost:0", grpc.local_server_credentials())
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


def grpc_client(port: str, blocks: str, per_block: str) -> None:
    """Step that environment through dm_env_rpc's own connection and adaptor; print us per step of each block."""
    from dm_env_rpc.v1 import connection, dm_env_adaptor

    with connection.create_secure_channel_and_connect(f"localhost:{port}", timeout=20.0) as channel:
        environment, _ = dm_env_adaptor.create_and_join_world(channel, {}, {})
        environment.reset()
        action, took_us = {"number": np.float64(1.0)}, []
        for _ in range(int(blocks) + 1):
            begin_ns = time.monotonic_ns()
            for _ in range(int(per_block)):
                environment.step(action)
            took_us.append((time.monotonic_ns() - begin_ns) / 1e3 / int(per_block))
        environment.close()
    print(json.dumps(took_us[1:]), flush=True)  # the first warms up


PEERS: dict[str, Callable[..., None]] = {"echo": echo, "grpc": grpc_server, "grpc-client": grpc_client}

if __name__ == "__main__":
    PEERS[sys.argv[1]](*sys.argv[2:])
