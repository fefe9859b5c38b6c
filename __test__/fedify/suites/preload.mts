// Loaded before a test file of a checkout of Fedify. Resolves what the file
// imports, and replaces Fedify's MemoryKvStore.
import dns from "node:dns/promises";
import { readFileSync } from "node:fs";
import {
  createRequire,
  registerHooks,
  syncBuiltinESMExports,
} from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const {
  FEDIFY_CHECKOUT: checkout = "",
  FEDIFY_PACKAGES: packages = "",
  FEDIFY_STORE: store,
} = process.env;
const sources = join(checkout, "packages");
const inside = pathToFileURL(join(checkout, "/")).href;
const npm = pathToFileURL(join(packages, "package.json")).href;
const here = (name: string) => new URL(name, import.meta.url).href;
const kv = pathToFileURL(join(sources, "fedify/src/federation/kv.ts")).href;

registerHooks({
  resolve(specifier, context, next) {
    if (!context.parentURL?.startsWith(inside) && !isOurs(specifier)) {
      return next(specifier, context);
    }
    // JSR has no place in package.json without a registry of its own.
    if (specifier.startsWith("@std/assert")) {
      return next(here("assert.mts"), context);
    }
    const [, name, path = ""] =
      /^@fedify\/([^/]+)\/?(.*)$/.exec(specifier) ?? [];
    if (name === "fixture" && path !== "") {
      return next(
        pathToFileURL(join(sources, "fixture/src", path)).href,
        context,
      );
    }
    if (name !== undefined) {
      return next(pathToFileURL(sourceOf(name, path)).href, context);
    }
    const bare = /^[@a-z]/.test(specifier) && !/^[a-z]+:/.test(specifier);
    return next(specifier, bare ? { ...context, parentURL: npm } : context);
  },
  load(url, context, next) {
    if (url !== kv || !store) return next(url, context);
    const source = `
      export * from ${JSON.stringify(`${kv}?own`)};
      export { Store as MemoryKvStore } from ${JSON.stringify(here("store.mts"))};`;
    return { format: "module", shortCircuit: true, source };
  },
});

const isOurs = (specifier: string) => specifier === "@fedify/vocab-tools";

/** The source file that a package of the repository exports under a path. */
function sourceOf(name: string, path: string): string {
  const file = join(sources, name, "deno.json");
  const { exports } = JSON.parse(readFileSync(file, "utf8"));
  const entry = path === "" ? "." : `./${path}`;
  return join(
    sources,
    name,
    typeof exports === "string" ? exports : exports[entry],
  );
}

// Fedify's fixture registers tests only if there is a global `require`.
const require = createRequire(npm);
Object.assign(globalThis, { require, addEventListener: () => {} });
if (!("Temporal" in globalThis)) require("temporal-polyfill/global");

// The tests answer all requests themselves, but look the names up before.
dns.lookup = (async (_name: string, options?: { all?: boolean }) => {
  const address = { address: "93.184.215.14", family: 4 };
  return options?.all ? [address] : address;
}) as typeof dns.lookup;
syncBuiltinESMExports();
