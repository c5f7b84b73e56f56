import { fileURLToPath } from "node:url";
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { ModelFileError, SaveError } from "../contracts/errors.ts";
import { type Adapter, loadAdapter, saveAdapter } from "../lora/adapter.ts";

import { loadPeft, savePeft, toPeft } from "../lora/peft.ts";
import { initialPredictor, loadPredictor, savePredictor } from "../pruning/predictor/predictor.ts";
import {
  claimFolder,
  keepPrevious,
  PendingFolder,
  previousOf,
  writeWhole,
  writeWholeSync,
} from "./atomic.ts";
import { saveSafetensors } from "./safetensors.ts";
import { StoredTensors } from "./stored_tensors.ts";

async function inFolder(run: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await run(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function tree(folder: string): Promise<Record<string, unknown>> {
  const found: Record<string, unknown> = {};
  for await (const { name, isDirectory } of Deno.readDir(folder)) {
    found[name] = isDirectory
      ? await tree(`${folder}/${name}`)
      : await Deno.readTextFile(`${folder}/${name}`);
  }
  return found;
}

const settings = { mode: "slice", targets: ["q"], rank: 2, alpha: 4, dropout: 0 } as const;

/** An adapter of one layer and two heads, all of one value. */
function adapter(value: number, rank = 2): Adapter {
  const arrays = new Map<string, { shape: number[]; data: Float32Array }>();
  for (const head of [0, 1]) {
    arrays.set(`layer0.head${head}.q.A`, { shape: [rank, 4], data: new Float32Array(rank * 4).fill(value) });
    arrays.set(`layer0.head${head}.q.B`, { shape: [4, rank], data: new Float32Array(rank * 4).fill(value) });
  }
  return {
    lora: { ...settings, rank },
    model: { layers: 1, heads: 2, hidden: 8 },
    fingerprint: "base",
    arrays,
  };
}

Deno.test("a file is written whole: leftovers are taken over, links followed, permissions kept", async () => {
  await inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/a`, "old");
    await Deno.writeTextFile(`${folder}/a.partial`, "much longer than what comes, of a killed writer");
    await writeWhole(`${folder}/a`, "new");
    assertEquals(await tree(folder), { a: "new" });
    await assertRejects(
      () => writeWhole(`${folder}/a`, () => Promise.reject(new TypeError("no content"))),
      TypeError,
      "no content",
    );
    writeWholeSync(`${folder}/b`, "1");
    assertEquals(await tree(folder), { a: "new", b: "1" });
    const missing = await assertRejects(() => writeWhole(`${folder}/none/a`, "x"), SaveError);
    assertMatch(missing.message, /Cannot write .*none\/a/);
    if (Deno.build.os === "windows") return;
    await Deno.chmod(`${folder}/a`, 0o600);
    await Deno.symlink(`${folder}/a`, `${folder}/link`);
    await writeWhole(`${folder}/link`, "through the link");
    assertEquals(await Deno.readTextFile(`${folder}/a`), "through the link");
    assertEquals((await Deno.lstat(`${folder}/link`)).isSymlink, true);
    assertEquals((await Deno.stat(`${folder}/a`)).mode! & 0o777, 0o600);
    await writeWhole("/dev/null", "gone");
  });
});

Deno.test("writers of one file take turns: the file is one of theirs", async () => {
  await inFolder(async (folder) => {
    const texts = Array.from({ length: 8 }, (_, i) => `${i}`.repeat(100_000 + i));
    await Promise.all(texts.map((text) => writeWhole(`${folder}/a`, text)));
    assert(texts.includes(await Deno.readTextFile(`${folder}/a`)));
    assertEquals(Object.keys(await tree(folder)), ["a"]);
  });
});

Deno.test("a folder of files that belong together gets its place whole, and the former one is kept", async () => {
  await inFolder(async (folder) => {
    {
      await using pending = await PendingFolder.create(`${folder}/out/`);
      await Deno.writeTextFile(`${pending.path}/a`, "damaged");
    }
    assertEquals(await tree(folder), {});
    await Deno.mkdir(`${folder}/out.partial`);
    await Deno.writeTextFile(`${folder}/out.partial/left`, "of an interrupted program");
    const put = async (files: Record<string, string>) => {
      await using pending = await PendingFolder.create(`${folder}/out`);
      for (const [name, text] of Object.entries(files)) {
        await Deno.writeTextFile(`${pending.path}/${name}`, text);
      }
      return await pending.keep();
    };
    assertEquals(await put({ a: "1" }), null);
    assertEquals(await tree(folder), { out: { a: "1" } });
    const previous = await put({ a: "2", b: "3" });
    assertEquals(previous, previousOf(`${folder}/out/`));
    assertEquals(await tree(folder), { out: { a: "2", b: "3" }, "out.previous": { a: "1" } });
    await put({ c: "4" });
    assertEquals(await tree(folder), { out: { c: "4" }, "out.previous": { a: "2", b: "3" } });
  });
});

Deno.test("files that others replace are kept in FOLDER.previous", async () => {
  await inFolder(async (folder) => {
    await Deno.mkdir(`${folder}/out`);
    assertEquals(await keepPrevious(`${folder}/out`, ["a", "b"]), null);
    await Deno.writeTextFile(`${folder}/out/a`, "1");
    assertEquals(await keepPrevious(`${folder}/out`, ["a", "b"]), `${folder}/out.previous`);
    await writeWhole(`${folder}/out/a`, "2");
    assertEquals(await tree(folder), { out: { a: "2" }, "out.previous": { a: "1" } });
  });
});

Deno.test("a folder is claimed by one program at a time, until that one ends", async () => {
  await inFolder(async (folder) => {
    const first = await claimFolder(`${folder}/state`);
    assert(first !== null);
    assertEquals(await claimFolder(`${folder}/state`), null);
    first[Symbol.dispose]();
    const second = await claimFolder(`${folder}/state/`);
    assert(second !== null);
    second[Symbol.dispose]();
  });
});

Deno.test("an adapter of another run is kept, and one of the same run replaced", async () => {
  await inFolder(async (folder) => {
    const place = `${folder}/heads`;
    const valueOf = async (at: string) => (await loadAdapter(at)).arrays.get("layer0.head0.q.A")!.data[0];
    assertEquals(await saveAdapter(place, adapter(1), { run: "one", steps: 10 }), null);
    assertEquals(await saveAdapter(place, adapter(2), { run: "one", steps: 20 }), null);
    assertEquals(await saveAdapter(place, adapter(3), { run: "two", steps: 1 }), `${place}.previous`);
    assertEquals(await saveAdapter(place, adapter(4), { run: "two", steps: 2 }), null);
    assertEquals([await valueOf(place), await valueOf(`${place}.previous`)], [4, 2]);
    assertEquals(await saveAdapter(place, adapter(5)), `${place}.previous`);
    assertEquals([await valueOf(place), await valueOf(`${place}.previous`)], [5, 4]);
  });
});

Deno.test("a writer that was killed between the two files of an adapter leaves one that is whole", async () => {
  await inFolder(async (folder) => {
    const [a, b] = [`${folder}/a`, `${folder}/b`];
    await saveAdapter(a, adapter(1, 2));
    await saveAdapter(b, adapter(2, 4));
    // Weights are renamed first, then what is said beside them.
    await Deno.copyFile(`${b}/adapter_model.safetensors`, `${a}/adapter_model.safetensors`);
    assertEquals((await loadAdapter(a)).lora.rank, 4);
    await Deno.remove(`${b}/adapter_config.json`);
    assertEquals((await loadAdapter(b)).lora.rank, 4);
  });
});

/** Flips one bit of a file while `run` looks at it. */
async function flipped(path: string, at: number, run: () => Promise<void>): Promise<void> {
  const bytes = await Deno.readFile(path);
  const other = bytes.slice();
  other[at]! ^= 1;
  await Deno.writeFile(path, other);
  try {
    await run();
  } finally {
    await Deno.writeFile(path, bytes);
  }
}

Deno.test("a flipped bit in what was written here is an error that names the file", async () => {
  await inFolder(async (folder) => {
    await saveAdapter(`${folder}/heads`, adapter(1));
    await savePeft(`${folder}/peft`, toPeft(adapter(1), "gpt2"));
    const shape = { layers: 1, heads: 2, hidden: 8, history: 2, lambda: 0.8 };
    await savePredictor(
      `${folder}/predictor`,
      initialPredictor({ ...shape, width: 16, channels: 1, fusion: 4 }, 1),
    );
    await saveSafetensors(`${folder}/model.safetensors`, adapter(1).arrays);
    const reading: Record<string, () => Promise<unknown>> = {
      "heads/adapter_model.safetensors": () => loadAdapter(`${folder}/heads`),
      "peft/adapter_model.safetensors": () => loadPeft(`${folder}/peft`),
      "predictor/model.safetensors": () => loadPredictor(`${folder}/predictor`),
      "model.safetensors": async () => {
        const stored = await StoredTensors.open(`${folder}/model.safetensors`);
        for (const name of stored.keys()) for (const _ of stored.pieces(name)) { /* read */ }
      },
    };
    for (const [file, read] of Object.entries(reading)) {
      await read();
      const { size } = await Deno.stat(`${folder}/${file}`);
      const header = Number(
        new DataView((await Deno.readFile(`${folder}/${file}`)).buffer).getBigUint64(0, true),
      );
      // In the values, and in a digest that the header notes.
      const text = await Deno.readTextFile(`${folder}/${file}`);
      for (const at of [8 + header, size - 1, text.indexOf("edgetuner.header.sha256") + 30]) {
        await flipped(`${folder}/${file}`, at, async () => {
          const { message } = await assertRejects(read, ModelFileError);
          assert(message.includes(file), message);
        });
      }
    }
    const config = `${folder}/heads/adapter_config.json`;
    const at = (await Deno.readTextFile(config)).indexOf('"rank": 2') + 8;
    await flipped(config, at, async () => {
      const { message } = await assertRejects(() => loadAdapter(`${folder}/heads`), ModelFileError);
      assertMatch(message, /adapter_config\.json as "lora" must be/);
    });
  });
});

/** Runs with a disk of 64 kB, if disks may be mounted here. */
async function onSmallDisk(run: (folder: string) => Promise<void>): Promise<boolean> {
  const folder = await Deno.makeTempDir();
  const command = async (name: string, args: string[]) => {
    try {
      return (await new Deno.Command(name, { args, stdout: "null", stderr: "null" }).output()).success;
    } catch {
      return false;
    }
  };
  try {
    if (!await command("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", folder])) return false;
    try {
      await run(folder);
    } finally {
      await command("umount", [folder]);
    }
    return true;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("on a full disk there is one line with the file's name, and what was there is whole", async () => {
  const ran = await onSmallDisk(async (folder) => {
    const heads = `${folder}/heads`;
    await saveAdapter(heads, adapter(1), { run: "one", steps: 1 });
    await savePeft(`${folder}/peft`, toPeft(adapter(1), "gpt2"));
    await writeWhole(`${folder}/report.json`, "small");
    const before = await tree(folder);
    const large = adapter(2, 2000);
    const big = "x".repeat(100_000);
    const attempts: [string, () => Promise<unknown>][] = [
      [`${heads}/adapter_model.safetensors`, () => saveAdapter(heads, large, { run: "one", steps: 2 })],
      [`${folder}/peft`, () => savePeft(`${folder}/peft`, toPeft(large, "gpt2"))],
      [`${folder}/report.json`, () => writeWhole(`${folder}/report.json`, big)],
      [`${folder}/sync.csv`, () => Promise.resolve().then(() => writeWholeSync(`${folder}/sync.csv`, big))],
    ];
    for (const [file, save] of attempts) {
      const { message } = await assertRejects(save, SaveError);
      assert(message.startsWith(`Cannot write ${file}`), message);
      assertMatch(message, /as the disk is full; what was there before is still whole/);
      assertEquals(message.split("\n").length, 1);
      assertEquals(await tree(folder), before, "nothing is left");
    }
    assertEquals((await loadAdapter(heads)).arrays.get("layer0.head0.q.A")!.data[0], 1);
  });
  if (ran) return;
  console.log("No disk may be mounted here: /dev/full stands for a full one");
  if (Deno.build.os !== "linux") return;
  const { message } = await assertRejects(() => writeWhole("/dev/full", "x"), SaveError);
  assertMatch(message, /Cannot write \/dev\/full as the disk is full/);
});

const WRITER = `
import { saveAdapter } from ${JSON.stringify(import.meta.resolve("../lora/adapter.ts"))};
import { savePredictor, initialPredictor } from ${
  JSON.stringify(import.meta.resolve("../pruning/predictor/predictor.ts"))
};
const [folder] = Deno.args;
const size = 20000;
for (let i = 0; ; i++) {
  const rank = 1 + i % 2;
  const arrays = new Map([["layer0.head0.q.A", { shape: [rank, size], data: new Float32Array(rank * size).fill(i) }]]);
  const lora = { mode: "slice", targets: ["q"], rank, alpha: 4, dropout: 0 };
  const model = { layers: 1, heads: 1, hidden: size };
  await saveAdapter(folder + "/heads", { lora, model, fingerprint: "", arrays }, { run: i % 3 ? "a" : "b", steps: i });
  const shape = { layers: 1, heads: 2, hidden: 8, history: 2, lambda: 0.8, width: 16, channels: 1, fusion: 4 + i % 2 };
  await savePredictor(folder + "/predictor", initialPredictor(shape, i));
  console.log("saved");
}
`;

Deno.test("kill -9 while saving: what has the final name is whole each time, and leftovers do no harm [slow]", async () => {
  await inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/writer.ts`, WRITER);
    let seed = 1;
    for (let round = 0; round < 8; round++) {
      const process = new Deno.Command(Deno.execPath(), {
        args: [
          "run",
          "-A",
          "--quiet",
          "--no-check",
          `--config=${fileURLToPath(import.meta.resolve("../../deno.json"))}`,
        ]
          .concat(`${folder}/writer.ts`, folder),
        stdin: "null",
        stdout: "piped",
        stderr: "inherit",
      }).spawn();
      const reader = process.stdout.getReader();
      await reader.read(); // it is saving
      seed = seed * 48_271 % 2_147_483_647;
      // deno-lint-ignore house/fixed-sleep -- it is killed at some moment of the next ones
      await new Promise((resolve) => setTimeout(resolve, seed % 40));
      process.kill("SIGKILL");
      await process.status;
      await reader.cancel();
      const { lora, arrays } = await loadAdapter(`${folder}/heads`);
      const [array] = arrays.values();
      assertEquals(array!.shape, [lora.rank, 20_000]);
      assert(array!.data.every((value) => value === array!.data[0]));
      await loadPredictor(`${folder}/predictor`);
    }
    await saveAdapter(`${folder}/heads`, adapter(1));
    assertEquals(
      (await Array.fromAsync(Deno.readDir(`${folder}/heads`), ({ name }) => name)).sort(),
      ["adapter_config.json", "adapter_model.safetensors"],
    );
  });
});
