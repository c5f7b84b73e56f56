/**
 * A real NATS broker for tests.
 *
 * @module
 */

/** How it is set up. */
export interface NatsServerOptions {
  /** Most bytes of a message. */
  readonly maxPayload?: number;
  /** Port of its WebSocket; 0 for any free one. */
  readonly port?: number;
  /** PEM of the certificate and the key of its WebSocket. @default {no TLS} */
  readonly tls?: { readonly cert: string; readonly key: string };
  /** More lines of its configuration, such as accounts. */
  readonly more?: string;
}

/** What to do where there is none. */
const MISSING =
  "Cannot test the transport through a broker as nats-server must be installed: apt-get install nats-server (.ci/run does it)";

/** A broker on this machine. */
export class NatsServer implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #folder: string;
  readonly #scheme: string;
  #isOver = false;
  /** Port of its WebSocket. */
  readonly port: number;

  private constructor(
    process: Deno.ChildProcess,
    folder: string,
    { port, isTls }: { readonly port: number; readonly isTls: boolean },
  ) {
    this.#process = process;
    this.#folder = folder;
    this.#scheme = isTls ? "nats+wss" : "nats+ws";
    this.port = port;
  }

  /** Starts one, and waits until it listens. */
  static async start(
    { maxPayload = 2 ** 20, port = 0, more = "", tls }: NatsServerOptions = {},
  ): Promise<NatsServer> {
    const folder = await Deno.makeTempDir();
    const config = `${folder}/nats.conf`;
    let secured = "no_tls: true";
    if (tls !== undefined) {
      await Deno.writeTextFile(`${folder}/cert.pem`, tls.cert);
      await Deno.writeTextFile(`${folder}/key.pem`, tls.key);
      secured = `tls { cert_file: "${folder}/cert.pem", key_file: "${folder}/key.pem" }`;
    }
    await Deno.writeTextFile(
      config,
      `listen: "127.0.0.1:-1"\nmax_payload: ${maxPayload}\n` +
        `websocket { listen: "127.0.0.1:${port || -1}", ${secured} }\n${more}\n`,
    );
    let process: Deno.ChildProcess;
    try {
      process = new Deno.Command("nats-server", {
        args: ["-c", config],
        stdin: "null",
        stdout: "null",
        stderr: "piped",
      }).spawn();
    } catch (cause) {
      await Deno.remove(folder, { recursive: true });
      throw new Error(MISSING, { cause });
    }
    const found = Promise.withResolvers<number>();
    let said = "";
    process.stderr.pipeThrough(new TextDecoderStream()).pipeTo(
      new WritableStream({
        write(text) {
          said += text;
          const listening = /websocket clients on wss?:\/\/127\.0\.0\.1:(\d+)[^]*Server is ready/.exec(said);
          if (listening) found.resolve(Number(listening[1]));
        },
      }),
    ).then(() => found.reject(new Error(`nats-server ended: ${said}`)), found.reject);
    try {
      return new NatsServer(process, folder, { port: await found.promise, isTls: tls !== undefined });
    } catch (error) {
      await Deno.remove(folder, { recursive: true });
      throw error;
    }
  }

  /** Address of a run at it. */
  url(run: string, credentials = ""): string {
    return `${this.#scheme}://${credentials}127.0.0.1:${this.port}/${run}`;
  }

  /** Stops and goes on as a process does that the system holds up. */
  signal(name: "SIGSTOP" | "SIGCONT"): void {
    this.#process.kill(name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#process.kill("SIGKILL");
    await this.#process.status;
    await Deno.remove(this.#folder, { recursive: true });
  }
}

/** Some brokers of one cluster on this machine. */
export interface NatsCluster extends AsyncDisposable {
  readonly servers: readonly NatsServer[];
}

/** Starts a cluster; each node knows all others. */
export async function natsCluster(nodes: number): Promise<NatsCluster> {
  const ports = Array.from({ length: nodes }, () => {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    return listener.addr.port;
  });
  const routes = ports.map((port) => `"nats-route://127.0.0.1:${port}"`).join(", ");
  const servers = await Promise.all(ports.map((port, i) =>
    NatsServer.start({
      more:
        `server_name: node-${i}\ncluster { name: tests, listen: "127.0.0.1:${port}", routes: [${routes}] }`,
    })
  ));
  return {
    servers,
    async [Symbol.asyncDispose]() {
      await Promise.all(servers.map((server) => server[Symbol.asyncDispose]()));
    },
  };
}
