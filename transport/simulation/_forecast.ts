/**
 * When the messages of a described step come and go, before anything runs: the description's order, one timeline for
 * each party and each way of a link, expected values where a link draws.
 *
 * @module
 */

import type {
  Exchange,
  PartDescription,
  PassDescription,
  StepMessage,
  StepParty,
  StepWork,
} from "@edgetuner/core";
import {
  DEFAULT_MTU_BYTES,
  expectedResends,
  type LinkProfile,
  occupiedMs,
  resendMs,
} from "./link_profile.ts";

/** What a forecast depends on beside the steps. */
export interface ForecastOptions {
  /** The link of each device with heads, in order of their heads; the first is the data device's, too. */
  readonly links: readonly LinkProfile[];
  /** Milliseconds that a party takes. */
  readonly ms: (party: StepParty, work: StepWork) => number;
  /** Bytes of a whole frame. */
  readonly bytes: (message: StepMessage) => number;
  /** False if the edge server computes nothing while it waits for answers. */
  readonly overlap: boolean;
}

/**
 * Forecasts steps that follow each other.
 *
 * @returns When the edge server has done each of them, in milliseconds from the start.
 */
export function forecast(
  steps: readonly (readonly PartDescription[])[],
  options: ForecastOptions,
): number[] {
  return new Forecast(steps, options).run();
}

/** Place of a party's device: the data device is the first one. */
function deviceOf(party: StepParty): number {
  return typeof party === "number" ? party : 0;
}

/** Half of the expected largest of `peers` sums of two even draws from [0, 1]: one way's part of a round trip. */
function halfOfWorst(peers: number): number {
  const pieces = 64;
  let sum = 0;
  for (let i = 0; i < pieces; i++) {
    const x = 2 * (i + 0.5) / pieces;
    const below = x < 1 ? x * x / 2 : 1 - (2 - x) ** 2 / 2;
    sum += 1 - below ** peers;
  }
  return sum / pieces;
}

/** What happens at a time. */
interface Event {
  readonly at: number;
  readonly happen: () => void;
}

/** Events in order of their times; those of one time in the order in which they were added. */
class EventQueue {
  readonly #events: Event[] = [];
  /** The time of the event that happens. */
  now = 0;

  add(at: number, happen: () => void): void {
    let place = this.#events.length;
    while (place > 0 && this.#events[place - 1]!.at > at) place--;
    this.#events.splice(place, 0, { at, happen });
  }

  run(): void {
    for (let event = this.#events.shift(); event !== undefined; event = this.#events.shift()) {
      this.now = event.at;
      event.happen();
    }
  }
}

/** The links: one frame after the other on each way, or on all ways of a shared medium. */
class Links {
  readonly #links: readonly LinkProfile[];
  readonly #events: EventQueue;
  readonly #free = new Map<string, number>();
  readonly #worst = new Map<number, number>();

  constructor(links: readonly LinkProfile[], events: EventQueue) {
    this.#links = links;
    this.#events = events;
  }

  /**
   * Sends a frame at a time.
   *
   * @param device Device at the far end.
   * @param frame Way, bytes, and the number of parties in the same exchange, of which the slowest counts: with many of
   * them jitter and losses come closer to their worst.
   * @param at When it is ready to leave.
   * @param arrived Called when it has arrived.
   */
  send(
    device: number,
    frame: { readonly way: "up" | "down"; readonly bytes: number; readonly peers: number },
    at: number,
    arrived: () => void,
  ): void {
    const { way, bytes, peers } = frame;
    const link = this.#links[device]!;
    const direction = link[way];
    const { jitterMs = 0, loss = 0 } = direction;
    const medium = link.shared ? `shared ${link.name}` : `${device} ${way}`;
    this.#events.add(at, () => {
      const from = Math.max(this.#free.get(medium) ?? 0, at);
      const leaves = from + occupiedMs(direction, bytes) / (1 - loss);
      this.#free.set(medium, leaves);
      const parts = Math.ceil(bytes / (link.mtuBytes ?? DEFAULT_MTU_BYTES));
      const late = jitterMs * this.#halfOfWorst(peers) +
        expectedResends(parts * peers, loss) * resendMs(link);
      this.#events.add(leaves + direction.latencyMs + late, arrived);
    });
  }

  #halfOfWorst(peers: number): number {
    let half = this.#worst.get(peers);
    if (half === undefined) this.#worst.set(peers, half = halfOfWorst(peers));
    return half;
  }
}

/** One run of the events. */
class Forecast {
  readonly #options: ForecastOptions;
  readonly #events = new EventQueue();
  readonly #links: Links;
  /** All parts of all steps. */
  readonly #parts: readonly PartDescription[];
  /** Numbers of the parts that end a step. */
  readonly #ends: ReadonlySet<number>;
  readonly #free = new Map<StepParty, number>();
  /** Parts whose E has come. */
  readonly #embedded = new Set<number>();
  /** The part that the edge server is ready for. */
  #ready = 0;
  readonly #times: number[] = [];

  constructor(steps: readonly (readonly PartDescription[])[], options: ForecastOptions) {
    this.#options = options;
    this.#links = new Links(options.links, this.#events);
    this.#parts = steps.flat();
    let at = -1;
    this.#ends = new Set(steps.map((parts) => at += parts.length));
  }

  run(): number[] {
    this.#embed(0);
    this.#events.run();
    return this.#times;
  }

  /** A party works as soon as it can; returns when it is done. */
  #work(party: StepParty, work: readonly StepWork[]): number {
    const timeline = party === "edge" ? party : deviceOf(party);
    let at = Math.max(this.#free.get(timeline) ?? 0, this.#events.now);
    for (const one of work) at += this.#options.ms(party, one);
    this.#free.set(timeline, at);
    return at;
  }

  /** Sends a message after its sender's work for it. */
  #send(message: StepMessage, at: number, peers: number, arrived: () => void): void {
    const { from, to } = message;
    const device = deviceOf(from === "edge" ? to : from);
    const way = from === "edge" ? "down" : "up";
    this.#links.send(device, { way, bytes: this.#options.bytes(message), peers }, at, arrived);
  }

  /** The data device sends E of a part. */
  #embed(part: number): void {
    const { turn, embedding } = this.#parts[part] ?? {};
    if (embedding === undefined) return;
    const embed = () =>
      this.#send(embedding, this.#work("data", embedding.work), 1, () => {
        this.#embedded.add(part);
        if (this.#ready === part) this.#begin(part);
      });
    if (turn === undefined) embed();
    else this.#send(turn, this.#work("edge", turn.work), 1, embed);
  }

  /** The edge server begins a part, pass for pass. */
  #begin(part: number): void {
    const { passes } = this.#parts[part]!;
    const next = (i: number) => {
      if (i < passes.length) {
        return this.#pass(passes[i]!, { part, isLast: i + 1 === passes.length, done: () => next(i + 1) });
      }
      if (this.#ends.has(part)) this.#times.push(this.#work("edge", []));
      this.#ready = part + 1;
      if (this.#embedded.has(part + 1)) this.#begin(part + 1);
    };
    next(0);
  }

  #pass(
    pass: PassDescription,
    { part, isLast, done }: { readonly part: number; readonly isLast: boolean; readonly done: () => void },
  ): void {
    const left = new Map<StepParty, number>();
    for (const { messages } of [pass.begin, ...pass.flows.flat()]) {
      for (const { to } of messages) left.set(to, (left.get(to) ?? 0) + 1);
    }
    // The edge server waits for all flows, and for what devices send once their layers have gone back.
    let waits = pass.flows.length + pass.settle.filter(({ kind }) => kind !== null).length;
    const goOn = () => {
      if (--waits > 0) return;
      if (pass.clip === null) done();
      else this.#exchange(pass.clip, null, done);
    };
    const handled = (party: StepParty) => {
      const count = left.get(party)! - 1;
      left.set(party, count);
      if (count > 0) return;
      if (party !== "data") this.#settle(pass, party, goOn);
      else if (isLast) this.#embed(part + 1);
    };
    this.#exchange(pass.begin, handled, () => {
      for (const flow of pass.flows) this.#flow(flow, handled, goOn);
    });
  }

  /** Exchange for exchange, each when the answers of the one before are here. */
  #flow(flow: readonly Exchange[], handled: (party: StepParty) => void, done: () => void): void {
    const next = (i: number) =>
      i < flow.length ? this.#exchange(flow[i]!, handled, () => next(i + 1)) : done();
    next(0);
  }

  /** The edge server works and sends; who gets something works and answers. */
  #exchange(exchange: Exchange, handled: ((party: StepParty) => void) | null, done: () => void): void {
    const { work, messages, meanwhile, answers } = exchange;
    const departs = this.#work("edge", work);
    const { overlap } = this.#options;
    if (overlap) this.#work("edge", meanwhile);
    const parties = new Set(answers.flatMap(({ kind, from }) => kind === null ? [] : [from])).size;
    const answersOf = Map.groupBy(answers, ({ from }) => from);
    let waits = answers.filter(({ kind }) => kind !== null).length;
    const goOn = () => {
      if (!overlap) this.#work("edge", meanwhile);
      done();
    };
    for (const message of messages) {
      const { to } = message;
      this.#send(message, departs, messages.length, () => {
        for (const answer of answersOf.get(to) ?? []) {
          const at = this.#work(to, answer.work);
          if (answer.kind === null) continue;
          this.#send(answer, at, parties, () => {
            if (--waits === 0) goOn();
          });
        }
        handled?.(to);
      });
    }
    if (waits === 0) goOn();
  }

  /** All layers of a device have gone back. */
  #settle(pass: PassDescription, party: StepParty, done: () => void): void {
    for (const message of pass.settle.filter(({ from }) => from === party)) {
      const at = this.#work(party, message.work);
      if (message.kind === null) continue;
      this.#send(message, at, pass.settle.length, done);
    }
  }
}
