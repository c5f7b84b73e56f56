import { assert, assertEquals, assertRejects } from "@std/assert";
import { createHash } from "node:crypto";
import { zipSync } from "fflate";
import { DownloadError } from "../../contracts/errors.ts";
import { takes, until } from "../../../tests/support/until.ts";
import { download } from "./download.ts";
import { DATASETS, pullDataset, pullModel } from "./pull.ts";
import { assertQuick } from "../../../tests/support/quick.ts";

const CONTENT = Uint8Array.from({ length: 100_000 }, (_, i) => (i * 7919) >> 3);
const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
const git = (bytes: Uint8Array) =>
  createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");

type Handler = (request: Request, count: number) => Response | Promise<Response>;

/** A server that counts its requests, and a folder; both go in the end. */
async function withServer(
  handler: Handler,
  run: (url: string, folder: string, requests: Headers[]) => Promise<void>,
): Promise<void> {
  const requests: Headers[] = [];
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => {
    requests.push(new Headers(request.headers));
    return handler(request, requests.length);
  });
  const folder = await Deno.makeTempDir();
  try {
    await run(`http://127.0.0.1:${server.addr.port}`, folder, requests);
  } finally {
    await server.shutdown();
    await Deno.remove(folder, { recursive: true });
  }
}

/** Serves bytes with ranges; `cut` ends the connection after so many bytes. */
function serve(request: Request, bytes: Uint8Array, { cut = Infinity, etag = '"1"' } = {}): Response {
  const range = request.headers.get("range");
  const same = request.headers.get("if-range") === etag;
  const start = range !== null && same ? Number(/bytes=(\d+)-/.exec(range)![1]) : 0;
  const part = bytes.slice(start);
  const headers: Record<string, string> = { etag, "content-length": String(part.length) };
  if (start > 0) headers["content-range"] = `bytes ${start}-${bytes.length - 1}/${bytes.length}`;
  const chunks = [part.slice(0, cut)].values();
  const body = cut < part.length
    // What came before must have left when the connection ends.
    ? slowly(chunks, 20, new Error("cut"))
    : slowly(chunks, 0);
  return new Response(body, { status: start > 0 ? 206 : 200, headers });
}

/** Sends chunks with a pause after each, until nobody listens any more; then it ends, or fails with `error`. */
function slowly(chunks: Iterator<Uint8Array>, pauseMs: number, error?: Error): ReadableStream<Uint8Array> {
  const gone = new AbortController();
  let isFirst = true;
  return new ReadableStream({
    async pull(controller) {
      if (!isFirst && pauseMs > 0) await takes(pauseMs, gone.signal);
      isFirst = false;
      if (gone.signal.aborted) return;
      const { value, done } = chunks.next();
      if (!done) controller.enqueue(value);
      else if (error === undefined) controller.close();
      else controller.error(error);
    },
    cancel: () => gone.abort(),
  }, { highWaterMark: 0 });
}

const quick = { pauseMs: 1, idleTimeoutMs: 2000 };

Deno.test("download() goes on where the connection was cut, and says how far it is", async () => {
  await withServer((request) => serve(request, CONTENT, { cut: 30_000 }), async (url, folder, requests) => {
    const seen: (number | null)[] = [];
    await download(`${url}/a`, `${folder}/a`, {
      ...quick,
      size: CONTENT.length,
      checksum: { kind: "sha256", value: sha256(CONTENT) },
      onProgress: (done, total) => seen.push(done, total),
    });
    assertEquals(await Deno.readFile(`${folder}/a`), CONTENT);
    assertEquals(requests.map((r) => r.get("range")), [
      null,
      "bytes=30000-",
      "bytes=60000-",
      "bytes=90000-",
    ]);
    assertEquals(seen.slice(-2), [CONTENT.length, CONTENT.length]);
    assertEquals(await Array.fromAsync(Deno.readDir(folder), (e) => e.name), ["a"]);
  });
});

Deno.test("download() starts again if the file has changed meanwhile", async () => {
  const other = CONTENT.map((x) => x ^ 255);
  const handler: Handler = (request, count) =>
    count === 1 ? serve(request, CONTENT, { cut: 30_000 }) : serve(request, other, { etag: '"2"' });
  await withServer(handler, async (url, folder) => {
    await download(`${url}/a`, `${folder}/a`, { ...quick, size: CONTENT.length });
    assertEquals(await Deno.readFile(`${folder}/a`), other);
  });
});

Deno.test("download() goes on after the program was ended", async () => {
  await withServer(
    (request, count) => serve(request, CONTENT, { cut: count === 1 ? 40_000 : Infinity }),
    async (
      url,
      folder,
      requests,
    ) => {
      await assertRejects(
        () => download(`${url}/a`, `${folder}/a`, { ...quick, tries: 1 }),
        DownloadError,
        "40000 of 100000 bytes",
      );
      await download(`${url}/a`, `${folder}/a`, quick);
      assertEquals(await Deno.readFile(`${folder}/a`), CONTENT);
      assertEquals(requests[1]!.get("range"), "bytes=40000-");
    },
  );
});

Deno.test("download() refuses wrong lengths and checksums and keeps nothing of them", async () => {
  await withServer((request) => serve(request, CONTENT), async (url, folder) => {
    const wrong = [
      [{ size: 99_999 }, "must have 99999 bytes: it has 100000"],
      [{ checksum: { kind: "sha256", value: sha256(CONTENT.slice(1)) } }, "sha256 checksum must be"],
      [{ checksum: { kind: "git", value: "0".repeat(40) } }, "git checksum must be"],
    ] as const;
    for (const [options, message] of wrong) {
      await assertRejects(
        () => download(`${url}/a`, `${folder}/a`, { ...quick, ...options }),
        DownloadError,
        message,
      );
      assertEquals(await Array.fromAsync(Deno.readDir(folder)), []);
    }
    await download(`${url}/a`, `${folder}/a`, { ...quick, checksum: { kind: "git", value: git(CONTENT) } });
  });
});

Deno.test("download() says what to do about 401 and 404, at once; 503 is tried again", async () => {
  await withServer((request, count) => {
    const { pathname } = new URL(request.url);
    if (pathname === "/gated") return new Response("no", { status: 401 });
    if (pathname === "/missing") return new Response("no", { status: 404 });
    return count < 5 ? new Response("busy", { status: 503 }) : serve(request, CONTENT);
  }, async (url, folder, requests) => {
    const to = `${folder}/a`;
    await assertRejects(() => download(`${url}/gated`, to, quick), DownloadError, "set HF_TOKEN");
    await assertRejects(
      () => download(`${url}/gated`, to, { ...quick, token: "secret" }),
      DownloadError,
      "accepted the terms",
    );
    assertEquals(requests.map((r) => r.get("authorization")), [null, "Bearer secret"]);
    await assertRejects(() => download(`${url}/missing`, to, quick), DownloadError, "must exist");
    assertEquals(requests.length, 3);
    await download(`${url}/busy`, to, quick);
    assertEquals(requests.length, 5);
    await assertRejects(
      () => download("http://127.0.0.1:1/a", to, { ...quick, tries: 2 }),
      DownloadError,
      "one of 2 tries",
    );
  });
});

Deno.test("download() does not wait for a silent server for ever, and stops when told to", async () => {
  const silent: Handler = (request) =>
    new Response(
      new ReadableStream({
        start(controller) {
          controller.enqueue(CONTENT.slice(0, 10));
          request.signal.addEventListener("abort", () => {
            try {
              controller.close();
            } catch { /* closed by the other end */ }
          });
        },
      }),
      { headers: { "content-length": "100" } },
    );
  await withServer(silent, async (url, folder) => {
    await assertRejects(
      () => download(`${url}/a`, `${folder}/a`, { ...quick, idleTimeoutMs: 50, tries: 2 }),
      DownloadError,
      "came for 50 ms",
    );
    const controller = new AbortController();
    setTimeout(() => controller.abort(new Error("enough")), 50);
    await assertRejects(
      () => download(`${url}/b`, `${folder}/b`, { ...quick, signal: controller.signal }),
      Error,
      "enough",
    );
  });
});

Deno.test("a token does not follow a redirect to another host", async () => {
  await withServer((request) => serve(request, CONTENT), async (other, folder, reached) => {
    const handler: Handler = () => Response.redirect(`${other}/elsewhere`, 302);
    await withServer(handler, async (url, _, asked) => {
      await download(`${url}/a`, `${folder}/a`, { ...quick, token: "secret" });
      assertEquals(asked[0]!.get("authorization"), "Bearer secret");
      assertEquals(reached[0]!.get("authorization"), null);
      assertEquals(await Deno.readFile(`${folder}/a`), CONTENT);
    });
  });
});

Deno.test("pullModel() brings what a model needs, checked, once", async () => {
  const files: Record<string, Uint8Array> = {
    "config.json": new TextEncoder().encode("{}"),
    "tokenizer.json": new TextEncoder().encode("{...}"),
    "added_tokens.json": new TextEncoder().encode("{....}"),
    "additional_chat_templates/rag.jinja": new TextEncoder().encode("{{ x }}"),
    "additional_chat_templates/notes.txt": CONTENT.slice(10),
    "model.safetensors.index.json": new TextEncoder().encode("{ }"),
    "model-00001-of-00002.safetensors": CONTENT,
    "model-00002-of-00002.safetensors": CONTENT.slice(5),
    "pytorch_model.bin": CONTENT.slice(7),
    "README.md": CONTENT.slice(9),
  };
  const siblings = Object.entries(files).map(([rfilename, bytes]) =>
    rfilename.endsWith("safetensors")
      ? { rfilename, size: bytes.length, lfs: { sha256: sha256(bytes), size: bytes.length } }
      : { rfilename, size: bytes.length, blobId: git(bytes) }
  );
  files["model.safetensors"] = CONTENT.slice(11);
  const converted = ["config.json", "model.safetensors"].map((rfilename) => ({ rfilename }));
  const handler: Handler = (request) => {
    const { pathname } = new URL(request.url);
    if (pathname === "/api/models/some/model/revision/v1") return Response.json({ siblings });
    if (pathname === "/api/models/some/torch/revision/main") {
      const names = ["config.json", "flax_model.msgpack", "pytorch_model.bin", "vocab.json"];
      return Response.json({ siblings: names.map((rfilename) => ({ rfilename })) });
    }
    if (pathname === "/api/models/some/torch/revision/refs%2Fpr%2F7") {
      return Response.json({ siblings: converted });
    }
    if (pathname === "/api/models/some/empty/revision/main") {
      return Response.json({ siblings: [{ rfilename: "config.json" }] });
    }
    const pr = files[pathname.replace("/some/torch/resolve/refs%2Fpr%2F7/", "")];
    if (pr) return serve(request, pr);
    const file = files[pathname.replace("/some/model/resolve/v1/", "")];
    return file ? serve(request, file) : new Response("", { status: 404 });
  };
  await withServer(handler, async (endpoint, cache, requests) => {
    const options = { ...quick, endpoint, cache };
    const progress: string[] = [];
    const folder = await pullModel("some/model@v1", {
      ...options,
      onProgress: (done, total, file) => progress.push(`${file} ${done} ${total}`),
    });
    assertEquals(folder, `${cache}/models/some/model/v1`);
    const there = (await Array.fromAsync(Deno.readDir(folder), (e) => e.name)).sort();
    assertEquals(there, [
      ".complete",
      "added_tokens.json",
      "additional_chat_templates",
      "config.json",
      "model-00001-of-00002.safetensors",
      "model-00002-of-00002.safetensors",
      "model.safetensors.index.json",
      "tokenizer.json",
    ]);
    assertEquals(await Deno.readTextFile(`${folder}/additional_chat_templates/rag.jinja`), "{{ x }}");
    assertEquals((await Array.fromAsync(Deno.readDir(`${folder}/additional_chat_templates`))).length, 1);
    const total = 2 + 5 + 3 + 6 + 7 + 100_000 + 99_995;
    assertEquals(progress.at(-1), `model-00002-of-00002.safetensors ${total} ${total}`);
    const before = requests.length;
    assertEquals(await pullModel("some/model@v1", options), folder);
    assertEquals(requests.length, before, "a second pull needs no network");
    await assertRejects(
      () => pullModel("some/torch", options),
      DownloadError,
      "Cannot pull some/torch as its weights must be safetensors: it has flax_model.msgpack, pytorch_model.bin " +
        "alone. A pull request of the repository may hold a conversion: look there, and pull some/torch@refs/pr/N",
    );
    const conversion = await pullModel("some/torch@refs/pr/7", options);
    assertEquals(conversion, `${cache}/models/some/torch/refs/pr/7`);
    assertEquals(await Deno.readFile(`${conversion}/model.safetensors`), CONTENT.slice(11));
    await assertRejects(() => pullModel("some/empty", options), DownloadError, "must have config.json");
    await assertRejects(() => pullModel("some/nothing", options), DownloadError, "must exist");
    await assertRejects(() => pullModel("../../etc", options), DownloadError, "the model's name must be");
  });
});

Deno.test("pullDataset() brings files and unpacks archives", async () => {
  const zip = zipSync({ "inner/dev.jsonl": new TextEncoder().encode("{}\n"), "inner/other": CONTENT });
  const handler: Handler = (request) => {
    const { pathname } = new URL(request.url);
    if (pathname === "/set.zip") return serve(request, zip);
    return pathname === "/train.txt" ? serve(request, CONTENT) : serve(request, CONTENT.slice(3));
  };
  await withServer(handler, async (url, cache, requests) => {
    const sources = {
      plain: { about: "", files: { "train.txt": `${url}/train.txt` } },
      zipped: {
        about: "",
        files: { "set.zip": `${url}/set.zip` },
        archive: { "dev.jsonl": "inner/dev.jsonl" },
      },
      broken: { about: "", files: { "a.zip": `${url}/a.zip` }, archive: { "x": "x" } },
      lacking: { about: "", files: { "set.zip": `${url}/set.zip` }, archive: { "x": "inner/x" } },
    };
    const options = { ...quick, cache, token: "secret" };
    const plain = await pullDataset("plain", options, sources);
    assertEquals(await Deno.readFile(`${plain}/train.txt`), CONTENT);
    const zipped = await pullDataset("zipped", options, sources);
    assertEquals(await Deno.readTextFile(`${zipped}/dev.jsonl`), "{}\n");
    const before = requests.length;
    await pullDataset("zipped", options, sources);
    assertEquals(requests.length, before);
    assert(
      requests.every((r) => r.get("authorization") === null),
      "the hub's token stays with the hub",
    );
    await assertRejects(() => pullDataset("broken", options, sources), DownloadError, "must be an archive");
    await assertRejects(() => pullDataset("lacking", options, sources), DownloadError, "inner/x is missing");
    await assertRejects(() => pullDataset("other", options), DownloadError, Object.keys(DATASETS).join(", "));
  });
});

/** A hub with one small model, sent slowly enough for others to come in between, its weights not before `held` settles. */
function slowHub(held = Promise.resolve()): { readonly handler: Handler; readonly asked: string[] } {
  const files: Record<string, Uint8Array> = {
    "config.json": new TextEncoder().encode("{}"),
    "model.safetensors": CONTENT,
  };
  const siblings = Object.entries(files).map(([rfilename, bytes]) => ({
    ...{ rfilename, size: bytes.length, blobId: git(bytes) },
  }));
  const asked: string[] = [];
  const handler: Handler = (request) => {
    const { pathname } = new URL(request.url);
    if (pathname.startsWith("/api/")) return Response.json({ siblings });
    const bytes = files[pathname.slice(pathname.lastIndexOf("/") + 1)]!;
    asked.push(pathname);
    const starts = Array.from({ length: Math.ceil(bytes.length / 10_000) }, (_, i) => 10_000 * i).values();
    const body = slowly(starts.map((at) => bytes.slice(at, at + 10_000)), 50);
    const waiting = new TransformStream({ start: () => bytes === CONTENT ? held : undefined });
    return new Response(body.pipeThrough(waiting), {
      headers: { etag: '"1"', "content-length": String(bytes.length) },
    });
  };
  return { handler, asked };
}

const PULLED = ["/some/model/resolve/main/config.json", "/some/model/resolve/main/model.safetensors"];

Deno.test("pullModel() twice at once: the second waits, nothing is brought twice [slow]", async () => {
  const { handler, asked } = slowHub();
  await withServer(handler, async (endpoint, cache) => {
    const waits: number[] = [];
    const pulls = [0, 1, 2].map((i) =>
      pullModel("some/model", { ...quick, endpoint, cache, onWait: () => waits.push(i) })
    );
    const folders = await Promise.all(pulls);
    assertEquals(new Set(folders).size, 1);
    assertEquals(asked, PULLED);
    assertEquals(waits.length, 2, "all but one were told, once");
    assertEquals(await Deno.readFile(`${folders[0]}/model.safetensors`), CONTENT);
    const there = (await Array.fromAsync(Deno.readDir(folders[0]!), (e) => e.name)).sort();
    assertEquals(there, [".complete", "config.json", "model.safetensors"]);
  });
});

Deno.test("pullModel() in two processes at once; one that is ended leaves the lock to the other [slow]", async () => {
  const { promise: held, resolve: goOn } = Promise.withResolvers<void>();
  const { handler, asked } = slowHub(held);
  await withServer(handler, async (endpoint, cache) => {
    const program = `import { pullModel } from ${JSON.stringify(import.meta.resolve("./pull.ts"))};
      const [endpoint, cache] = ${JSON.stringify([endpoint, cache])};
      await pullModel("some/model", { endpoint, cache, onWait: () => console.log("waits") });`;
    const start = () =>
      new Deno.Command(Deno.execPath(), { args: ["eval", program], stdout: "piped", stderr: "piped" })
        .spawn();
    const first = start();
    await until(() => asked.length >= 2, "the first asks for both files");
    const second = start();
    const reader = second.stdout.getReader();
    const { value } = await reader.read();
    assertEquals(new TextDecoder().decode(value), "waits\n");
    first.kill("SIGKILL");
    await Promise.all([first.output(), reader.cancel()]);
    goOn();
    const { success } = await second.status;
    assertEquals(success, true, await new Response(second.stderr).text());
    assertEquals(asked.filter((path) => path === PULLED[0]).length, 1, "what was whole is not brought again");
    assertEquals(await Deno.readFile(`${cache}/models/some/model/main/model.safetensors`), CONTENT);
  });
});

Deno.test("pullModel() stops waiting when told to", async () => {
  const { handler, asked } = slowHub();
  await withServer(handler, async (endpoint, cache) => {
    const controller = new AbortController();
    const options = { ...quick, endpoint, cache };
    const first = pullModel("some/model", options);
    await until(() => asked.length >= 1, "the first asks for a file");
    await assertRejects(
      () =>
        pullModel("some/model", {
          ...options,
          signal: controller.signal,
          onWait: () => controller.abort(new Error("enough")),
        }),
      Error,
      "enough",
    );
    await first;
    assertEquals(asked, PULLED);
  });
});

/** Sends chunks, with a pause between them, until nobody listens any more. */
function endless(
  chunk: Uint8Array<ArrayBuffer>,
  pauseMs: number,
  headers: Record<string, string> = {},
): Response {
  const chunks = (function* () {
    for (;;) yield chunk;
  })();
  return new Response(slowly(chunks, pauseMs), { headers });
}

Deno.test("download() ends a file without an end at its limit, whatever was announced", async () => {
  const chunk = new Uint8Array(65_536);
  await withServer((request) => {
    const { pathname } = new URL(request.url);
    return pathname === "/announced"
      ? endless(chunk, 0, { "content-length": `${2 ** 40}` })
      : endless(chunk, 0);
  }, async (url, folder, requests) => {
    const cases = [
      ["/endless", { maxBytes: 1e6 }, "must have at most 1000000 bytes"],
      ["/endless", { size: 100_000 }, "must have 100000 bytes"],
      ["/announced", {}, `must have at most ${2 ** 28} bytes: it has ${2 ** 40} or more`],
    ] as const;
    for (const [path, options, message] of cases) {
      const started = performance.now();
      await assertRejects(
        () => download(`${url}${path}`, `${folder}/a`, { ...quick, ...options }),
        DownloadError,
        message,
      );
      assertQuick(performance.now() - started, 5000);
      assertEquals(await Array.fromAsync(Deno.readDir(folder)), [], "nothing is kept of it");
    }
    assertEquals(requests.length, cases.length, "trying again makes no sense");
  });
});

Deno.test("download() gives up on a server that sends a byte now and then, and on one that sends a few and ends [slow]", async () => {
  const slow = { pauseMs: 1, idleTimeoutMs: 1200, trickleMs: 60_000, minBytes: 1000, tries: 2 };
  await withServer((request) => {
    const { pathname } = new URL(request.url);
    if (pathname === "/trickle") return endless(new Uint8Array(1), 20);
    // Ten bytes more of a very long file each time.
    const from = Number(/bytes=(\d+)-/.exec(request.headers.get("range") ?? "")?.[1] ?? 0);
    return new Response(new Uint8Array(10), {
      status: from > 0 ? 206 : 200,
      headers: { etag: '"1"', "content-range": `bytes ${from}-${from + 9}/100000` },
    });
  }, async (url, folder) => {
    await assertRejects(
      () => download(`${url}/trickle`, `${folder}/a`, slow),
      DownloadError,
      "less than 1000 bytes came for 1200 ms",
    );
    await assertRejects(
      () => download(`${url}/crumbs`, `${folder}/b`, slow),
      DownloadError,
      "one of 2 tries",
    );
  });
});

Deno.test("download() gives up on crumbs long before its limit of silence, and not on a slow link or its end", async () => {
  const quickly = { trickleMs: 200, pauseMs: 1 };
  const later: number[] = [];
  await withServer((request) => {
    const { pathname } = new URL(request.url);
    if (pathname === "/trickle") return endless(new Uint8Array(1), 20);
    if (pathname === "/seldom") return endless(new Uint8Array(300), 350);
    if (pathname === "/sickens") {
      // Much at first; each later try brings crumbs alone.
      const from = Number(/bytes=(\d+)-/.exec(request.headers.get("range") ?? "")?.[1] ?? 0);
      later.push(from);
      const crumbs = (function* () {
        if (from === 0) yield new Uint8Array(40_000);
        for (;;) yield new Uint8Array(1);
      })();
      return new Response(slowly(crumbs, 20), {
        status: from > 0 ? 206 : 200,
        headers: { etag: '"1"', "content-range": `bytes ${from}-99999/100000` },
      });
    }
    // A packet every 100 ms, and an end of one byte.
    const packets = Array.from({ length: 6 }, (_, i) => new Uint8Array(i < 5 ? 1000 : 1));
    return new Response(slowly(packets.values(), 100), { headers: { "content-length": "5001" } });
  }, async (url, folder, requests) => {
    const rule = "as the server must send at least 1000 bytes in 0.2 seconds: it sent";
    for (const path of ["trickle", "seldom"]) {
      const started = performance.now();
      await assertRejects(
        () => download(`${url}/${path}`, `${folder}/${path}`, quickly),
        DownloadError,
        rule,
      );
      assertQuick(performance.now() - started, 5000);
    }
    assertEquals(requests.length, 2, "trying again makes no sense");
    await assertRejects(() => download(`${url}/sickens`, `${folder}/s`, quickly), DownloadError, rule);
    assertEquals([later.length, later[0]], [2, 0], "it had sent something: one more try");
    assert(later[1]! >= 40_000, "which goes on");
    await download(`${url}/slow`, `${folder}/slow`, quickly);
    assertEquals((await Deno.stat(`${folder}/slow`)).size, 5001);
  });
});

Deno.test("pullModel() refuses a list of files without an end", async () => {
  await withServer(() => endless(new Uint8Array(65_536).fill(0x5b), 0), async (url, folder) => {
    await assertRejects(
      () => pullModel("some/model", { ...quick, endpoint: url, cache: folder }),
      DownloadError,
      "must have at most 16777216 bytes",
    );
  });
});
