/** Deep equality by the rules of `@std/assert`. */

type Key = string | symbol;
type TypedArray = ArrayLike<number | bigint> & ArrayBufferView;

/**
 * Says whether two values are deeply equal. `NaN` equals `NaN`, `0` equals `-0`, a missing property differs
 * from an undefined one, and objects of different classes differ.
 *
 * @param a One value
 * @param b The other value
 * @returns `true` if they are deeply equal
 */
export function equal(a: unknown, b: unknown): boolean {
  return compare(a, b, new Map());
}

/** `seen` holds the pairs being compared, so that cyclic structures end. */
function compare(a: unknown, b: unknown, seen: Map<object, object>): boolean {
  if (a === b || Object.is(a, b)) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (!sameClass(a, b)) return false;
  if (a instanceof RegExp || a instanceof URL) return String(a) === String(b);
  if (a instanceof Date) return Object.is(a.getTime(), (b as Date).getTime());
  if (a instanceof WeakMap || a instanceof WeakSet) {
    throw new TypeError(
      `Cannot compare values as a ${a.constructor.name} cannot be enumerated: current value is ${a}`,
    );
  }
  if (a instanceof WeakRef) return compare(a.deref(), (b as WeakRef<object>).deref(), seen);
  if (a instanceof ArrayBuffer) return sameElements(new Uint8Array(a), new Uint8Array(b as ArrayBuffer));
  if (a instanceof DataView) return sameElements(bytes(a), bytes(b as DataView));
  if (ArrayBuffer.isView(a)) return sameElements(a as TypedArray, b as TypedArray);
  if (a instanceof Error) {
    if (a.name !== (b as Error).name || a.message !== (b as Error).message) return false;
  }
  if (seen.get(a) === b) return true;
  seen.set(a, b);
  if (a instanceof Set) {
    return sameEntries([...a].map((v) => [v]), [...(b as Set<unknown>)].map((v) => [v]), seen);
  }
  if (a instanceof Map) return sameEntries([...a], [...(b as Map<unknown, unknown>)], seen);
  return sameProperties(a, b, seen);
}

/** An object without a prototype counts as a plain one. */
function sameClass(a: object, b: object): boolean {
  return (a.constructor ?? Object) === (b.constructor ?? Object);
}

function bytes(view: DataView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

function sameElements(a: TypedArray, b: TypedArray): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) {
    if (a[i] !== b[i] && !Object.is(a[i], b[i])) return false;
  }
  return true;
}

/** Entries match in any order; each may be used once. */
function sameEntries(a: unknown[][], b: unknown[][], seen: Map<object, object>): boolean {
  if (a.length !== b.length) return false;
  const rest = new Set(b);
  for (const entry of a) {
    let found: unknown[] | undefined;
    for (const candidate of rest) {
      // A failed attempt must not leave pairs behind that were only assumed to be equal.
      if (compare(entry, candidate, new Map(seen))) {
        found = candidate;
        break;
      }
    }
    if (!found) return false;
    rest.delete(found);
  }
  return true;
}

function sameProperties(a: object, b: object, seen: Map<object, object>): boolean {
  const keys = ownKeys(a);
  if (keys.length !== ownKeys(b).length) return false;
  if (Array.isArray(a) && a.length !== (b as unknown[]).length) return false;
  return keys.every((key) =>
    Object.hasOwn(b, key) &&
    compare((a as Record<Key, unknown>)[key], (b as Record<Key, unknown>)[key], seen)
  );
}

/** Enumerable keys, symbols included. */
function ownKeys(value: object): Key[] {
  const symbols = Object.getOwnPropertySymbols(value).filter((key) =>
    Object.prototype.propertyIsEnumerable.call(value, key)
  );
  return [...Object.keys(value), ...symbols];
}
