/**
 * A process of a run: `serve` or `join`, which can be killed, stopped and started again.
 *
 * @module
 */

import { denoCommand, MEMORY_FLAGS } from "../../cli/process/permissions.ts";
import { programArgs } from "../../cli/process/places.ts";
import { LAUNCHER_FLAG } from "../../cli/process/supervisor.ts";

/** An event that a process printed. */
export type PartyEvent = Readonly<Record<string, unknown>> & { readonly type: string };

/** What is started. */
export interface PartyOptions {
  readonly name: string;
  /** File in `examples/`. */
  readonly program: string;
  /** Its flags, `--resume` apart. */
  readonly args: () => readonly string[];
  /** Folder that it runs in. */
  readonly cwd: string;
  readonly onEvent: (event: PartyEvent) => void;
}

/** A process that may be started again. */
export class Party {
  readonly #options: PartyOptions;
  #process: Deno.ChildProcess | null = null;
  #errors = "";
  #ended: Promise<number> = Promise.resolve(0);
  /** Exit code; `null` while it runs. */
  code: number | null = null;
  /** Times it was started. */
  starts = 0;

  constructor(options: PartyOptions) {
    this.#options = options;
  }

  /** Its name. */
  get name(): string {
    return this.#options.name;
  }

  /** The end of what it wrote to standard error. */
  get errors(): string {
    return this.#errors.trim().split("\n").slice(-3).join(" / ");
  }

  /** Resolves with the exit code. */
  get ended(): Promise<number> {
    return this.#ended;
  }

  /** Starts it, anew or from its state. */
  start(...more: readonly string[]): void {
    const { program, args, cwd } = this.#options;
    this.code = null;
    this.starts++;
    const process = this.#process = new Deno.Command(denoCommand(), {
      args: [
        ...["run", "-A", MEMORY_FLAGS, "--quiet", ...programArgs(program, "program"), ...args(), ...more],
        ...["--events", `--${LAUNCHER_FLAG}`, `${Deno.pid}`],
      ],
      ...{ cwd, stdin: "null", stdout: "piped", stderr: "piped" },
    }).spawn();
    const reading = Promise.all([this.#read(process), this.#readErrors(process)]);
    this.#ended = process.status.then(async ({ code }) => {
      await reading;
      if (this.#process === process) this.code = code;
      return code;
    });
  }

  /** Sends a signal. */
  signal(name: Deno.Signal): void {
    try {
      this.#process?.kill(name);
    } catch {
      // It has ended already.
    }
  }

  /** Ends it as `kill -9` does. */
  async kill(): Promise<void> {
    this.signal("SIGKILL");
    await this.#ended;
  }

  async #read(process: Deno.ChildProcess): Promise<void> {
    let rest = "";
    for await (const chunk of process.stdout.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop()!;
      for (const line of lines) if (line.startsWith("{")) this.#options.onEvent(JSON.parse(line));
    }
  }

  async #readErrors(process: Deno.ChildProcess): Promise<void> {
    for await (const chunk of process.stderr.pipeThrough(new TextDecoderStream())) {
      const lines = chunk.split("\n").filter((line) => line !== "" && !line.includes("XDG_RUNTIME_DIR"));
      this.#errors = (this.#errors + lines.map((line) => `${line}\n`).join("")).slice(-4000);
    }
  }
}
