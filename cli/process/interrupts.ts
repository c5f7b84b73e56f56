/**
 * Ctrl-C, as a program sees it. The program runs in a worker; the main thread, which has nothing else to do,
 * hears the signals (see `supervisor.ts`). So a program that is busy can still be ended, and it can ask in the
 * middle of a loop that gives the event loop no turn.
 *
 * @module
 */

/** Fields that the main thread and the program share, as indices of an `Int32Array`. */
export const SHARED = {
  /** How often the user asked to end. */
  asked: 0,
  /** How many listeners the program has: without one the first signal ends it at once. */
  listeners: 1,
  /** Length of the array. */
  length: 2,
} as const;

/** Longest time from the first signal to the end of the process, in milliseconds. */
export const END_LIMIT_MS = 2700;

/**
 * How long a party of a split run waits after Ctrl-C for the run to end without a fault, in milliseconds: a
 * terminal sends Ctrl-C to all of them. After it there must be time to save.
 */
export const GOOD_ORDER_MS = 800;

let shared: Int32Array<SharedArrayBuffer> | null = null;
const active = new Set<Interrupts>();

/** Connects this thread with the main thread; before that nothing is ever asked. */
export function shareInterrupts(fields: Int32Array<SharedArrayBuffer>): void {
  shared = fields;
}

/** The fields that another worker of the program needs to see interrupts too; `null` without a supervisor. */
export function sharedInterrupts(): Int32Array<SharedArrayBuffer> | null {
  return shared;
}

/** True once the user asked to end the program. True at once, without a turn of the event loop. */
export function isInterrupted(): boolean {
  return shared !== null && Atomics.load(shared, SHARED.asked) > 0;
}

/** What a task returns; `null` if it ended early because the user asked to end. */
export async function untilInterrupted<T>(task: () => Promise<T>): Promise<T | null> {
  try {
    return await task();
  } catch (error) {
    if (isInterrupted() && error instanceof DOMException && error.name === "AbortError") return null;
    throw error;
  }
}

/** Tells the listeners of this thread how often the user has asked. */
export function deliverInterrupt(count: number): void {
  for (const listener of [...active]) listener.hear(count);
}

/** A program's wish to end without a fault at Ctrl-C, until it is disposed. */
export class Interrupts implements Disposable {
  readonly #abort = new AbortController();
  readonly #onAsked: (count: number) => void;

  /** @param onAsked Called at each Ctrl-C, with how many there were. Soon after the second one the process ends. */
  constructor(onAsked: (count: number) => void = () => {}) {
    this.#onAsked = onAsked;
    active.add(this);
    if (shared === null) return;
    Atomics.add(shared, SHARED.listeners, 1);
    // It may have come just before.
    const count = Atomics.load(shared, SHARED.asked);
    if (count > 0) queueMicrotask(() => this.hear(count));
  }

  /** True once the program was asked to end. */
  get asked(): boolean {
    return isInterrupted() || this.#abort.signal.aborted;
  }

  /** Aborted at the first Ctrl-C, as soon as the event loop has a turn. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Takes in a Ctrl-C. */
  hear(count: number): void {
    if (!active.has(this)) return;
    this.#abort.abort(new DOMException("interrupted", "AbortError"));
    this.#onAsked(count);
  }

  [Symbol.dispose](): void {
    if (!active.delete(this)) return;
    if (shared !== null) Atomics.sub(shared, SHARED.listeners, 1);
  }
}
