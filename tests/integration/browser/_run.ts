/**
 * Runs of the small model in which tabs of Chromium take part: a control server with the pages, and a data device here.
 *
 * @module
 */

import {
  type Channel,
  EdgeServer,
  type EdgeServerEvent,
  type EdgeServerOptions,
  type ModelShape,
  type RunSettings,
  type RunState,
  type RunStateSource,
  runUserDevice,
  type StepMode,
  type StepRecord,
  type TokenBatch,
  type UserDeviceOptions,
  type UserDeviceResult,
} from "@edgetuner/core";
import { PAGE_FILES } from "@edgetuner/page";
import { type WebSocketListener, webSocketListener, webSocketTransport } from "@edgetuner/transport";
import {
  createControlApp,
  Invitations,
  serve,
  type ServedModel,
  type Serving,
  type TlsOptions,
} from "@edgetuner/transport/server";
import { handleOf } from "./_handle.ts";
import { admitAll, dataSide, serverOptions } from "../_session.ts";
import { Relay } from "../../support/relay.ts";
import type { TinyBase } from "../../support/tiny_model.ts";

const TOKENS = { joinToken: "join-token-of-tests", adminToken: "admin-token-of-tests" };

/** What a run is made of. */
export interface TabRunOptions {
  readonly settings: RunSettings;
  /** Devices with heads. */
  readonly devices: number;
  readonly server?: Partial<EdgeServerOptions>;
  /** What tabs with data get of the model. @default {nothing} */
  readonly served?: ServedModel;
  /** A run that was stopped, which this one goes on with; tabs reach it at the same address. */
  readonly after?: TabRun;
  /** Modes of the steps, as long as they last. @default {training steps} */
  readonly modes?: readonly StepMode[];
  /** The batch of every step. @default {that of the fixtures} */
  readonly batch?: TokenBatch;
  /** What stands between the server and a device that joins. @default {nothing} */
  readonly wrap?: (channel: Channel) => Channel;
  /** Certificate and key, as PEM. @default {plain HTTP} */
  readonly tls?: TlsOptions;
  /** Origins of pages of other servers. @default {none} */
  readonly allowOrigins?: readonly string[];
  /** What the model is said to be, in place of the small one. */
  readonly shape?: ModelShape;
  /** The data comes from a tab. @default {false} */
  readonly dataInTab?: boolean;
}

/** A state as what to go on from. */
function sourceOf(state: RunState | null | undefined): RunStateSource | undefined {
  return state ? { run: state.run, steps: [state.step], load: () => Promise.resolve(state) } : undefined;
}

function wrapped(channel: Channel | null, wrap: (channel: Channel) => Channel): Channel | null {
  return channel === null ? null : wrap(channel);
}

/** A run with tabs. */
export class TabRun implements AsyncDisposable {
  readonly server: EdgeServer;
  readonly events: EdgeServerEvent[] = [];
  readonly records: StepRecord[] = [];
  readonly #model: TinyBase;
  readonly #listener: WebSocketListener;
  readonly #serving: Serving;
  readonly #tls: TlsOptions | undefined;
  /** The link of tabs. */
  readonly link: Relay;
  readonly #admitting: Promise<void>;
  /** Who is invited. */
  readonly invitations: Invitations;
  /** The newest state of edge server and data device. */
  readonly states: { server: RunState | null; data: RunState | null };
  /** Resolves when the run is over. */
  readonly done: Promise<void>;
  readonly #data: Promise<UserDeviceResult> | null;
  /** Losses, as the data device sees them. */
  readonly losses: readonly number[];
  /** Devices in Deno. */
  readonly #devices: Promise<UserDeviceResult>[] = [];

  private constructor(
    model: TinyBase,
    { server, serving, listener, states, invitations }: {
      readonly server: EdgeServer;
      readonly serving: Serving;
      readonly listener: WebSocketListener;
      readonly states: TabRun["states"];
      readonly invitations: Invitations;
    },
    options: TabRunOptions,
  ) {
    this.#model = model;
    this.server = server;
    this.states = states;
    this.invitations = invitations;
    this.#serving = serving;
    this.#tls = options.tls;
    this.link = options.after?.link ?? new Relay(serving.port);
    this.link.target = serving.port;
    this.#listener = listener;
    server.subscribe((event) => {
      this.events.push(event);
      if (event.type === "step") this.records.push(event.record);
    });
    const { wrap = (channel) => channel, modes, batch } = options;
    this.#admitting = admitAll(
      { ...listener, accept: async () => wrapped(await listener.accept(), wrap) },
      server,
    );
    this.done = server.start();
    this.done.catch(() => {});
    const { steps } = options.settings;
    const side = dataSide(model, steps, {
      shareLoss: true,
      ...(modes && { modes }),
      ...(batch && { batch }),
    });
    this.losses = side.losses;
    this.#data = options.dataInTab === true ? null : this.#device({
      name: "data",
      capacity: 0,
      data: { ...side, rewind: () => {} },
      resume: sourceOf(options.after?.states.data),
      onState: (state) => void (states.data = state),
    });
    this.#data?.catch(() => {}); // whoever waits for the end gets the error
  }

  /** Starts a run; tabs and devices may join. */
  static async start(model: TinyBase, options: TabRunOptions): Promise<TabRun> {
    const states: TabRun["states"] = { server: null, data: null };
    const server = new EdgeServer(
      serverOptions(model, options.settings, {
        devices: options.devices,
        onLoss: "prune",
        onState: (state) => void (states.server = state),
        resume: sourceOf(options.after?.states.server),
        ...options.server,
      }),
    );
    const handle = handleOf(server, model, options.devices, options.shape);
    const listener = webSocketListener();
    const invitations = new Invitations();
    const app = createControlApp({
      ...TOKENS,
      invitations,
      allowHosts: ["edge.test"],
      allowOrigins: options.allowOrigins,
      runs: new Map([[server.run, handle]]),
      webSocket: listener,
      models: new Map(options.served === undefined ? [] : [[server.run, options.served]]),
      pages: PAGE_FILES,
    });
    const serving = await serve(app, options.tls === undefined ? {} : { tls: options.tls });
    return new TabRun(model, { server, serving, listener, states, invitations }, options);
  }

  /** Address of the server. */
  get origin(): string {
    return `${this.#tls === undefined ? "http" : "https"}://127.0.0.1:${this.link.port}`;
  }

  /** Address of the page that lets a tab in. */
  get page(): string {
    return this.pageOn("");
  }

  /** Address for one device that the host lets in by hand. */
  async invite(): Promise<string> {
    return `${this.origin}${await this.invitations.invite(this.server.run)}`;
  }

  /** The same, with a query. */
  pageOn(query: string): string {
    return `${this.origin}/device/${query}#token=${TOKENS.joinToken}`;
  }

  /** Address for programs, and their token. */
  get joinFlags(): readonly string[] {
    return ["--server", `ws://127.0.0.1:${this.#serving.port}/join/ws`, "--token", TOKENS.joinToken];
  }

  /** A device in this process. */
  join(options: Omit<UserDeviceOptions, "channel" | "engine">): Promise<UserDeviceResult> {
    const device = this.#device(options);
    this.#devices.push(device);
    return device;
  }

  async #device(options: Omit<UserDeviceOptions, "channel" | "engine">): Promise<UserDeviceResult> {
    const url = `${this.#tls === undefined ? "ws" : "wss"}://127.0.0.1:${this.#serving.port}/join/ws`;
    const caCerts = this.#tls === undefined ? {} : { caCerts: [this.#tls.cert] };
    const channel = await webSocketTransport({ url, token: TOKENS.joinToken, ...caCerts }).connect();
    const { engine } = this.#model;
    return await runUserDevice({ engine, channel, timeoutMs: 60_000, ...options });
  }

  /** Waits until the run is over. */
  async end(): Promise<void> {
    await this.done;
    await this.#data;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.server.stop("the test is over");
    await this.done.catch(() => {});
    for (const device of await Promise.allSettled([this.#data, ...this.#devices])) {
      if (device.status === "fulfilled") device.value?.modules?.[Symbol.dispose]();
    }
    await this.link[Symbol.asyncDispose]();
    await this.#listener[Symbol.asyncDispose]();
    await this.#admitting;
    await this.#serving.shutdown(100);
  }
}
