// A whole controller in JavaScript, with ZeroMQ and MessagePack alone (docs/wire.md): the beam follows the satellite,
// and as few groups are used as the demand asks for. It decides what controller_in_20_lines.py decides, to the bit.
//
// once, beside this file npm install --no-package-lock        (Node 20 or later; package.json names the two packages)
// in one terminal        ntn-twin run quickstart --seat ue=external
// in another             node controller.js [ADDRESS [SEAT [SILENCE_S]]]
"use strict";
const { decode, encode } = require("@msgpack/msgpack");
const { Dealer, Subscriber } = require("zeromq");

const TYPES = { float64: Float64Array, float32: Float32Array, int64: BigInt64Array, int32: Int32Array };
const EXACT = { useBigInt64: true }; // nanoseconds are BigInt: a Number holds those of 104 days, and then rounds
const now = process.hrtime.bigint; // CLOCK_MONOTONIC, ns
const cpuUsage = process.threadCpuUsage ?? process.cpuUsage; // Node 20 knows only that of all its threads

class Thrifty {
  constructor(welcome) {
    const fact = (name) => Number(unpack(welcome.facts[name])[0]);
    this.groupHz = (fact("rb_bandwidth_hz") * fact("n_rb")) / fact("n_groups");
  }

  act(seen) {
    const groupBps = this.groupHz * Math.log2(1 + 10 ** (Math.max(...seen.snr_db) / 10));
    const enough = Math.max(1, Math.ceil(seen.demand_bps[0] / groupBps));
    let soFar = 0;
    const used = seen.reserved_rb.map((reserved) => reserved && ++soFar <= enough);
    return { rx_beam_deg: pack("float64", seen.predicted_beam_deg), used_rb: pack("bool", used) };
  }
}

// An array of a message, its axes in one row. Its bytes are copied, for a typed array wants them aligned; they are
// little-endian, and so this machine must be.
function unpack({ dtype, data }) {
  return new (TYPES[dtype] ?? Uint8Array)(new Uint8Array(data).buffer);
}

function pack(dtype, values) {
  return { dtype, shape: [values.length], data: new Uint8Array(values.buffer) };
}

// The message in a body; nothing in one that is none.
function read(body) {
  try {
    return decode(body, EXACT) ?? {};
  } catch {
    return {};
  }
}

// Nobody wants the answer to a question whose deadline has passed when a newer one waits.
function late({ t_mono_ns, timing }, received) {
  const deadline_us = timing?.deadline_us ?? Infinity; // null in lock-step
  return Number(received) - Number(t_mono_ns) > deadline_us * 1e3;
}

// Answer until the run is over; how many observations were answered.
async function answer(hear, tell, seat) {
  let policy, waiting = now(), answered = 0;
  for await (const frames of hear) { // a topic, and the body
    const received = now(), message = read(frames.at(-1)), { kind, run, slot } = message;
    if (kind === "stop" || (kind === "observation" && message.last === true)) break;
    if (kind === "welcome" && !policy) { // it comes again until we are ready
      if (message.protocol !== 1) throw new Error("the twin does not speak protocol 1");
      policy = new Thrifty(message);
      await tell({ kind: "ready", agent: seat, run });
    } else if (kind === "observation" && policy && !(hear.readable && late(message, received))) {
      const reply = { kind: "answer", agent: seat, run, slot, values: {}, stamps: {}, reason: "" };
      try {
        const seen = Object.fromEntries(Object.entries(message.values).map(([name, array]) => [name, unpack(array)]));
        const decoded = now(), before = cpuUsage();
        reply.values = policy.act(seen);
        const used = cpuUsage(before), acted = now();
        reply.stamps = { waiting, received, decoded, acted, cpu_ns: (used.user + used.system) * 1000, replied: now() };
      } catch (error) {
        reply.reason = String(error); // the twin notes it, and the cycle is a miss
      }
      await tell(reply);
      answered++;
    }
    waiting = now();
  }
  return answered;
}

// What the twin says to us alone: a refusal, or a probe, which is read and forgotten.
async function refusal(say) {
  for await (const frames of say) {
    const message = read(frames.at(-1));
    if (message.kind === "refused") throw new Error(`refused: ${message.reason}`);
  }
}

async function main(address = "tcp://127.0.0.1:5555", seat = "ue", silence_s = "60") {
  const [, host, port] = address.match(/^(tcp:\/\/.+):(\d+)$/) ?? [];
  if (!port) throw new Error(`${address} is no tcp://HOST:PORT`);
  const hear = new Subscriber({ linger: 0, receiveTimeout: silence_s * 1000 });
  const say = new Dealer({ linger: 0 });
  const tell = (message) => say.send(encode(message, EXACT));
  hear.subscribe(`${seat}.`); // with the dot: ue is not to hear ue2
  hear.connect(address);
  say.connect(`${host}:${Number(port) + 1}`); // the address is where we hear; what we say goes to the port after it
  await tell({ kind: "hello", protocol: 1, agent: seat, client: "controller.js" });
  const answered = await Promise.race([answer(hear, tell, seat), refusal(say)]);
  console.log(`${answered} observations answered`);
  hear.close();
  say.close();
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(`controller.js: ${error.code === "EAGAIN" ? "no word from the twin" : error.message}`);
  process.exit(1);
});
