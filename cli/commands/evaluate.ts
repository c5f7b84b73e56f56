/**
 * Scores predictions against references: BLEU, NIST, METEOR, ROUGE-L, CIDEr.
 *
 * @module
 */

import { formatE2eCsv, loadText, writeWhole } from "@edgetuner/core";
import { type Corpus, loadCorpus, loadCorpusOf, scoreCorpus } from "@edgetuner/core/evaluation";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { type FlagValues, readFlags, text, UsageError } from "../flags/flags.ts";
import { duration, ProgressBar } from "../output/progress.ts";
import { versions, writeReport } from "../output/report.ts";
import { scorePage, scoreRows } from "../output/score_page.ts";
import { loadMeteor, meteorText } from "../shared/word_net.ts";
import { tellDone } from "../output/run_end.ts";
import { commandText } from "../process/places.ts";
import { requireWritable } from "../process/writable.ts";
import type { Call } from "../process/invocation.ts";

interface Texts {
  readonly corpus: Corpus;
  readonly prompts?: readonly string[];
}

/** References from a file of the E2E tool, a folder of numbered files, or the challenge's CSV. */
async function loadTexts(references: string, predictions: string): Promise<Texts> {
  const isFolder = await Deno.stat(references).then((found) => found.isDirectory, () => null);
  if (isFolder === null) {
    throw new UsageError(
      `Cannot score as --references must be a file or a folder that is there: current value is "${references}"`,
    );
  }
  if (isFolder) {
    const names = (await Array.fromAsync(Deno.readDir(references))).map(({ name }) => name)
      .filter((name) => /^reference\d+$/.test(name))
      .sort((a, b) => Number(a.slice(9)) - Number(b.slice(9)));
    if (names.length === 0) {
      throw new UsageError(
        `Cannot score as a folder of references must hold reference0, ...: ${references} does not`,
      );
    }
    return { corpus: await loadCorpus(names.map((name) => `${references}/${name}`), predictions) };
  }
  if (!/\.csv$/i.test(references)) return { corpus: await loadCorpus(references, predictions) };
  const pairs = await formatE2eCsv(await loadText(references), { name: references });
  const groups = Map.groupBy(pairs, ({ prompt }) => prompt);
  return {
    corpus: await loadCorpusOf(
      [...groups.values()].map((group) => group.map(({ completion }) => completion)),
      { references, predictions },
    ),
    prompts: [...groups.keys()],
  };
}

const FLAGS = {
  references: text(
    "PATH",
    "",
    "one text a line, an empty line after each instance; or a folder with reference0, ...; or E2E CSV",
  ),
  predictions: { ...COMMON_FLAGS.predictions, help: "one text a line, as many as there are instances" },
  synonyms: COMMON_FLAGS.synonyms,
  report: { ...COMMON_FLAGS.report, help: "write the scores as JSON" },
  pretty: text("FILE", "", "write a page with sample outputs beside their references"),
  samples: { ...COMMON_FLAGS.samples, min: 1, help: "instances on that page" },
};

async function main(call: Call): Promise<void> {
  const flags = readFlags(
    {
      name: "evaluate.ts",
      about:
        "Scores predictions against references: BLEU, NIST, METEOR, ROUGE-L and CIDEr, as the tool of the\n" +
        "E2E challenge does. METEOR is computed without its paraphrase table, so it is a little lower than the\n" +
        "official one.\n\n" +
        "Accuracy on tasks with several answers to choose from (Winogrande, OpenBookQA): edgetuner choice.",
      examples: [
        "edgetuner evaluate --references REFERENCES --predictions PREDICTIONS",
        "edgetuner evaluate --references FOLDER --predictions PREDICTIONS --pretty runs/samples.html",
      ],
    },
    FLAGS,
    call,
  );
  for (const name of ["references", "predictions"] as const) {
    if (flags[name] === "") {
      throw new UsageError(`Cannot run evaluate.ts as --${name} must be given; see --help`);
    }
  }
  await requireWritable("evaluate.ts", { files: { report: flags.report, pretty: flags.pretty } });
  const { corpus, prompts } = await loadTexts(flags.references, flags.predictions);
  const meteor = await loadMeteor(flags.synonyms);
  const bar = new ProgressBar(corpus.predictions.length, { unit: "instance" });
  const started = performance.now();
  const scores = await scoreCorpus(corpus, {
    ...(meteor ? { meteor } : {}),
    onProgress: (done) => bar.draw(done, "scored"),
  });
  bar.end();
  for (const [name, value] of scoreRows(scores)) console.log(`${name.padEnd(8)}${value.padStart(8)}`);
  await writeScores(flags, scores, (performance.now() - started) / 1000);
  if (flags.pretty !== "") {
    const meteorName = meteorText(flags.synonyms);
    const title = `Scores of ${flags.predictions.split("/").at(-1)}`;
    const texts = { corpus, scores, ...(prompts ? { prompts } : {}) };
    await writeWhole(
      flags.pretty,
      scorePage({ title, meteor: meteorName, samples: flags.samples, ...texts }),
    );
  }
  tellDone({
    done: `${corpus.predictions.length} instances scored in ${
      duration((performance.now() - started) / 1000)
    }`,
    saved: [flags.report, flags.pretty].filter((file) => file !== ""),
    next: flags.pretty !== "" ? "" : commandText("evaluate.ts", [
      ...["--references", flags.references, "--predictions", flags.predictions],
      ...["--pretty", "runs/samples.html"],
    ], call.form),
  });
}

/** Writes the report, if one was asked for. */
async function writeScores(
  flags: FlagValues<typeof FLAGS>,
  { segments, ...means }: Awaited<ReturnType<typeof scoreCorpus>>,
  seconds: number,
): Promise<void> {
  await writeReport(flags.report, {
    versions: versions(),
    references: flags.references,
    predictions: flags.predictions,
    synonyms: flags.synonyms,
    meteor: meteorText(flags.synonyms),
    instances: segments.length,
    seconds,
    scores: means,
    segments,
  });
}

/**
 * Runs the command.
 *
 * @param call Its flags, as they were typed.
 * @returns Its exit code.
 */
export async function run(call: Call): Promise<number | void> {
  return await main(call);
}
