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

  // Milliseconds. For whole numbers that add up to less than 2^53, the result is
  // the exact length rounded up: all sums and remainders are exact, and rounding
  // corrects the quotients, which are less than 2^44.
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

  const units = [
    "years",
    "months",
    "weeks",
    "days",
    "hours",
    "minutes",
    "seconds",
    "milliseconds",
    "microseconds",
    "nanoseconds",
  ];

  // The getters of Temporal.Duration by the prototype of its instances, for each
  // implementation and its subclasses. They accept real Durations only, which
  // are immutable.
  const classes = new WeakMap();
  const getClass = classes.get.bind(classes);
  const setClass = classes.set.bind(classes);
  const gettersOf = (prototype) => {
    const known = getClass(prototype);
    if (known) return known;
    let base = prototype;
    while (base && !getOwnPropertyDescriptor(base, "total")) {
      base = getPrototypeOf(base);
    }
    if (!base) return undefined;
    const tag = getOwnPropertyDescriptor(base, toStringTag);
    if (tag?.value !== "Temporal.Duration") return undefined;
    const getters = { __proto__: null };
    for (let i = 0; i < units.length; i += 1) {
      getters[i] = getOwnPropertyDescriptor(base, units[i])?.get;
      if (!getters[i]) return undefined;
    }
    setClass(prototype, getters);
    return getters;
  };

  // Real Durations without years and months, with their lengths: the last few
  // that were measured, and the last few of those that came again. The former
  // make room for new ones, so that one that is kept stays known.
  const measured = 4;
  const known = [];
  for (let i = 0; i < 2 * measured; i += 1) known.push({ ttl: {}, length: 0 });
  let nextMeasured = 0;
  let nextKept = 0;
  const knownLength = (ttl) => {
    for (let i = 0; i < known.length; i += 1) {
      const found = known[i];
      if (found.ttl !== ttl) continue;
      if (i < measured) {
        const slot = measured + nextKept;
        nextKept = (nextKept + 1) % measured;
        known[i] = known[slot];
        known[slot] = found;
      }
      return found.length;
    }
    return undefined;
  };
  const remember = (ttl, length) => {
    known[nextMeasured] = { ttl, length };
    nextMeasured = (nextMeasured + 1) % measured;
  };
  const lengthOfReal = (ttl) => {
    const getters = gettersOf(getPrototypeOf(ttl));
    if (!getters) return undefined;
    const field = (i) => apply(getters[i], ttl, []);
    try {
      if (field(0) !== 0 || field(1) !== 0) return undefined;
      const length = lengthOf(
        field(2),
        field(3),
        field(4),
        field(5),
        field(6),
        field(7),
        field(8),
        field(9),
      );
      if (!isFinite(length)) return undefined;
      remember(ttl, length);
      return length;
    } catch {
      // A Proxy, for example.
      return undefined;
    }
  };

  const lengthByTotal = (ttl, total) => {
    const relativeTo = apply(slice, apply(toISOString, new Date(), []), [0, 10]);
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
    const known = knownLength(ttl);
    if (known !== undefined) return known;
    if (typeof ttl !== "object" || ttl === null) {
      throw new RangeError(
        "it is neither a Temporal.Duration nor an object like { hours: 1 }",
      );
    }
    const { total } = ttl;
    if (typeof total !== "function") return lengthOfObject(ttl);
    return lengthOfReal(ttl) ?? lengthByTotal(ttl, total);
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
