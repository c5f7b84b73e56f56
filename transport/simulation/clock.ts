/**
 * Clocks for emulated links: the real one, and a virtual one whose time jumps from event to event
 * whenever nothing is left to compute, so that hours of network time cost no waiting and the same
 * run takes the same virtual time every time.
 *
 * @module
 */

/** Where an emulation takes its time from. */
export interface Clock {
  /** True if its time is not that of the wall. */
  readonly virtual: boolean;
  /** Milliseconds since some start. */
  now(): number;
  /**
   * Calls back at a time, at once (but never inside this call) if it has passed.
   *
   * @param atMs When.
   * @param callback What.
   * @param order Of several at the same time the lowest comes first, then the one that was asked for first. @default {0}
   * @returns A function that takes it back.
   */
  schedule(atMs: number, callback: () => void, order?: number): () => void;
}

/** The clock of the wall. */
export function realClock(): Clock {
  return {
    virtual: false,
    now: () => performance.now(),
    schedule(atMs, callback) {
      // Timers count whole milliseconds, cut off, and may fire early: whoever asked for a time must not see less.
      let timer = setTimeout(fire, Math.max(0, atMs - performance.now()));
      function fire() {
        const left = atMs - performance.now();
        if (left > 0) timer = setTimeout(fire, Math.ceil(left));
        else callback();
      }
      return () => clearTimeout(timer);
    },
  };
}

/** Options of {@linkcode virtualClock}. */
export interface VirtualClockOptions {
  /**
   * True while real work is under way that the clock cannot see by itself, such as results of a GPU
   * that were asked for: `() => engine.stats.pending > 0`.
   *
   * @default {never}
   */
  readonly busy?: () => boolean;
}

/** A clock that only moves when the process has nothing to do. */
export interface VirtualClock extends Clock, Disposable {
  /**
   * Holds the time where it is, so that a simulation can be put together or something be waited for that the
   * clock does not know of.
   *
   * @returns What lets it go on; several may hold.
   */
  hold(): Disposable;
}

interface Event {
  readonly atMs: number;
  readonly order: number;
  readonly number: number;
  /** `null` once it was taken back. */
  callback: (() => void) | null;
}

/** Turns of the event loop without work after which the process counts as idle. */
const QUIET_TURNS = 2;

class IdleClock implements VirtualClock {
  readonly virtual = true;
  readonly #busy: () => boolean;
  /** A binary heap: the next event first. */
  readonly #heap: Event[] = [];
  #now = 0;
  #count = 0;
  #holds = 0;
  #running = false;
  #disposed = false;

  constructor(busy: () => boolean) {
    this.#busy = busy;
  }

  now(): number {
    return this.#now;
  }

  schedule(atMs: number, callback: () => void, order = 0): () => void {
    if (this.#disposed) return () => {};
    const event: Event = { atMs: Math.max(atMs, this.#now), order, number: this.#count++, callback };
    push(this.#heap, event);
    void this.#run();
    return () => void (event.callback = null);
  }

  hold(): Disposable {
    this.#holds++;
    let held = true;
    return {
      [Symbol.dispose]: () => {
        if (held) this.#holds--;
        held = false;
        void this.#run();
      },
    };
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    this.#heap.length = 0;
  }

  /** One event after the other, each when all that the one before set off has come to rest. */
  async #run(): Promise<void> {
    if (this.#running) return;
    this.#running = true;
    for (;;) {
      for (let quiet = 0; quiet < QUIET_TURNS;) {
        // A turn of the loop ends all chains of promises; only real work is left then.
        await turn(this.#busy());
        if (this.#disposed) return;
        quiet = this.#busy() ? 0 : quiet + 1;
      }
      if (this.#holds > 0) break;
      let event = pop(this.#heap);
      while (event?.callback === null) event = pop(this.#heap);
      if (event === undefined) break;
      this.#now = event.atMs;
      event.callback!();
    }
    this.#running = false;
  }
}

/** Where the runtime has it, what comes after all promises at no other cost; a message port's events may come before. */
const { setImmediate } = globalThis as { setImmediate?: (callback: () => void) => unknown };

/** A turn of the event loop: a quick one, or a slow one while there is something to wait for. */
function turn(slow: boolean): Promise<void> {
  return new Promise((resolve) => {
    if (slow || setImmediate === undefined) setTimeout(resolve, 0);
    else setImmediate(resolve);
  });
}

function isBefore(a: Event, b: Event): boolean {
  return a.atMs - b.atMs < 0 || (a.atMs === b.atMs && (a.order - b.order || a.number - b.number) < 0);
}

function push(heap: Event[], event: Event): void {
  let i = heap.push(event) - 1;
  while (i > 0) {
    const parent = (i - 1) >> 1;
    if (!isBefore(event, heap[parent]!)) break;
    heap[i] = heap[parent]!;
    i = parent;
  }
  heap[i] = event;
}

function pop(heap: Event[]): Event | undefined {
  const first = heap[0];
  const last = heap.pop();
  if (first === undefined || last === undefined || heap.length === 0) return first;
  let i = 0;
  for (let child = 1; child < heap.length; child = 2 * i + 1) {
    if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) child++;
    if (!isBefore(heap[child]!, last)) break;
    heap[i] = heap[child]!;
    i = child;
  }
  heap[i] = last;
  return first;
}

/**
 * Makes a virtual clock, at time 0. Its time moves only when the process is idle: no promise left to
 * settle, and `busy` false. Then the earliest event comes, alone.
 *
 * What waits for a timer or a socket of the system is not seen: whoever needs that calls `hold`.
 *
 * @example Usage
 * ```ts
 * import { virtualClock } from "@edgetuner/transport";
 * import { assertEquals } from "@std/assert";
 *
 * using clock = virtualClock();
 * await new Promise<void>((resolve) => clock.schedule(3_600_000, resolve)); // an hour, at once
 * assertEquals(clock.now(), 3_600_000);
 * ```
 */
export function virtualClock(options: VirtualClockOptions = {}): VirtualClock {
  return new IdleClock(options.busy ?? (() => false));
}

/** Waits until a clock shows a time. */
export async function until(clock: Clock, atMs: number, signal?: AbortSignal, order = 0): Promise<void> {
  signal?.throwIfAborted();
  if (atMs <= clock.now()) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const cancel = clock.schedule(atMs, resolve, order);
  const end = () => resolve();
  signal?.addEventListener("abort", end, { once: true });
  await promise;
  cancel();
  signal?.removeEventListener("abort", end);
  signal?.throwIfAborted();
}
