/**
 * Child processes that say what happens as JSON lines.
 *
 * @module
 */

import type { CallForm } from "./invocation.ts";
import { denoCommand, MEMORY_FLAGS, type Needs, permissionFlags } from "./permissions.ts";
import { programArgs } from "./places.ts";

import { LAUNCHER_FLAG } from "./supervisor.ts";

/** An event that a child printed. */
export type ChildEvent = Readonly<Record<string, unknown>> & { readonly type: string };

/** A program with what it may do. */
export interface ChildProgram {
  /** File in `examples/`. */
  readonly file: string;
  /** What it needs; `null` lets it do all that this process may. */
  readonly needs: Needs | null;
  /** How it is to name commands. @default {"program"} */
  readonly form?: CallForm;
}

/** A program of `examples/` in a process of its own. */
export class Child {
  /** Name for people. */
  readonly name: string;
  /** What it wrote to standard error, the end of it. */
  errors = "";
  /** Resolves with the exit code when it has ended and all its events were delivered. */
  readonly ended: Promise<number>;
  readonly #process: Deno.ChildProcess;

  /**
   * @param name Name for people.
   * @param program File in `examples/`, and what it may do. Of a file alone: everything.
   * @param args Flags.
   * @param onEvent Called with each event.
   */
  constructor(
    name: string,
    program: string | ChildProgram,
    args: readonly string[],
    onEvent: (event: ChildEvent) => void,
  ) {
    this.name = name;
    // A launcher that is killed can end nobody any more: they see to it by themselves.
    const own = Deno.build.os === "windows" ? [] : [`--${LAUNCHER_FLAG}`, `${Deno.pid}`];
    const { file, needs, form = "program" }: ChildProgram = typeof program === "string"
      ? { file: program, needs: null }
      : program;
    const permissions = needs === null ? ["-A"] : permissionFlags(needs);
    this.#process = new Deno.Command(denoCommand(), {
      args: [
        "run",
        ...permissions,
        MEMORY_FLAGS,
        "--quiet",
        ...programArgs(file, form),
        ...args,
        "--events",
        ...own,
      ],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const reading = Promise.all([this.#events(onEvent), this.#stderr()]);
    this.ended = this.#process.status.then(async ({ code }) => {
      await reading;
      return code;
    });
  }

  /** Asks it to end; once more than a terminal's Ctrl-C does no harm. */
  interrupt(): void {
    this.#kill(Deno.build.os === "windows" ? "SIGINT" : "SIGTERM");
  }

  /** Ends it if it has not ended within this time. */
  async endWithin(ms: number): Promise<number> {
    const timer = setTimeout(() => this.#kill("SIGKILL"), ms);
    const code = await this.ended;
    clearTimeout(timer);
    return code;
  }

  #kill(signal: Deno.Signal): void {
    try {
      this.#process.kill(signal);
    } catch {
      // It has ended already.
    }
  }

  async #events(onEvent: (event: ChildEvent) => void): Promise<void> {
    let rest = "";
    for await (const chunk of this.#process.stdout.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop()!;
      for (const line of lines) {
        if (line.startsWith("{")) onEvent(JSON.parse(line) as ChildEvent);
      }
    }
  }

  async #stderr(): Promise<void> {
    for await (const chunk of this.#process.stderr.pipeThrough(new TextDecoderStream())) {
      // Mesa complains on every start where there is no desktop session.
      const lines = chunk.split("\n").filter((l) => l !== "" && !l.includes("XDG_RUNTIME_DIR"));
      this.errors = (this.errors + lines.map((l) => `${l}\n`).join("")).slice(-4000);
    }
  }
}
