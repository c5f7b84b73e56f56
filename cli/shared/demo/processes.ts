/**
 * The processes of the demo: an edge server, and devices that join it.
 *
 * @module
 */

import { codecFiles } from "../../flags/codecs.ts";
import { flagArgs, ProgramEnd, UsageError } from "../../flags/flags.ts";
import type { prunerFlags } from "../../flags/pruners.ts";
import { TUNING_FLAGS } from "../../flags/tuning_flags.ts";
import { CONNECT_WAITS, RUN_WAITS } from "../../flags/waiting_flags.ts";
import { Child } from "../../process/child.ts";
import { type EndingName, worstOf } from "../../process/exit_codes.ts";
import { Interrupts } from "../../process/interrupts.ts";
import type { CallForm } from "../../process/invocation.ts";
import type { Needs } from "../../process/permissions.ts";
import { folderOf } from "../../process/places.ts";
import { INTERRUPTED } from "../../process/supervisor.ts";
import { readingFlags } from "../training_data.ts";
import { type DemoFlags, PASSED_RUN_FLAGS } from "./flags.ts";
import type { DemoLog } from "./log.ts";
import { stateOf } from "./states.ts";

/** Time for the others to end by themselves where one process failed, in milliseconds. */
const END_LIMIT_MS = 15_000;

/** What the processes are started with. */
export interface DemoRun {
  /** Flags of the demo. */
  readonly flags: DemoFlags;
  /** Flags of the pruner, as the edge server takes them. */
  readonly pruner: ReturnType<typeof prunerFlags>;
  /** Capacities of the devices; the first is the data device. */
  readonly capacities: readonly number[];
  /** Folder of the run. */
  readonly out: string;
  /** True if they go on with a run. */
  readonly goesOn: boolean;
  /** How they are to name commands. */
  readonly form: CallForm;
}

/** A device, and the folder that its heads go to. */
export interface DemoDevice {
  readonly name: string;
  readonly folder: string;
}

/** Starts the processes, hands Ctrl-C on, and waits for their end. */
export class DemoProcesses implements Disposable {
  /** The devices. */
  readonly devices: readonly DemoDevice[];
  readonly #run: DemoRun;
  readonly #log: DemoLog;
  readonly #children: Child[] = [];
  readonly #interrupts: Interrupts;
  readonly #joinToken = crypto.randomUUID();

  /** Nothing is started yet. */
  constructor(run: DemoRun, log: DemoLog) {
    this.#run = run;
    this.#log = log;
    this.devices = run.capacities.map((_, i) => ({
      name: `device-${i + 1}`,
      folder: `${run.out}/device-${i + 1}`,
    }));
    this.#interrupts = new Interrupts((count) => this.#interrupt(count));
  }

  /** True if the user asked to end. */
  get wasInterrupted(): boolean {
    return this.#interrupts.asked;
  }

  /**
   * Starts the edge server; resolves with its address once devices may join.
   *
   * @throws {UsageError} If it ends before, with what it said.
   * @throws {ProgramEnd} If the user asked to end before.
   */
  async startServer(): Promise<string> {
    const { flags, form } = this.#run;
    const listening = Promise.withResolvers<string>();
    const needs = this.#needs([`127.0.0.1:${flags.port}`]);
    const program = { file: "edge_server.ts", needs, form };
    const server = new Child("edge server", program, this.#serverArgs(), (event) => {
      this.#log.hearServer(event);
      if (event.type === "listening") listening.resolve(String(event.address));
    });
    this.#children.push(server);
    server.ended.then((code) =>
      listening.reject(
        this.wasInterrupted
          ? new ProgramEnd(INTERRUPTED)
          : new UsageError(server.errors.trim() || `The edge server ended with code ${code}`),
      )
    );
    return await listening.promise;
  }

  /** Starts the devices. */
  startDevices(address: string): void {
    const program = { file: "user_device.ts", needs: this.#needs([address]), form: this.#run.form };
    for (const [i, { name }] of this.devices.entries()) {
      const hear = this.#log.hearDevice.bind(this.#log, name);
      this.#children.push(new Child(name, program, this.#deviceArgs(i, address), hear));
    }
  }

  /** Waits for the end of all, says what those that failed had to say, and gives how each of them ended. */
  async ended(): Promise<EndingName[]> {
    const codes = await Promise.all(this.#children.map((child) =>
      child.ended.then(async (code) => {
        if (code !== 0) await Promise.all(this.#children.map((c) => c.endWithin(END_LIMIT_MS)));
        return code;
      })
    ));
    this.#log.clear();
    // Before the first step nothing can get lost: those who had not begun to listen, or whose server was gone first,
    // have ended as they were asked to.
    const isEarly = this.wasInterrupted && this.#log.trained.count === 0;
    const endings = codes.map((code) => {
      const ending = worstOf([code]);
      return isEarly && ending === "lost" ? "interrupted" : ending;
    });
    const failed = this.#children.filter((_, i) => endings[i] !== "done" && endings[i] !== "interrupted");
    // Those that were ended because another one failed have nothing to say.
    const spoke = failed.filter((child) => child.errors.trim() !== "");
    for (const child of spoke.length > 0 ? spoke : failed) {
      console.error(`${child.name}: ${child.errors.trim() || "ended without a word"}`);
    }
    return endings;
  }

  [Symbol.dispose](): void {
    this.#interrupts[Symbol.dispose]();
  }

  #interrupt(count: number): void {
    if (count > 1) {
      for (const child of this.#children) child.endWithin(0);
      return;
    }
    this.#log.isStopping = true;
    this.#log.clear();
    console.error("Stopping; what was learnt is saved. Once more to stop at once.");
    for (const child of this.#children) child.interrupt();
  }

  #serverArgs(): string[] {
    const { flags, pruner, capacities } = this.#run;
    return [
      ...["--model", flags.model, "--devices", `${capacities.length}`],
      ...this.#passed(["base-weights", ...Object.keys(TUNING_FLAGS), ...Object.keys(PASSED_RUN_FLAGS)]),
      ...this.#states("edge-server"),
      ...this.#passed(["state-every", "state-seconds"]),
      ...(flags.metrics === "" ? [] : ["--metrics", flags.metrics]),
      // On one machine a process that is gone stays away.
      ...["--on-loss", "stop"],
      ...["--port", `${flags.port}`, "--join-token", this.#joinToken, "--admin-token", crypto.randomUUID()],
      ...flagArgs({ pruner: flags.pruner, ...pruner, "no-overlap": flags["no-overlap"] }),
      ...this.#passed(["codec", "micro-batches", "webgpu", ...Object.keys(RUN_WAITS)]),
    ];
  }

  #deviceArgs(i: number, address: string): string[] {
    const { flags, capacities } = this.#run;
    const { name, folder } = this.devices[i]!;
    const url = flags.transport === "ws" ? `ws://${address}/join/ws` : `http://${address}/join/http`;
    return [
      ...["--server", url, "--token", this.#joinToken, "--name", name],
      ...["--capacity", `${capacities[i]}`, "--save", folder, "--server-lost", "0"],
      ...this.#passed(["bandwidth", "latency", "webgpu", "codec"]),
      ...this.#passed([...Object.keys(RUN_WAITS), ...Object.keys(CONNECT_WAITS)]),
      ...flagArgs({ link: flags.link, "link-seed": flags.seed, "link-device": i }),
      ...this.#states(name),
      ...(i === 0 ? this.#dataArgs() : []),
    ];
  }

  #dataArgs(): string[] {
    const { flags } = this.#run;
    return [
      ...["--data", flags.data, "--valid", flags.valid, "--model", flags.model, "--share-loss"],
      ...flagArgs({ tokenizer: flags.tokenizer, "keep-best": flags["keep-best"], ...readingFlags(flags) }),
      ...this.#passed([
        "base-weights",
        "batch",
        "length",
        "seed",
        "valid-batches",
        "eval-every",
        "patience",
        "smoothing",
      ]),
    ];
  }

  /** Flags that go to a process as they are. */
  #passed(names: readonly string[]): string[] {
    const values: Readonly<Record<string, unknown>> = this.#run.flags;
    return names.flatMap((name) => [`--${name}`, `${values[name]}`]);
  }

  /** Where a party saves its states, and what it goes on from. */
  #states(party: string): string[] {
    const { goesOn, out } = this.#run;
    return [goesOn ? "--resume" : "--state", stateOf(out, party)];
  }

  /** What a process may do; `null` if it needs what cannot be listed: Dawn is a native library. */
  #needs(net: readonly string[]): Needs | null {
    const { flags, out } = this.#run;
    if (flags.webgpu === "dawn") return null;
    const modules = [flags.pruner, ...codecFiles(flags.codec)].filter((flag) =>
      /[./\\]/.test(flag) && !/^[a-z]{2,}:/i.test(flag)
    );
    const files = [flags.model, flags.tokenizer, flags.data, flags.valid, flags.predictor, flags.link];
    // Other parts of a model, its tokenizer and its chat template may lie beside a file of it.
    const beside = [flags.model, flags.tokenizer].filter((path) => /\.(gguf|json)$/i.test(path));
    return {
      read: [...files.filter((file) => file !== ""), ...[...modules, ...beside].map(folderOf)],
      write: [out, flags.metrics],
      net,
    };
  }
}
