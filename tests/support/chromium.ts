/**
 * Pages in headless Chromium, driven over its debugging protocol.
 *
 * @module
 */

import { until } from "./until.ts";

/** Where Chromium is; Debian's name for it. */
const PATHS = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const FLAGS = [
  "--headless=new",
  "--no-sandbox",
  "--disable-dev-shm-usage",
  "--no-first-run",
  "--remote-debugging-port=0",
  // An address without TLS that is not of this machine, as phones see it.
  "--host-resolver-rules=MAP edge.test 127.0.0.1",
  // WebGPU on the CPU.
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  "--enable-features=Vulkan",
];

/** Path of Chromium; `null` if there is none. */
export async function findChromium(): Promise<string | null> {
  for (const path of [Deno.env.get("CHROMIUM"), ...PATHS]) {
    if (path && await Deno.stat(path).then(() => true, () => false)) return path;
  }
  return null;
}

/** A browser. */
export class Chromium implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #profile: string;
  readonly #port: number;

  private constructor(process: Deno.ChildProcess, profile: string, port: number) {
    this.#process = process;
    this.#profile = profile;
    this.#port = port;
  }

  /** Starts a browser with a new profile. */
  static async start(path: string, flags: readonly string[] = []): Promise<Chromium> {
    const profile = await Deno.makeTempDir();
    const process = new Deno.Command(path, {
      args: [...FLAGS, ...flags, `--user-data-dir=${profile}`, "about:blank"],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    const file = `${profile}/DevToolsActivePort`;
    let port = 0;
    await until(
      async () => {
        port = Number((await Deno.readTextFile(file).catch(() => "")).split("\n")[0]);
        return port > 0;
      },
      "Chromium listens",
      20_000,
    );
    return new Chromium(process, profile, port);
  }

  /** Opens a page in a tab of its own. */
  async open(url: string): Promise<Tab> {
    const address = `http://127.0.0.1:${this.#port}/json/new?about:blank`;
    const { webSocketDebuggerUrl, id } = await (await fetch(address, { method: "PUT" })).json();
    const tab = await Tab.connect(webSocketDebuggerUrl, async () => {
      await (await fetch(`http://127.0.0.1:${this.#port}/json/close/${id}`)).body?.cancel();
    });
    await tab.goto(url);
    return tab;
  }

  /** Ends it at once, where nothing can be waited for; its profile stays. */
  kill(): void {
    this.#process.kill("SIGKILL");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill();
    await this.#process.status;
    // Its children write on for a moment.
    await until(
      () => Deno.remove(this.#profile, { recursive: true }).then(() => true, () => false),
      "the profile is removed",
    );
  }
}

type Answer = { readonly resolve: (result: unknown) => void; readonly reject: (error: Error) => void };

/** A tab. */
export class Tab implements AsyncDisposable {
  readonly #socket: WebSocket;
  readonly #close: () => Promise<void>;
  readonly #waiting = new Map<number, Answer>();
  #next = 0;
  /** What scripts wrote to the console, and errors that nobody caught. */
  readonly lines: string[] = [];

  private constructor(socket: WebSocket, close: () => Promise<void>) {
    this.#socket = socket;
    this.#close = close;
    socket.addEventListener("message", ({ data }) => this.#hear(JSON.parse(data)));
  }

  static async connect(url: string, close: () => Promise<void>): Promise<Tab> {
    const socket = new WebSocket(url);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    socket.onopen = () => resolve();
    socket.onerror = () => reject(new Error("Cannot reach Chromium"));
    await promise;
    const tab = new Tab(socket, close);
    for (const domain of ["Page", "Runtime", "Network", "Log"]) await tab.send(`${domain}.enable`);
    return tab;
  }

  /** Sends a command of the debugging protocol. */
  async send(method: string, params: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    const id = ++this.#next;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#waiting.set(id, { resolve, reject });
    this.#socket.send(JSON.stringify({ id, method, params }));
    return await promise;
  }

  #hear(message: Record<string, unknown>): void {
    const { id, result, error, method, params } = message as {
      id?: number;
      result?: unknown;
      error?: { message: string };
      method?: string;
      params?: Record<string, unknown>;
    };
    if (id !== undefined) {
      const waiting = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error !== undefined) waiting?.reject(new Error(error.message));
      else waiting?.resolve(result);
    } else if (method === "Runtime.exceptionThrown" || method === "Runtime.consoleAPICalled") {
      this.lines.push(JSON.stringify(params));
    } else if (method === "Log.entryAdded") this.lines.push(JSON.stringify(params));
  }

  /** Goes to an address. */
  async goto(url: string): Promise<void> {
    await this.send("Page.navigate", { url });
  }

  /** The value of an expression in the page. */
  async evaluate<T>(expression: string): Promise<T> {
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", {
      expression,
      awaitPromise: true,
      returnByValue: true,
    }) as { result: { value: T }; exceptionDetails?: { exception?: { description?: string }; text: string } };
    if (exceptionDetails !== undefined) {
      throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    }
    return result.value;
  }

  /** All text that is shown. */
  async text(): Promise<string> {
    return await this.evaluate<string>("document.body?.innerText ?? ''").catch(() => "");
  }

  /** Waits until the page shows a text. */
  async shows(text: string, timeoutMs = 20_000): Promise<void> {
    let shown = "";
    const isThere = async () => (shown = await this.text()).includes(text);
    await until(isThere, `the page shows "${text}"`, timeoutMs).catch((error) => {
      throw new Error(`${error.message}; it shows:\n${shown}\n${this.lines.join("\n")}`);
    });
  }

  /** Writes into a field. */
  async fill(name: string, value: string): Promise<void> {
    await this.evaluate(`(() => {
      const field = document.querySelector('[name="${name}"]');
      field.value = ${JSON.stringify(value)};
      field.dispatchEvent(new Event("input", { bubbles: true }));
    })()`);
  }

  /** Chooses a file of this machine. */
  async choose(name: string, file: string): Promise<void> {
    const { root: { nodeId } } = await this.send("DOM.getDocument") as { root: { nodeId: number } };
    const selector = `input[name="${name}"]`;
    const found = await this.send("DOM.querySelector", { nodeId, selector }) as { nodeId: number };
    await this.send("DOM.setFileInputFiles", { nodeId: found.nodeId, files: [file] });
  }

  /** Clicks on what a label says. */
  async check(text: string): Promise<void> {
    await this.evaluate(
      `[...document.querySelectorAll("label")].find((l) => l.innerText.includes(${
        JSON.stringify(text)
      })).querySelector("input").click()`,
    );
  }

  /** Never resolves; rejects where the page shows that something has failed. */
  async fails(): Promise<never> {
    const alert = "document.querySelector('[role=alert]')?.innerText ?? ''";
    const text = await until(
      async () => await this.evaluate<string>(alert).catch(() => "") || null,
      "something fails",
      600_000,
    );
    throw new Error(`The page shows: ${text}`);
  }

  /** Presses a key, as a person does. */
  async key(key: "Enter" | "Escape" | "Tab"): Promise<void> {
    const windowsVirtualKeyCode = { Enter: 13, Escape: 27, Tab: 9 }[key];
    const base = { key, code: key, windowsVirtualKeyCode };
    const text = key === "Enter" ? { text: "\r" } : {};
    await this.send("Input.dispatchKeyEvent", { ...base, ...text, type: "keyDown" });
    await this.send("Input.dispatchKeyEvent", { ...base, type: "keyUp" });
  }

  /** Clicks on a button or a link by its text. */
  async click(text: string): Promise<void> {
    const button = `[...document.querySelectorAll("button, a")].find((b) => b.textContent === ${
      JSON.stringify(text)
    } && !b.disabled)`;
    await until(() => this.evaluate<boolean>(`${button} !== undefined`), `there is a button "${text}"`);
    await this.evaluate(`${button}.click()`);
  }

  /** A picture of the whole page, as PNG. */
  async screenshot(width: number, scheme: "light" | "dark"): Promise<Uint8Array<ArrayBuffer>> {
    await this.send("Emulation.setEmulatedMedia", {
      features: [
        { name: "prefers-color-scheme", value: scheme },
        // Colours are there at once.
        { name: "prefers-reduced-motion", value: "reduce" },
      ],
    });
    const metrics = { width, height: 900, deviceScaleFactor: 1, mobile: width < 600 };
    await this.send("Emulation.setDeviceMetricsOverride", metrics);
    const height = await this.evaluate<number>("document.documentElement.scrollHeight");
    await this.send("Emulation.setDeviceMetricsOverride", { ...metrics, height: Math.max(height, 600) });
    const { data } = await this.send("Page.captureScreenshot", { format: "png" }) as { data: string };
    return Uint8Array.fromBase64(data);
  }

  /** Closes the tab, as a person does. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close().catch(() => {});
    this.#socket.close();
  }
}
