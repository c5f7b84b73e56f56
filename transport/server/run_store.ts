/**
 * What runs did, kept in one SQLite file: settings, states, steps, devices and events, of runs now and before.
 *
 * @module
 */

import type { DatabaseSync } from "node:sqlite";
import type { EdgeServerEvent, LedgerEntry, RunHandle, StepRecord } from "@edgetuner/core";
import { isOver } from "./_event_log.ts";
import { openStoreFile } from "./_store_file.ts";
import { StoreReader } from "./_store_reader.ts";

/** Records that are written at once, and milliseconds until fewer are. */
const BATCH = { records: 64, ms: 500 } as const;
/** Records that may wait while another process holds the file; the oldest go first. */
const MOST_WAITING = 4096;
/** Milliseconds from one sign of life of a run to the next. */
const ALIVE_MS = 5000;

/** Options of {@linkcode RunStore}. */
export interface RunStoreOptions {
  /** Largest size of the file in bytes. @default {8589934592} */
  readonly maxBytes?: number;
  /** Called once if the store can take no more, with a sentence that says why. */
  readonly onFault?: (sentence: string) => void;
  /** The time of day in milliseconds. @default {Date.now} */
  readonly now?: () => number;
}

/** Where a run is in the file. */
interface Place {
  readonly id: number;
  readonly handle: RunHandle;
  /** Number of the next step record and of the next event. */
  step: number;
  event: number;
  /** Milliseconds of the run before this process. */
  readonly clockBefore: number;
  readonly from: number;
  bytes: number;
  /** True once a step was recorded: a run that goes on takes those back that it does again. */
  hasBegun: boolean;
  traffic: ReadonlyMap<string, number>;
  seen: number;
}

type Write = () => void;

/**
 * Keeps what runs do. Writing is batched and never throws: a run goes on without its records where the disk is full.
 *
 * @category Control
 */
export class RunStore extends StoreReader implements Disposable {
  readonly #database: DatabaseSync;
  readonly #path: string;
  readonly #onFault: (sentence: string) => void;
  readonly #now: () => number;
  readonly #places = new Map<string, Place>();
  #waiting: Write[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #alive: ReturnType<typeof setInterval> | undefined;
  #isFaulty = false;
  #isOpen = true;

  private constructor(database: DatabaseSync, path: string, options: RunStoreOptions) {
    super(database, options.now ?? Date.now);
    this.#database = database;
    this.#path = path;
    this.#onFault = options.onFault ?? (() => {});
    this.#now = options.now ?? Date.now;
  }

  /**
   * Opens a store; a new one is made if there is none.
   *
   * @param path The file; `:memory:` for none.
   * @param options Limits.
   * @returns The store.
   * @throws {RunStoreError} If the file is broken, of another kind, or of a newer version.
   */
  static open(path: string, options: RunStoreOptions = {}): RunStore {
    return new RunStore(openStoreFile(path, options.maxBytes ?? 2 ** 33), path, options);
  }

  /**
   * Keeps what a run does from now on, until it is over. A run that goes on is found by its name: steps that it does
   * again take the place of those that it had.
   *
   * @param handle The run.
   * @param pruner Name of its pruner. @default {""}
   */
  record(handle: RunHandle, pruner = ""): void {
    this.#attempt(() => this.#add(handle, pruner));
    if (!this.#places.has(handle.run)) return;
    this.#alive ??= setInterval(() => this.flush(), ALIVE_MS);
    const unsubscribe = handle.subscribe((event) => {
      this.#hear(event, this.#places.get(handle.run)!);
      if (event.type !== "status" || !isOver(event.status)) return;
      unsubscribe();
      this.flush();
      this.#places.delete(handle.run);
    });
  }

  #add(handle: RunHandle, pruner: string): void {
    const { run, status, settings, model = null, devices } = handle;
    const now = this.#now();
    this.#database.prepare(
      `INSERT INTO runs (run, status, reason, started, seen, settings, model, pruner, devices, traffic)
       VALUES (?, ?, '', ?, ?, ?, ?, ?, ?, '[]') ON CONFLICT (run) DO UPDATE SET
       status = excluded.status, reason = '', seen = excluded.seen, ended = NULL, settings = excluded.settings`,
    ).run(
      ...[run, status, now, now, JSON.stringify(settings), JSON.stringify(model), pruner],
      JSON.stringify(devices),
    );
    const { id } = this.#database.prepare("SELECT id FROM runs WHERE run = ?").get(run) as { id: number };
    const last = this.#database.prepare(
      "SELECT n, clock, sum_bytes FROM steps WHERE run = ? ORDER BY n DESC LIMIT 1",
    ).get(id) as { n: number; clock: number; sum_bytes: number } | undefined;
    const events = this.#database.prepare("SELECT max(n) AS n FROM events WHERE run = ?").get(id)!.n as
      | number
      | null;
    this.#places.set(run, {
      ...{ id, handle, step: (last?.n ?? -1) + 1, event: (events ?? -1) + 1 },
      ...{ clockBefore: last?.clock ?? 0, from: now, bytes: last?.sum_bytes ?? 0, hasBegun: false },
      ...{ traffic: totals(handle.traffic()), seen: now },
    });
  }

  #hear(event: EdgeServerEvent, place: Place): void {
    const at = this.#now();
    if (event.type === "step") this.#step(event.record, place, at);
    else if (event.type !== "decoding") {
      const { type, ...data } = event;
      const n = place.event++;
      const text = JSON.stringify(data);
      this.#later(() =>
        this.#database.prepare("INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?, ?)").run(
          ...[place.id, n, at, type, text] as const,
        )
      );
    }
    if (event.type === "status") {
      const { status, reason } = event;
      const ended = isOver(status) ? at : null;
      this.#later(() =>
        this.#database.prepare("UPDATE runs SET status = ?, reason = ?, ended = ? WHERE id = ?").run(
          ...[status, reason, ended, place.id] as const,
        )
      );
    }
  }

  #step(record: StepRecord, place: Place, at: number): void {
    const { step, mode, loss, counted = 0, times, bytes, mask, scores, ...more } = record;
    const now = totals(place.handle.traffic());
    const kinds: Record<string, number> = {};
    for (const [kind, all] of now) {
      const spent = all - (place.traffic.get(kind) ?? 0);
      if (spent > 0) kinds[kind] = spent;
    }
    place.traffic = now;
    const isFirst = !place.hasBegun;
    place.hasBegun = true;
    const clock = place.clockBefore + at - place.from;
    const { total, prune, readback, codec, wait } = times;
    const kept = more.kept.reduce((a, b) => a + b, 0);
    const text = JSON.stringify({ ...more, kinds });
    const blobs = [mask.slice(), scores === null ? null : new Uint8Array(Float32Array.from(scores).buffer)];
    this.#later(() => {
      if (isFirst) this.#takeBack(place, step);
      place.bytes += bytes;
      this.#database.prepare(
        "INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      ).run(
        ...[place.id, place.step, step, Number(mode === "train"), at, clock, loss, counted] as const,
        ...[total, prune, readback, codec, wait, bytes, place.bytes, kept, text] as const,
        ...blobs as [Uint8Array, Uint8Array | null],
      );
      place.step++;
    });
  }

  /** A run goes on from a step: it does what came after once more. */
  #takeBack(place: Place, step: number): void {
    this.#database.prepare("DELETE FROM steps WHERE run = ? AND step >= ?").run(place.id, step);
  }

  /** Adds a write to the next batch. */
  #later(write: Write): void {
    if (this.#isFaulty || !this.#isOpen) return;
    this.#waiting.push(write);
    if (this.#waiting.length >= BATCH.records) this.#soon(0);
    else this.#soon(BATCH.ms);
  }

  #soon(ms: number): void {
    if (this.#timer !== undefined && ms > 0) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.flush(), ms);
  }

  /** Writes what waits. What reads calls it by itself. */
  override flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#isFaulty || !this.#isOpen || this.#places.size === 0 && this.#waiting.length === 0) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    const places = [...this.#places.values()];
    const kept = places.map(({ step, bytes }) => ({ step, bytes }));
    const isDone = this.#attempt(() => {
      for (const write of waiting) write();
      for (const { id, handle } of places) {
        this.#database.prepare("UPDATE runs SET seen = ?, devices = ?, traffic = ? WHERE id = ?").run(
          ...[this.#now(), JSON.stringify(handle.devices), JSON.stringify(handle.traffic()), id] as const,
        );
      }
    });
    if (isDone || this.#isFaulty) return;
    // Another process holds the file: later.
    places.forEach((place, i) => Object.assign(place, kept[i]));
    this.#waiting = [...waiting, ...this.#waiting].slice(-MOST_WAITING);
    this.#soon(BATCH.ms);
  }

  /** Does something in one transaction; false where that was not possible. */
  #attempt(task: () => void): boolean {
    try {
      this.#database.exec("BEGIN IMMEDIATE");
      task();
      this.#database.exec("COMMIT");
      return true;
    } catch (error) {
      if (this.#database.isTransaction) {
        try {
          this.#database.exec("ROLLBACK");
        } catch {
          // A full disk has rolled it back.
        }
      }
      // SQLITE_BUSY; `exec` gives no number of the error.
      if (/database is locked/.test((error as Error).message) && this.#places.size > 0) return false;
      this.#isFaulty = true;
      this.#waiting = [];
      this.#onFault(
        `The run store ${this.#path} takes no more records, and the run goes on without: ${
          (error as Error).message
        }`,
      );
      return false;
    }
  }

  /** Writes what waits, and closes the file. */
  [Symbol.dispose](): void {
    if (!this.#isOpen) return;
    this.flush();
    clearInterval(this.#alive);
    clearTimeout(this.#timer);
    this.#isOpen = false;
    this.#database.close();
  }
}

/** Bytes of frames by kind and direction. */
function totals(traffic: readonly LedgerEntry[]): ReadonlyMap<string, number> {
  return new Map(
    traffic.map(({ kind, direction, frameBytes }) => [`${kind} ${direction}`, frameBytes] as const),
  );
}
