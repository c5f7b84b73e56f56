/**
 * The connecting and the accepting side; `mod.ts` has the protocol.
 *
 * @module
 */

import type { Msg, Subscription } from "@nats-io/nats-core";
import {
  type Channel,
  ChannelClosedError,
  HandshakeError,
  type Listener,
  plainText,
  type Transport,
  type WaitOptions,
} from "@edgetuner/core/contracts";
import { Backlog } from "../_backlog.ts";
import { count } from "../_options.ts";
import { type Authorize, checkToken } from "../token.ts";
import { Broker } from "./_broker.ts";
import { type NatsAddress, natsAddress, type NatsLimits, natsLimits, type NatsOptions } from "./_options.ts";
import { type LinkTraits, type PacketLink, streamChannel, type StreamWire } from "../_stream_wire.ts";

/** Version of the protocol. */
const VERSION = 2;
/** Longest name of a peer that is taken over. */
const SESSION = /^[\w-]{43}$/;
/** Longest time to find out whether somebody serves a run already, in milliseconds. */
const PROBE_MS = 2000;

/** Options of {@linkcode natsTransport}. */
export interface NatsTransportOptions extends NatsOptions {
  /** Token shown to the edge server. Visible ASCII characters only. */
  readonly token?: string;
}

/** Options of {@linkcode natsListener}. */
export interface NatsListenerOptions extends NatsOptions {
  /** Decides who may connect, by a request with the token as its `Authorization`; everyone if absent. */
  readonly authorize?: Authorize;
  /** Largest number of channels that are open at the same time. @default {256} */
  readonly maxChannels?: number;
}

/** The question of a device, as JSON. */
interface Knock {
  readonly version: number;
  /** Name of the session, which the device chose; empty to ask only whether somebody is there. */
  readonly session: string;
  readonly token?: string | undefined;
  readonly idleTimeoutMs: number;
}

/** The answer, as JSON. */
interface Answer {
  /** Why not; absent if the session is open. */
  readonly refusal?: string;
  /** True if it will be the same the next time. */
  readonly forGood?: boolean;
  readonly idleTimeoutMs?: number;
}

/** Subjects of a run. */
function subjects(run: string, session = "") {
  const root = `edgetuner.${run}`;
  return {
    join: `${root}.join`,
    toDevice: `${root}.${session}.device`,
    toEdge: `${root}.${session}.edge`,
  };
}

/** Where a broker is, and whom to trust there. */
interface Place extends NatsAddress {
  readonly caCerts: readonly string[] | undefined;
}

/** Reads address and credentials; there must be a run. */
function place(options: NatsOptions): Place {
  const address = natsAddress(options.url);
  if (address.run === "") {
    throw new SyntaxError(
      `Cannot use the broker at ${address.broker} as the address must name a run: nats+ws://HOST:PORT/RUN`,
    );
  }
  const { credentials = address.credentials, caCerts } = options;
  return { ...address, credentials, caCerts };
}

/**
 * Makes the connecting side through a broker.
 *
 * @category Transports
 *
 * @example Usage
 * ```ts
 * import { natsTransport } from "@edgetuner/transport/nats";
 * import { assertEquals } from "@std/assert";
 *
 * const transport = natsTransport({ url: "nats+ws://127.0.0.1:9222/living-room", token: "secret" });
 * assertEquals(transport.name, "nats");
 * ```
 *
 * @param options Where the broker is, which run, credentials, token and limits.
 * @returns The transport; nothing is opened before `connect`.
 * @throws {RangeError} If an option is out of range.
 * @throws {SyntaxError} If `url` is no address of a broker and a run.
 * @throws {TypeError} If `token` has characters that it must not have.
 */
export function natsTransport(options: NatsTransportOptions): Transport {
  const address = place(options);
  const limits = natsLimits(options);
  const { token } = options;
  if (token !== undefined) checkToken(token);
  return {
    name: "nats",
    flags: { duplex: true, ordered: true, remote: true, maxFrameBytes: limits.maxFrameBytes },
    connect: async ({ signal }: WaitOptions = {}): Promise<Channel> => {
      signal?.throwIfAborted();
      const broker = await Broker.open({ ...address, ...limits, signal });
      try {
        return await join(broker, { address, limits, token, signal });
      } catch (error) {
        await broker.close();
        signal?.throwIfAborted();
        throw error;
      }
    },
  };
}

/** Asks for a session, and opens it. */
async function join(
  broker: Broker,
  { address: { run, broker: where }, limits, token, signal }: {
    readonly address: NatsAddress;
    readonly limits: NatsLimits;
    readonly token: string | undefined;
    readonly signal: AbortSignal | undefined;
  },
): Promise<Channel> {
  const { idleTimeoutMs, connectTimeoutMs } = limits;
  const session = crypto.getRandomValues(new Uint8Array(32)).toBase64({
    alphabet: "base64url",
    omitPadding: true,
  });
  const { join, toDevice, toEdge } = subjects(run, session);
  // Before the answer, as the first message may come right behind it.
  const early: Uint8Array[] = [];
  let receive = (bytes: Uint8Array): void => void early.push(bytes.slice());
  const subscription = broker.connection.subscribe(toDevice, {
    callback: (error, { data }) => {
      if (error === null) receive(data);
    },
  });
  const knock: Knock = { version: VERSION, session, token, idleTimeoutMs };
  const answer = await ask(broker, { join, where, run, knock, limitMs: connectTimeoutMs, signal });
  const [channel, wire]: [Channel, StreamWire] = streamChannel(
    packetLink(broker, {
      subject: toEdge,
      subscription,
      retryTimeoutMs: limits.retryTimeoutMs,
      // The way to the broker may be dead while the broker lives.
      renew: (reason) => {
        wire.pause(reason);
        broker.renew();
      },
    }),
    { peer: `${run} at ${where}`, limits, peerIdleMs: answer.idleTimeoutMs ?? idleTimeoutMs },
  );
  receive = (bytes) => wire.receive(bytes);
  early.forEach(receive);
  broker.onBack.add(() => wire.goOnAtOnce());
  void broker.connection.closed().then(() => wire.lose("The connection to the broker was lost"));
  wire.start();
  return channel;
}

/** Asks the edge server; its answer, if it is a yes. */
async function ask(
  broker: Broker,
  { join, where, run, knock, limitMs, signal }: {
    readonly join: string;
    readonly where: string;
    readonly run: string;
    readonly knock: Knock;
    readonly limitMs: number;
    readonly signal: AbortSignal | undefined;
  },
): Promise<Answer> {
  const aborted = Promise.withResolvers<never>();
  const abort = () => aborted.reject(signal?.reason);
  signal?.addEventListener("abort", abort, { once: true });
  let answer: Answer;
  try {
    const asking = broker.connection.request(join, JSON.stringify(knock), { timeout: limitMs });
    answer = (await Promise.race([asking, aborted.promise])).json<Answer>();
  } catch (cause) {
    signal?.throwIfAborted();
    const { message, name } = cause as Error;
    const why = message.includes("no responders")
      ? "nobody serves it there"
      : name === "TimeoutError"
      ? `no answer within ${limitMs} ms`
      : message;
    throw new ChannelClosedError(`Cannot join the run ${run} at ${where}: ${why}`, { cause });
  } finally {
    signal?.removeEventListener("abort", abort);
  }
  if (answer.refusal === undefined) return answer;
  throw new (answer.forGood === true ? HandshakeError : ChannelClosedError)(
    `Cannot join the run ${run} at ${where}: ${plainText(`${answer.refusal}`)}`,
  );
}

const TRAITS: Omit<LinkTraits, "retryTimeoutMs"> = {
  isOrdered: false,
  isPrivate: false,
  givesBytes: false,
  answersAll: false,
  ackDelayMs: 5,
};

/** What carries the messages of one session. */
function packetLink(
  broker: Broker,
  { subject, subscription, retryTimeoutMs, renew }: {
    readonly subject: string;
    readonly subscription: Subscription;
    readonly retryTimeoutMs: number;
    /** Of the side whose connection to the broker is the session's alone. */
    readonly renew?: (reason: string) => void;
  },
): PacketLink {
  return {
    hasRoom: true,
    traits: { ...TRAITS, retryTimeoutMs },
    ...(renew && { renew }),
    partBytes: () => broker.partBytes,
    get isUp() {
      return broker.isUp;
    },
    publish: (bytes) => broker.publish(subject, bytes),
    release: async () => {
      if (renew !== undefined) return await broker.close();
      subscription.unsubscribe();
      await broker.flush();
    },
  };
}

/**
 * Makes the accepting side: connects to the broker, and takes in who asks for the run.
 *
 * @category Transports
 *
 * @example Usage
 * ```ts ignore
 * import { requireToken } from "@edgetuner/transport";
 * import { natsListener, natsTransport } from "@edgetuner/transport/nats";
 *
 * const url = "nats+ws://127.0.0.1:9222/living-room";
 * await using listener = await natsListener({ url, authorize: requireToken("secret") });
 * await using device = await natsTransport({ url, token: "secret" }).connect();
 * await using edge = await listener.accept();
 * ```
 *
 * @param options Where the broker is, which run, credentials and limits.
 * @returns The listener.
 * @throws {ChannelClosedError} If the broker cannot be reached.
 * @throws {HandshakeError} If it refuses the credentials, or somebody else serves the run there.
 * @throws {RangeError} If an option is out of range.
 * @throws {SyntaxError} If `url` is no address of a broker and a run.
 */
export async function natsListener(options: NatsListenerOptions & WaitOptions): Promise<Listener> {
  const address = place(options);
  const limits = natsLimits(options);
  const listener = new NatsListener(address, limits, options);
  await listener.open(options.signal);
  return listener;
}

class NatsListener implements Listener {
  readonly #address: Place;
  readonly #limits: NatsLimits;
  readonly #authorize: Authorize | undefined;
  readonly #backlog: Backlog;
  /** Sessions that are open. */
  readonly #wires = new Map<string, { readonly wire: StreamWire; readonly channel: Channel }>();
  #broker: Broker | undefined;
  #closing: Promise<void> | undefined;

  constructor(address: Place, limits: NatsLimits, options: NatsListenerOptions) {
    this.#address = address;
    this.#limits = limits;
    this.#authorize = options.authorize;
    this.#backlog = new Backlog(count("maxChannels", options.maxChannels, 256));
  }

  async open(signal: AbortSignal | undefined): Promise<void> {
    const { run, broker: where } = this.#address;
    const broker = await Broker.open({ ...this.#address, ...this.#limits, signal });
    const { join } = subjects(run);
    const knock: Knock = { version: VERSION, session: "", idleTimeoutMs: this.#limits.idleTimeoutMs };
    const isTaken = await broker.connection.request(join, JSON.stringify(knock), { timeout: PROBE_MS })
      .then(() => true, () => false);
    if (isTaken) {
      await broker.close();
      throw new HandshakeError(`Cannot serve the run ${run} at ${where} as another edge server does`);
    }
    this.#broker = broker;
    broker.onBack.add(() => {
      for (const { wire } of this.#wires.values()) wire.goOnAtOnce();
    });
    broker.watch(Math.ceil(this.#limits.idleTimeoutMs / 2));
    void broker.connection.closed().then(() => {
      for (const { wire } of this.#wires.values()) wire.lose("The connection to the broker was lost");
    });
    broker.connection.subscribe(join, {
      callback: (error, message) => {
        if (error === null) void this.#answer(broker, message);
      },
    });
    await broker.connection.flush();
  }

  accept(options?: WaitOptions): Promise<Channel | null> {
    return this.#backlog.accept(options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#backlog[Symbol.asyncDispose]();
    // The channels go on without the listener, but not without the broker.
    const open = [...this.#wires.values()].map(({ channel }) => channel.closed);
    const broker = this.#broker;
    this.#broker = undefined;
    if (broker !== undefined) this.#closing = Promise.all(open).then(() => broker.close());
    // Those that were closed just now are told of in their turn.
    await new Promise((resolve) => setTimeout(resolve, 0));
    if (this.#wires.size === 0) await this.#closing;
  }

  async #answer(broker: Broker, message: Msg): Promise<void> {
    let answer: Answer;
    try {
      answer = await this.#open(broker, message);
    } catch {
      answer = { refusal: "the question is malformed", forGood: true };
    }
    message.respond(JSON.stringify(answer));
  }

  async #open(broker: Broker, message: Msg): Promise<Answer> {
    const { version, session, token, idleTimeoutMs } = message.json<Knock>();
    if (version !== VERSION) {
      return { refusal: `the version must be ${VERSION}: current value is ${version}`, forGood: true };
    }
    const own = { idleTimeoutMs: this.#limits.idleTimeoutMs };
    if (session === "") return own;
    if (!SESSION.test(session) || !(idleTimeoutMs > 0) || this.#wires.has(session)) {
      throw new TypeError("malformed");
    }
    const headers: Record<string, string> = token === undefined ? {} : { authorization: `Bearer ${token}` };
    if (this.#authorize && !await this.#authorize(new Request("http://edgetuner.invalid/", { headers }))) {
      return {
        refusal: token === undefined ? "a token is required" : "the token was refused",
        forGood: true,
      };
    }
    const refusal = this.#broker === undefined ? "the listener is closed" : this.#backlog.refusal;
    if (refusal) return { refusal };
    const { toDevice, toEdge } = subjects(this.#address.run, session);
    let receive = (_: Uint8Array): void => {};
    const subscription = broker.connection.subscribe(toEdge, {
      callback: (error, { data }) => {
        if (error === null) receive(data);
      },
    });
    const [channel, wire] = streamChannel(
      packetLink(broker, {
        subject: toDevice,
        subscription,
        retryTimeoutMs: this.#limits.retryTimeoutMs,
      }),
      { peer: `nats ${session.slice(0, 6)}`, limits: this.#limits, peerIdleMs: idleTimeoutMs },
    );
    receive = (bytes) => wire.receive(bytes);
    this.#wires.set(session, { wire, channel });
    void channel.closed.then(() => this.#wires.delete(session));
    wire.start();
    this.#backlog.offer(channel);
    return own;
  }
}
