// See intrinsics.rs. The length of the `ttl` in the options of a write: a number
// of milliseconds; [years, months, milliseconds] where it depends on the date in
// a way that Rust knows; `undefined` without a ttl; or an object with the error.
(() => {
  "use strict";
  const { apply, getOwnPropertyDescriptor, getPrototypeOf } = Reflect;
  const { ceil, round } = Math;
  const { isFinite, isInteger, isNaN } = Number;
  const { Date, RangeError } = globalThis;
  const { toISOString } = Date.prototype;
  const { slice } = String.prototype;
  const { toStringTag } = Symbol;

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
      throw new RangeError("its total() must return a number");
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
        throw new RangeError(`${name} must be a finite number`);
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
    if (!given)
      throw new RangeError("it must have at least one field, such as hours");
    if (positive && negative)
      throw new RangeError("its fields must all have the same sign");
    return years || months ? [years, months, length] : length;
  };

  const lengthOfTtl = (ttl) => {
    if (ttl === undefined) return undefined;
    const kept = keptLength(ttl);
    if (kept !== undefined) return kept;
    if (typeof ttl !== "object" || ttl === null) {
      throw new RangeError(
        `it must be a Temporal.Duration or an object like { hours: 1 }, not ${ttl === null ? "null" : `a ${typeof ttl}`}`,
      );
    }
    const { total } = ttl;
    if (typeof total !== "function") return lengthOfObject(ttl);
    return lengthOfDuration(ttl) ?? lengthByTotal(ttl, total);
  };

  return (options) => {
    try {
      return lengthOfTtl(options.ttl);
    } catch (error) {
      return { error };
    }
  };
})();
