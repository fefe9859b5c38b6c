// See intrinsics.rs. An attempt returns its result in an array of one, or an
// object with the error.
(() => {
  "use strict";
  const { parse, stringify } = JSON;
  const { apply, get, ownKeys, defineProperty, getOwnPropertyDescriptor } =
    Reflect;
  const { isArray } = Array;
  const { keys } = Object;
  const { isPrototypeOf } = Object.prototype;
  const resolve = Promise.resolve.bind(Promise);
  const { then } = Promise.prototype;
  const settled = resolve();
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
    attempt(keys),
    setImmediate,
    (run) => void apply(then, settled, [run]),
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
    (run, argument, done) => {
      const call = async () => {
        try {
          return [await run(argument)];
        } catch (error) {
          return { error };
        }
      };
      void apply(then, call(), [done]);
    },
    async (turn, promise) => {
      try {
        return await promise;
      } finally {
        await turn;
      }
    },
  ];
})();
