/**
 * What a run store tells: runs, records, figures over a run, and its head masks.
 *
 * @module
 */

import type { DatabaseSync } from "node:sqlite";
import type { RunStatus } from "@edgetuner/core";
import type { HeadsJson, RecordJson, SeriesJson, StoredEventJson, StoredRunJson } from "../control/types.ts";
import { isOver } from "./_event_log.ts";

/** Milliseconds without a sign of life after which a run that is not over counts as lost. */
const LOST_MS = 30_000;

/** A row of the table of runs. */
interface RunRow {
  readonly id: number;
  readonly run: string;
  readonly status: RunStatus;
  readonly reason: string;
  readonly started: number;
  readonly seen: number;
  readonly ended: number | null;
  readonly settings: string;
  readonly model: string;
  readonly pruner: string;
  readonly devices: string;
  readonly traffic: string;
}

/** A row of the table of steps. */
interface StepRow {
  readonly n: number;
  readonly step: number;
  readonly train: number;
  readonly at: number;
  readonly clock: number;
  readonly loss: number | null;
  readonly counted: number;
  readonly total: number;
  readonly prune: number;
  readonly readback: number;
  readonly codec: number;
  readonly wait: number;
  readonly bytes: number;
  readonly sum_bytes: number;
  readonly more: string;
  readonly mask: Uint8Array;
  readonly scores: Uint8Array | null;
}

/** Figures of a run over its validations: of several owners as the edge server told them, else of evaluation steps. */
const VALIDATIONS = `
SELECT step, max(clock) AS clock, max(sum_bytes) AS bytes,
  CASE WHEN sum(counted) > 0 THEN sum(loss * counted) / sum(counted) ELSE avg(loss) END AS loss
FROM steps WHERE run = ? AND train = 0 AND loss IS NOT NULL GROUP BY step ORDER BY step`;

/** Means over as many equal parts of a run as are asked for. */
const SERIES = `
SELECT max(step) AS step, max(clock) AS clock, max(sum_bytes) AS sumBytes, avg(loss) AS loss,
  min(loss) AS lossMin, max(loss) AS lossMax, avg(total) AS total, avg(prune) AS prune, avg(readback) AS readback,
  avg(codec) AS codec, avg(wait) AS wait, avg(bytes) AS bytes, avg(kept) AS kept
FROM steps WHERE run = ?1 AND train = 1 GROUP BY n / CAST(?2 AS INTEGER) ORDER BY min(n)`;

/** Reads a run store. */
export abstract class StoreReader {
  readonly #database: DatabaseSync;
  readonly #clock: () => number;

  /** Reads an open file. */
  constructor(database: DatabaseSync, clock: () => number) {
    this.#database = database;
    this.#clock = clock;
  }

  /** Writes what waits. */
  abstract flush(): void;

  #row(run: string): RunRow | null {
    this.flush();
    return (this.#database.prepare("SELECT * FROM runs WHERE run = ?").get(run) as RunRow | undefined) ??
      null;
  }

  /** All runs, the newest first. */
  runs(): StoredRunJson[] {
    this.flush();
    const rows = this.#database.prepare("SELECT * FROM runs ORDER BY started DESC LIMIT 1000").all();
    return (rows as unknown as RunRow[]).map((row) => this.#runJson(row));
  }

  /** One run; `null` if the store has none of that name. */
  run(run: string): StoredRunJson | null {
    const row = this.#row(run);
    return row === null ? null : this.#runJson(row);
  }

  #runJson(row: RunRow): StoredRunJson {
    const { run, status, reason, started, ended, pruner } = row;
    const figures = this.#database.prepare(
      `SELECT count(*) AS count, max(clock) AS clock, max(sum_bytes) AS bytes,
         (SELECT loss FROM steps WHERE run = ?1 AND train = 1 ORDER BY n DESC LIMIT 1) AS loss,
         (SELECT max(step) + 1 FROM steps WHERE run = ?1 AND train = 1) AS steps FROM steps WHERE run = ?1`,
    ).get(row.id) as Record<"count" | "clock" | "bytes" | "loss" | "steps", number | null>;
    const validation = this.#validations(row).map(({ loss }) => loss);
    const isLost = !isOver(status) && this.#clock() - row.seen > LOST_MS;
    return {
      run,
      status: isLost ? "lost" : status,
      ...{ reason, started, ended, pruner },
      settings: JSON.parse(row.settings),
      model: JSON.parse(row.model),
      devices: JSON.parse(row.devices),
      traffic: JSON.parse(row.traffic),
      records: figures.count!,
      steps: figures.steps ?? 0,
      seconds: (figures.clock ?? 0) / 1000,
      bytes: figures.bytes ?? 0,
      loss: figures.loss,
      bestValidation: validation.length === 0 ? null : Math.min(...validation),
    };
  }

  #validations({ id }: RunRow): { step: number; seconds: number; bytes: number; loss: number }[] {
    const told = this.#database.prepare(
      "SELECT at, data FROM events WHERE run = ? AND type = 'validation' ORDER BY n",
    ).all(id) as { at: number; data: string }[];
    if (told.length > 0) {
      const before = this.#database.prepare(
        "SELECT clock, sum_bytes FROM steps WHERE run = ? AND at <= ? ORDER BY n DESC LIMIT 1",
      );
      return told.map(({ at, data }) => {
        const { step, loss } = JSON.parse(data) as { step: number; loss: number };
        const last = before.get(id, at) as { clock: number; sum_bytes: number } | undefined;
        return { step, loss, seconds: (last?.clock ?? 0) / 1000, bytes: last?.sum_bytes ?? 0 };
      });
    }
    return (this.#database.prepare(VALIDATIONS).all(id) as {
      step: number;
      clock: number;
      bytes: number;
      loss: number;
    }[]).map(({ step, clock, bytes, loss }) => ({ step, seconds: clock / 1000, bytes, loss }));
  }

  /**
   * Figures over a run, as means over at most so many equal parts.
   *
   * @param run Name of the run.
   * @param points Most points.
   * @returns The figures; `null` if the store has no such run.
   */
  series(run: string, points: number): SeriesJson | null {
    const row = this.#row(run);
    if (row === null) return null;
    const width = Math.max(1, Math.ceil(this.#count(row.id) / points));
    const parts = this.#database.prepare(SERIES).all(row.id, width) as Record<string, number | null>[];
    const column = (name: string) => parts.map((part) => part[name] ?? null);
    const numbers = (name: string, unit = 1) => parts.map((part) => part[name]! / unit);
    const validations = this.#validations(row);
    return {
      run,
      step: numbers("step"),
      seconds: numbers("clock", 1000),
      sumBytes: numbers("sumBytes"),
      loss: column("loss"),
      lossMin: column("lossMin"),
      lossMax: column("lossMax"),
      times: {
        total: numbers("total"),
        prune: numbers("prune"),
        readback: numbers("readback"),
        codec: numbers("codec"),
        wait: numbers("wait"),
      },
      bytes: numbers("bytes"),
      kept: numbers("kept"),
      validation: {
        step: validations.map(({ step }) => step),
        seconds: validations.map(({ seconds }) => seconds),
        sumBytes: validations.map(({ bytes }) => bytes),
        loss: validations.map(({ loss }) => loss),
      },
    };
  }

  #count(id: number): number {
    return (this.#database.prepare("SELECT coalesce(max(n) + 1, 0) AS n FROM steps WHERE run = ?").get(
      id,
    ) as {
      n: number;
    }).n;
  }

  /**
   * Head masks and scores of at most so many steps of a run, the last one among them.
   *
   * @param run Name of the run.
   * @param points Most steps.
   * @returns Them; `null` if the store has no such run.
   */
  heads(run: string, points: number): HeadsJson | null {
    const row = this.#row(run);
    if (row === null) return null;
    const width = Math.max(1, Math.ceil(this.#count(row.id) / points));
    const rows = this.#database.prepare(
      `SELECT step, mask, scores, more FROM steps WHERE run = ?1 AND n IN
         (SELECT max(n) FROM steps WHERE run = ?1 AND train = 1 GROUP BY n / CAST(?2 AS INTEGER)) ORDER BY n`,
    ).all(row.id, width) as unknown as Pick<StepRow, "step" | "mask" | "scores" | "more">[];
    const last = rows.at(-1);
    const layers = last === undefined ? 0 : (JSON.parse(last.more) as { kept: number[] }).kept.length;
    return {
      run,
      layers,
      heads: last === undefined ? 0 : last.mask.length / layers,
      steps: rows.map(({ step }) => step),
      pruned: rows.map(({ mask }) => mask.join("")),
      scores: rows.map(({ scores }) =>
        scores === null ? null : floats(scores).map((score) => Number(score.toPrecision(4)))
      ),
    };
  }

  /**
   * Records of steps, in order.
   *
   * @param run Name of the run.
   * @param page Number of the first record, and most records.
   * @returns The records; `null` if the store has no such run.
   */
  records(
    run: string,
    { from, most }: { readonly from: number; readonly most: number },
  ): RecordJson[] | null {
    const row = this.#row(run);
    if (row === null) return null;
    const rows = this.#database.prepare("SELECT * FROM steps WHERE run = ? AND n >= ? ORDER BY n LIMIT ?")
      .all(...[row.id, from, most] as const);
    return (rows as unknown as StepRow[]).map(recordJson);
  }

  /**
   * Events of a run other than its steps, in order.
   *
   * @param run Name of the run.
   * @param most How many of the last ones. @default {all}
   * @returns The events; `null` if the store has no such run.
   */
  events(run: string, most = -1): StoredEventJson[] | null {
    const row = this.#row(run);
    if (row === null) return null;
    const rows = this.#database.prepare(
      "SELECT * FROM (SELECT n, at, type, data FROM events WHERE run = ? ORDER BY n DESC LIMIT ?) ORDER BY n",
    ).all(row.id, most) as { at: number; type: string; data: string }[];
    return rows.map(({ at, type, data }) => ({ at, type, data: JSON.parse(data) }));
  }
}

function floats(bytes: Uint8Array): number[] {
  return [...new Float32Array(bytes.slice().buffer)];
}

function recordJson(row: StepRow): RecordJson {
  const { n, step, train, at, clock, loss, counted, total, prune, readback, codec, wait, bytes } = row;
  return {
    ...{ number: n, at, seconds: clock / 1000, sumBytes: row.sum_bytes },
    record: {
      ...{ step, mode: train === 1 ? "train" : "evaluate", loss, ...(counted === 0 ? {} : { counted }) },
      ...{ times: { total, prune, readback, codec, wait }, bytes },
      mask: [...row.mask],
      scores: row.scores === null ? null : floats(row.scores),
      ...JSON.parse(row.more, (key, value) => key === "kinds" ? undefined : value),
    },
    kinds: JSON.parse(row.more).kinds,
  };
}
