import { assertEquals, assertThrows } from "@std/assert";
import { assertClose, TOLERANCE } from "../../tests/support/tolerance.ts";
import { read, readJsonLines } from "./_fixtures_test.ts";
import { choiceAccuracy, type ScoredChoice } from "./choice.ts";
import { parseOpenBookQa, parseWinogrande } from "../data/choice_tasks.ts";

interface Row {
  doc: unknown;
  requests: { context: string; continuation: string }[];
  gold: number;
  example_lls: number[];
  example_acc: number;
  example_acc_norm?: number;
}

const AGGREGATE = JSON.parse(read("choice/aggregate.json"));

for (const [task, parse] of [["winogrande", parseWinogrande], ["openbookqa", parseOpenBookQa]] as const) {
  Deno.test(`questions and accuracies equal the reference: ${task}`, () => {
    const rows = readJsonLines<Row>(`choice/${task}_requests.jsonl`);
    const questions = parse(rows.map(({ doc }) => JSON.stringify(doc)).join("\n"));
    const scored = rows.map((row, i): ScoredChoice => {
      const { requests, gold, lengths } = questions[i]!;
      assertEquals(requests, row.requests.map(({ context, continuation }) => ({ context, continuation })));
      assertEquals(gold, row.gold);
      return { logLikelihoods: row.example_lls, gold, lengths };
    });
    scored.slice(0, rows.length).forEach((choice, i) => {
      const { accuracy, normalisedAccuracy } = choiceAccuracy([choice]);
      assertEquals(accuracy.mean, rows[i]!.example_acc);
      if (rows[i]!.example_acc_norm !== undefined) {
        assertEquals(normalisedAccuracy!.mean, rows[i]!.example_acc_norm);
      }
    });
    const { accuracy, normalisedAccuracy } = choiceAccuracy(scored);
    const { acc, acc_stderr, acc_norm, acc_norm_stderr } = AGGREGATE[task];
    assertClose([accuracy.mean, accuracy.standardError], [acc, acc_stderr], TOLERANCE.score);
    if (acc_norm !== undefined) {
      const { mean, standardError } = normalisedAccuracy!;
      assertClose([mean, standardError], [acc_norm, acc_norm_stderr], TOLERANCE.score);
    }
  });
}

Deno.test("the standard error is that of the harness's own test value", () => {
  const hits = Math.round(0.516179952644041 * 1267);
  const { accuracy } = choiceAccuracy(
    Array.from({ length: 1267 }, (_, i) => ({ logLikelihoods: [-1, -2], gold: i < hits ? 0 : 1 })),
  );
  assertClose(
    [accuracy.mean, accuracy.standardError],
    [0.516179952644041, 0.014045126130978606],
    TOLERANCE.score,
  );
});

Deno.test("equal likelihoods take the first answer; lengths of some questions do not count", () => {
  const { accuracy, normalisedAccuracy } = choiceAccuracy([
    { logLikelihoods: [-1, -1], gold: 0, lengths: [1, 1] },
    { logLikelihoods: [-1, -1], gold: 1 },
  ]);
  assertEquals([accuracy.mean, normalisedAccuracy], [0.5, null]);
  assertEquals(choiceAccuracy([{ logLikelihoods: [-Infinity, -5], gold: 1 }]).accuracy.mean, 1);
});

Deno.test("choiceAccuracy refuses what does not fit", () => {
  assertThrows(() => choiceAccuracy([]), RangeError, "there is none");
  const bad: readonly (readonly [ScoredChoice, string])[] = [
    [{ logLikelihoods: [-1, NaN], gold: 0 }, "log-likelihoods must be numbers"],
    [{ logLikelihoods: [-1, -2], gold: 2 }, "one of 2 answers: current value is 2"],
    [{ logLikelihoods: [-1, -2], gold: 0, lengths: [3] }, "a positive length for each answer"],
    [{ logLikelihoods: [-1, -2], gold: 0, lengths: [3, 0] }, "a positive length for each answer"],
  ];
  for (const [choice, message] of bad) assertThrows(() => choiceAccuracy([choice]), RangeError, message);
});
