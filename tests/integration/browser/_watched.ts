/**
 * A control server with real runs of the small model, to be watched in the dashboard.
 *
 * @module
 */

import { EdgeServer, type Pruner, type RunHandle, runUserDevice, type StepMode } from "@edgetuner/core";
import { PAGE_FILES } from "@edgetuner/page";
import { greedyPruner } from "@edgetuner/plugins";
import { inProcessTransport } from "@edgetuner/transport";
import {
  createControlApp,
  Invitations,
  RunStore,
  serve,
  type Serving,
  Sessions,
} from "@edgetuner/transport/server";
import { type TinyGpt2, tinySettings } from "../../support/tiny_model.ts";
import { until } from "../../support/until.ts";
import { handleOf } from "./_handle.ts";
import { admitAll, dataSide, serverOptions } from "../_session.ts";

/** Steps of a run that is stopped before they are done. */
const MANY = 5000;

/** A run that is under way. */
interface UnderWay {
  readonly server: EdgeServer;
  /** Ends it, and waits until all of it is over. */
  end(): Promise<void>;
}

/** A control server with runs. */
export class WatchedRuns implements AsyncDisposable {
  readonly #model: TinyGpt2;
  readonly #runs = new Map<string, RunHandle>();
  readonly #underWay: UnderWay[] = [];
  readonly #sessions = new Sessions();
  readonly invitations = new Invitations();
  readonly store: RunStore;
  #serving: Serving | null = null;

  constructor(model: TinyGpt2) {
    this.#model = model;
    this.store = RunStore.open(":memory:");
  }

  /** Begins to listen. */
  async listen(port = 0): Promise<void> {
    const app = createControlApp({
      ...{ joinToken: "join-token-of-tests", adminToken: "admin-token-of-tests" },
      ...{ runs: this.#runs, sessions: this.#sessions, invitations: this.invitations, store: this.store },
      pages: PAGE_FILES,
    });
    this.#serving = await serve(app, { port });
  }

  get port(): number {
    return this.#serving!.port;
  }

  /** Stops listening, and all that is connected is cut off. */
  async deafen(): Promise<void> {
    await this.#serving!.shutdown(0);
  }

  /** Address of the server. */
  get origin(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** An address that signs one browser in. */
  async link(): Promise<string> {
    return this.origin + await this.#sessions.link();
  }

  /** Begins a run; with so many steps it ends by itself. */
  begin(steps = MANY): UnderWay {
    const { engine } = this.#model;
    const settings = { ...tinySettings("slice", steps), evalEvery: 10 };
    const pruner = greedyPruner({ tau: 0.6, eta: 0.5 }) as Pruner;
    const server = new EdgeServer(
      serverOptions(this.#model, settings, { devices: 2, onLoss: "prune", pruner, timeoutMs: 60_000 }),
    );
    const handle = handleOf(server, this.#model, 2);
    this.#runs.set(server.run, handle);
    this.store.record(handle, "greedy");
    const { transport, listener } = inProcessTransport();
    const admitting = admitAll(listener, server);
    const done = server.start();
    const modes = Array.from(
      { length: steps },
      (_, step): StepMode[] => step % 10 === 0 ? ["evaluate", "train"] : ["train"],
    ).flat();
    const join = async (name: string, capacity: number) =>
      await runUserDevice({
        ...{ engine, channel: await transport.connect(), timeoutMs: 60_000, name, capacity },
        ...(capacity > 0 ? {} : { data: dataSide(this.#model, steps, { shareLoss: true, modes }) }),
      });
    const devices = [join("kitchen phone", 1), join("old laptop", 3), join("desk", 0)];
    for (const promise of [done, ...devices]) promise.catch(() => {});
    const underWay = {
      server,
      async end() {
        server.stop("the test is over");
        await done.catch(() => {});
        for (const device of await Promise.allSettled(devices)) {
          if (device.status === "fulfilled") device.value.modules?.[Symbol.dispose]();
        }
        await listener[Symbol.asyncDispose]();
        await admitting;
      },
    };
    this.#underWay.push(underWay);
    return underWay;
  }

  /** Does a whole run; afterwards only the store knows it. */
  async finish(steps: number): Promise<string> {
    const { server, end } = this.begin(steps);
    await until(() => server.status === "ended" || server.status === "failed", "the run is over", 60_000);
    await end();
    this.#runs.delete(server.run);
    return server.run;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { end } of this.#underWay) await end();
    await this.#serving?.shutdown(100);
    this.store[Symbol.dispose]();
  }
}
