import { assert, assertEquals, assertRejects } from "@std/assert";
import { RunStateError, SaveError } from "../contracts/errors.ts";
import { defaultRunSettings } from "../train/default_run_settings.ts";
import type { RunState } from "./run_state.ts";
import { openRunFolder } from "./run_folder.ts";

async function inFolder(run: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await run(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function state(run: string, step: number, position = step): RunState {
  return {
    ...{
      run,
      step,
      settings: { ...defaultRunSettings(10), prunedFade: 1 },
      fingerprint: "",
      heads: null,
      pruning: null,
      devices: null,
    },
    data: { fingerprint: "", position, best: null },
  };
}

Deno.test("a default folder in use is left alone, and --resume alone finds the newest state that fits", async () => {
  await inFolder(async (root) => {
    const options = { folder: `${root}/state`, isDefault: true };
    {
      using one = await openRunFolder({ ...options, resume: null });
      using two = await openRunFolder({ ...options, resume: null });
      assertEquals([one.path, two.path], [`${root}/state`, `${root}/state-2`]);
      await one.write(state("one", 4));
      await two.write(state("two", 2));
      const old = new Date(Date.now() - 60_000);
      await Deno.utime(`${root}/state/step-00000004.safetensors`, old, old);
      await assertRejects(
        () => openRunFolder({ ...options, resume: "newest" }),
        SaveError,
        `Cannot use ${root}/state-2 as one run at a time`,
      );
    }
    const newest = await openRunFolder({ ...options, resume: "newest" });
    assertEquals([newest.path, newest.resumed?.run], [`${root}/state-2`, "two"]);
    // While that one is used, the other is the newest there is.
    const next = await openRunFolder({ ...options, resume: "newest" });
    assertEquals(next.resumed?.run, "one");
    newest[Symbol.dispose]();
    next[Symbol.dispose]();
    using fitting = await openRunFolder({ ...options, resume: "newest", fits: ({ run }) => run === "one" });
    assertEquals(fitting.path, `${root}/state`);
  });
});

Deno.test("a new run sets the state of an earlier one aside, and says so if that is not over", async () => {
  await inFolder(async (root) => {
    const lines: string[] = [];
    const options = {
      folder: `${root}/state`,
      isDefault: true,
      tell: (line: string) => void lines.push(line),
    };
    {
      using none = await openRunFolder({ ...options, resume: "newest" });
      assertEquals([none.resumed, lines.length], [null, 1], "there is nothing to go on from");
      await none.write(state("one", 3));
      await none.write(state("one", 4));
      await Deno.writeTextFile(`${none.path}/step-00000007.safetensors.partial`, "of a killed writer");
    }
    {
      using next = await openRunFolder({ ...options, resume: null });
      assertEquals(lines.length, 1, "a run that has done nothing takes no other one's place");
      await next.write(state("two", 9));
      assert(lines[1]!.includes("a run that is not over (4 of 10 steps)"), lines[1]);
      const names = await Array.fromAsync(Deno.readDir(next.path), ({ name }) => name);
      assertEquals(names.sort(), [".lock", "previous", "step-00000009.safetensors"]);
      await next.write(state("two", 10));
    }
    {
      using back = await openRunFolder({ ...options, resume: `${root}/state/previous` });
      assertEquals([back.resumed?.run, back.resumed?.steps], ["one", [3, 4]]);
    }
    {
      using last = await openRunFolder({ ...options, resume: null });
      await last.write(state("three", 1));
      assertEquals(lines.length, 2, "a run that is over needs no word");
    }
    using back = await openRunFolder({ ...options, resume: `${root}/state/previous` });
    assertEquals(back.resumed?.steps, [9, 10]);
  });
});

Deno.test("a folder that was asked for is refused if another run uses it or has its state there", async () => {
  await inFolder(async (root) => {
    const options = { folder: `${root}/state`, resume: null };
    {
      using one = await openRunFolder(options);
      await one.write(state("one", 1));
      await assertRejects(() => openRunFolder(options), SaveError, "another program is using it");
    }
    await assertRejects(() => openRunFolder(options), RunStateError, 'it holds those of run "one"');
    await assertRejects(() => openRunFolder({ ...options, resume: `${root}/none` }), RunStateError);
    using again = await openRunFolder({ ...options, resume: "newest" });
    assertEquals(again.resumed?.run, "one");
  });
});
