import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { type ArenaMatrix, Engine, roundUp4, type Tensor } from "@edgetuner/kernels";
import { ProtocolError } from "../contracts/errors.ts";
import { randomStream } from "../model/random.ts";
import { LORA_FIELDS } from "../protocol/messages.ts";
import type { EdgePlace } from "./edge_heads.ts";
import {
  checkLora,
  DEFAULT_LORA,
  DEFAULT_PROJECTIONS,
  headParameters,
  type LoraSettings,
  modeSize,
} from "./settings.ts";
import { inputNumbers, inputRows } from "./input_mode.ts";
import { INPUT_MODE_NAMES, INPUT_MODES } from "./input_modes.ts";

const engine = await Engine.create();
const MODEL = { layers: 2, heads: 4, hidden: 32 };
const HEAD_SIZE = 8;
const TOKENS = 5;
/** Kept heads of two devices. */
const DEVICES = [[0, 2], [3]];
const KEPT = DEVICES.flat();

const random = randomStream(7, 1);
const numbers = (count: number) => Float32Array.from({ length: count }, () => random.float() - 0.5);
const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, v, i) => sum + v * b[i]!, 0);
const listOf = (list: readonly number[]) => engine.upload(Uint32Array.from(list), 1, list.length, "heads");

/** Values of a gradient of X after `add`. */
async function added(add: (target: Tensor) => void, columns = MODEL.hidden): Promise<Float32Array> {
  using target = engine.zeros(TOKENS, columns, "sum");
  add(target);
  return await target.read();
}

/** The kept heads in layer 1; lists are freed with the stack. */
function placeIn(stack: DisposableStack, mode: EdgePlace["mode"] = "evaluate"): EdgePlace {
  const upload = (list: readonly number[]) => stack.use(listOf(list));
  return { layer: 1, kept: { list: KEPT, upload }, step: 3, mode, firstRow: 2 };
}

/** Every mode, at a rank that fills whole vec4s and one that does not; projections both ways. */
const CASES: readonly LoraSettings[] = INPUT_MODE_NAMES.flatMap((mode) =>
  [4, 3].flatMap((rank) => {
    const lora: LoraSettings = { ...DEFAULT_LORA, mode, rank, alpha: 8, targets: ["q", "v"] };
    if (!INPUT_MODES[mode].projects) return [lora];
    return [false, true].map((shared) => ({ ...lora, projections: { ...DEFAULT_PROJECTIONS, shared } }));
  })
);

for (const lora of CASES) {
  const mode = INPUT_MODES[lora.mode];
  const size = modeSize(lora, MODEL);
  const title = `${lora.mode}, rank ${lora.rank}${lora.projections?.shared ? ", shared" : ""}`;

  for (const dropout of [0, 0.5]) {
    Deno.test(`${title}, dropout ${dropout}: X goes to the devices as its shape says, and gradients return`, async () => {
      using stack = new DisposableStack();
      const edge = stack.use(mode.edge({ engine, lora: { ...lora, dropout }, model: MODEL, seed: 1 }));
      const at = placeIn(stack, "train");
      const xs = numbers(TOKENS * MODEL.hidden);
      using x = engine.upload(xs, TOKENS, MODEL.hidden, "X");
      const { input, owned } = edge.gather(x, at);
      assertEquals([owned, input === x], [mode.copies, !mode.copies]);
      const { rows, columns: width } = inputRows(mode.shape(KEPT.length, TOKENS, size));
      assertEquals([input.rows, input.columns, mode.columns(size)], [rows, width, width]);
      const gathered = await input.read();
      if (owned) input.dispose();

      // Linear maps and their transposes: <gather(x), g> = <x, addGradient(g)>, on one machine ...
      const g = numbers(rows * width);
      using dx = engine.upload(g, rows, width, "gradient");
      const whole = await added((target) => edge.addGradient(dx, target, at));
      assertAlmostEquals(dot(gathered, g), dot(xs, whole), 1e-4);

      // ... and divided over devices.
      let before = 0, forward = 0;
      const answers = DEVICES.map((kept) => {
        const place = { heads: kept.length, before, of: KEPT.length, tokens: TOKENS };
        const share = mode.shareOf(gathered, place, size);
        before += kept.length;
        assertEquals(share.length, inputNumbers(mode, kept.length, TOKENS, size));
        const answer = numbers(share.length);
        forward += dot(share, answer);
        return answer;
      });
      const joined = await added((target) => {
        for (const values of mode.join(answers, size)) {
          using part = engine.upload(values, values.length / width, width, "answer");
          edge.addGradient(part, target, at);
        }
      });
      assertAlmostEquals(forward, dot(xs, joined), 1e-4);
    });
  }

  Deno.test(`${title}: what devices answer goes into Q, K and V, and its gradient is the transpose`, async () => {
    // Two heads share each key and value.
    for (const kvHeads of [4, 2]) {
      using stack = new DisposableStack();
      const edge = stack.use(mode.edge({ engine, lora, model: MODEL, seed: 1 }));
      const at = placeIn(stack);
      const columns = (MODEL.heads + 2 * kvHeads) * HEAD_SIZE;
      const width = mode.deltaColumns(size);
      const dq = numbers(TOKENS * columns);
      using dqkv = engine.upload(dq, TOKENS, columns, "dqkv");
      for (const target of lora.targets.keys()) {
        const values = numbers(KEPT.length * TOKENS * width);
        using answer = engine.upload(values, KEPT.length * TOKENS, width, "answer");
        const qkv = await added((sum) => edge.addDeltas(answer, target, sum, at), columns);
        using back = edge.deltaGradients(dqkv, target, at);
        assertEquals([back.rows, back.columns], [answer.rows, width]);
        assert(Math.abs(dot(qkv, dq)) > 1e-3);
        assertAlmostEquals(dot(qkv, dq), dot(values, await back.read()), 1e-4);
      }
    }
  });

  Deno.test(`${title}: the gradients of the product with A are those of the input and of A`, async () => {
    const { rows, columns } = inputRows(mode.shape(KEPT.length, TOKENS, size));
    const rank4 = roundUp4(lora.rank);
    const segment = rank4 * roundUp4(columns);
    const matrix: ArenaMatrix = { rows: rank4, columns, first: 0, segment };
    // What lies beyond the rank is zero.
    const as = numbers(MODEL.heads * segment).map((v, i) => {
      const [row, column] = [Math.floor(i % segment / roundUp4(columns)), i % roundUp4(columns)];
      return row < lora.rank && column < columns ? v : 0;
    });
    const xs = numbers(rows * columns);
    const parts = mode.inputParts(size);
    using arena = engine.upload(as, MODEL.heads, segment, "A");
    using gradients = engine.zeros(MODEL.heads, segment, "dA");
    using heads = listOf(KEPT);
    using input = engine.upload(xs, rows, columns, "input");
    const slots = { matrix, heads, parts };
    let sum: Tensor | undefined;
    let [product, again] = [0, 0];
    const part = (k: number) => parts === 1 ? 0 : k;
    for (const k of lora.targets.keys()) {
      using down = mode.down(input, { ...slots, arena, part: part(k) });
      const g = numbers(KEPT.length * TOKENS * down.columns)
        .map((v, i) => i % down.columns < lora.rank ? v : 0);
      using dDown = engine.upload(g, KEPT.length * TOKENS, down.columns, "gradient");
      assertEquals(down.rows, KEPT.length * TOKENS);
      product += dot(await down.read(), g);
      const dInput = mode.inputGradient(dDown, { ...slots, arena, part: part(k) }, sum);
      assert(sum === undefined || sum === dInput);
      sum = dInput;
      const into = { ...slots, arena: gradients, part: part(k) };
      mode.gradientOfA(dDown, input, into, { length: TOKENS, accumulate: k > 0 });
      again = dot(as, await gradients.read());
    }
    assert(Math.abs(product) > 1e-3);
    assertEquals([sum!.rows, sum!.columns], [rows, columns]);
    assertAlmostEquals(product, dot(xs, await sum!.read()), 1e-4);
    assertAlmostEquals(product, again, 1e-4);
    sum!.dispose();
  });

  Deno.test(`${title}: a head's columns of A lie within X, and dropout knows which they are`, () => {
    for (let head = 0; head < MODEL.heads; head++) {
      const first = mode.firstColumn(head, size);
      assert(first >= 0 && first + mode.columns(size) <= MODEL.hidden);
      const dropped = mode.dropoutHeads([head]);
      // The edge server has dropped where devices do not see X.
      assertEquals(dropped === null, mode.projects);
      if (dropped !== null) assertEquals(dropped[0]! * mode.columns(size), first);
    }
    const trained = mode.columns(size) + mode.outputs(size);
    assertEquals(headParameters(lora, MODEL), 2 * lora.rank * trained);
  });
}

Deno.test("core: r numbers travel for each head and target, or for each head", () => {
  const { core } = INPUT_MODES;
  const size = { heads: 4, hidden: 32, targets: 3, rank: 4 };
  assertEquals(core.shape(2, 5, size), [3, 2, 5, 4]);
  assertEquals(core.shape(2, null, { ...size, sharesInput: true }), [2, null, 4]);
  assertEquals(core.deltaColumns(size), 4);
  assertThrows(() => core.shape(2, 5, MODEL), TypeError, "the LoRA rank must be given");
});

Deno.test("core: projections are as the settings say, and no larger than a head", () => {
  const lora = { ...DEFAULT_LORA, mode: "core" } as const;
  assertEquals(checkLora(lora).projections, DEFAULT_PROJECTIONS);
  const given = { from: "base", seed: 5, shared: true } as const;
  assertEquals(checkLora({ ...lora, projections: given }).projections, given);
  assertThrows(
    () => checkLora({ ...DEFAULT_LORA, projections: given }),
    TypeError,
    `must be left out in mode "full"`,
  );
  for (
    const [bad, rule] of [[{ from: "air" }, `from "seed" or "base"`], [{ seed: -1 }, "unsigned"], [{
      shared: 1,
    }, "true or false"]] as const
  ) {
    const projections = { ...given, ...bad } as unknown as typeof given;
    assertThrows(() => checkLora({ ...lora, projections }), TypeError, rule);
  }
  const model = { layers: 1, heads: 4, hidden: 16 };
  const edge = (more: Partial<LoraSettings>) =>
    INPUT_MODES.core.edge({ engine, lora: { ...lora, ...more }, model, seed: 0 });
  assertThrows(() => edge({ rank: 5 }), RangeError, "at most the head size, 4: current value is 5");
  assertThrows(() => edge({ rank: 4, projections: given }), TypeError, "must be given, see baseProjections");
});

Deno.test("settings and messages take the names of the list", () => {
  for (const mode of INPUT_MODE_NAMES) {
    assertEquals(checkLora({ ...DEFAULT_LORA, mode }).mode, mode);
  }
  const other = { ...DEFAULT_LORA, mode: "half" as "full" };
  const names = INPUT_MODE_NAMES.map((name) => `"${name}"`).join(" or ");
  assertThrows(() => checkLora(other), TypeError, `mode must be ${names}: current value is "half"`);
  for (const name of ["toString", "constructor", "__proto__"]) {
    assertThrows(() => LORA_FIELDS.mode.read(name, "mode"), ProtocolError, names);
    assertThrows(() => checkLora({ ...DEFAULT_LORA, mode: name as "full" }), TypeError, "mode must be");
  }
  for (const mode of INPUT_MODE_NAMES) assertEquals(LORA_FIELDS.mode.read(mode, "mode"), mode);
});
