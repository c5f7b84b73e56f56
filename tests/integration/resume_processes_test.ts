/**
 * Runs that are killed or stopped and resumed, as people do it.
 */

import { claimFolder, openRunStates } from "@edgetuner/core";
import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { inThread } from "../support/in_thread.ts";
import { ASSETS, EXAMPLES } from "../support/places.ts";
import { until } from "../support/until.ts";

function start(program: string, args: readonly string[], cwd?: string): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    ...(cwd === undefined ? {} : { cwd }),
    args: ["run", "-A", "--quiet", `${EXAMPLES}${program}`, ...args],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

async function end(process: Deno.ChildProcess): Promise<{ code: number; out: string; errors: string }> {
  const { code, stdout, stderr } = await process.output();
  const decoder = new TextDecoder();
  const errors = decoder.decode(stderr).split("\n").filter((l) => l !== "" && !l.includes("XDG_RUNTIME_DIR"));
  return { code, out: decoder.decode(stdout), errors: errors.join("\n") };
}

async function run(program: string, args: readonly string[], cwd?: string): Promise<string> {
  const { code, out, errors } = await end(start(program, args, cwd));
  assertEquals(code, 0, errors);
  return out;
}

/** Names of the states in a folder. */
async function statesIn(folder: string): Promise<string[]> {
  try {
    const names = await Array.fromAsync(Deno.readDir(folder), ({ name }) => name);
    return names.filter((name) => name.endsWith(".safetensors")).sort();
  } catch {
    return []; // not made yet
  }
}

async function untilState(folder: string): Promise<void> {
  await until(async () => (await statesIn(folder)).length > 0, `a state in ${folder}`, 60_000);
}

const weightsOf = (folder: string) => Deno.readFile(`${folder}/adapter_model.safetensors`);

async function metricsOf(folder: string): Promise<unknown[]> {
  const lines = (await Deno.readTextFile(`${folder}/metrics.jsonl`)).trimEnd().split("\n");
  return lines.map((line) => JSON.parse(line)).map(({ step, mode, loss, rate }) => ({
    step,
    mode,
    loss,
    rate,
  }));
}

async function withFolder(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const TUNING = [
  ...["--dropout", "0.1", "--batch", "1", "--accumulate", "2", "--clip-norm", "1", "--schedule", "cosine"],
  ...["--eval-every", "5", "--valid-batches", "2", "--keep-best", "--length", "24"],
];

Deno.test("server_tuner.ts, killed and resumed, ends with the files of an uninterrupted run [slow]", async () => {
  await withFolder(async (root) => {
    const args = [...TUNING, "--steps", "16", "--valid", `${ASSETS}restaurant/valid.txt`];
    const to = (name: string) => ["--save", `${root}/${name}`, "--metrics", `${root}/${name}-metrics`];
    const out = await run("server_tuner.ts", [...args, ...to("whole")]);
    assertStringIncludes(out, "110,592 trainable parameters, 11.8 % of the base model's 940,800");

    const folder = `${root}/states`;
    const saving = ["--state", folder, "--state-every", "4"];
    const killed = start("server_tuner.ts", [...args, ...to("again"), ...saving]);
    await untilState(folder);
    killed.kill("SIGKILL");
    await end(killed);
    const [first] = await statesIn(folder);
    assertLess(first!, "step-00000016.safetensors", "it was killed before its end");

    const report = `${root}/report.json`;
    await run("server_tuner.ts", [
      ...args,
      ...to("again"),
      "--resume",
      folder,
      "--state-every",
      "4",
      "--report",
      report,
    ]);
    for (const suffix of ["", "-best"]) {
      assertEquals(await weightsOf(`${root}/again${suffix}`), await weightsOf(`${root}/whole${suffix}`));
    }
    assertEquals(await metricsOf(`${root}/again-metrics`), await metricsOf(`${root}/whole-metrics`));
    const { resumedFrom, validations, best, parameters } = JSON.parse(await Deno.readTextFile(report));
    assertGreater(resumedFrom, 0);
    assertEquals(validations.at(-1).step, 16);
    assertEquals(best.loss, Math.min(...validations.map((v: { loss: number }) => v.loss)));
    assertEquals(parameters.trainable, 110_592);
    assertEquals(await statesIn(folder), ["step-00000012.safetensors", "step-00000016.safetensors"]);

    for (
      const [flags, rule] of [
        [["--rate", "0.5"], "optimizer.learningRate must be 0.01"],
        [["--data", `${ASSETS}restaurant/test.txt`], "fingerprint of data and batches"],
        [["--batch", "3"], "fingerprint of data and batches"],
        [
          ["--base-weights", "f16"],
          'base\'s weights must be "f32", as in the saved state: current value is "f16"',
        ],
      ] as const
    ) {
      const refused = await end(
        start("server_tuner.ts", [...args, ...to("again"), "--resume", folder, ...flags]),
      );
      assertEquals(refused.code, 1);
      assertStringIncludes(refused.errors, rule);
      const lines = refused.errors.split("\n").filter((line) => !line.includes(" cut to 24 tokens"));
      assertEquals(lines.length, 1, refused.errors);
    }

    // The same command again says what would go on.
    const again = await end(start("server_tuner.ts", [...args, ...to("again"), "--state", folder]));
    assertEquals(again.code, 1);
    assertStringIncludes(again.errors, "; --resume goes on with what is there");

    // The newest one cut short: the run goes on from that before, and says so.
    await Deno.truncate(`${folder}/step-00000016.safetensors`, 1000);
    const { code, errors } = await end(
      start("server_tuner.ts", [...args, ...to("later"), "--resume", folder]),
    );
    assertEquals(code, 0, errors);
    assert(/step-00000016.* going on from an older one, of step 12 or before\./.test(errors), errors);
    assertEquals(await weightsOf(`${root}/later`), await weightsOf(`${root}/whole`));
  });
});

/** Some moment below a limit, another one at each call. */
function moment(limitMs: number): Promise<void> {
  // deno-lint-ignore house/fixed-sleep -- the moment must not depend on what the program does
  return new Promise((resolve) => setTimeout(resolve, Math.random() * limitMs));
}

Deno.test("server_tuner.ts without flags of its state, killed at any moment, goes on by --resume alone [slow]", async () => {
  await withFolder(async (root) => {
    const args = [
      "--steps",
      "60",
      "--batch",
      "1",
      "--length",
      "32",
      "--dropout",
      "0.1",
      "--save",
      "heads",
      "--metrics",
      "metrics",
    ];
    for (const folder of ["whole", "again"]) await Deno.mkdir(`${root}/${folder}`);
    await run("server_tuner.ts", args, `${root}/whole`);
    const cwd = `${root}/again`;
    const first = start("server_tuner.ts", args, cwd);
    await untilState(`${cwd}/runs/server_tuner/state`);
    await moment(700);
    first.kill("SIGKILL");
    await end(first);
    const rows = (await Deno.readTextFile(`${cwd}/metrics/metrics.jsonl`)).split("\n").slice(0, -1)
      .map((line) => JSON.parse(line) as { step: number; seconds: number });
    await run("server_tuner.ts", [...args, "--resume", "--report", "report.json"], cwd);
    const { resumedFrom, saving } = JSON.parse(await Deno.readTextFile(`${cwd}/report.json`));
    assertGreater(resumedFrom, 0);
    const lost = rows.filter(({ step }) => step >= resumedFrom).reduce(
      (sum, { seconds }) => sum + seconds,
      0,
    );
    assertLess(lost, 5, "seconds of work lost");
    assertGreater(saving.count, 0);
    assertEquals(await weightsOf(`${cwd}/heads`), await weightsOf(`${root}/whole/heads`));

    // A new run in the same place: what the last one has learnt and saved is kept.
    const worse = [
      "--rate",
      "10",
      "--valid",
      `${ASSETS}restaurant/valid.txt`,
      "--valid-batches",
      "1",
      "--keep-best",
    ];
    const again = ["--steps", "1", "--batch", "1", "--length", "32", "--save", "heads", ...worse];
    const out = await end(start("server_tuner.ts", again, cwd));
    // At this rate the validation after its step is worse than the one before: what has learnt nothing is the best.
    await assertRejects(() => weightsOf(`${cwd}/heads-best`), Deno.errors.NotFound);
    assertStringIncludes(out.errors, "The adapter of another run is kept: heads.previous");
    assertEquals(await weightsOf(`${cwd}/heads.previous`), await weightsOf(`${root}/whole/heads`));
    assertEquals((await statesIn(`${cwd}/runs/server_tuner/state/previous`)).length, 2);

    // A run that is stopped before its first step saves nothing.
    const kept = await weightsOf(`${cwd}/heads`);
    const long = [
      "--valid",
      `${ASSETS}restaurant/train.txt`,
      "--valid-batches",
      "100000",
      "--save",
      "heads",
    ];
    const stopped = start("server_tuner.ts", long, cwd);
    const reader = stopped.stdout.getReader();
    await reader.read(); // it is about to begin
    reader.releaseLock();
    stopped.kill("SIGINT");
    const { code, errors } = await end(stopped);
    assertEquals(code, 130);
    assertStringIncludes(errors, "Saved nothing to heads, as there was no training step");
    assertEquals(await weightsOf(`${cwd}/heads`), kept);
    assertEquals(await weightsOf(`${cwd}/heads.previous`), await weightsOf(`${root}/whole/heads`));
  });
});

Deno.test("demo.ts, stopped by Ctrl-C and resumed, ends with the adapter of an uninterrupted run [slow]", async () => {
  await withFolder(async (root) => {
    const args = [...TUNING, "--steps", "16", "--prompts", "1", "--codec", "f16", "--capacities", "2,1"];
    await run("demo.ts", [...args, "--out", `${root}/whole`]);

    const out = `${root}/again`;
    const metrics = ["--metrics", `${root}/metrics`];
    const stopped = start("demo.ts", [...args, ...metrics, "--out", out, "--state-every", "3"]);
    await untilState(`${out}/states/device-2`);
    stopped.kill("SIGINT");
    const { code, errors: said } = await end(stopped);
    assertEquals(code, 130);
    // Devices without data have no base.
    const held = [["edge-server", "f32"], ["device-1", "f32"], ["device-2", undefined]] as const;
    for (const [party, format] of held) {
      const { steps, load } = await openRunStates(`${out}/states/${party}`);
      assertEquals((await load(steps.at(-1)!)).baseWeights, format, party);
    }
    const [, command] = /^Go on from step \d+: deno run -A examples\/demo\.ts (.*)$/m.exec(said) ?? [];
    assert(command !== undefined, said);

    const report = `${root}/report.json`;
    await run("demo.ts", [...command.split(" "), "--report", report]);
    for (const adapter of ["adapter", "adapter-best"]) {
      assertEquals(
        await weightsOf(`${out}/${adapter}`),
        await weightsOf(`${root}/whole/${adapter}`),
        adapter,
      );
    }
    const { steps, validations, best, parameters } = JSON.parse(await Deno.readTextFile(report));
    assertGreater(steps[0].step, 0);
    assertEquals(validations.at(-1).step, 16);
    assert(best.loss <= validations.at(-1).loss);
    assertEquals(parameters.trainable, 110_592);
    // Nobody asked for states here, and all processes are killed.
    const killed = new Deno.Command("setsid", {
      args: [
        Deno.execPath(),
        "run",
        "-A",
        "--quiet",
        `${EXAMPLES}demo.ts`,
        ...args,
        "--out",
        `${root}/killed`,
      ],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    await untilState(`${root}/killed/states/device-2`);
    const busy = await inThread("demo.ts", [...args, "--out", `${root}/killed`]);
    assertEquals(busy.code, 2);
    assertStringIncludes(busy.errors, `one run at a time may use ${root}/killed`);
    await moment(400);
    await new Deno.Command("sh", { args: ["-c", `kill -9 -- -${killed.pid}`] }).output();
    await killed.status;
    await run("demo.ts", [...args, "--out", `${root}/killed`, "--resume", "--report", report]);
    for (const adapter of ["adapter", "adapter-best"]) {
      assertEquals(
        await weightsOf(`${root}/killed/${adapter}`),
        await weightsOf(`${root}/whole/${adapter}`),
        adapter,
      );
    }
    const trained = (await metricsOf(`${root}/metrics`) as { step: number; mode: string }[])
      .filter(({ mode }) => mode === "train");
    assertEquals(trained.map(({ step }) => step), Array.from({ length: 16 }, (_, i) => i));
  });
});

Deno.test("a program whose launcher is killed ends by itself, with what was learnt saved [slow]", async () => {
  await withFolder(async (cwd) => {
    // The shell stays, as the program's parent.
    const program =
      `"${Deno.execPath()}" run -A --quiet "${EXAMPLES}server_tuner.ts" --steps 100000 --save heads`;
    const launcher = new Deno.Command("sh", {
      ...{ args: ["-c", `${program} --end-with $$; exit`], cwd },
      ...{ stdin: "null", stdout: "null", stderr: "null" },
    }).spawn();
    await untilState(`${cwd}/runs/server_tuner/state`);
    launcher.kill("SIGKILL");
    await launcher.status;
    const claim = await until(() => claimFolder(`${cwd}/runs/server_tuner/state`), "the program's end");
    claim[Symbol.dispose]();
    assertGreater((await weightsOf(`${cwd}/heads`)).length, 0);
  });
});

Deno.test("every program that trains has the flags of tuning, from a file too, with the command line first [slow]", async () => {
  for (const program of ["server_tuner.ts", "edge_server.ts", "demo.ts"]) {
    const { out: help } = await inThread(program, ["--help"]);
    for (
      const flag of [
        "schedule",
        "warmup",
        "accumulate",
        "clip-norm",
        "state-every",
        "resume",
        "metrics",
        "config",
      ]
    ) {
      assertStringIncludes(help, `--${flag} `, program);
    }
  }
  for (const program of ["server_tuner.ts", "user_device.ts", "demo.ts"]) {
    const { out: help } = await inThread(program, ["--help"]);
    for (const flag of ["--eval-every ", "--keep-best", "--valid-batches "]) {
      assertStringIncludes(help, flag, program);
    }
  }
  await withFolder(async (root) => {
    const config = {
      steps: 3,
      schedule: "constant",
      warmup: 0,
      rate: 0.01,
      "clip-norm": 0.5,
      batch: 2,
      metrics: `${root}/m`,
    };
    await Deno.writeTextFile(`${root}/flags.json`, JSON.stringify(config));
    const report = `${root}/report.json`;
    await run("server_tuner.ts", [
      "--config",
      `${root}/flags.json`,
      "--steps",
      "2",
      "--rate",
      "0.02",
      "--report",
      report,
    ]);
    const { settings, steps } = JSON.parse(await Deno.readTextFile(report));
    assertEquals(
      [settings.steps, settings.rate, settings.schedule, settings["clip-norm"], settings.batch, steps.length],
      [2, 0.02, "constant", 0.5, 2, 2],
    );
    const rates = (await metricsOf(`${root}/m`) as { rate: number }[]).map(({ rate }) => rate);
    assertEquals(rates, [0.02, 0.02]);
  });
});
