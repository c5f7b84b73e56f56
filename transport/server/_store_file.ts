/**
 * The file of a run store: its tables, and what it refuses to open.
 *
 * @module
 */

import { DatabaseSync } from "node:sqlite";

/** What a file must say to be a run store: "ETun" in ASCII. */
const APPLICATION = 0x4554756e;
/** Version of the tables. */
const VERSION = 1;
/** Longest time in milliseconds that another process may hold the file. */
const BUSY_MS = 500;

const TABLES = `
CREATE TABLE runs (
  id INTEGER PRIMARY KEY, run TEXT NOT NULL UNIQUE, status TEXT NOT NULL, reason TEXT NOT NULL,
  started REAL NOT NULL, seen REAL NOT NULL, ended REAL, settings TEXT NOT NULL, model TEXT NOT NULL,
  pruner TEXT NOT NULL, devices TEXT NOT NULL, traffic TEXT NOT NULL
) STRICT;
CREATE TABLE steps (
  run INTEGER NOT NULL REFERENCES runs, n INTEGER NOT NULL, step INTEGER NOT NULL, train INTEGER NOT NULL,
  at REAL NOT NULL, clock REAL NOT NULL, loss REAL, counted INTEGER NOT NULL,
  total REAL NOT NULL, prune REAL NOT NULL, readback REAL NOT NULL, codec REAL NOT NULL, wait REAL NOT NULL,
  bytes INTEGER NOT NULL, sum_bytes INTEGER NOT NULL, kept INTEGER NOT NULL, more TEXT NOT NULL,
  mask BLOB NOT NULL, scores BLOB, PRIMARY KEY (run, n)
) STRICT;
CREATE TABLE events (
  run INTEGER NOT NULL REFERENCES runs, n INTEGER NOT NULL, at REAL NOT NULL, type TEXT NOT NULL,
  data TEXT NOT NULL, PRIMARY KEY (run, n)
) STRICT;
`;

/** A file cannot be a run store: it is broken, of another kind, or of a newer version. */
export class RunStoreError extends Error {
  /** Always `"RunStoreError"`. */
  override readonly name = "RunStoreError";
}

/**
 * Opens the file of a run store; a new one is made if need be.
 *
 * @param path The file.
 * @param maxBytes Largest size of the file.
 * @throws {RunStoreError} If it is no run store, or one of a newer version, or cannot be opened.
 */
export function openStoreFile(path: string, maxBytes: number): DatabaseSync {
  let database: DatabaseSync | null = null;
  try {
    database = new DatabaseSync(path, { timeout: BUSY_MS, enableForeignKeyConstraints: true });
    prepare(database, path, maxBytes);
    return database;
  } catch (cause) {
    database?.close();
    if (cause instanceof RunStoreError) throw cause;
    const why = (cause as Error).message;
    throw new RunStoreError(`Cannot open the run store ${path} as it must be a sound SQLite file: ${why}`, {
      cause,
    });
  }
}

function prepare(database: DatabaseSync, path: string, maxBytes: number): void {
  const pragma = (name: string) => Object.values(database.prepare(`PRAGMA ${name}`).get() ?? {})[0];
  const application = pragma("application_id");
  const version = Number(pragma("user_version"));
  const tables = Number(database.prepare("SELECT count(*) AS n FROM sqlite_schema").get()!.n);
  if (application !== APPLICATION && tables > 0) {
    throw new RunStoreError(`Cannot open ${path} as a run store as it must be one: it has other tables`);
  }
  if (application === APPLICATION && version > VERSION) {
    throw new RunStoreError(
      `Cannot open the run store ${path} as its version must be at most ${VERSION}: current version is ${version}; a newer EdgeTuner made it`,
    );
  }
  // What is written is there after the process is killed, and after a loss of power but for the last moments.
  database.exec(
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA journal_size_limit = 8388608",
  );
  database.exec(`PRAGMA max_page_count = ${Math.max(1, Math.floor(maxBytes / Number(pragma("page_size"))))}`);
  if (application === APPLICATION && version === VERSION) {
    if (pragma("quick_check(1)") !== "ok") {
      throw new RunStoreError(`Cannot open the run store ${path} as it must be sound: it is damaged`);
    }
    return;
  }
  database.exec("BEGIN IMMEDIATE");
  // Another process may have made them meanwhile.
  if (Number(database.prepare("SELECT count(*) AS n FROM sqlite_schema").get()!.n) === 0) {
    database.exec(`${TABLES} PRAGMA application_id = ${APPLICATION}; PRAGMA user_version = ${VERSION}`);
  }
  database.exec("COMMIT");
}
