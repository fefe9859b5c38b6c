// See intrinsics.rs. An attempt returns its result, or an object with the error
// in a list of one.
(() => {
  "use strict";
  const { parse, stringify } = JSON;
  const {
    apply,
    get,
    ownKeys,
    defineProperty,
    getOwnPropertyDescriptor,
    getPrototypeOf,
  } = Reflect;
  const { isArray } = Array;
  const { isPrototypeOf } = Object.prototype;
  const { ceil, round } = Math;
  const { isFinite, isInteger, isNaN } = Number;
  const { Date, RangeError } = globalThis;
  const { toISOString } = Date.prototype;
  const { slice } = String.prototype;
  const { toStringTag } = Symbol;
  const resolve = Promise.resolve.bind(Promise);
  const reject = Promise.reject.bind(Promise);

  const attempt =
    (run) =>
    (...args) => {
      try {
        return [run(...args)];
      } catch (error) {
        return { error };
      }
    };

  const define = (object, name, value) =>
    defineProperty(object, name, {
      __proto__: null,
      value,
      writable: true,
      enumerable: true,
      configurable: true,
    });

  const entry = (page, i) => ({
    value: { key: page[3 * i], value: page[3 * i + 1] },
    done: false,
  });

  const strings = (value) => {
    if (!isArray(value)) return undefined;
    const copy = [];
    for (let i = 0; i < value.length; i += 1) {
      const part = value[i];
      define(copy, i, part);
      if (typeof part !== "string") break;
    }
    return copy;
  };

  const prototypes = { __proto__: null };

  const misused = (name, key, receiver, cause) => {
    const what = name === "KvListIterator" ? "iterator" : "store";
    const method = `${name}.prototype.${String(key)}`;
    const error = new TypeError(
      receiver === undefined || receiver === null
        ? `${method} was called without its ${what}: call it as a method, or bind it to the ${what}`
        : `${method} was called on something that is not a ${name} (a Proxy of one is not): call it on the ${what} itself`,
      { cause },
    );
    return define(error, "code", "ERR_KV_INVALID_OPTION") && error;
  };

  // Native methods throw when the engine finds that the receiver is not an
  // instance. A RangeError is a full stack instead.
  const answers = {
    __proto__: null,
    list: (error) =>
      (async function* () {
        yield reject(error);
      })(),
    [Symbol.asyncIterator]: (_, receiver) => receiver,
  };
  const prepared = (name, key, native) => {
    const answer = answers[key] ?? reject;
    const method = {
      [key](...args) {
        try {
          return apply(native, this, args);
        } catch (cause) {
          const error =
            cause instanceof RangeError
              ? cause
              : misused(name, key, this, cause);
          return answer(error, this);
        }
      },
    };
    return method[key];
  };
  const preparedGetter = (name, key, native) =>
    function () {
      try {
        return apply(native, this, []);
      } catch (cause) {
        throw misused(name, key, this, cause);
      }
    };

  // Milliseconds. For fields that are whole numbers, the result is the exact
  // length rounded up, if that is less than 2^53: remainders and sums are exact,
  // and `round` corrects the quotients, which are less than 2^44.
  const lengthOf = (
    weeks,
    days,
    hours,
    minutes,
    seconds,
    milliseconds,
    microseconds,
    nanoseconds,
  ) => {
    const micros = microseconds % 1e6;
    const nanos = nanoseconds % 1e9;
    const length =
      weeks * 604_800_000 +
      days * 86_400_000 +
      hours * 3_600_000 +
      minutes * 60_000 +
      seconds * 1000 +
      milliseconds +
      round((microseconds - micros) / 1e6) * 1000 +
      round((nanoseconds - nanos) / 1e9) * 1000;
    const rest = (micros * 1000 + nanos) / 1e6;
    return length + (isInteger(length) ? ceil(rest) : rest);
  };

  // The getters of `years` of Temporal.Duration, native or polyfilled, by the
  // prototype. They throw for anything else, even for a Proxy of a Duration.
  const getters = new WeakMap();
  const getGetter = getters.get.bind(getters);
  const setGetter = getters.set.bind(getters);
  const getterOfYears = (prototype) => {
    const known = getGetter(prototype);
    if (known || prototype === null) return known;
    const tag = getOwnPropertyDescriptor(prototype, toStringTag);
    if (tag?.value !== "Temporal.Duration") return undefined;
    const getter = getOwnPropertyDescriptor(prototype, "years")?.get;
    if (getter) setGetter(prototype, getter);
    return getter;
  };

  // Temporal.Durations are immutable, so their lengths are kept: of the last few
  // that were measured, and of the last few of these that were used again. A
  // stream of new Durations replaces only the former. Years and months are not
  // kept, because their length depends on the date.
  const few = 4;
  const lengths = [];
  for (let i = 0; i < 2 * few; i += 1) {
    lengths.push({ ttl: undefined, length: 0 });
  }
  let nextNew = 0;
  let nextUsed = 0;
  const keptLength = (ttl) => {
    for (let i = 0; i < lengths.length; i += 1) {
      const kept = lengths[i];
      if (kept.ttl !== ttl) continue;
      if (i < few) {
        lengths[i] = lengths[few + nextUsed];
        lengths[few + nextUsed] = kept;
        nextUsed = (nextUsed + 1) % few;
      }
      return kept.length;
    }
    return undefined;
  };
  const keepLength = (ttl, length) => {
    lengths[nextNew] = { ttl, length };
    nextNew = (nextNew + 1) % few;
  };

  // `total` would take several times as long.
  const lengthOfDuration = (ttl) => {
    const getter = getterOfYears(getPrototypeOf(ttl));
    if (!getter) return undefined;
    try {
      if (apply(getter, ttl, []) !== 0 || ttl.months !== 0) return undefined;
      const length = lengthOf(
        ttl.weeks,
        ttl.days,
        ttl.hours,
        ttl.minutes,
        ttl.seconds,
        ttl.milliseconds,
        ttl.microseconds,
        ttl.nanoseconds,
      );
      if (!isFinite(length)) return undefined;
      keepLength(ttl, length);
      return length;
    } catch {
      // It is a Proxy, for example. `total` says whether that is wrong.
      return undefined;
    }
  };

  const lengthByTotal = (ttl, total) => {
    const relativeTo = apply(
      slice,
      apply(toISOString, new Date(), []),
      [0, 10],
    );
    const length = apply(total, ttl, [{ unit: "millisecond", relativeTo }]);
    if (typeof length !== "number" || isNaN(length)) {
      throw new RangeError("its total() gave no number");
    }
    return length;
  };

  // For an object like { days: 1, hours: 12 }, as Temporal.Duration.from takes
  // it. All but years and months may be fractions.
  const lengthOfObject = (ttl) => {
    let given = false;
    let positive = false;
    let negative = false;
    const field = (name, value) => {
      if (value === undefined) return 0;
      if (!isFinite(value)) {
        throw new RangeError(`${name} is not a finite number`);
      }
      given = true;
      positive ||= value > 0;
      negative ||= value < 0;
      return value;
    };
    const years = field("years", ttl.years);
    const months = field("months", ttl.months);
    const length = lengthOf(
      field("weeks", ttl.weeks),
      field("days", ttl.days),
      field("hours", ttl.hours),
      field("minutes", ttl.minutes),
      field("seconds", ttl.seconds),
      field("milliseconds", ttl.milliseconds),
      field("microseconds", ttl.microseconds),
      field("nanoseconds", ttl.nanoseconds),
    );
    if (!given) throw new RangeError("it has none of the fields of a duration");
    if (positive && negative) throw new RangeError("its fields differ in sign");
    return years || months ? [years, months, length] : length;
  };

  const lengthOfTtl = (ttl) => {
    if (ttl === undefined) return undefined;
    const kept = keptLength(ttl);
    if (kept !== undefined) return kept;
    if (typeof ttl !== "object" || ttl === null) {
      throw new RangeError(
        "it is neither a Temporal.Duration nor an object like { hours: 1 }",
      );
    }
    const { total } = ttl;
    if (typeof total !== "function") return lengthOfObject(ttl);
    return lengthOfDuration(ttl) ?? lengthByTotal(ttl, total);
  };

  return [
    (value) => {
      try {
        return stringify(value);
      } catch (error) {
        return { error };
      }
    },
    (text) => {
      try {
        return parse(text);
      } catch {
        return undefined;
      }
    },
    (text, entries, mark) => {
      try {
        const page = parse(text);
        if (page.length !== 3 * entries) return undefined;
        for (let i = 2; i < page.length; i += 3) {
          if (page[i] !== mark) return undefined;
        }
        return page;
      } catch {
        return undefined;
      }
    },
    attempt(get),
    attempt(apply),
    attempt((error) => String(error?.message ?? error)),
    attempt(strings),
    setImmediate,
    resolve,
    (text) => {
      try {
        return resolve(parse(text));
      } catch {
        return undefined;
      }
    },
    entry,
    (page, i) => resolve(entry(page, i)),
    (value, done) => ({ value, done }),
    async (value) => ({ value: await value, done: true }),
    (exports) => {
      for (const name of ownKeys(exports)) {
        const { prototype } = exports[name];
        if (typeof prototype !== "object") continue;
        prototypes[name] = prototype;
        for (const key of ownKeys(prototype)) {
          const property = getOwnPropertyDescriptor(prototype, key);
          if (key === "constructor") continue;
          if (property.get) {
            property.get = preparedGetter(name, key, property.get);
          } else {
            property.value = prepared(name, key, property.value);
          }
          defineProperty(prototype, key, property);
        }
      }
    },
    (value, name) => apply(isPrototypeOf, prototypes[name], [value]),
    (options) => {
      try {
        return lengthOfTtl(options.ttl);
      } catch (error) {
        return { error };
      }
    },
  ];
})();
