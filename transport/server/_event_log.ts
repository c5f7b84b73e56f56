/**
 * What happened in a run, numbered and kept for a while, so that a reader who was cut off misses nothing.
 *
 * @module
 */

import type { EdgeServerEvent, RunHandle, RunStatus } from "@edgetuner/core";

/** Most events that are kept for readers who come back. */
const MAX_KEPT = 4096;
/** Most characters of them. */
const MAX_CHARACTERS = 4 * 2 ** 20;

/** An event as it is sent. */
export interface LoggedEvent {
  /** Its number in the log. */
  readonly number: number;
  /** Name of the event. */
  readonly event: string;
  /** What happened, as JSON. */
  readonly data: string;
}

/** True once nothing more can happen. */
export function isOver(status: RunStatus): boolean {
  return status === "ended" || status === "failed";
}

/** The events of a run from the first look at it on. */
export class EventLog {
  /** Tells this log from one of the same run in another process. */
  readonly #id = crypto.randomUUID().slice(0, 8);
  readonly #kept: LoggedEvent[] = [];
  readonly #readers = new Set<(event: LoggedEvent) => void>();
  #characters = 0;
  #last = 0;

  /**
   * Listens to a run until it is over.
   *
   * @param run The run.
   * @param asJson Writes an event.
   */
  constructor(run: RunHandle, asJson: (event: EdgeServerEvent) => unknown) {
    if (isOver(run.status)) return;
    const unsubscribe = run.subscribe((event) => {
      this.add(event.type, asJson(event));
      if (event.type === "status" && isOver(event.status)) unsubscribe();
    });
  }

  /** Adds an event of another source. */
  add(event: string, data: unknown): void {
    const logged = { number: ++this.#last, event, data: JSON.stringify(data) };
    this.#kept.push(logged);
    this.#characters += logged.data.length;
    while (this.#kept.length > MAX_KEPT || this.#characters > MAX_CHARACTERS && this.#kept.length > 1) {
      this.#characters -= this.#kept.shift()!.data.length;
    }
    for (const reader of this.#readers) reader(logged);
  }

  /** Where the log is now, as readers give it back. */
  get position(): string {
    return this.idOf(this.#last);
  }

  /** The id of an event. */
  idOf(number: number): string {
    return `${this.#id}.${number}`;
  }

  /** What happened after a position; `null` if that is not known any more, or never was. */
  since(position: string): readonly LoggedEvent[] | null {
    const [id, text = ""] = position.split(".");
    const number = /^\d{1,15}$/.test(text) ? Number(text) : -1;
    const first = this.#kept[0]?.number ?? this.#last + 1;
    if (id !== this.#id || number < first - 1 || number > this.#last) return null;
    return this.#kept.slice(number - first + 1);
  }

  /** Calls a reader with each event from now on; the function that comes back ends it. */
  read(reader: (event: LoggedEvent) => void): () => void {
    this.#readers.add(reader);
    return () => void this.#readers.delete(reader);
  }

  /** Those who read now. */
  get readers(): number {
    return this.#readers.size;
  }
}
