/**
 * The main thread of a program. The program itself runs in a worker, so that Ctrl-C always ends it: however
 * long a step, a plugin or a driver holds the worker up, this thread hears the signal.
 *
 * @module
 */

import { ENDINGS } from "./exit_codes.ts";
import { deliverInterrupt, END_LIMIT_MS, SHARED, shareInterrupts } from "./interrupts.ts";

/** What the program's worker hears. */
type ToProgram =
  | { readonly type: "start"; readonly shared: Int32Array<SharedArrayBuffer> }
  | { readonly type: "interrupt"; readonly count: number };

/** What it says. */
type FromProgram =
  | { readonly type: "ended"; readonly code: number }
  /** The Ctrl-C was not for the program as a whole: it goes on. */
  | { readonly type: "goes-on" };

/** Exit code of a program that the user ended. */
export const INTERRUPTED: number = ENDINGS.interrupted.code;

/** Time for a program to clean up after the second Ctrl-C, such as to end its children, in milliseconds. */
const LAST_WORDS_MS = 200;

const scope = self as unknown as {
  onmessage: ((event: MessageEvent<ToProgram>) => void) | null;
  postMessage(message: FromProgram): void;
};

/** Flag of programs that others start, with the process that they belong to. */
export const LAUNCHER_FLAG = "end-with";
/** How often a program looks whether its launcher is there, in milliseconds. */
const LOOK_MS = 500;

/** The process that arguments say the program belongs to; `null` if none. */
function launcherIn(args: readonly string[]): number | null {
  const at = args.indexOf(`--${LAUNCHER_FLAG}`);
  return at < 0 ? null : Number(args[at + 1]);
}

/** Calls back once when this process's parent is another one, as the system sees to when a parent is killed. */
function whenGone(launcher: number, call: () => void): void {
  const timer = setInterval(() => {
    if (Deno.ppid === launcher) return;
    clearInterval(timer);
    call();
  }, LOOK_MS);
}

/** True in a worker. */
function isWorker(): boolean {
  return "WorkerGlobalScope" in globalThis;
}

/**
 * Runs a program in a worker of its own; the process ends as soon as the program does. To be called by the main
 * module, both in the main thread and in the worker.
 *
 * @param program Returns the exit code; must not throw.
 */
export async function supervise(program: () => Promise<number>): Promise<void> {
  if (isWorker()) return runInWorker(program);
  const shared = new Int32Array(new SharedArrayBuffer(4 * SHARED.length));
  const worker = new Worker(Deno.mainModule, { type: "module" });
  // What the program started may still be there, such as sockets and timers.
  const ended = Promise.withResolvers<number>();
  const counts: Partial<Record<Deno.Signal, number>> = {};
  const timers = new Set<ReturnType<typeof setTimeout>>();
  worker.onmessage = ({ data }: MessageEvent<FromProgram>) => {
    if (data.type === "ended") return ended.resolve(data.code);
    for (const signal of Object.keys(counts) as Deno.Signal[]) delete counts[signal];
    for (const timer of timers) clearTimeout(timer);
    timers.clear();
    Atomics.store(shared, SHARED.asked, 0);
  };
  worker.onerror = (event) => {
    event.preventDefault();
    console.error(`${event.message} (${event.filename}:${event.lineno})`);
    ended.resolve(1);
  };
  worker.postMessage({ type: "start", shared } satisfies ToProgram);
  const onSignal = (signal: Deno.Signal) => {
    counts[signal] = (counts[signal] ?? 0) + 1;
    // A terminal's Ctrl-C comes with a launcher's SIGTERM: only the same signal again is a second wish.
    const count = Math.max(...Object.values(counts));
    if (count < 2 && Atomics.load(shared, SHARED.asked) > 0) return;
    Atomics.store(shared, SHARED.asked, count);
    worker.postMessage({ type: "interrupt", count } satisfies ToProgram);
    if (Atomics.load(shared, SHARED.listeners) === 0) return ended.resolve(INTERRUPTED);
    const timer = setTimeout(() => {
      if (count === 1) {
        console.error(
          `Stopped, as it did not end within ${END_LIMIT_MS / 1000} s: what was not saved before is lost`,
        );
      }
      ended.resolve(INTERRUPTED);
    }, count === 1 ? END_LIMIT_MS : LAST_WORDS_MS);
    if (count === 1) timers.add(timer);
  };
  const signals: readonly Deno.Signal[] = Deno.build.os === "windows" ? ["SIGINT"] : ["SIGINT", "SIGTERM"];
  for (const signal of signals) Deno.addSignalListener(signal, () => onSignal(signal));
  const launcher = launcherIn(Deno.args);
  if (launcher !== null) whenGone(launcher, () => onSignal("SIGTERM"));
  Deno.exit(await ended.promise);
}

/** Ends the program from anywhere within it, with this exit code. */
export function endProgram(code: number): void {
  if (isWorker()) scope.postMessage({ type: "ended", code });
  else Deno.exit(code);
}

/** Says that the program goes on after a Ctrl-C, which ended only a part of what it does; the next one is a first one. */
export function goOnAfterInterrupt(): void {
  if (isWorker()) scope.postMessage({ type: "goes-on" });
}

function runInWorker(program: () => Promise<number>): void {
  scope.onmessage = ({ data }) => {
    if (data.type === "interrupt") return deliverInterrupt(data.count);
    shareInterrupts(data.shared);
    void program().then((code) => scope.postMessage({ type: "ended", code }));
  };
}
