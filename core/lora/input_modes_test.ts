import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { type ArenaMatrix, Engine, roundUp4, type Tensor } from "@edgetuner/kernels";
import { ProtocolError } from "../contracts/errors.ts";
import { randomStream } from "../model/random.ts";
import { LORA_FIELDS } from "../protocol/messages.ts";
import { checkLora, DEFAULT_LORA } from "./settings.ts";
import { inputNumbers, inputRows } from "./input_mode.ts";
import { INPUT_MODE_NAMES, INPUT_MODES } from "./input_modes.ts";

const engine = await Engine.create();
const MODEL = { heads: 4, hidden: 32 };
const HEAD_SIZE = 8;
const RANK = 4;
const TOKENS = 5;
/** Kept heads of two devices. */
const DEVICES = [[0, 2], [3]];
const KEPT = DEVICES.flat();

const random = randomStream(7, 1);
const numbers = (count: number) => Float32Array.from({ length: count }, () => random.float() - 0.5);
const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, v, i) => sum + v * b[i]!, 0);
const listOf = (list: readonly number[]) => engine.upload(Uint32Array.from(list), 1, list.length, "heads");

/** Values of a gradient of X after `add`. */
async function added(add: (target: Tensor) => void): Promise<Float32Array> {
  using target = engine.zeros(TOKENS, MODEL.hidden, "dX");
  add(target);
  return await target.read();
}

for (const name of INPUT_MODE_NAMES) {
  const mode = INPUT_MODES[name];

  Deno.test(`${name}: X goes to the devices as its shape says, and gradients return to where X came from`, async () => {
    assertEquals(mode.name, name);
    const xs = numbers(TOKENS * MODEL.hidden);
    using x = engine.upload(xs, TOKENS, MODEL.hidden, "X");
    using heads = listOf(KEPT);
    const columns = { first: 0, headSize: HEAD_SIZE, heads };
    const { input, owned } = mode.gather(x, columns);
    assertEquals([owned, input === x], [mode.copies, !mode.copies]);
    const { rows, columns: width } = inputRows(mode.shape(KEPT.length, TOKENS, MODEL));
    assertEquals([input.rows, input.columns, mode.columns(MODEL)], [rows, width, width]);
    const gathered = await input.read();
    if (owned) input.dispose();

    // Linear maps and their transposes: <gather(x), g> = <x, addGradient(g)>, on one machine ...
    const g = numbers(rows * width);
    using dx = engine.upload(g, rows, width, "gradient");
    const whole = await added((target) => mode.addGradient(dx, target, columns));
    assertAlmostEquals(dot(gathered, g), dot(xs, whole), 1e-4);

    // ... and divided over devices.
    let before = 0, forward = 0;
    const answers = DEVICES.map((kept) => {
      const share = mode.shareOf(gathered, { heads: kept.length, before, tokens: TOKENS }, MODEL);
      before += kept.length;
      assertEquals(share.length, inputNumbers(mode, kept.length, TOKENS, MODEL));
      const answer = numbers(share.length);
      forward += dot(share, answer);
      return answer;
    });
    const joined = await added((target) => {
      for (const values of mode.join(answers)) {
        using part = engine.upload(values, values.length / width, width, "answer");
        mode.addGradient(part, target, columns);
      }
    });
    assertAlmostEquals(forward, dot(xs, joined), 1e-4);
  });

  Deno.test(`${name}: the gradients of the product with A are those of the input and of A`, async () => {
    const { rows, columns } = inputRows(mode.shape(KEPT.length, TOKENS, MODEL));
    const segment = RANK * roundUp4(columns);
    const matrix: ArenaMatrix = { rows: RANK, columns, first: 0, segment };
    const [as, xs] = [numbers(MODEL.heads * segment), numbers(rows * columns)];
    const g = numbers(KEPT.length * TOKENS * RANK);
    using arena = engine.upload(as, MODEL.heads, segment, "A");
    using gradients = engine.zeros(MODEL.heads, segment, "dA");
    using heads = listOf(KEPT);
    using input = engine.upload(xs, rows, columns, "input");
    using dDown = engine.upload(g, KEPT.length * TOKENS, RANK, "gradient");
    using down = mode.down(input, { arena, matrix, heads });
    assertEquals([down.rows, down.columns], [KEPT.length * TOKENS, RANK]);
    const product = dot(await down.read(), g);
    assert(Math.abs(product) > 1e-3);
    using dInput = mode.inputGradient(dDown, { arena, matrix, heads });
    assertAlmostEquals(product, dot(xs, await dInput.read()), 1e-4);
    const once = await dInput.read();
    assert(mode.inputGradient(dDown, { arena, matrix, heads }, dInput) === dInput);
    assertEquals(await dInput.read(), once.map((v) => v + v), "a second target adds to the first");
    const slots = { arena: gradients, matrix, heads };
    mode.gradientOfA(dDown, input, slots, { length: TOKENS, accumulate: false });
    assertAlmostEquals(product, dot(as, await gradients.read()), 1e-4);
  });

  Deno.test(`${name}: a head's columns of A lie within X, and dropout knows which they are`, () => {
    for (let head = 0; head < MODEL.heads; head++) {
      const first = mode.firstColumn(head, MODEL);
      assert(first >= 0 && first + mode.columns(MODEL) <= MODEL.hidden);
      const [dropped] = mode.dropoutHeads([head]);
      assertEquals(dropped! * mode.columns(MODEL), first);
    }
  });
}

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
